"""``gemm`` on a GPU: any strides, batched and broadcast, operands packed where that pays."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from numbaconv.arrays import any_array, host_array, lives_on_device, writable
from numbaconv.devices.array import DeviceArray, may_share_memory
from numbaconv.devices.cuda import runtime
from numbaconv.errors import ShapeError
from numbaconv.gemm.cuda import Place, pack, pack_grid
from numbaconv.gemm.cuda_loaders import ROWS, STRIDED, STRIDED_ALONG_K, Rows, Strided
from numbaconv.gemm.cuda_plan import CudaFinish, Operand, Result, arithmetic_for, cuda_plan, run_product
from numbaconv.lift import LIMITS
from numbaconv.lowering_cuda import copy_array

PACKED_FROM = 1024
"""Rows or columns that an operand must meet for packing it to pay: then it takes at most a twentieth of the time."""
MOST_BATCH = 65535  # products in a launch
MOST_ELEMENTS = 1 << 31


class Matrices(NamedTuple):
    """A batch of matrices on a device: memory, and steps in elements from row to row, column to column, product to
    product."""

    memory: DeviceArray
    row: int
    column: int
    batch: int

    @property
    def turned(self) -> Matrices:
        return Matrices(self.memory, self.column, self.row, self.batch)


class Call(NamedTuple):
    """What of a ``gemm`` is the same for all products of its batch."""

    device: Any
    stream: Any
    sizes: tuple[int, int, int]
    arithmetic: str
    bias: DeviceArray | None
    along: str
    alpha: float
    beta: float
    limits: tuple[float, float]


def gemm(a, b, out, alpha, beta, transpose_a, transpose_b, bias, residual, activation, device, precision, stream):
    """``products.gemm`` on a GPU; host arrays are copied there, and the result back if `a` is one."""
    home = runtime(device)
    stream = home.stream(stream)
    on_device = lives_on_device(a)
    out = any_array(out, "out", home.device, stream) if out is not None and lives_on_device(out) else out
    a, b = (_taken(x, name, turn, home, stream) for x, name, turn in ((a, "a", transpose_a), (b, "b", transpose_b)))
    batch, (m, n, k), dtype = _sizes(a, b)
    shape = (*batch, m, n)
    if out is None and beta != 0:
        raise ShapeError(f"beta={beta} adds to what `out` holds, but no `out` was given")
    given = _result(out, shape, dtype, home, stream, beta != 0)
    added = _extra(residual, shape, dtype, home, stream)
    row_bias, column_bias = _biases(bias, m, n, dtype, home, stream)
    target = given
    if given is not None and out is given:
        clash = any(may_share_memory(given, x) for x in (a, b, added, row_bias, column_bias) if x is not None)
        if clash or min(given.strides, default=1) <= 0:
            target = home.empty(shape, dtype, stream)
            if beta != 0:
                _copy(home, given, target, stream)
    elif given is None:
        target = home.empty(shape, dtype, stream)
    if target.size:
        arithmetic = arithmetic_for(precision, dtype.itemsize, home.cc)
        call = Call(home, stream, (m, n, 0 if alpha == 0 else k), arithmetic,
                    column_bias if row_bias is None else row_bias, "column" if row_bias is None else "row",
                    float(alpha), float(beta), LIMITS[activation])  # fmt: skip
        _multiply(call, batch, a, b, target, added)
    if isinstance(out, DeviceArray):
        if target is not out:
            _copy(home, target, out, stream)
        return out
    if out is not None:
        out[...] = home.to_host(target, None, stream)
        return out
    return target if on_device else home.to_host(target, None, stream)


def _taken(value, name: str, turn: bool, home, stream) -> DeviceArray:
    array = any_array(value, name, home.device, stream)
    if array.ndim < 2:
        raise ShapeError(f"{name}: expected at least 2 axes (..., rows, columns), got shape {array.shape}")
    if not isinstance(array, DeviceArray):
        array = home.to_device(array, stream)
    axes = [*range(array.ndim - 2), array.ndim - 1, array.ndim - 2]
    return array.transpose(axes) if turn else array


def _sizes(a, b):
    if a.dtype != b.dtype:
        raise ShapeError(f"a is {a.dtype} and b is {b.dtype}; convert one to the other's dtype")
    (m, k), (k_of_b, n) = a.shape[-2:], b.shape[-2:]
    if k != k_of_b:
        raise ShapeError(f"a of shape {a.shape} has {k} columns but b of shape {b.shape} has {k_of_b} rows")
    try:
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        raise ShapeError(f"the leading axes of a {a.shape} and b {b.shape} do not broadcast") from None
    return batch, (m, n, k), a.dtype


def _result(out, shape, dtype, home, stream, read: bool):
    """`out` on the device: itself, a copy where it is read, or None."""
    if out is None:
        return None
    array = out if isinstance(out, DeviceArray) else writable(out)
    if array.shape != shape or array.dtype != dtype:
        raise ShapeError(f"out: expected {shape} of {dtype}, got {array.shape} of {array.dtype}")
    return out if isinstance(out, DeviceArray) else home.to_device(host_array(out, "out"), stream) if read else None


def _extra(residual, shape, dtype, home, stream):
    if residual is None:
        return None
    residual = any_array(residual, "residual", home.device, stream)
    if residual.shape != shape or residual.dtype != dtype:
        raise ShapeError(f"residual: expected {shape} of {dtype}, got {residual.shape} of {residual.dtype}")
    return residual if isinstance(residual, DeviceArray) else home.to_device(residual, stream)


def _biases(bias, m: int, n: int, dtype, home, stream):
    """(row bias, column bias), one of them None."""
    if bias is None:
        return None, None
    bias = any_array(bias, "bias", home.device, stream)
    if bias.dtype != dtype or bias.shape not in ((n,), (1, n), (m, 1)):
        raise ShapeError(f"bias: expected ({n},), (1, {n}) or ({m}, 1) of {dtype}, got {bias.shape} of {bias.dtype}")
    by_row = bias.shape == (m, 1) and bias.shape != (1, n)
    if not isinstance(bias, DeviceArray):
        bias = home.to_device(np.ascontiguousarray(bias), stream)
    bias = bias.reshape(-1)
    return (bias, None) if by_row else (None, bias)


def _copy(home, source: DeviceArray, target: DeviceArray, stream) -> None:
    """Copy arrays of any number of axes."""
    if source.ndim <= 4:
        copy_array(home, source, target, stream)
        return
    for index in range(len(source)):
        _copy(home, source[index], target[index], stream)


def _taken_from(array: DeviceArray | None, first: int) -> DeviceArray | None:
    """As many of a batch's products as fit into a launch, from `first` on."""
    if array is None or array.ndim < 3 or array.shape[-3] == 1:
        return array
    return array[..., first : first + MOST_BATCH, :, :]


