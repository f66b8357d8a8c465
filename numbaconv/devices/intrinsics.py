"""The words that CUDA kernels are written in: what NVIDIA GPUs can do and plain numba.cuda cannot say.

Each word is an instruction, or a run of them, emitted as LLVM IR or PTX, with a Python twin beside it that the emulator
(``devices.emulator``) runs. A twin is called with the emulated thread first; memory is an ``emulator.Memory``. This is
the only file that knows how numba-cuda generates code, so the only one to rewrite for another code generator.

Kernels see flat float32 memory: kernel arguments are raw pointers to global memory, `shared` is an array made with
``cuda.shared.array(..., alignment=16)``. Indices count elements and are 32 bits wide; four floats are 16 bytes, and
their index must be a multiple of four.
"""

from __future__ import annotations

import functools
import inspect

import numpy as np
from llvmlite import ir
from numba import types

from numbaconv.jit_cuda import Word, cuda_intrinsic, cuda_module

FLOAT, I32, I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
FOUR = ir.VectorType(FLOAT, 4)
VOID = ir.VoidType()
GLOBAL, SHARED = 1, 3
MEMORY = object()
"""In an instruction's signature: whatever memory it is handed."""

float32, int32, uint32, void = types.float32, types.int32, types.uint32, types.void
floats4 = types.UniTuple(types.float32, 4)

cuda = Word("cuda", cuda_module, doc="numba.cuda: threadIdx, blockIdx, syncthreads, shared.array, local.array.")


class Emit:
    """LLVM IR and PTX for one use of an instruction."""

    def __init__(self, context, builder):
        self.context, self.builder = context, builder

    def memory(self, kind, value):
        """The first element of an array, or of a kernel's pointer, as a pointer."""
        if isinstance(kind, types.CPointer):  # a kernel's pointers are to global memory
            return self.builder.addrspacecast(value, ir.PointerType(FLOAT, addrspace=GLOBAL))
        return self.context.make_array(kind)(self.context, self.builder, value).data

    def at(self, memory, index):
        index = ir.Constant(I64, index) if isinstance(index, int) else self.builder.sext(index, I64)
        return self.builder.gep(memory, [index], inbounds=True)

    def _four(self, pointer):
        return self.builder.bitcast(pointer, ir.PointerType(FOUR, addrspace=pointer.type.addrspace))

    def load4(self, pointer) -> list:
        values = self.builder.load(self._four(pointer), align=16)
        return [self.builder.extract_element(values, ir.Constant(I32, lane)) for lane in range(4)]

    def store4(self, values, pointer):
        packed = ir.Constant(FOUR, ir.Undefined)
        for lane, value in enumerate(values):
            packed = self.builder.insert_element(packed, value, ir.Constant(I32, lane))
        self.builder.store(packed, self._four(pointer), align=16)

    def address(self, pointer, space):
        """A pointer as the number that PTX wants: 32 bits in shared memory, 64 in global."""
        if pointer.type.addrspace != space:
            pointer = self.builder.addrspacecast(pointer, ir.PointerType(FLOAT, addrspace=space))
        return self.builder.ptrtoint(pointer, I32 if space == SHARED else I64)

    def ptx(self, text, constraints, result=VOID, values=()):
        kind = ir.FunctionType(result, [value.type for value in values])
        return self.builder.call(ir.InlineAsm(kind, text, constraints, side_effect=True), values)

    def tuple4(self, values):
        return self.context.make_tuple(self.builder, floats4, values)


def instruction(result, *operands, twin):
    """Turn an emitter ``f(emit, *values) -> value or None`` into a word; `operands` are types, or MEMORY."""

    def decorate(emitter):
        def typing(typingctx, *given):
            taken = [kind if operand is MEMORY else operand for operand, kind in zip(operands, given, strict=True)]

            def codegen(context, builder, signature, values):
                emit = Emit(context, builder)
                values = [
                    emit.memory(kind, value) if operand is MEMORY else value
                    for operand, kind, value in zip(operands, signature.args, values, strict=True)
                ]
                return emitter(emit, *values) or context.get_dummy_value()

            return result(*taken), codegen

        # numba-cuda reads the number of operands off the signature.
        names = ["typingctx", *(f"operand{number}" for number in range(len(operands)))]
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        typing.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in names])
        typing.__name__ = emitter.__name__
        word = Word(emitter.__name__, lambda: cuda_intrinsic(typing), twin, emitter.__doc__)
        word.typing = typing  # what has no PTX in it can be compiled for a CPU too, and held against its twin
        return word

    return decorate


