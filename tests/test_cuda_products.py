"""``gemm`` and ``linear`` with ``device="cuda"``, in the emulator: every way operands can lie, batches, epilogues."""

from __future__ import annotations

import itertools

import numpy as np
import oracles
import pytest

import numbaconv as nc

pytest.importorskip("greenlet", reason="the CUDA emulator runs on greenlets: pip install greenlet")

from numbaconv import products_cuda
from numbaconv.devices import cuda as cuda_devices
from numbaconv.devices.array import DeviceArray
from numbaconv.gemm.cuda_plan import arithmetic_for, cuda_plan
from numbaconv.gemm.cuda_tile import SMALL

DTYPES = [np.float32, np.float64]


@pytest.fixture(autouse=True)
def emulated(monkeypatch):
    monkeypatch.setenv("NUMBACONV_CUDA", "emulate")
    return cuda_devices.runtime()


def whole(rng, *shape, dtype=np.float32):
    return rng.integers(-4, 5, shape).astype(dtype)


def laid(array, way):
    """`array`'s values, lying otherwise: its last axis or the one before contiguous, or gaps between all elements."""
    rows, columns = array.shape[-2:]
    lead = array.shape[:-2]
    if way == "rows":
        room = np.full((*lead, rows, -(-columns // 4) * 4), np.nan, array.dtype)
    elif way == "columns":
        room = np.full((*lead, columns, rows + 1), np.nan, array.dtype).swapaxes(-1, -2)
    else:
        room = np.full((*lead, rows + 1, 2 * columns + 1), np.nan, array.dtype)[..., ::2]
    view = room[..., :rows, :columns]
    view[...] = array
    return view


def on_device(home, array):
    """The same layout in device memory, gaps included."""
    base = array
    while base.base is not None:
        base = base.base
    moved = home.to_device(base)
    flat = moved.reshape(-1)
    start = (array.ctypes.data - base.ctypes.data) // array.itemsize
    shadow = np.lib.stride_tricks.as_strided(flat._shadow[start:], array.shape, array.strides)
    return DeviceArray(moved.buffer, shadow)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("way_a", "way_b"), [*itertools.product(["rows", "columns", "gaps"], repeat=2)])
def test_operands_may_lie_in_any_way(rng, emulated, way_a, way_b, dtype):
    a, b = laid(whole(rng, 37, 21, dtype=dtype), way_a), laid(whole(rng, 21, 43, dtype=dtype), way_b)
    given = on_device(emulated, a), on_device(emulated, b)
    got = nc.gemm(*given)
    assert isinstance(got, DeviceArray)
    np.testing.assert_array_equal(got.copy_to_host(), a @ b)
    np.testing.assert_array_equal(nc.gemm(a, b, device="cuda"), a @ b)


@pytest.mark.parametrize("packed_from", [1, 10**9])
def test_packing_or_not_gives_the_same(rng, monkeypatch, packed_from):
    monkeypatch.setattr(products_cuda, "PACKED_FROM", packed_from)
    a, b = whole(rng, 2, 33, 29), whole(rng, 29, 35)
    np.testing.assert_array_equal(nc.gemm(a, b, device="cuda"), a @ b)
    np.testing.assert_array_equal(
        nc.gemm(b, a, device="cuda", transpose_a=True, transpose_b=True), b.T @ a.swapaxes(1, 2)
    )


@pytest.mark.parametrize(
    ("left", "right"),
    [((3, 5, 6), (6, 7)), ((5, 6), (3, 6, 7)), ((3, 1, 5, 6), (2, 6, 7)), ((2, 3, 5, 6), (2, 3, 6, 7)),
     ((2, 1, 5, 6), (1, 3, 6, 7)), ((0, 5, 6), (6, 7)), ((1, 1, 5, 6), (6, 7)), ((2, 2, 2, 2, 3, 4), (4, 5))]
)  # fmt: skip
def test_batches_broadcast(rng, left, right):
    a, b = whole(rng, *left), whole(rng, *right)
    np.testing.assert_array_equal(nc.gemm(a, b, device="cuda"), a @ b)


@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
@pytest.mark.parametrize("side", ["n", "1n", "m1"])
@pytest.mark.parametrize("turned", [False, True])
def test_the_epilogue(rng, emulated, activation, side, turned):
    m, n, k = 19, 34, 11
    a, b, c, extra = whole(rng, m, k), whole(rng, k, n), whole(rng, m, n), whole(rng, m, n)
    bias = {"n": whole(rng, n), "1n": whole(rng, 1, n), "m1": whole(rng, m, 1)}[side]
    want = oracles.gemm(a, b, c.copy(), 2.0, -3.0, bias=bias, residual=extra, activation=activation)
    out = emulated.to_device(np.asfortranarray(c) if turned else c)
    got = nc.gemm(a, b, out=out, alpha=2.0, beta=-3.0, bias=bias, residual=extra, activation=activation, device="cuda")
    assert got is out
    np.testing.assert_array_equal(out.copy_to_host(), want)


def test_the_result_may_be_an_operand(rng, emulated):
    a, b = whole(rng, 24, 24), whole(rng, 24, 24)
    moved = emulated.to_device(a)
    nc.gemm(moved, emulated.to_device(b), out=moved, beta=1.0)
    np.testing.assert_array_equal(moved.copy_to_host(), a @ b + a)


def test_nothing_to_multiply(rng):
    a, b = whole(rng, 5, 0), whole(rng, 0, 7)
    np.testing.assert_array_equal(
        nc.gemm(a, b, device="cuda", bias=np.arange(7, dtype="f4")), np.arange(35).reshape(5, 7) % 7
    )
    assert nc.gemm(whole(rng, 0, 4), whole(rng, 4, 3), device="cuda").shape == (0, 3)
    a, b, out = np.full((4, 3), np.nan, "f4"), whole(rng, 3, 5), whole(rng, 4, 5)
    want = out * 2
    np.testing.assert_array_equal(nc.gemm(a, b, alpha=0, beta=2.0, out=out, device="cuda"), want)


def test_depth_is_split_where_blocks_are_few(rng):
    plan = cuda_plan(30, 40, 2048, 1, 4, "fma", 132)
    assert plan.parts > 1
    assert plan.k_part % plan.tile.bk == 0
    assert plan.panel_bytes == plan.parts * 30 * 40 * 4
    a, b, bias, extra = whole(rng, 30, 2048), whole(rng, 2048, 40), whole(rng, 30, 1), whole(rng, 30, 40)
    got = nc.gemm(a, b, bias=bias, residual=extra, activation="relu", device="cuda")
    np.testing.assert_array_equal(got, np.maximum(a @ b + bias + extra, 0))


def test_large_products_take_large_tiles_and_are_not_split():
    for arithmetic, size in (("fma", 4), ("tf32", 4), ("tf32x3", 4), ("fma", 8)):
        plan = cuda_plan(4096, 4096, 4096, 1, size, arithmetic, 132)
        assert plan.parts == 1
        assert plan.tile.bm * plan.tile.bn >= SMALL.bm * SMALL.bn * (4 if size == 4 else 1)
    assert cuda_plan(64, 64, 64, 1, 4, "fma", 132).tile.bm == 64


@pytest.mark.parametrize(
    ("precision", "least", "most"), [("highest", 0, 1e-6), ("high", 1e-9, 1e-5), ("medium", 1e-5, 1e-3)]
)
def test_precision_buys_what_it_says(rng, precision, least, most):
    a, b = rng.standard_normal((40, 200), dtype=np.float32), rng.standard_normal((200, 50), dtype=np.float32)
    got = nc.gemm(a, b, precision=precision, device="cuda")
    want = a.astype(np.float64) @ b
    error = np.linalg.norm(got - want) / np.linalg.norm(want)
    assert least <= error <= most


def test_precision_is_float32_where_there_are_no_tensor_cores(rng, monkeypatch):
    assert arithmetic_for("medium", 4, (7, 5)) == "fma"
    assert arithmetic_for("medium", 8, (9, 0)) == "fma"
    assert arithmetic_for("high", 4, (8, 0)) == "tf32x3"
    monkeypatch.setenv("NUMBACONV_CUDA_CC", "7.5")
    a, b = rng.standard_normal((20, 30), dtype=np.float32), rng.standard_normal((30, 20), dtype=np.float32)
    got = nc.gemm(a, b, precision="medium", device="cuda")
    assert np.linalg.norm(got - a.astype(np.float64) @ b) < 1e-6 * np.linalg.norm(a) * np.linalg.norm(b)


@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 3, 6)])
def test_linear(rng, emulated, shape):
    x, w, bias = whole(rng, *shape), whole(rng, 9, 6), whole(rng, 9)
    want = np.maximum(x @ w.T + bias, 0)
    np.testing.assert_array_equal(nc.linear(x, w, bias, activation="relu", device="cuda"), want)
    moved = nc.linear(emulated.to_device(x), emulated.to_device(w), emulated.to_device(bias), activation="relu")
    np.testing.assert_array_equal(moved.copy_to_host(), want)
    out = np.full(want.shape, np.nan, "f4")
    assert nc.linear(x, w, bias, activation="relu", device="cuda", out=out) is out
    np.testing.assert_array_equal(out, want)


