"""Every vector width and two older processors, each in a process that believes in it; and their loops, read."""

from __future__ import annotations

import platform
import re

import pytest

from numbaconv.machine import detect

X86 = platform.machine().lower() in ("x86_64", "amd64")
NATIVE = {"NUMBACONV_VECTOR_BITS": None, "NUMBA_CPU_NAME": None, "NUMBA_CPU_FEATURES": None}
WIDTHS = {f"{bits} bits": NATIVE | {"NUMBACONV_VECTOR_BITS": str(bits)} for bits in (128, 256, 512)}
# With the name alone, Numba would add this processor's own features, 32 registers among them.
PROCESSORS = {
    "haswell": NATIVE | {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma"},
    "nehalem": NATIVE | {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": "+sse4.2"},
}
KINDS = {
    "haswell": {"vector_bits": 256, "vector_registers": 16, "fma": True},
    "nehalem": {"vector_bits": 128, "vector_registers": 16, "fma": False},
}


def environment(kind):
    """The variables that make a process take the machine for another; skips what this one cannot do."""
    if kind in PROCESSORS:
        if not X86:
            pytest.skip(f"{kind} is an x86 processor, this is {platform.machine()}")
        if KINDS[kind]["vector_bits"] > detect().vector_bits or KINDS[kind]["fma"] > detect().fma:
            pytest.skip(f"this processor cannot run code for {kind}")
        return PROCESSORS[kind]
    if int(kind.split()[0]) > detect().vector_bits:
        pytest.skip(f"this processor has vectors of {detect().vector_bits} bits")
    return WIDTHS[kind]


COMPUTE = """
import itertools, sys
import numpy as np, oracles
import numbaconv as nc
from numbaconv.gemm import GemmPlan
from numbaconv.machine import detect

rng = np.random.default_rng(5)
for dtype in ("f4", "f8"):
    whole = lambda *shape: rng.integers(-3, 4, shape).astype(dtype)
    lanes, kc = detect().lanes(dtype), GemmPlan(100, 100, 10_000, dtype).blocking.kc
    a, b = whole(31, 2 * kc + 3), whole(2 * kc + 3, 6 * lanes + 1)
    for k in (1, kc + 1, 2 * kc + 3):
        product = oracles.matmul(a[:, :k], b[:k])
        for m, n in itertools.product((1, 31), (3, lanes - 1, 6 * lanes + 1)):
            left, right, wanted = a[:m, :k], b[:k, :n], product[:m, :n]
            bias = whole(n)
            got = nc.gemm(left, right, bias=bias, activation="relu")
            assert np.array_equal(got, np.maximum(wanted + bias, 0)), (dtype, m, n, k)
            out = np.full((m, 2 * n), np.nan, dtype)[:, ::2]
            nc.gemm(np.asfortranarray(left), np.asfortranarray(right), out=out, residual=wanted.astype(dtype))
            assert np.array_equal(out, 2 * wanted), (dtype, m, n, k)
    a, b = rng.standard_normal((60, 300)).astype(dtype), rng.standard_normal((300, 70)).astype(dtype)
    for columns in (70, 1):
        error = np.abs(nc.gemm(a, b[:, :columns]) - oracles.matmul(a, b[:, :columns], precision=np.longdouble))
        bound = np.finfo(dtype).eps * 300 ** 0.5 * 4 * oracles.matmul(a, b[:, :columns], magnitudes=True)
        assert (error <= bound).all(), dtype

    for layout, spec, threads in itertools.product(("nchw", "nhwc"), ("im2col", "conv1x1"), (2,)):
        kernel = (1, 1) if spec == "conv1x1" else (3, 2)
        x, w, bias = whole(2, 6, 11, 13), whole(10, 3, *kernel), whole(10)
        terms = {"stride": (2, 1)} if spec == "conv1x1" else {"stride": (2, 1), "padding": (1, 2, 0, 3)}
        wanted = oracles.conv2d(x, w, bias, (2, 1), terms.get("padding", (0, 0, 0, 0)), groups=2, activation="relu6")
        if layout == "nhwc":
            x = x.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)
        got = nc.conv2d(x, w, bias, **terms, groups=2, algorithm=spec, activation="relu6", num_threads=threads)
        assert np.array_equal(got, wanted), (dtype, layout, spec)
print({name: getattr(detect(), name) for name in ("vector_bits", "vector_registers", "fma")})
"""


@pytest.mark.parametrize("kind", [*WIDTHS, *PROCESSORS])
def test_products_and_convolutions_are_exact_at_every_width(python, kind):
    machine = eval(python(COMPUTE, env=environment(kind)))
    wanted = KINDS[kind] if kind in KINDS else {"vector_bits": int(kind.split()[0])}
    assert wanted.items() <= machine.items()


CATALOGUE = """
import itertools
import numpy as np, oracles
import numbaconv as nc
from numbaconv.registry import make_lowering
from numbaconv.request import Request
from numbaconv.select import check

rng = np.random.default_rng(6)
whole = lambda *shape: rng.integers(-3, 4, shape).astype("f4")
ran = set()
for g, kernel, stride, pads in (
    (2, (3, 2), (2, 1), (1, 2, 0, 3)), (1, (3, 3), (1, 2), (1, 1, 1, 1)), (1, (2, 5), (1, 3), (0, 4, 1, 0)),
    (1, (1, 1), (1, 1), (0, 0, 0, 0)), (1, (2, 2), (2, 2), (0, 0, 0, 0)), (6, (3, 3), (1, 2), (1, 1, 1, 1)),
):
    x, w, bias = whole(2, 6, 11, 41), whole(12, 6 // g, *kernel), whole(12)
    wanted = oracles.conv2d(x, w, bias, stride, pads, groups=g, activation="relu")
    for layout, name in itertools.product(("nchw", "nhwc"), nc.list_lowerings()):
        image = x if layout == "nchw" else x.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)
        p = nc.ConvProblem.from_arrays(image, w, stride, pads, 1, g)
        if name not in ("reference", "fft", "fft-tiled") and check(make_lowering(name), p, Request()):
            got = nc.conv2d(image, w, bias, stride, pads, 1, g, algorithm=name, activation="relu", num_threads=2)
            assert np.array_equal(got, wanted), (name, p)
            ran.add(name)
inexact = {*nc.list_lowerings("winograd*"), *nc.list_lowerings("fft*")}
print(sorted(ran) == sorted(set(nc.list_lowerings()) - inexact - {"reference"}))
"""


@pytest.mark.parametrize("kind", ["128 bits", "haswell"])
def test_every_lowering_is_exact_at_every_width(python, kind):
    assert python(CATALOGUE, env=environment(kind)).strip() == "True"


# ----------------------------------------------------------------------------------------- what the loops look like

ASSEMBLY = """
import sys
from numbaconv.gemm.micro import max_rows, max_vectors, micro_kernel
from numbaconv.machine import detect
machine = detect()
for itemsize in (4, 8):
    for nv in range(1, max_vectors(machine.vector_registers) + 1):
        for direct in (False, True):
            mr = max_rows(nv, machine.vector_registers, direct)
            print(f"KERNEL {itemsize} {mr} {nv} {direct}")
            print(micro_kernel(itemsize, mr, nv, direct).code._library.get_asm_str())
"""


def widest(kind: str) -> str:
    return {128: "%xmm", 256: "%ymm", 512: "%zmm"}[KINDS[kind]["vector_bits"] if kind in KINDS else int(kind[:3])]


def innermost_loops(assembly: str) -> list[list[str]]:
    """The instructions of every loop that holds no other: from a label to a later jump back to it."""
    lines = [line.split("#")[0].strip() for line in assembly.splitlines()]
    labels = {line[:-1]: number for number, line in enumerate(lines) if line.endswith(":")}
    loops = [
        (labels[words[1]], number)
        for number, words in enumerate(line.split() for line in lines)
        if len(words) == 2 and words[0].startswith("j") and labels.get(words[1], number) < number
    ]
    inner = [loop for loop in loops if not any(o != loop and loop[0] <= o[0] and o[1] <= loop[1] for o in loops)]
    return [[line for line in lines[first:last] if line and not line.endswith(":")] for first, last in inner]


def multiplications(loop: list[str]) -> list[str]:
    return [line for line in loop if line.split()[0].startswith(("vfmadd", "vmulp", "mulp"))]


def spills(loop: list[str], assembly: str) -> list[str]:
    """Vector instructions that touch the stack (%rbp is an ordinary register unless it holds the frame)."""
    stack = ("(%rsp", "(%rbp") if re.search(r"movq\s+%rsp, %rbp", assembly) else ("(%rsp",)
    return [line for line in loop if any(place in line for place in stack) and re.search("%[xyz]mm", line)]


@pytest.mark.skipif(not X86, reason="it reads x86 assembly")
@pytest.mark.parametrize("kind", ["512 bits", "256 bits", "haswell"])
def test_the_loop_over_k_keeps_every_accumulator_in_a_register(python, tmp_path, kind):
    """In the largest tiles, where no register is to spare; compiled anew, for the text of a cached kernel is gone."""
    said = python(ASSEMBLY, env=environment(kind) | {"NUMBACONV_CACHE_DIR": str(tmp_path)})
    kernels = said.split("KERNEL ")[1:]
    assert len(kernels) >= 12
    for text in kernels:
        title, assembly = text.split("\n", 1)
        _, mr, nv, _ = title.split()
        loops = [loop for loop in innermost_loops(assembly) if multiplications(loop)]
        assert loops, title
        for loop in loops:
            assert len(multiplications(loop)) % (int(mr) * int(nv)) == 0, f"{title}: a product for every accumulator"
            assert spills(loop, assembly) == [], f"{title}: {len(loop)} instructions"
            assert all(re.search(widest(kind), line) for line in multiplications(loop)), title
        if kind in PROCESSORS:
            assert not re.search(r"\{1to|%[xyz]mm(1[6-9]|[23]\d)|%zmm", assembly), f"{title}: not what {kind} can run"


def test_the_reader_of_loops_sees_a_spill():
    text = """
kernel:
.LBB0_1:
	movq	%rax, 8(%rsp)
.LBB0_2:
	vmovaps	64(%rsp), %ymm1
	vfmadd231ps	(%rdi), %ymm1, %ymm2
	decq	%rcx
	jne	.LBB0_2
	jmp	.LBB0_1
"""
    (loop,) = innermost_loops(text)
    assert len(loop) == 3
    assert multiplications(loop) == ["vfmadd231ps	(%rdi), %ymm1, %ymm2"]
    assert spills(loop, text) == ["vmovaps	64(%rsp), %ymm1"]
