"""The words that CUDA kernels are written in: what NVIDIA GPUs can do and plain numba.cuda cannot say.

Each word is an instruction, or a run of them, emitted as LLVM IR or PTX (``devices.emit``), with a Python twin beside
it that the emulator (``devices.emulator``) runs. A twin is called with the emulated thread first; memory is an
``emulated_memory.Memory``.

Kernels see flat memory of float32, float64 or int32: kernel arguments are raw pointers to global memory, `shared` is an
array made with ``cuda.shared.array(..., alignment=16)``. Indices count elements and are 32 bits wide. A vector is 16
bytes, V = 4 float32 or 2 float64, and its index a multiple of V.
"""

from __future__ import annotations

import functools

from llvmlite import ir
from numba import types

from numbaconv.devices.emit import (
    GLOBAL,
    I32,
    MEMORY,
    PTX,
    REALS,
    SHARED,
    VALUE,
    element,
    instruction,
    itemsize_of,
    vector_of,
)
from numbaconv.devices.register_tile import multiply_tile, take_row
from numbaconv.devices.tensor_cores import multiply_tile_mma
from numbaconv.jit_cuda import Word, cuda_module

__all__ = [
    "cp_async1", "cp_async16", "cp_async_commit", "cp_async_wait", "cuda", "float32", "float64", "int32", "ld1_zfill",
    "ld4", "ld4_zfill", "ldv", "ldv_zfill", "multiply_tile", "multiply_tile_mma", "shfl_down", "shfl_xor", "st4",
    "stv", "syncwarp", "take_row", "udiv32", "uint32", "umod32",
]  # fmt: skip

float32, float64, int32, uint32, void = types.float32, types.float64, types.int32, types.uint32, types.void

cuda = Word("cuda", cuda_module, doc="numba.cuda: threadIdx, blockIdx, syncthreads, shared.array, local.array.")

# ------------------------------------------------------------------------------------------ 128 bits at a time


@functools.cache
def ldv(itemsize: int) -> Word:
    """The word ``load(memory, index)``: the V elements of ``memory[index : index + V]``, as a tuple."""
    width = vector_of(itemsize)
    kind = types.UniTuple(REALS[itemsize], width)

    def twin(thread, memory, index):
        return tuple(memory.read(index, width, width))

    @instruction(kind, MEMORY, int32, twin=twin, itemsize=itemsize)
    def load(emit, memory, index):
        return emit.tuple_of(kind, emit.load(emit.at(memory, index), width))

    return load


@functools.cache
def stv(itemsize: int) -> Word:
    """The word ``store(memory, index, *values)``: ``memory[index : index + V] = values``, V of them."""
    width = vector_of(itemsize)

    def twin(thread, memory, index, *values):
        memory.write(index, values, width)

    @instruction(void, MEMORY, int32, *[REALS[itemsize]] * width, twin=twin, itemsize=itemsize)
    def store(emit, memory, index, *values):
        emit.store(values, emit.at(memory, index))

    return store


@functools.cache
def ldv_zfill(itemsize: int) -> Word:
    """The word ``load(memory, index, count)``: the first `count` (0 to V) of global ``memory[index : index + V]``.

    A tuple of V, the others zero; they are not touched.
    """
    width = vector_of(itemsize)
    kind = types.UniTuple(REALS[itemsize], width)

    def twin(thread, memory, index, count):
        return (*memory.read(index, count, width), *[memory.zero] * (width - count))

    @instruction(kind, MEMORY, int32, int32, twin=twin, itemsize=itemsize)
    def load_zfill(emit, memory, index, count):
        real = memory.type.pointee
        name, letter, zero = PTX[str(real)]
        pointer = emit.address(emit.at(memory, index), GLOBAL)
        ours = range(width)
        zeros = "".join(f"mov.{name} ${lane}, {zero}; " for lane in ours)
        single = "".join(
            f"setp.gt.and.s32 some, ${width + 1}, {lane}, !all; "
            f"@some ld.global.{name} ${lane}, [${width} + {lane * itemsize}]; "
            for lane in ours[:-1]
        )
        text = f"""{{
            .reg .pred all, some;
            setp.ge.s32 all, ${width + 1}, {width};
            {zeros}
            @all ld.global.v{width}.{name} {{{", ".join(f"${lane}" for lane in ours)}}}, [${width}];
            {single}
        }}"""
        outputs = ",".join(f"=&{letter}" for _ in ours)
        values = emit.ptx(text, f"{outputs},l,r,~{{memory}}", ir.LiteralStructType([real] * width), [pointer, count])
        return emit.tuple_of(kind, [emit.builder.extract_value(values, lane) for lane in ours])

    return load_zfill


ld4, st4, ld4_zfill = ldv(4), stv(4), ldv_zfill(4)


def _ld1_zfill(thread, memory, index, count):
    if thread.within(count, 0, 1):
        return memory[index]
    thread.within(index, -(2**31), 2**31 - 1)
    return memory.zero