def _steps(array: DeviceArray | None, axes: int) -> tuple[int, ...]:
    """Element steps of the leading axes of a broadcast batch, and of rows and columns."""
    if array is None:
        return (0,) * (axes + 2)
    steps = [0 if size == 1 else step // array.itemsize for size, step in zip(array.shape, array.strides, strict=True)]
    return (0,) * (axes + 2 - array.ndim) + tuple(steps)


def _multiply(call: Call, batch: tuple[int, ...], a, b, target, added) -> None:
    """All products: the last axis of the batch, and those before it that continue its steps, in one launch."""
    if batch and batch[-1] > MOST_BATCH:
        for first in range(0, batch[-1], MOST_BATCH):
            part = [_taken_from(array, first) for array in (a, b, target, added)]
            _multiply(call, (*batch[:-1], min(MOST_BATCH, batch[-1] - first)), *part)
        return
    operands = (a, b, target, added)
    steps = [_steps(array, len(batch)) for array in operands]
    count, inner = 1, [0, 0, 0, 0]
    axis = len(batch)
    while axis > 0:
        size = batch[axis - 1]
        each = [step[axis - 1] for step in steps]
        if size > 1:
            if count > 1 and each != [count * step for step in inner]:
                break
            if count * size > MOST_BATCH:
                break
            inner = each if count == 1 else inner
            count *= size
        axis -= 1
    for index in np.ndindex(*batch[:axis]):
        matrices: list[Any] = []
        for array, step in zip(operands, steps, strict=True):
            if array is None:
                matrices.append(None)
                continue
            own = index[len(batch) - (array.ndim - 2) :] if array.ndim > 2 else ()
            place = tuple(0 if array.shape[n] == 1 else i for n, i in enumerate(own))
            part = array[place] if place else array
            matrices.append(Matrices(part, step[-2], step[-1], inner[len(matrices)]))
        _launch(call, count, *matrices)


def _launch(call: Call, count: int, a: Matrices, b: Matrices, c: Matrices, added: Matrices | None) -> None:
    (m, n, k), along = call.sizes, call.along
    if c.column != 1 and c.row == 1:  # the transposed product writes along what is contiguous
        a, b, c, (m, n) = b.turned, a.turned, c.turned, (n, m)
        added = None if added is None else added.turned
        along = "row" if along == "column" else "column"
    plan = cuda_plan(m, n, k, count, c.memory.itemsize, call.arithmetic, call.device.multiprocessors)
    left = _operand(call, a.turned, m, n, k, count)
    right = _operand(call, b, n, m, k, count)
    extra = None if added is None else Result(added.memory, _place(added, n))
    finish = CudaFinish(call.bias, along, extra, call.alpha, call.beta, *call.limits)
    scratch = (
        call.device.empty((plan.panel_bytes,), np.uint8, call.stream).view(c.memory.dtype) if plan.panel_bytes else None
    )
    run_product(call.device, call.stream, plan, left, right, Result(c.memory, _place(c, n)), "columns", finish, scratch)


def _place(c: Matrices, n: int) -> Place:
    return Place(1, max(n, 1), c.row, 0, 0, c.column, c.batch)


def _operand(call: Call, x: Matrices, width: int, others: int, k: int, count: int) -> Operand:
    """k rows (x's rows) of `width` columns, as they lie where the kernel can copy them by 128 bits, else packed where
    enough `others` meet it, else element by element."""
    memory, vector = x.memory, 16 // x.memory.itemsize
    if x.column == 1 and x.row % vector == 0 and x.batch % vector == 0 and memory.pointer % 16 == 0:
        return Operand(ROWS, Rows(x.row, x.batch), memory)
    if others < PACKED_FROM or not k or max(k * x.row, width * x.column) >= MOST_ELEMENTS:
        return Operand(STRIDED_ALONG_K if x.row == 1 else STRIDED, Strided(x.row, x.column, x.batch), memory)
    pitch = -(-width // vector) * vector
    products = count if x.batch else 1
    packed = call.device.empty((products, k, pitch), memory.dtype, call.stream)
    kernel, grid = pack(memory.itemsize), pack_grid(width, k)
    for product in range(products):
        source = memory[product] if products > 1 and memory.ndim > 2 else memory
        call.device.launch(kernel, grid, (source, packed[product], width, k, x.column, x.row, pitch), call.stream)
    return Operand(ROWS, Rows(pitch, k * pitch if products > 1 else 0), packed)
