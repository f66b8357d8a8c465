"""Winograd's minimal filtering on a GPU: its transforms as kernels, emulated, and the form that launches them."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
from cases import in_memory, problem
from numpy.lib.stride_tricks import as_strided

pytest.importorskip("greenlet", reason="the CUDA emulator runs on greenlets: pip install greenlet")

import numba
from cuda_memory import NOTHING, held, start, steps_of, untouched

import numbaconv as nc
from numbaconv import division
from numbaconv.devices.copying import Four
from numbaconv.devices.emulator import EmulationError, launch
from numbaconv.geometry import window_of
from numbaconv.jit import intrinsic
from numbaconv.jit_cuda import rebound
from numbaconv.lowerings import _cuda_winograd as form
from numbaconv.lowerings import _cuda_winograd_kernels as kernels
from numbaconv.lowerings import _cuda_winograd_words as words
from numbaconv.lowerings._winograd_division import Filters
from numbaconv.lowerings._winograd_points import minimal_filter
from numbaconv.lowerings.winograd import Winograd1D
from numbaconv.registry import lowerings, make_lowering
from numbaconv.request import Request
from numbaconv.select import check
from numbaconv.testing import conformance
from numbaconv.testing.oracle import convolve as exactly
from numbaconv.testing.oracle import sizes_of
from numbaconv.testing.places import place_of
from numbaconv.testing.trial import Trial

CLASSES = {cls.name: cls for cls in lowerings("winograd*")}
KERNELS = [(name, kernel) for name, cls in CLASSES.items() for kernel in cls.kernels]
LAYOUTS = ("nchw", "nhwc")
FILTERS = [Filters(2, 3, 2, 3), Filters(1, 3, 4, 3), Filters(4, 5, 4, 5), Filters(2, 7, 1, 1)]

PADS = {"pad_top": 1, "pad_left": 2, "pad_bottom": 3, "pad_right": 1}
KINDS = {
    "ragged tiles, groups": {"mb": 2, "ic": 4, "oc": 6, "g": 2, "ih": 7, "iw": 8} | PADS,
    "pads beyond the input": {"ic": 3, "oc": 2, "ih": 2, "iw": 3, "pad_top": 6, "pad_left": 5, "pad_right": 8},
    "one output": {"mb": 3, "ic": 3, "oc": 5, "ih": 1, "iw": 1, "pad_top": None, "pad_left": None},
    "the input's end is cut off": {"ic": 2, "oc": 3, "ih": 13, "iw": 12, "pad_bottom": -2, "pad_right": -3},
}  # fmt: skip


def made(kind, kernel, **changes):
    """A problem of a kind; a pad of None is all that the kernel asks for."""
    (kh, kw), sizes = kernel, KINDS[kind]
    wanted = {"pad_top": kh - 1, "pad_left": kw - 1}
    sizes = {name: wanted[name] if size is None else size for name, size in sizes.items()}
    return problem(**sizes | {"kh": kh, "kw": kw} | changes)


def normal(rng, *shape, dtype):
    return rng.standard_normal(shape).astype(dtype)


def truth(p, x, w, bias=None, residual=None, activation=None):
    """The oracle's, which knows no negative pads: there the input ends earlier."""
    x = x[:, :, : p.ih + min(p.pad_bottom, 0), : p.iw + min(p.pad_right, 0)]
    pads = p.pad_top, p.pad_left, max(p.pad_bottom, 0), max(p.pad_right, 0)
    return oracles.conv2d(x, w, bias, pads=pads, groups=p.g, residual=residual, activation=activation)


def close(got, wanted, p, name, x, w):
    """Within the bound that the lowering claims, by the magnitudes of what is summed."""
    factor = make_lowering(name).error_bound(p, Request(device="cuda"))
    allowed = factor * np.finfo(p.dtype).eps * p.K**0.5 * truth(p, np.abs(x), np.abs(w)).max()
    return (np.abs(got - wanted) <= allowed).all()


# ----------------------------------------------------------------------------------------------------------- the words