@instruction(lambda memory, *_: element(memory), MEMORY, int32, int32, twin=_ld1_zfill)
def ld1_zfill(emit, memory, index, count):
    """Global ``memory[index]`` where `count` is 1; 0, and nothing is touched, where it is 0. No branch."""
    name, letter, zero = PTX[str(memory.type.pointee)]
    pointer = emit.address(emit.at(memory, index), GLOBAL)
    text = f"{{ .reg .pred p; setp.gt.s32 p, $2, 0; mov.{name} $0, {zero}; @p ld.global.{name} $0, [$1]; }}"
    return emit.ptx(text, f"=&{letter},l,r,~{{memory}}", memory.type.pointee, [pointer, count])


# ---------------------------------------------------------------------------------- asynchronous copies, sm_80+


def _copy(emit, shared, into, source, index, count, bytes_: int, way: str):
    target = emit.address(emit.at(shared, into), SHARED)
    pointer = emit.address(emit.at(source, index), GLOBAL)
    size = emit.builder.shl(count, ir.Constant(I32, itemsize_of(source).bit_length() - 1))
    text = f"cp.async.{way}.shared.global [$0], [$1], {bytes_}, $2;"
    emit.ptx(text, "r,l,r,~{memory}", values=[target, pointer, size])


def _cp_async16(thread, shared, into, source, index, count):
    shared.start_copy(thread, into, source, index, count, source.vector)


@instruction(void, MEMORY, int32, MEMORY, int32, int32, twin=_cp_async16)
def cp_async16(emit, shared, into, source, index, count):
    """Start copying the first `count` (0 to V) of ``source[index : index + V]``, then zeros, to ``shared[into:]``."""
    _copy(emit, shared, into, source, index, count, 16, "cg")


def _cp_async1(thread, shared, into, source, index, count):
    shared.start_copy(thread, into, source, index, count, 1)


@instruction(void, MEMORY, int32, MEMORY, int32, int32, twin=_cp_async1)
def cp_async1(emit, shared, into, source, index, count):
    """Start copying ``source[index]`` (`count` 1), or a zero (`count` 0: nothing is read), to ``shared[into]``."""
    _copy(emit, shared, into, source, index, count, itemsize_of(source), "ca")


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


# --------------------------------------------------------------------------------------------- all lanes of a warp


def _syncwarp(threads, operands):
    threads[0].block.sync_warp(threads[0].number // 32)


@instruction(void, twin=_syncwarp, collective=True)
def syncwarp(emit):
    """Wait for the warp's 32 lanes; what one of them wrote before it, the others see."""
    emit.ptx("bar.warp.sync 0xffffffff;", "~{memory}")


def _shuffle(emit, way, value, by):
    """``shfl.sync``, 32 bits at a time."""
    name, letter, _ = PTX[str(value.type)]
    if name == "f64":
        text = f"""{{
            .reg .b32 low, high;
            mov.b64 {{low, high}}, $1;
            shfl.sync.{way}.b32 low, low, $2, 0x1f, 0xffffffff;
            shfl.sync.{way}.b32 high, high, $2, 0x1f, 0xffffffff;
            mov.b64 $0, {{low, high}};
        }}"""
    else:
        text = f"shfl.sync.{way}.b32 $0, $1, $2, 0x1f, 0xffffffff;"
    return emit.ptx(text, f"={letter},{letter},r", value.type, [value, by])


def _shfl_down(threads, operands):
    values = [value for value, _ in operands]
    steps = [threads[0].within(by, 0, 31) for _, by in operands]
    return [values[lane + by if lane + by < 32 else lane] for lane, by in enumerate(steps)]


@instruction(lambda value, _: value, VALUE, int32, twin=_shfl_down, collective=True)
def shfl_down(emit, value, by):
    """The `value` of the lane `by` (0 to 31) further up; a lane that has none there keeps its own."""
    return _shuffle(emit, "down", value, by)


def _shfl_xor(threads, operands):
    return [operands[lane ^ threads[0].within(mask, 0, 31)][0] for lane, (_, mask) in enumerate(operands)]


@instruction(lambda value, _: value, VALUE, int32, twin=_shfl_xor, collective=True)
def shfl_xor(emit, value, mask):
    """The `value` of the lane whose number differs in the bits of `mask` (0 to 31)."""
    return _shuffle(emit, "bfly", value, mask)


# -------------------------------------------------------------------------------------------------- arithmetic

UNSIGNED = 2**32 - 1


def _udiv32(thread, a, b):
    return thread.within(a, 0, UNSIGNED) // thread.within(b, 1, UNSIGNED)


@instruction(uint32, uint32, uint32, twin=_udiv32)
def udiv32(emit, a, b):
    """``a // b`` of non-negative numbers; Numba's own ``//`` would be the several times slower 64-bit one."""
    return emit.builder.udiv(a, b)


def _umod32(thread, a, b):
    return thread.within(a, 0, UNSIGNED) % thread.within(b, 1, UNSIGNED)


@instruction(uint32, uint32, uint32, twin=_umod32)
def umod32(emit, a, b):
    """``a % b`` of non-negative numbers."""
    return emit.builder.urem(a, b)
