"""ConvProblem: derived sizes against plain counting, validation, arrays; and the padding words."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numbaconv.errors import ShapeError
from numbaconv.padding import pair, resolve_padding
from numbaconv.problem import ConvProblem

SMALL = {"mb": 1, "ic": 4, "ih": 5, "iw": 6, "oc": 8, "kh": 3, "kw": 2}


def count_outputs(size, kernel, stride, before, after, dilation):
    """Positions of a kernel that stay inside the padded input, one by one."""
    starts = range(-before, size + after, stride)
    return sum(start + (kernel - 1) * dilation < size + after for start in starts)


axis = st.tuples(
    st.integers(1, 20), st.integers(1, 5), st.integers(1, 4), st.integers(0, 4), st.integers(0, 4), st.integers(1, 3)
)


@given(axis, axis)
def test_output_sizes_are_those_counted_one_by_one(high, wide):
    (ih, kh, sh, top, bottom, dh), (iw, kw, sw, left, right, dw) = high, wide
    sizes = {"ih": ih, "kh": kh, "sh": sh, "pad_top": top, "pad_bottom": bottom, "dh": dh}
    sizes |= {"iw": iw, "kw": kw, "sw": sw, "pad_left": left, "pad_right": right, "dw": dw}
    oh, ow = count_outputs(*high), count_outputs(*wide)
    if not (oh and ow):
        with pytest.raises(ShapeError, match="larger than the input"):
            ConvProblem(mb=2, ic=3, oc=4, **sizes)
        return
    p = ConvProblem(mb=2, ic=3, oc=4, **sizes)
    assert (p.oh, p.ow, p.ph, p.pw) == (oh, ow, top, left)
    assert p.macs == sum(3 * kh * kw for _ in range(2 * 4 * oh * ow))


def test_derived_sizes():
    p = ConvProblem(2, 6, 9, 8, 4, 3, 2, sh=2, pad_top=1, pad_bottom=1, g=2, dtype="float64")
    assert (p.oh, p.ow, p.od) == (5, 7, 1)
    assert (p.icg, p.ocg, p.K) == (3, 2, 18)
    assert p.macs == 2 * 4 * 5 * 7 * 18
    assert p.flops == 2 * p.macs
    assert (p.input_shape, p.weight_shape, p.output_shape) == ((2, 6, 9, 8), (4, 3, 3, 2), (2, 4, 5, 7))
    assert p.itemsize == 8
    for size, shape in ((p.input_bytes, p.input_shape), (p.weight_bytes, p.weight_shape)):
        assert size == np.empty(shape).nbytes
    assert p.output_bytes == np.empty(p.output_shape).nbytes


def test_a_depth_axis_adds_an_axis():
    p = ConvProblem(**SMALL, id=7, kd=3, sd=2, pad_front=1)
    assert p.is_3d
    assert p.od == 3
    assert (p.input_shape, p.weight_shape) == ((1, 4, 7, 5, 6), (8, 4, 3, 3, 2))
    assert p.output_shape == (1, 8, 3, 3, 5)
    assert p.macs == np.prod(p.output_shape) * 4 * 3 * 3 * 2
    assert not ConvProblem(**SMALL).is_3d


def test_no_images_is_a_problem_too():
    p = ConvProblem(**SMALL | {"mb": 0})
    assert (p.macs, p.input_bytes, p.output_shape) == (0, 0, (0, 8, 3, 5))


def test_a_negative_end_pad_leaves_the_tail_of_the_input():
    p = ConvProblem(1, 2, 1, 9, 3, 1, 1, sw=2, pad_right=-2)
    assert p.ow == 4


def test_name_takes_no_part_in_comparison():
    a, b = ConvProblem(**SMALL, name="conv1"), ConvProblem(**SMALL)
    assert a == b
    assert hash(a) == hash(b)
    assert a.name == "conv1"


def test_frozen_hashable_and_pickled():
    p = ConvProblem(**SMALL)
    with pytest.raises(dataclasses.FrozenInstanceError):
        p.mb = 2
    assert pickle.loads(pickle.dumps(p)) == p
    assert len({p, ConvProblem(**SMALL), ConvProblem(**SMALL, sh=2)}) == 2


def test_numpy_integers_become_plain_ones():
    p = ConvProblem(**{name: np.int32(value) for name, value in SMALL.items()})
    assert all(type(getattr(p, name)) is int for name in SMALL)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ic": 0}, ["ic must be at least 1", "got 0"]),
        ({"mb": -1}, ["mb must be at least 0"]),
        ({"sh": 0}, ["sh must be at least 1"]),
        ({"dw": 0}, ["dw must be at least 1"]),
        ({"pad_top": -1}, ["pad_top must be at least 0"]),
        ({"kh": 2.5}, ["kh must be an int", "2.5"]),
        ({"g": 3}, ["g=3", "ic=4", "oc=8"]),
        ({"g": 4, "oc": 6}, ["g=4", "oc=6"]),
        ({"kh": 6}, ["6x2", "5x6"]),
        ({"kw": 4, "dw": 2}, ["3x4", "1x2", "5x6"]),
        ({"id": 2, "kd": 3}, ["3x3x2", "2x5x6"]),
        ({"dtype": "int8"}, ["dtype", "'float32'", "'int8'"]),
        ({"layout": "chwn"}, ["layout", "'nhwc'", "'chwn'"]),
        ({"direction": "back"}, ["direction", "'backward-data'"]),
        ({"name": "two\nlines"}, ["name", "one line"]),
    ],
)
def test_an_impossible_problem_is_refused_with_its_numbers(change, words):
    with pytest.raises(ShapeError) as caught:
        ConvProblem(**SMALL | change)
    for word in words:
        assert word in str(caught.value)


# ------------------------------------------------------------------------------------------------- from arrays


def arrays(shape=(2, 4, 5, 6), weights=(8, 4, 3, 2), dtype=np.float32):
    return np.zeros(shape, dtype), np.zeros(weights, dtype)


def test_from_arrays():
    x, w = arrays((2, 4, 9, 8), (6, 2, 3, 2), np.float64)
    p = ConvProblem.from_arrays(x, w, stride=(2, 1), padding=(1, 0, 2, 3), dilation=(1, 2), groups=2)
    assert p == ConvProblem(2, 4, 9, 8, 6, 3, 2, 2, 1, 1, 0, 2, 3, 1, 2, 2, "float64")


def test_axes_and_memory_are_two_things():
    x, w = arrays()
    nhwc = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    assert ConvProblem.from_arrays(x, w).layout == "nchw"
    assert ConvProblem.from_arrays(nhwc.transpose(0, 3, 1, 2), w).layout == "nhwc"
    assert ConvProblem.from_arrays(nhwc, w, layout="nhwc").layout == "nhwc"
    assert ConvProblem.from_arrays(x.transpose(0, 2, 3, 1), w, layout="nhwc").layout == "nchw"
    sizes = {ConvProblem.from_arrays(a, w, layout=b).input_shape for a, b in ((x, "nchw"), (nhwc, "nhwc"))}
    assert sizes == {(2, 4, 5, 6)}


@pytest.mark.parametrize("shape", [(2, 1, 5, 6), (2, 4, 1, 1)])
def test_an_ambiguous_shape_follows_the_argument(shape):
    x = np.zeros(shape, np.float32)
    w = np.zeros((8, shape[1], 1, 1), np.float32)
    assert ConvProblem.from_arrays(x, w).layout == "nchw"
    assert ConvProblem.from_arrays(np.zeros((2, 5, 6, shape[1]), np.float32), w, layout="nhwc").layout == "nhwc"
    assert ConvProblem.from_arrays(x.transpose(0, 2, 3, 1), w, layout="nhwc").layout == "nhwc"


def test_a_crop_keeps_its_order_and_odd_strides_are_nchw():
    x, w = arrays((2, 4, 9, 9))
    nhwc = np.zeros((2, 9, 9, 4), np.float32).transpose(0, 3, 1, 2)
    assert ConvProblem.from_arrays(nhwc[:, :, 1:8, 2:7], w).layout == "nhwc"
    assert ConvProblem.from_arrays(nhwc[:, :, ::2, ::2], w).layout == "nhwc"
    assert ConvProblem.from_arrays(x[:, :, ::-1], w).layout == "nchw"
    assert ConvProblem.from_arrays(np.broadcast_to(x[:1], (2, 4, 9, 9)), w).layout == "nchw"


def test_unbatched():
    x, w = arrays((4, 5, 6))
    assert ConvProblem.from_arrays(x, w) == ConvProblem(1, 4, 5, 6, 8, 3, 2)
    nhwc = np.zeros((5, 6, 4), np.float32)
    assert ConvProblem.from_arrays(nhwc, w, layout="nhwc") == ConvProblem(1, 4, 5, 6, 8, 3, 2, layout="nhwc")
    assert ConvProblem.from_arrays(nhwc.transpose(2, 0, 1), w).layout == "nhwc"


def test_arrays_of_another_library():
    torch = pytest.importorskip("torch")
    x, w = torch.zeros(2, 4, 5, 6), torch.zeros(8, 4, 3, 2)
    assert ConvProblem.from_arrays(x, w) == ConvProblem(2, 4, 5, 6, 8, 3, 2)
    x = x.to(memory_format=torch.channels_last)
    assert ConvProblem.from_arrays(x, w) == ConvProblem(2, 4, 5, 6, 8, 3, 2, layout="nhwc")


@pytest.mark.parametrize(
    ("x", "w", "arguments", "words"),
    [
        ((4, 5), (8, 4, 3, 2), {}, ["x must have 4 axes", "(4, 5)"]),
        ((2, 4, 5, 6), (8, 4, 3), {}, ["w must have 4 axes", "(8, 4, 3)"]),
        ((2, 3, 5, 6), (8, 4, 3, 2), {}, ["3 channels", "takes 4"]),
        ((2, 4, 5, 6), (8, 4, 3, 2), {"groups": 2}, ["groups=2", "takes 8"]),
        ((2, 4, 5, 6), (8, 4, 3, 2), {"groups": 1.0}, ["groups", "1.0"]),
        ((2, 4, 5, 6), (8, 4, 3, 2), {"stride": 0}, ["stride"]),
        ((2, 4, 5, 6), (8, 4, 3, 2), {"stride": (1, 2, 3)}, ["stride", "pair"]),
        ((2, 4, 5, 6), (8, 4, 3, 2), {"padding": -1}, ["padding", "-1"]),
        ((2, 4, 5, 6), (8, 4, 3, 2), {"layout": "hwcn"}, ["layout", "'hwcn'"]),
    ],
)
def test_arrays_that_do_not_fit_are_refused(x, w, arguments, words):
    with pytest.raises(ShapeError) as caught:
        ConvProblem.from_arrays(*arrays(x, w), **arguments)
    for word in words:
        assert word in str(caught.value)


def test_mixed_dtypes_are_refused():
    with pytest.raises(ShapeError, match="x is float32 and w is float64"):
        ConvProblem.from_arrays(arrays()[0], arrays(dtype=np.float64)[1])


# ----------------------------------------------------------------------------------------------------- padding


@pytest.mark.parametrize(
    ("padding", "pads"),
    [
        (2, (2, 2, 2, 2)),
        ((1, 2), (1, 2, 1, 2)),
        ([1, 2], (1, 2, 1, 2)),
        ((1, 2, 3, 4), (1, 2, 3, 4)),
        (np.array([1, 2]), (1, 2, 1, 2)),
        (np.int64(3), (3, 3, 3, 3)),
        ("valid", (0, 0, 0, 0)),
    ],
)
def test_padding_forms(padding, pads):
    assert resolve_padding(padding, (9, 9), (3, 3), (1, 1), (1, 1)) == pads


@given(axis)
def test_same_makes_ceil_of_in_over_stride_with_the_least_pad(sizes):
    size, kernel, stride, _, _, dilation = sizes
    upper, lower, alias = (
        resolve_padding(word, (size, 1), (kernel, 1), (stride, 1), (dilation, 1))
        for word in ("same_upper", "same_lower", "same")
    )
    assert upper == alias
    assert (upper[1], upper[3]) == (0, 0)
    before, after = upper[0], upper[2]
    assert after - before in (0, 1)
    assert (lower[0], lower[2]) == (after, before)
    wanted = -(-size // stride)
    assert count_outputs(size, kernel, stride, before, after, dilation) == wanted
    if after:
        assert count_outputs(size, kernel, stride, before, after - 1, dilation) < wanted


@pytest.mark.parametrize("padding", ["full", "SAME", (1, 2, 3), 1.5, None, (1, "2"), -1, (0, 0, -1, 0), b"12"])
def test_other_paddings_are_refused(padding):
    with pytest.raises(ShapeError, match="padding"):
        resolve_padding(padding, (9, 9), (3, 3), (1, 1), (1, 1))


def test_pair():
    assert pair(3, "stride") == (3, 3)
    assert pair([3], "stride") == (3, 3)
    assert pair((3, 4), "stride") == (3, 4)
    with pytest.raises(ShapeError, match=r"dilation must be an int or a pair of ints; got '34'"):
        pair("34", "dilation")