@pytest.mark.parametrize("which", ["bt", "at", "g"])
@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_the_code_of_a_transform_does_what_the_twin_does(rng, filters, which):
    itemsize = 8 if which == "g" else 4
    transformed = words.transform(which, filters, itemsize)

    def run(values):
        transformed(values)

    values = normal(rng, filters.products, dtype=f"f{itemsize}")
    mine, theirs = values.copy(), values.copy()
    numba.njit(rebound(run, lambda value: intrinsic(transformed.typing) if value is transformed else value))(mine)
    launch(run, (1,), 1, theirs)
    of_rows, of_columns = (
        np.array(getattr(minimal_filter(*pair), which), float) for pair in (filters[:2], filters[2:])
    )
    tile = values[: of_rows.shape[1] * of_columns.shape[1]].reshape(of_rows.shape[1], -1)
    want = (of_rows @ tile @ of_columns.T).reshape(-1)
    largest = np.abs(of_rows) @ np.abs(tile) @ np.abs(of_columns).T
    for got in (mine, theirs):
        np.testing.assert_allclose(got[: want.size], want, rtol=0, atol=20 * np.finfo(got.dtype).eps * largest.max())
        np.testing.assert_array_equal(got[want.size :], values[want.size :])
    if itemsize == 4:  # a product and its sum are rounded once; in float64 the twin rounds both
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=np.finfo("f4").eps * largest.max() / 4)


# --------------------------------------------------------------------------------------------------------- the kernels


def side(p, filters, channels, layout, builder, *with_store):
    """V or M with gaps of NaN everywhere: (``Tiles``, memory, its elements as products x groups x channels x tiles)."""
    rows, columns = filters.tiles(p)
    tiles, group = p.mb * rows * columns, channels // p.g
    step_c, step_t = (tiles + 1, 1) if layout == "nchw" else (1, group + 2)
    step_g = max(step_c * group, step_t * tiles) + 3
    t = builder.Tiles(tiles, rows, columns, channels, group, step_g, step_c, step_t, p.g * step_g + 5, *with_store)
    memory = np.full(filters.products * t.step_p, np.nan, p.dtype)
    steps = [step * p.itemsize for step in (t.step_p, step_g, step_c, step_t)]
    return t, memory, as_strided(memory, (filters.products, p.g, group, tiles), steps)


def convolve(rng, p, name, layout, finish=True, activation="relu", builder=kernels, x=None, w=None):
    """The three kernels, with NumPy's product in place of ours: the output, and what it should be."""
    filters, size = make_lowering(name).filters(p), p.itemsize
    x, w = (normal(rng, *shape, dtype=p.dtype) if given is None else given
            for given, shape in ((x, p.input_shape), (w, p.weight_shape)))  # fmt: skip
    bias, added = normal(rng, p.oc, dtype=p.dtype), normal(rng, *p.output_shape, dtype=p.dtype)
    want = truth(p, x, w, *((bias, added, activation) if finish else ()))

    turned = np.ascontiguousarray(w.transpose(3, 1, 2, 0))  # weights may lie in any order
    u = np.full((filters.products, p.g, p.icg, p.ocg + 1), np.nan, p.dtype)
    sizes = builder.Weights(p.g, p.ocg, p.icg, p.ocg + 1, p.g * p.icg * (p.ocg + 1))
    steps = Four(*steps_of(turned.transpose(3, 1, 2, 0)))
    start(builder.keeping_kernel(size, filters), builder.weights_grid(sizes), turned, u, steps, sizes)
    assert np.isnan(u).sum() == u[..., -1].size

    memory, inside = held(x, layout)
    t, v_memory, v = side(p, filters, p.ic, layout, builder)
    taking = builder.taking_kernel(size, filters, layout == "nchw")
    start(taking, builder.grid(t), memory, v_memory, window_of(p, inside), t)
    assert np.isnan(v_memory).sum() == v_memory.size - v.size

    t, m_memory, m = side(p, filters, p.oc, layout, builder, int(finish), int(finish))
    m[...] = np.matmul(u[..., :-1].swapaxes(-1, -2), v)
    memory, out = held(np.full_like(added, np.nan), layout)
    added_memory, added = held(added, LAYOUTS[layout == "nchw"])
    others = (bias, added_memory) if finish else (NOTHING[size], NOTHING[size])
    images = builder.Image(*out.shape[1:], *steps_of(out)), builder.Image(*added.shape[1:], *steps_of(added))
    limits = oracles.ACTIVATIONS[activation if finish else None]
    giving = builder.giving_kernel(size, filters, layout == "nchw")
    start(giving, builder.grid(t), m_memory, memory, *others, t, *images, *limits)
    untouched(memory, out)
    assert close(out, want, p, name, x, w)
    return out, want


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "kernel"), KERNELS)
def test_the_transforms_make_a_convolution(rng, name, kernel, kind):
    number = list(KINDS).index(kind) + KERNELS.index((name, kernel))
    for turn, layout in enumerate(LAYOUTS):
        p = made(kind, kernel, dtype=("float32", "float64")[(number + turn) % 2])
        convolve(rng, p, name, layout, number % 3 > 0, ("relu", "relu6", None)[number % 3])