# ------------------------------------------------------------------------------------------ 128 bits at a time


@instruction(floats4, MEMORY, int32, twin=lambda thread, memory, index: tuple(memory.read4(index)))
def ld4(emit, memory, index):
    """``memory[index : index + 4]`` as a tuple."""
    return emit.tuple4(emit.load4(emit.at(memory, index)))


def _st4(thread, memory, index, *values):
    memory.write4(index, values)


@instruction(void, MEMORY, int32, float32, float32, float32, float32, twin=_st4)
def st4(emit, memory, index, *values):
    """``memory[index : index + 4] = values``."""
    emit.store4(values, emit.at(memory, index))


def _ld4_zfill(thread, memory, index, count):
    return (*memory.read4(index, count), 0.0, 0.0, 0.0, 0.0)[:4]


@instruction(floats4, MEMORY, int32, int32, twin=_ld4_zfill)
def ld4_zfill(emit, memory, index, count):
    """The first `count` (0 to 4) of ``memory[index : index + 4]``, then zeros; the rest is not touched."""
    pointer = emit.address(emit.at(memory, index), GLOBAL)
    text = """{
        .reg .pred all, some;
        setp.ge.s32 all, $5, 4;
        mov.f32 $0, 0f00000000; mov.f32 $1, 0f00000000; mov.f32 $2, 0f00000000; mov.f32 $3, 0f00000000;
        @all ld.global.v4.f32 {$0, $1, $2, $3}, [$4];
        setp.gt.and.s32 some, $5, 0, !all;  @some ld.global.f32 $0, [$4];
        setp.gt.and.s32 some, $5, 1, !all;  @some ld.global.f32 $1, [$4 + 4];
        setp.gt.and.s32 some, $5, 2, !all;  @some ld.global.f32 $2, [$4 + 8];
    }"""
    result = ir.LiteralStructType([FLOAT] * 4)
    values = emit.ptx(text, "=&f,=&f,=&f,=&f,l,r,~{memory}", result, [pointer, count])
    return emit.tuple4([emit.builder.extract_value(values, lane) for lane in range(4)])


# ---------------------------------------------------------------------------------- asynchronous copies, sm_80+


def _cp_async16(thread, shared, into, source, index, count):
    thread.start_copy(shared, into, source, index, count)


@instruction(void, MEMORY, int32, MEMORY, int32, int32, twin=_cp_async16)
def cp_async16(emit, shared, into, source, index, count):
    """Start copying the first `count` (0 to 4) of ``source[index : index + 4]``, then zeros, to ``shared[into:]``."""
    target = emit.address(emit.at(shared, into), SHARED)
    pointer = emit.address(emit.at(source, index), GLOBAL)
    size = emit.builder.shl(count, ir.Constant(I32, 2))
    emit.ptx("cp.async.cg.shared.global [$0], [$1], 16, $2;", "r,l,r,~{memory}", values=[target, pointer, size])


@instruction(void, twin=lambda thread: thread.commit_copies())
def cp_async_commit(emit):
    """Make this thread's copies since the last commit a group."""
    emit.ptx("cp.async.commit_group;", "~{memory}")


@functools.cache
def cp_async_wait(pending: int) -> Word:
    """The word that waits until at most the last `pending` of this thread's groups are under way.

    What other threads copied is there only after a barrier, too.
    """

    @instruction(void, twin=lambda thread: thread.wait_copies(pending))
    def wait(emit):
        emit.ptx(f"cp.async.wait_group {pending};", "~{memory}")

    return wait


# -------------------------------------------------------------------------------------------------- arithmetic


def _unsigned(thread, *values):
    return [thread.within(value, 0, 2**32 - 1) for value in values]


