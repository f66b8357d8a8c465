"""What every CUDA kernel compiles to, read off the machine code that a GPU would get: none is needed for that."""

from __future__ import annotations

import itertools
import re
import warnings

import cuda_catalogue as catalogue
import numpy as np
import pytest
from cases import KINDS, arguments, in_memory, problem
from cuda_code import ARCHITECTURES, LOCAL, WIDE, Code, compiled, intermediate, link
from numba import types

import numbaconv as nc
from numbaconv.devices.emulated import EmulatedRuntime
from numbaconv.devices.intrinsics import cuda
from numbaconv.gemm.cuda import gemm_kernel
from numbaconv.gemm.cuda_loaders import ROWS, STRIDED_ALONG_K
from numbaconv.gemm.cuda_tile import (
    ARITHMETIC,
    LARGE,
    LARGE_STAGED,
    SHARED_BYTES,
    SMALL,
    SMALL_STAGED,
    TENSOR3_LARGE,
    TENSOR3_SMALL,
    TENSOR_LARGE,
    TENSOR_SMALL,
)
from numbaconv.jit_cuda import pointer
from numbaconv.lowerings import _cuda_matrices
from numbaconv.registry import lowerings
from numbaconv.request import Request
from numbaconv.select import check

SUMS = ("reference", "direct", "depthwise")


def case(entry):
    marks = [pytest.mark.compiler] if entry.first else [pytest.mark.compiler, pytest.mark.slow]
    return pytest.param(entry, id=entry.kernel.name, marks=marks)


def holds(entry, cc, code: Code):
    """What is promised of every kernel's code."""
    kernel, used = entry.kernel, code.used
    print(kernel.name, cc, used)  # pytest -rP shows it
    assert code.spilled == (0, 0, 0), cc
    assert used["registers"] <= kernel.registers, cc
    assert used["shared"] <= SHARED_BYTES, cc
    if entry.tile:
        assert used["shared"] == entry.tile.shared_bytes, cc


# Code for each architecture comes from what was compiled for the first: below, a test compares.
@pytest.mark.parametrize("entry", [case(entry) for entry in catalogue.everything()])
def test_every_kernel_keeps_its_bounds(entry):
    kernel, operations = entry.kernel, []
    assert kernel.least <= entry.architectures[0]
    assembled = intermediate(kernel, entry.architectures[0])
    for cc in entry.architectures:
        code = link(assembled, cc)
        holds(entry, cc, code)
        operations = code.operations
    assert not [operation for operation in operations if WIDE.match(operation) or LOCAL.match(operation)]
    if entry.tile:
        copied = "LDGSTS" if entry.tile.stages else "LDG"
        assert any(re.match(rf"{copied}\..*128" if "rows_rows_" in kernel.name else copied, op) for op in operations)
    if kernel.name.startswith(SUMS):  # products are rounded with their sums, and only so
        assert any(re.match("[FD]FMA", operation) for operation in operations)
        assert not any(re.match("[FD]MUL", operation) for operation in operations)
    if tile := re.match(r"winograd_taking_\d_(\d)x(\d)x(\d)x(\d)_", kernel.name):  # each element moves once
        m_h, r_h, m_w, r_w = map(int, tile.groups())
        moved = [sum(operation.startswith(move) for operation in operations) for move in ("LDG", "STG")]
        assert moved == [(m_h + r_h - 1) * (m_w + r_w - 1)] * 2
    if kernel.name.startswith("direct"):  # eight weights a channel; sizes that are known are unrolled
        loads = sum(re.match(r"LDG\..*128", operation) is not None for operation in operations)
        channels, rest = divmod(loads, 2 if "direct_4_" in kernel.name else 4)
        assert rest == 0
        assert channels > 1 if "_ic" in kernel.name else channels == 1


@pytest.mark.parametrize(
    "entry", [case(entry._replace(first=False)) for entry in catalogue.products(plain=True)
              if entry.tile in (LARGE, LARGE.padded())]
)  # fmt: skip
def test_parts_of_k_need_no_more_than_whole_products(entry):
    """Without bias and residual there is less to hold, but the compiler does not see it like that everywhere."""
    assembled = intermediate(entry.kernel, entry.architectures[0])
    for cc in entry.architectures:
        holds(entry, cc, link(assembled, cc))


