"""Atomic int64 operations, and the few calls to Linux that threads sleep, wake and change cores with."""

from __future__ import annotations

import platform
import sys

from llvmlite import ir
from numba import types
from numba.core import cgutils

from numbaconv.jit import compiled, intrinsic
from numbaconv.simd import I32, I64

NUMBERS = {"x86_64": (202, 186), "aarch64": (98, 178)}.get(platform.machine()) if sys.platform == "linux" else None
FUTEX, GETTID = NUMBERS or (0, 0)
CAN_SLEEP = NUMBERS is not None
"""Whether threads can sleep on an address: the numbers of Linux's futex and gettid calls are known."""

FUTEX_WAIT_PRIVATE, FUTEX_WAKE_PRIVATE = 128, 129
ARM = platform.machine() in ("aarch64", "arm64")


def _pointer(builder, address):
    return builder.inttoptr(address, I64.as_pointer())


@intrinsic
def load(typingctx, address):
    """The int64 at `address`; nothing after it is read before it."""

    def codegen(context, builder, signature, args):
        return builder.load_atomic(_pointer(builder, args[0]), "seq_cst", 8)

    return types.int64(types.int64), codegen


@intrinsic
def store(typingctx, address, value):
    """Write the int64 at `address`; nothing before it is written after it."""

    def codegen(context, builder, signature, args):
        builder.store_atomic(args[1], _pointer(builder, args[0]), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def add(typingctx, address, value):
    """Add to the int64 at `address` and return what it was."""

    def codegen(context, builder, signature, args):
        return builder.atomic_rmw("add", _pointer(builder, args[0]), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def exchange(typingctx, address, value):
    """Write the int64 at `address` and return what it was."""

    def codegen(context, builder, signature, args):
        return builder.atomic_rmw("xchg", _pointer(builder, args[0]), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def compare_exchange(typingctx, address, expected, value):
    """Write `value` if the int64 at `address` is `expected`; whether it was."""

    def codegen(context, builder, signature, args):
        pair = builder.cmpxchg(_pointer(builder, args[0]), args[1], args[2], "seq_cst", "seq_cst")
        return builder.extract_value(pair, 1)

    return types.boolean(types.int64, types.int64, types.int64), codegen


@intrinsic
def relax(typingctx):
    """Tell the core that this is a spin loop."""

    def codegen(context, builder, signature, args):
        name, hint = ("llvm.aarch64.hint", [ir.Constant(I32, 1)]) if ARM else ("llvm.x86.sse2.pause", [])
        kind = ir.FunctionType(ir.VoidType(), [value.type for value in hint])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, name), hint)
        return context.get_dummy_value()

    return types.void(), codegen


_syscall = types.ExternalFunction(
    "syscall", types.int64(types.int64, types.int64, types.int64, types.int64, types.int64, types.int64, types.int64)
)
_sched_yield = types.ExternalFunction("sched_yield", types.int32())
_sched_getcpu = types.ExternalFunction("sched_getcpu", types.int32())
_sched_getaffinity = types.ExternalFunction("sched_getaffinity", types.int32(types.int32, types.int64, types.int64))
_sched_setaffinity = types.ExternalFunction("sched_setaffinity", types.int32(types.int32, types.int64, types.int64))


@compiled
def sleep_while(address, value):
    """Sleep until woken, unless the low 32 bits at `address` differ from `value` by now."""
    _syscall(FUTEX, address, FUTEX_WAIT_PRIVATE, value, 0, 0, 0)


@compiled
def wake(address):
    """Wake one thread that sleeps on `address`."""
    _syscall(FUTEX, address, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0)


@compiled
def give_way():
    """Let another runnable thread have this core."""
    _sched_yield()


@compiled
def current_core():
    """The number of the core that this thread runs on."""
    return types.int64(_sched_getcpu())


@compiled
def thread_number():
    """Linux's number for this thread."""
    return _syscall(GETTID, 0, 0, 0, 0, 0, 0)


@compiled
def allow_cores(thread, mask, size):
    """Let `thread` (0: this one) run only on the cores of the bit mask of `size` bytes at `mask`."""
    _sched_setaffinity(types.int32(thread), size, mask)


@compiled
def own_cores(mask, size):
    """Write the bit mask of the cores that this thread may run on; False where it does not fit into `size` bytes."""
    return _sched_getaffinity(types.int32(0), size, mask) == 0