def test_wrong_arguments(rng, emulated):
    a, b = whole(rng, 4, 5), whole(rng, 5, 6)
    with pytest.raises(nc.ShapeError, match="5 columns but b"):
        nc.gemm(a, a, device="cuda")
    with pytest.raises(nc.ShapeError, match="out"):
        nc.gemm(a, b, out=np.zeros((4, 5), "f4"), device="cuda")
    with pytest.raises(nc.ShapeError, match="beta"):
        nc.gemm(a, b, beta=1.0, device="cuda")
    with pytest.raises(nc.ShapeError, match="plain arrays"):
        nc.gemm(nc.prepack_a(a), b, device="cuda")
    with pytest.raises(nc.DeviceUnavailable, match="copy it to the host"):
        nc.gemm(a, emulated.to_device(b))
    with pytest.raises(nc.ShapeError, match="backwards"):
        nc.gemm(emulated.to_device(a)[::-1], b)
    with pytest.raises(nc.DeviceUnavailable, match="stream"):
        nc.gemm(a, b, stream=1)


def test_a_linear_layer_keeps_its_weights_there(rng, emulated):
    w, bias = whole(rng, 9, 6), whole(rng, 9)
    layer = nc.Linear.from_arrays(w, bias, activation="relu")
    x = whole(rng, 5, 6)
    want = layer(x)
    assert layer.to("cuda") is layer
    np.testing.assert_array_equal(layer(x), want)
    assert layer.prepared_bytes == w.nbytes + bias.nbytes
    moved = layer(emulated.to_device(x))
    assert isinstance(moved, DeviceArray)
    np.testing.assert_array_equal(moved.copy_to_host(), want)
    np.testing.assert_array_equal(layer.to("cpu")(x), want)
    with pytest.raises(nc.DeviceUnavailable, match="x lives on a GPU"):
        layer(emulated.to_device(x))
    assert isinstance(nc.Linear.from_arrays(w, bias)(emulated.to_device(x)), DeviceArray)


def test_more_products_than_a_launch_has(rng, monkeypatch):
    monkeypatch.setattr(products_cuda, "MOST_BATCH", 3)
    a, b = whole(rng, 2, 8, 3, 4), whole(rng, 8, 4, 5)
    np.testing.assert_array_equal(nc.gemm(a, b, device="cuda"), a @ b)
    one = whole(rng, 1, 4, 5)
    np.testing.assert_array_equal(nc.gemm(a, one, device="cuda"), a @ one)