@pytest.mark.parametrize("channels", [6, 24])
@pytest.mark.parametrize(("name", "kernel"), KERNELS)
def test_the_error_is_within_the_bound_of_the_cpus(rng, name, kernel, channels):
    kh, kw = kernel
    p = problem(ic=channels, oc=8, ih=8, iw=9, kh=kh, kw=kw, pad_top=kh // 2, pad_left=kw // 2)
    factor = make_lowering(name).error_bound(p, Request(device="cuda"))
    x, w = normal(rng, *p.input_shape, dtype="f4"), normal(rng, *p.weight_shape, dtype="f4")
    for image in (x, np.maximum(x, 0)):
        out, want = convolve(rng, p, name, "nchw", finish=False, x=image, w=w)
        directly = exactly(image, w, **sizes_of(p), dtype=np.float32) - want
        assert np.linalg.norm(out - want) <= factor * np.linalg.norm(directly)
        assert np.abs(out - want).max() <= 2 * factor * np.abs(directly).max()


def test_no_tiles_and_no_weights():
    assert kernels.grid(kernels.Tiles(0, 2, 2, 3, 3, 0, 0, 1, 0)) is None
    assert kernels.weights_grid(kernels.Weights(1, 0, 3, 4, 12)) is None


FAULTS = [
    ("top + i < g.ih", "top + i <= g.ih", "ragged tiles, groups"),
    ("left + j >= 0 and ", "", "pads beyond the input"),
    ("row * m_h - g.pad_top", "row * n_h - g.pad_top", "the input's end is cut off"),
    ("column * m_w - g.pad_left", "column * m_w + g.pad_left", "ragged tiles, groups"),
    ("(channel - group * t.group) * t.step_c", "channel * t.step_c", "ragged tiles, groups"),
    ("n = int32(udiv32(line, t.rows))", "n = int32(udiv32(line, t.columns + 7))", "ragged tiles, groups"),
    ("number < t.tiles * t.channels", "number <= t.tiles * t.channels", "ragged tiles, groups"),
    ("transformed(values)\n            for p in range(products):\n                v[",
     "for p in range(products):\n                v[", "one output"),
    ("if y < o.rows and z < o.columns", "if z < o.columns", "ragged tiles, groups"),
    ("if y < o.rows and z < o.columns", "if y < o.rows", "ragged tiles, groups"),
    ("finished(values[i * m_w + j]", "finished(values[i + j * m_w]", "the input's end is cut off"),
    ("bias, residual, t, r, low, high)", "bias, residual, t, o, low, high)", "ragged tiles, groups"),
    ("i * steps.c + j * steps.d", "j * steps.c + i * steps.d", "ragged tiles, groups"),
    ("u[int32(row * s.step_c + k + p * s.step_p)]", "u[int32(row * s.step_c + k + p * s.step_c)]", "one output"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "kind"), FAULTS, ids=[new.partition("\n")[0] for _, new, _ in FAULTS])
def test_a_planted_fault_is_seen(rng, mutant, old, new, kind):
    with pytest.raises((AssertionError, EmulationError)):
        convolve(rng, made(kind, (3, 3)), "winograd-f2x4", "nchw", builder=mutant(kernels, old, new))


def test_without_a_fault_the_same_checks_pass(rng, mutant):
    for old, _, kind in FAULTS:
        convolve(rng, made(kind, (3, 3)), "winograd-f2x4", "nchw", builder=mutant(kernels, old, old))


# ------------------------------------------------------------------------------------------------------------ the form


@pytest.fixture
def emulated(monkeypatch):
    monkeypatch.setenv("NUMBACONV_CUDA", "emulate")
    yield
    division.divide.cache_clear()


THIN = {"mb": 2, "ic": 4, "oc": 6, "g": 2, "ih": 3, "iw": 9, "kh": 1, "kw": 3, "pad_left": 1}
"""A problem of six products a group: quickly emulated."""


@pytest.mark.parametrize("layout", LAYOUTS)
def test_more_products_than_a_launch_takes(emulated, monkeypatch, layout):
    monkeypatch.setattr(form, "MOST_BATCH", 5)
    trial = Trial(Winograd1D(), problem(**THIN, layout=layout), place=place_of("cuda"))
    assert [call.batch for call in trial.plan(trial.request()).division.gemm_calls(trial.lowering)] == [5, 2]
    assert (
        sum(call.batch * call.count for call in trial.plan(trial.request()).division.gemm_calls(trial.lowering)) == 12
    )
    assert conformance.check_trial(trial, turn=1)


@pytest.mark.parametrize(
    ("old", "new"),
    [("operand(lowered[first:]", "operand(lowered"), ("prepared[first:]", "prepared"),
     ("products[first:]", "products"), ("group * pitch, *steps", "pitch, *steps"),
     ("else tiles\n", "else tiles - 1\n"), ("window_of(p, x)", "window_of(p, out)")],
)  # fmt: skip
def test_a_wrong_form_is_seen(emulated, rng, mutant, old, new):
    built = mutant(form, old, new)
    built.MOST_BATCH = 5
    wrong = type("Wrong", (Winograd1D,), {"name": "wrong", "cuda": built.CudaWinograd, "__module__": __name__})
    with pytest.raises((AssertionError, EmulationError, MemoryError)):
        run_thin(rng, wrong())


def run_thin(rng, lowering):
    for layout in LAYOUTS:
        p = problem(**THIN, layout=layout)
        x, w = normal(rng, *p.input_shape, dtype="f4"), normal(rng, *p.weight_shape, dtype="f4")
        got = nc.conv2d(in_memory(x, layout), w, padding=(0, 1, 0, 0), groups=2, algorithm=lowering, device="cuda")
        assert close(got, truth(p, x, w), p, "winograd-1d", x, w)


def test_sums_over_many_channels_are_split_among_blocks(emulated):
    deep = problem(ic=520, oc=3, ih=1, iw=4, kh=1, kw=3, pad_left=1, layout="nhwc")
    trial = Trial(Winograd1D(), deep, place=place_of("cuda"))
    assert trial.plan(trial.request()).panel_bytes
    assert conformance.check_trial(trial, turn=1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_precision(emulated, rng, layout):
    p = problem(ic=40, oc=6, ih=3, iw=6, kh=1, layout=layout)
    x, w = normal(rng, *p.input_shape, dtype="f4"), normal(rng, *p.weight_shape, dtype="f4")
    want, errors = truth(p, x, w), {}
    for precision in ("highest", "high", "medium"):
        got = nc.conv2d(in_memory(x, layout), w, algorithm="winograd-1d", device="cuda", precision=precision)
        errors[precision] = np.linalg.norm(got - want) / np.linalg.norm(want)
    assert errors["highest"] < 1e-6
    assert errors["high"] < 1e-5
    assert 1e-4 < errors["medium"] < 2e-3  # really one product of fewer bits


def test_no_images(emulated):
    x, w = np.zeros((0, 3, 6, 5), "f4"), np.ones((2, 3, 3, 3), "f4")
    assert nc.conv2d(x, w, device="cuda", algorithm="winograd-f4").shape == (0, 2, 4, 3)


def test_memory_is_two_matrices_a_product(emulated):
    sizes = {"mb": 1, "ic": 10, "oc": 7, "ih": 15, "iw": 11}  # 21 tiles, in NCHW made a multiple of four
    for layout, tiles in (("nchw", 24), ("nhwc", 21)):
        p = problem(**sizes, layout=layout)
        assert nc.plan(p, "winograd-f2x4", "cuda").lowering_bytes == 24 * tiles * (10 + 7) * 4
        half = 12 * tiles * (10 + 7) * 4
        assert nc.plan(p, "winograd-f2x4", "cuda", max_workspace=half).lowering_bytes <= half


def test_weights_that_32_bits_do_not_count_are_refused():
    huge = problem(ic=1 << 14, oc=1 << 13)
    support = check(make_lowering("winograd-f2"), huge, Request(device="cuda"))
    assert "transformed weights have more elements than 32 bits count" in support.reason
    assert check(make_lowering("winograd-f2"), huge, Request())


def test_they_are_explained_and_left_alone_by_auto(emulated):
    told = nc.explain("mb8ic64ih56oc64kh3ph1", device="cuda")
    shown = {row.name: row for row in told.rows if row.name.startswith("winograd") and row.runs}
    assert set(shown) == {"winograd-f1x4", "winograd-f2", "winograd-f2x4", "winograd-f4"}
    assert shown["winograd-f4"].products == "36 of 64 x 64 x 1568"
    assert shown["winograd-f4"].waste == -0.75
    assert not told.chosen.startswith("winograd")
