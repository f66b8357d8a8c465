"""``gemm``: matrix products for users, of any strides, batched and broadcast."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from numbaconv import products_cuda
from numbaconv.arrays import device_of, host_array, writable
from numbaconv.devices.cuda import runtime
from numbaconv.errors import DeviceUnavailable, ShapeError
from numbaconv.gemm import Blocking, Finish, Matrix, PackedMatrix
from numbaconv.gemm.arithmetic import FMA, arithmetic_for
from numbaconv.lift import LIMITS
from numbaconv.machine import default_threads
from numbaconv.product_plans import admitted, plan_for, run_bound
from numbaconv.request import Epilogue, Request
from numbaconv.workspace import checked_out

ON_HOST = (np.ndarray, PackedMatrix)
PLAIN = (None, "highest", "float32", None, None)  # the words of most calls: nothing to check


_default_threads = functools.cache(default_threads)


def threads_for(num_threads: int | None) -> int:
    """The threads of a call: as asked, or the machine's default (looked at once).

    Raises
    ------
    ValueError
    """
    if num_threads is None:
        return _default_threads()
    return num_threads if type(num_threads) is int and num_threads > 0 else Request(num_threads=num_threads).num_threads


def check_device(device: str | None, home: str = "cpu", name: str = "x") -> str:
    """The device of a call: as asked, or `home`, where the array called `name` lives.

    Raises
    ------
    DeviceUnavailable
        For a CUDA device that cannot be used here, with the reason.
    """
    request = Request(device=device or home)
    if request.device != "cpu":
        try:
            runtime(request.device.removeprefix("cpu+"))
        except DeviceUnavailable as error:
            if device is None:
                raise DeviceUnavailable(
                    f"{name} lives on {home}: {error.reason}; or copy it to the host first"
                ) from error
            raise DeviceUnavailable(f"device {device!r}: {error.reason}; or use device='cpu'") from error
    return request.device


def gemm(
    a: Any,
    b: Any,
    *,
    out: np.ndarray | None = None,
    alpha: float = 1.0,
    beta: float = 0.0,
    transpose_a: bool = False,
    transpose_b: bool = False,
    bias: Any = None,
    residual: Any = None,
    activation: str | None = None,
    device: str | None = None,
    precision: str = "highest",
    accuracy: str = "float32",
    num_threads: int | None = None,
    stream: Any = None,
    blocking: Blocking | None = None,
) -> np.ndarray:
    """C = activation(alpha · op(A) · op(B) + beta · C + bias + residual).

    Parameters
    ----------
    a : array (..., m, k), or PackedMatrix
        float32 or float64, any strides; with ``transpose_a`` (..., k, m).
    b : array (..., k, n), or PackedMatrix
        Of a's dtype; leading axes broadcast. With ``transpose_b`` (..., n, k).
    out : ndarray (..., m, n), optional
        Where the result goes; needed when `beta` is not 0.
    alpha, beta : float
        With ``beta=0``, what `out` holds is not read; with ``alpha=0``, A and B are not.
    bias : array (n,), (1, n) or (m, 1), optional
        Added to every row, or to every column.
    residual : array (..., m, n), optional
    activation : {None, "relu", "relu6"}
    device : {None, "cpu", "cuda", "cuda:1"}
        None: where `a` lives. Host arrays are copied to a GPU and the result back; arrays on a GPU stay there.
    precision, accuracy : str
        See ``Request``.
    num_threads : int, optional
        The result has the same bits for any number.
    stream : optional
        The CUDA stream on which the work is queued.
    blocking : Blocking, optional
        Block sizes in place of the analytical model's (the product is then computed as it stands, vectors along n).

    Returns
    -------
    ndarray or DeviceArray (..., m, n)
        `out`, if it was given.

    Raises
    ------
    ShapeError
        When shapes or dtypes do not go together.
    DeviceUnavailable
    """
    threads, arithmetic = threads_for(num_threads), FMA
    if (device, precision, accuracy, activation, stream) != PLAIN or not (type(a) in ON_HOST and type(b) in ON_HOST):
        device = check_device(device, device_of(a), "a")
        Request(device, threads, precision, accuracy, None, Epilogue(activation=activation))
        if "+" in device:
            raise DeviceUnavailable("gemm: 'cpu+cuda' divides the images of a convolution; use device='cuda' or 'cpu'")
        if device != "cpu":
            if blocking is not None or PackedMatrix in (type(a), type(b)):
                raise ShapeError("gemm on a GPU takes plain arrays, and no blocking: both are the CPU's")
            return products_cuda.gemm(
                a, b, out, alpha, beta, transpose_a, transpose_b, bias, residual, activation, device, precision, stream
            )  # fmt: skip
        arithmetic = arithmetic_for(precision, np.float32)
        if stream is not None:
            raise DeviceUnavailable("stream: only a CUDA device has streams; pass device='cuda' or leave stream away")
    plain = activation is bias is residual is blocking is None and alpha == 1.0 and beta == 0.0
    if plain and out is not None and not (transpose_a or transpose_b) and run_bound(
        a, b, out, threads, arithmetic
    ):  # fmt: skip
        return out
    a, b = _operand(a, "a", transpose_a), _operand(b, "b", transpose_b)
    batch, m, n, k, dtype = _sizes(a, b)
    shape = (*batch, m, n)
    if out is None:
        if beta != 0:
            raise ShapeError(f"beta={beta} adds to what `out` holds, but no `out` was given")
        result = np.empty(shape, dtype)
    else:
        result = writable(out)
        if result.shape != shape or result.dtype != dtype:
            raise ShapeError(f"out: expected {shape} of {dtype}, got {result.shape} of {result.dtype}")
    extra = _residual(residual, shape, dtype)
    if beta != 0 and not (beta == 1 and alpha == 1 and k):
        extra = beta * result if extra is None else beta * result + extra
        beta = 0.0
    low, high = LIMITS[activation]
    row_bias, col_bias = _bias(bias, m, n, dtype)
    finish = Finish(alpha, row_bias, col_bias, None, low, high)
    if not result.size:
        return result
    if k == 0 or alpha == 0:
        return _without_product(result, finish, extra)
    overlaps = out is not None and (not result.flags.aligned or _overlaps(result, a, b, extra))
    target = np.empty(shape, dtype) if overlaps and beta == 0 else result
    if overlaps and beta != 0:
        target = result.copy()
    _multiply(a, b, target, extra, finish, beta != 0, threads, blocking, (m, n, k), arithmetic)
    if target is not result:
        result[...] = target
    return result


def _operand(value, name: str, transpose: bool):
    if isinstance(value, PackedMatrix):
        if transpose or value.operand != name:
            raise ShapeError(
                f"{name}: it is packed as operand {value.operand!r}, not transposed; pack it with prepack_{name}"
            )
        return value
    array = host_array(value, name)
    if array.ndim < 2:
        raise ShapeError(f"{name}: expected at least 2 axes (..., rows, columns), got shape {array.shape}")
    return array.swapaxes(-1, -2) if transpose else array


def _sizes(a, b):
    if a.dtype != b.dtype:
        raise ShapeError(f"a is {a.dtype} and b is {b.dtype}; convert one to the other's dtype")
    (m, k), (k_of_b, n) = a.shape[-2:], b.shape[-2:]
    if k != k_of_b:
        raise ShapeError(f"a of shape {a.shape} has {k} columns but b of shape {b.shape} has {k_of_b} rows")
    if len(a.shape) == len(b.shape) == 2:
        return (), m, n, k, a.dtype
    try:
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        raise ShapeError(f"the leading axes of a {a.shape} and b {b.shape} do not broadcast") from None
    return batch, m, n, k, a.dtype


def _bias(bias, m: int, n: int, dtype):
    """(row bias, column bias), one of them None."""
    if bias is None:
        return None, None
    bias = host_array(bias, "bias")
    if bias.dtype != dtype or bias.shape not in ((n,), (1, n), (m, 1)):
        raise ShapeError(f"bias: expected ({n},), (1, {n}) or ({m}, 1) of {dtype}, got {bias.shape} of {bias.dtype}")
    flat = np.array(bias).reshape(-1)  # a copy: `out` may overlap it
    return (flat, None) if bias.shape == (m, 1) and bias.shape != (1, n) else (None, flat)


def _residual(residual, shape, dtype):
    if residual is None:
        return None
    residual = host_array(residual, "residual")
    if residual.shape != shape or residual.dtype != dtype:
        raise ShapeError(f"residual: expected {shape} of {dtype}, got {residual.shape} of {residual.dtype}")
    return residual if all(residual.strides) else np.ascontiguousarray(residual)


def _without_product(result, finish: Finish, extra):
    """activation(bias + residual): the product is empty, or multiplied by 0."""
    result[...] = 0 if extra is None else extra
    if finish.row_bias is not None:
        result += finish.row_bias[:, None]
    if finish.col_bias is not None:
        result += finish.col_bias
    return np.clip(result, finish.low, finish.high, out=result)


def _multiply(a, b, target, extra, finish: Finish, accumulate: bool, threads: int, blocking, sizes, arithmetic):
    """Every product of the batch; a batch of A against one B, rows on rows, is a single product."""
    m, n, k = sizes
    one_b = target.ndim > 2 and len(b.shape) == 2 and isinstance(a, np.ndarray) and a.shape[:-2] == target.shape[:-2]
    if one_b and finish.row_bias is None and all(x is None or _stacks(x) for x in (a, target, extra)):
        a, target = a.reshape(-1, k), target.reshape(-1, n)
        extra = None if extra is None else extra.reshape(-1, n)
        m = len(a)
    if target.ndim == 2:
        _multiply_one(a, b, target, extra, finish, accumulate, threads, blocking, (m, n, k), arithmetic)
        return
    batch = target.shape[:-2]
    a, b = (x if isinstance(x, PackedMatrix) else np.broadcast_to(x, (*batch, *x.shape[-2:])) for x in (a, b))
    for index in np.ndindex(*batch):
        left, right, added = (
            None if x is None else x if isinstance(x, PackedMatrix) else x[index] for x in (a, b, extra)
        )
        _multiply_one(left, right, target[index], added, finish, accumulate, threads, blocking, sizes, arithmetic)


def _multiply_one(a, b, target, extra, finish: Finish, accumulate: bool, threads: int, blocking, sizes, arithmetic):
    """One product of matrices."""
    a, b = (admitted(x, arithmetic) if isinstance(x, PackedMatrix) else Matrix.of(x) for x in (a, b))
    c = Matrix.of(target)
    finish.residual = None if extra is None else Matrix.of(extra)
    m, n, k = sizes
    plan = plan_for(m, n, k, target.dtype, threads, a, b, c, blocking, arithmetic)
    with checked_out(plan.panel_bytes) as arena:
        plan.run(a, b, c, arena.address, accumulate, finish)


def _overlaps(result, *others) -> bool:
    """Whether the result's memory may be an operand's as well."""
    return any(isinstance(other, np.ndarray) and np.may_share_memory(other, result) for other in others)


def _stacks(x: np.ndarray) -> bool:
    """Whether the matrices of a batch follow one another like one tall matrix."""
    tall = x.strides[-2] * x.shape[-2]
    for axis in range(x.ndim - 3, -1, -1):
        if x.shape[axis] > 1 and x.strides[axis] != tall:
            return False
        tall *= x.shape[axis]
    return True