@instruction(uint32, uint32, uint32, twin=lambda thread, a, b: _unsigned(thread, a)[0] // _unsigned(thread, b)[0])
def udiv32(emit, a, b):
    """``a // b`` of non-negative numbers; Numba's own ``//`` would be the several times slower 64-bit one."""
    return emit.builder.udiv(a, b)


@instruction(uint32, uint32, uint32, twin=lambda thread, a, b: _unsigned(thread, a)[0] % _unsigned(thread, b)[0])
def umod32(emit, a, b):
    """``a % b`` of non-negative numbers."""
    return emit.builder.urem(a, b)


@functools.cache
def multiply_tile(bk: int, bm: int, bn: int, mr: int, nr: int, step_m: int, step_n: int) -> Word:
    """The word ``multiply(shared_a, i, shared_b, j, sums)``: one thread's share of one k-tile.

    ::

        for p in range(bk):  # outer products, all in registers
            sums[mr x nr] += column p of A's tile (mr values) x row p of B's tile (nr values)

    The tiles lie in shared memory as (bk, bm) and (bk, bn). Of its `mr` rows a thread has four in a row at `i`, four at
    ``i + step_m``, and so on, and likewise for its columns: each four are one 128-bit load. Written out as a whole
    because neither Numba nor NVVM unrolls a loop nest of this size, and `sums` must stay in registers.
    """
    rows = [step_m * (i // 4) + i % 4 for i in range(mr)]
    columns = [step_n * (j // 4) + j % 4 for j in range(nr)]

    def twin(thread, shared_a, i, shared_b, j, sums):
        a = shared_a.gather4(i, bm, bk, rows).astype(np.float64)  # where products of float32 are exact: one rounding
        b = shared_b.gather4(j, bn, bk, columns)
        with np.errstate(invalid="ignore", over="ignore"):
            for p in range(bk):
                sums.values[:] = sums.values + (a[p][:, None] * b[p]).reshape(-1)

    @instruction(void, MEMORY, int32, MEMORY, int32, MEMORY, twin=twin)
    def multiply(emit, shared_a, i, shared_b, j, sums):
        column, row = emit.at(shared_a, i), emit.at(shared_b, j)

        def fragments(p):
            a = [value for q in rows[::4] for value in emit.load4(emit.at(column, p * bm + q))]
            b = [value for q in columns[::4] for value in emit.load4(emit.at(row, p * bn + q))]
            return a, b

        cells = [emit.at(sums, number) for number in range(mr * nr)]
        total = [emit.builder.load(cell) for cell in cells]
        coming = fragments(0)
        for p in range(bk):
            a, b = coming
            if p + 1 < bk:  # loads run one step ahead of their use
                coming = fragments(p + 1)
            for r in range(mr):
                # To and fro, so that neighbouring instructions share operands (the register file's reuse cache).
                for s in range(nr) if r % 2 == 0 else reversed(range(nr)):
                    total[r * nr + s] = emit.builder.fma(a[r], b[s], total[r * nr + s])
        for value, cell in zip(total, cells, strict=True):
            emit.builder.store(value, cell)

    return multiply


@functools.cache
def take_row(mr: int, nr: int) -> Word:
    """The word ``take(sums, i, line)``: ``line[:] = sums[i * nr : (i + 1) * nr]``, for an `i` known only at run time.

    An array that is indexed by a variable lies in memory; here a jump picks the registers.
    """

    def twin(thread, sums, i, line):
        line.values[:] = sums.values[i * nr : (i + 1) * nr]

    @instruction(void, MEMORY, int32, MEMORY, twin=twin)
    def take(emit, sums, i, line):
        builder = emit.builder
        end = builder.append_basic_block("taken")
        jump = builder.switch(i, end)
        for row in range(mr):
            case = builder.append_basic_block(f"row{row}")
            jump.add_case(ir.Constant(I32, row), case)
            builder.position_at_end(case)
            for column in range(nr):
                builder.store(builder.load(emit.at(sums, row * nr + column)), emit.at(line, column))
            builder.branch(end)
        builder.position_at_end(end)

    return take