@pytest.mark.compiler
@pytest.mark.parametrize(
    "kernel", [gemm_kernel(LARGE, ROWS, ROWS, "columns", "row"), gemm_kernel(TENSOR_SMALL, ROWS, ROWS),
               gemm_kernel(LARGE.padded(), STRIDED_ALONG_K, ROWS), catalogue.direct.direct_kernel(4),
               catalogue.lift_cuda.lift_kernel(8)], ids=lambda kernel: kernel.name
)  # fmt: skip
def test_code_for_a_newer_gpu_is_the_same_from_either_intermediate_code(kernel):
    def instructions(code):
        return [(operation, re.sub(r"_ZN\w+", "", operands)) for _, operation, operands in code.lines]

    first = intermediate(kernel, kernel.least)
    for cc in ARCHITECTURES:
        if cc > kernel.least:
            assert instructions(link(first, cc)) == instructions(link(intermediate(kernel, cc), cc))


# ------------------------------------------------------------------------------------------------- the main loop

DEEP, DEEP_ALONG_K = (catalogue.gather._kind(catalogue.gather._deep, along_k) for along_k in (False, True))
LOOPS = [
    (LARGE, ROWS, ROWS, "columns", 0.87), (LARGE_STAGED, ROWS, ROWS, "columns", 0.85),
    (SMALL, ROWS, ROWS, "columns", 0.77), (SMALL_STAGED, ROWS, ROWS, "columns", 0.75),
    (LARGE, ROWS, DEEP, "columns", 0.82), (LARGE_STAGED, ROWS, DEEP, "columns", 0.78),
    (LARGE.padded(), DEEP_ALONG_K, ROWS, "rows", 0.80), (LARGE.padded().staged(), DEEP_ALONG_K, ROWS, "rows", 0.77),
    (LARGE.padded(), STRIDED_ALONG_K, ROWS, "columns", 0.84),
]  # fmt: skip


@pytest.mark.compiler
@pytest.mark.parametrize(
    ("tile", "a", "b", "pixels", "share"), LOOPS, ids=[f"{tile.name}-{a.name}-{b.name}" for tile, a, b, *_ in LOOPS]
)
def test_the_hot_loop_is_multiply_adds_and_128_bit_loads(tile, a, b, pixels, share):
    kernel = gemm_kernel(tile, a, b, pixels, "row" if pixels == "columns" else "column", True)
    known = [cc for cc in ARCHITECTURES if (cc < (8, 0)) == (tile.stages == 0)]
    assembled = intermediate(kernel, known[0])
    for cc in known:
        loop = link(assembled, cc).hot_loop("FFMA")
        adds = sum(operation.startswith("FFMA") for operation in loop)
        print(kernel.name, cc, f"hot loop: {len(loop)} instructions, FFMA {adds / len(loop):.1%}")
        assert adds == tile.bk * tile.mr * tile.nr
        assert adds / len(loop) >= share, cc
        wide = [operation for operation in loop if operation.startswith("LDS") and ".128" in operation]
        assert len(wide) == tile.bk * (tile.mr + tile.nr) // 4
        wanted = sum(width for kind, width in ((a, tile.bm), (b, tile.bn)) if kind is ROWS)
        copies = tile.bk * wanted // 4 // tile.threads
        for move in ("LDGSTS",) if tile.stages else ("LDG", "STS"):
            found = sum(operation.startswith(f"{move}.") and ".128" in operation for operation in loop)
            assert found == copies, (cc, move)


