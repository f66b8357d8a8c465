"""A step's inner loop: found in machine code that is given, and in that of the steps."""

from __future__ import annotations

import platform

import numba
import numpy as np
import pytest

from numbaconv.jit import native
from numbaconv.ladder import assembly, step, steps
from numbaconv.ladder.assembly import NoAssembly, count
from numbaconv.machine import detect

X86 = platform.machine().lower() in ("x86_64", "amd64")
on_x86 = pytest.mark.skipif(not X86, reason="counts are of x86-64's instructions")

TEXT = """
other:
	movq	%rsp, %rbp
.LBB0_9:
	vmulss	(%rbp), %xmm1, %xmm2
	jne	.LBB0_9
step:
	subq	$256, %rsp
.LBB1_1:
	movq	%rax, 8(%rsp)
.LBB1_2:
	vmovups	(%rsi,%r8,4), %zmm3             # a comment (%rsp)
	prefetcht0	512(%rsi)
	leaq	64(%rsi), %rsi
	vfmadd231ps	(%rbp){1to16}, %zmm3, %zmm0
	vfmadd231ps	%zmm3, %zmm4, %zmm1
	vmulps	64(%rdi), %zmm3, %zmm5
	vaddps	%zmm5, %zmm6, %zmm6
	vmovups	128(%rsp), %zmm7
	vaddps	%zmm7, %zmm6, %zmm7
	vmovups	%zmm7, 128(%rsp)
	addq	$1, 16(%rsp)
	cmpq	%r8, 24(%rsp)
	jne	.LBB1_2
	jmp	.LBB1_1
.LBB1_3:
	vmulss	(%rsi), %xmm1, %xmm2
	vaddss	%xmm2, %xmm3, %xmm3
	decq	%rcx
	jne	.LBB1_3
"""


@on_x86
def test_a_loop_is_found_and_counted():
    loop = count("given", TEXT)
    assert loop.text.startswith(".LBB1_2:\n    vmovups (%rsi,%r8,4), %zmm3\n")
    assert loop.text.endswith("jne .LBB1_2")
    assert loop.instructions == 13
    assert loop.loads == 6  # the first, the broadcast, the product's, the spill's, the counter's, the comparison's
    assert loop.stores == 2
    assert loop.spills == 5  # %rbp is a register like others here
    assert (loop.fmas, loop.multiplies, loop.adds, loop.lanes) == (2, 1, 2, 16)
    assert loop.multiply_adds == 3
    assert loop.loads_per_fma == 2
    assert loop.flops == 2 * 32 + 3 * 16
    assert "13 instructions, 3 multiply-adds of 16 lanes" in str(loop)


@on_x86
def test_where_the_frame_has_a_pointer_its_accesses_are_spills():
    loop = count("given", TEXT.replace("	subq	$256, %rsp\n", "	movq	%rsp, %rbp\n"))
    assert loop.spills == 6


@on_x86
def test_doubles_have_half_as_many_lanes():
    loop = count("given", ".LBB0_1:\n\tvfmadd231pd\t(%rdi), %ymm1, %ymm2\n\tjne\t.LBB0_1\n")
    assert (loop.lanes, loop.flops, loop.loads) == (4, 8, 1)


def test_elsewhere_the_text_is_there_and_the_counts_are_not(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    text = (
        "f:\n.LBB0_1:\n\tldr\tq0, [x1], #16\n\tfmla\tv1.4s, v0.4s, v2.4s\n\tsubs\tx8, x8, #1\n\tb.ne\t.LBB0_1\n\tret\n"
    )
    loop = count("given", text)
    assert not loop.counted
    assert "only on x86-64, this is aarch64" in str(loop)
    assert "fmla v1.4s" in loop.text
    with pytest.raises(NoAssembly, match="multiplies"):
        count("given", text.replace("fmla", "orr"))


@on_x86
def test_every_rung_needs_fewer_accesses_a_multiply_add():
    seen = {name: assembly(step(name)) for name in ("ijk", "ikj", "register-tile", "vector", "production")}
    assert seen["ijk"].lanes == 1
    assert seen["ijk"].loads_per_fma == 2
    assert seen["ikj"].lanes > 1
    assert (seen["ikj"].loads_per_fma, seen["ikj"].stores) == (2, seen["ikj"].multiply_adds)
    assert seen["register-tile"].stores == seen["register-tile"].spills == 0
    assert seen["register-tile"].loads_per_fma < 1.5
    for name in ("vector", "production"):
        assert seen[name].lanes == detect().lanes("float32")
        assert seen[name].stores == seen[name].spills == 0
        assert seen[name].loads_per_fma < 1
        assert bool(seen[name].fmas) == detect().fma
    one = step("vector").module
    assert seen["vector"].multiply_adds % (one.MR * one.VECTORS) == 0


@on_x86
def test_any_compiled_function_has_an_inner_loop():
    @numba.njit(fastmath=True)
    def dot(x, y):
        total = np.float32(0)
        for i in range(x.size):
            total += x[i] * y[i]
        return total

    x = np.zeros(8, np.float32)
    assert assembly(dot, x, x).lanes > 1  # its own flags are kept


def test_what_has_no_machine_code_or_no_products_is_an_error_of_ours():
    with pytest.raises(NoAssembly, match=r"numba\.njit"):
        assembly(lambda a, b: a)

    @native
    def nothing(a):
        pass

    with pytest.raises(NoAssembly, match="no loop"):
        assembly(nothing)


def test_every_step_names_what_is_compiled():
    for one in steps("cpu")[:-1]:
        assert hasattr(one.kernel, "py_func"), one