@pytest.mark.compiler
@pytest.mark.parametrize("tile", [TENSOR_LARGE, TENSOR_SMALL, TENSOR3_LARGE, TENSOR3_SMALL], ids=lambda tile: tile.name)
def test_the_hot_loop_has_one_instruction_a_product(tile):
    terms = ARITHMETIC[tile.arithmetic]
    kernel = gemm_kernel(tile, ROWS, ROWS, "columns", "row", True)
    assembled = intermediate(kernel, (8, 0))
    for cc in ((8, 0), (9, 0)):
        code = link(assembled, cc)
        loop = code.hot_loop("HMMA")
        products = [operation for operation in loop if operation.startswith("HMMA")]
        assert all(operation.startswith("HMMA.1688.F32.TF32") for operation in products)
        assert len(products) == terms * (tile.bk // 8) * (tile.mr // 2) * (tile.nr // 2)
        loads = sum(operation.startswith("LDS") for operation in loop)
        assert loads <= 1.1 * (tile.bk // 8) * (tile.mr // 2 * 4 + tile.nr // 2 * 2)
        assert "serializ" not in code.said.lower()
        print(kernel.name, cc, f"hot loop: {len(loop)} instructions, HMMA {len(products) / len(loop):.1%}")


# --------------------------------------------------------------------------------------- what the patterns see


@pytest.mark.compiler
def test_a_wide_division_would_be_seen():
    """Held against what Numba's own // gives."""

    def divide(out, by):
        out[0] = cuda.blockIdx.x // by

    code = compiled(divide, types.void(types.CPointer(types.int64), types.int64), (8, 0), 32)
    assert [operation for operation in code.operations if WIDE.match(operation)]


@pytest.mark.compiler
def test_local_memory_would_be_seen():
    def choose(out, i):
        local = cuda.local.array(256, types.float32)  # selects are made of a small one
        for j in range(256):
            local[j] = out[j]
        out[0] = local[i]

    code = compiled(choose, types.void(pointer(4), types.int32), (8, 0), 32)
    assert code.used["stack"] == 1024
    assert [operation for operation in code.operations if LOCAL.match(operation)]


# ------------------------------------------------------------------------------- the catalogue has every kernel


@pytest.fixture
def launched(monkeypatch):
    """``launched(cc)``: names of the kernels that are launched from then on, on an emulated device that runs none."""
    pytest.importorskip("greenlet", reason="the CUDA emulator runs on greenlets: pip install greenlet")
    names = set()
    monkeypatch.setattr(EmulatedRuntime, "_run", lambda self, kernel, *arguments: names.add(kernel.name))

    def record(cc):
        monkeypatch.setenv("NUMBACONV_CUDA", "emulate")
        monkeypatch.setenv("NUMBACONV_CUDA_CC", cc)
        _cuda_matrices._kept_table.cache_clear()  # of a device with other capabilities
        return names

    yield record
    _cuda_matrices._kept_table.cache_clear()


def families(entries):
    return {catalogue.family(entry.kernel.name): entry.architectures for entry in entries}


LARGER = {
    "large": {"mb": 2, "ic": 32, "ih": 64, "iw": 64, "oc": 128, "pad_top": 1, "pad_left": 1, "pad_bottom": 1,
              "pad_right": 1},
    "large 1x1": {"ic": 64, "ih": 48, "iw": 48, "oc": 256, "kh": 1, "kw": 1},
    "split": {"ic": 512, "ih": 4, "iw": 4, "oc": 16},
    "depthwise 7x7": {"ic": 8, "oc": 8, "g": 8, "ih": 20, "iw": 20, "kh": 7, "kw": 7},
}  # fmt: skip
SOME = ["plain", "1x1", "1x1 groups", "four pads", "dilation, stride, pads", "groups", "depthwise", "patches",
        "one channel in and out", "deep"]  # fmt: skip


def convolve(dtype, precision):
    for sizes in [*(KINDS[kind] for kind in SOME), *LARGER.values()]:
        for layout, lowering in itertools.product(("nchw", "nhwc"), lowerings()):
            p = problem(**sizes, layout=layout, dtype=dtype)
            request = Request(device="cuda:0", precision=precision)
            if "cuda" not in lowering.devices or not check(lowering(), p, request):
                continue
            x = in_memory(np.zeros((p.mb, p.ic, p.ih, p.iw), dtype), layout)
            x = x if layout == "nchw" else x.transpose(0, 2, 3, 1)
            w = np.zeros((p.oc, p.ic // p.g, p.kh, p.kw), dtype)
            nc.conv2d(x, w, np.zeros(p.oc, dtype), **arguments(p), algorithm=lowering.name, layout=layout,
                      device="cuda", precision=precision)  # fmt: skip


def multiply(dtype, precision):
    for m, n, k in ((5, 7, 3), (64, 64, 4096), (700, 600, 64), (1300, 36, 33)):
        for turn_a, turn_b, wide in itertools.product((False, True), repeat=3):
            a, b = np.zeros((k, m) if turn_a else (m, k), dtype), np.zeros((n, k) if turn_b else (k, n), dtype)
            if wide:
                a, b = np.zeros((*a.shape, 2), dtype)[..., 0], np.zeros((*b.shape, 2), dtype)[..., 0]
            nc.gemm(a, b, bias=np.zeros(n, dtype), transpose_a=turn_a, transpose_b=turn_b, device="cuda",
                    precision=precision)  # fmt: skip


@pytest.mark.parametrize(
    ("cc", "dtype", "precision"),
    [("7.5", "float32", "highest"), ("7.5", "float64", "highest"), ("8.0", "float32", "highest"),
     ("8.0", "float64", "highest"), ("8.0", "float32", "high"), ("9.0", "float32", "medium")],
)  # fmt: skip
def test_no_kernel_is_launched_that_the_catalogue_has_not(launched, cc, dtype, precision):
    names = launched(cc)
    known = families(catalogue.everything())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        convolve(dtype, precision)
        multiply(dtype, precision)
    assert len(names) > 20
    played = tuple(map(int, cc.split(".")))
    strangers = {name for name in names if played not in known.get(catalogue.family(name), [])}
    assert not strangers
