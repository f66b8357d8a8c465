"""``linear``, and operands packed once for many products."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from numbaconv.arrays import any_array, bias_array, device_of, host_array, writable
from numbaconv.errors import ShapeError
from numbaconv.gemm import Matrix, Operands, PackedMatrix, gemm_plan
from numbaconv.gemm.arithmetic import arithmetic_for
from numbaconv.products import gemm, threads_for
from numbaconv.request import Request

HINT = 256  # columns a prepacked A is expected to meet, where nothing is said


def prepack_a(a: Any, n: int = HINT, num_threads: int | None = None, precision: str = "highest") -> PackedMatrix:
    """Pack the left operand of many products once.

    Parameters
    ----------
    a : array (m, k)
    n : int
        Columns of the B that it will meet most; others work as well.
    num_threads : int, optional
        Threads of the products to come.
    precision : str
        That of the products to come; those that are asked for another run in float32.

    Returns
    -------
    PackedMatrix
        Takes a's place in ``gemm``.
    """
    return _prepack(a, "a", n, num_threads, precision)


def prepack_b(b: Any, m: int = HINT, num_threads: int | None = None, precision: str = "highest") -> PackedMatrix:
    """Pack the right operand (k, n) of many products once; `m` as ``prepack_a``'s `n`."""
    return _prepack(b, "b", m, num_threads, precision)


def _prepack(value, name: str, other: int, num_threads: int | None, precision: str) -> PackedMatrix:
    Request(precision=precision)
    array = host_array(value, name)
    if array.ndim != 2 or not array.size or other < 1:
        raise ShapeError(f"{name}: expected a matrix with at least one element, got shape {array.shape}")
    threads = threads_for(num_threads)
    m, k, n = (*array.shape, other) if name == "a" else (other, *array.shape)
    operands = Operands(a_packed=name == "a", b_packed=name == "b")
    plan = gemm_plan(m, n, k, array.dtype, threads, operands, arithmetic=arithmetic_for(precision, array.dtype))
    return plan.pack(name, Matrix.of(array), threads)


def linear(x: Any, w: Any, bias: Any = None, *, activation: str | None = None, out=None, num_threads: int | None = None,
           device: str | None = None, precision: str = "highest", accuracy: str = "float32", stream: Any = None,
           ) -> Any:  # fmt: skip
    """A fully-connected layer: activation(x · wᵀ + bias).

    Parameters
    ----------
    x : array (..., in_features)
    w : array (out_features, in_features), or PackedMatrix of its transpose
        float32 or float64; a single row of x is read against w where it lies, at memory bandwidth.
    bias : array (out_features,), optional
    activation : {None, "relu", "relu6"}
    out : ndarray (..., out_features), optional
    num_threads, device, precision, accuracy, stream
        As in ``gemm``.

    Returns
    -------
    ndarray or DeviceArray (..., out_features)
    """
    where = device or device_of(x)
    x = any_array(x, "x", where, stream)
    packed = isinstance(w, PackedMatrix)
    if not packed:
        w = any_array(w, "w", where, stream)
    if x.ndim < 1 or len(w.shape) != 2:
        raise ShapeError(f"x needs (..., in_features) and w (out_features, in_features); got {x.shape} and {w.shape}")
    outputs, inputs = w.shape[::-1] if packed else w.shape
    if x.shape[-1] != inputs or x.dtype != w.dtype:
        raise ShapeError(
            f"x of shape {x.shape} ({x.dtype}) has {x.shape[-1]} features, "
            f"w of shape {(outputs, inputs)} ({w.dtype}) takes {inputs}"
        )
    bias_array(bias, outputs, x.dtype, where, stream)
    shape = (*x.shape[:-1], outputs)
    if where != "cpu":
        result = gemm(x if x.ndim > 1 else x[None], w, transpose_b=True, bias=bias, activation=activation, device=where,
                      precision=precision, accuracy=accuracy, stream=stream,
                      out=out if out is None or x.ndim > 1 else out[None])  # fmt: skip
        return out if out is not None else result if x.ndim > 1 else result[0]
    result = np.empty(shape, x.dtype) if out is None else writable(out)
    if result.shape != shape or result.dtype != x.dtype:
        raise ShapeError(f"out: expected {shape} of {x.dtype}, got {result.shape} of {result.dtype}")
    rows = x.reshape(math.prod(x.shape[:-1]), inputs)
    flat = result if x.ndim == 2 else result.reshape(len(rows), outputs)
    gemm(rows, w, transpose_b=not packed, bias=bias, activation=activation, num_threads=num_threads, device=device,
         precision=precision, accuracy=accuracy, out=flat)  # fmt: skip
    if not np.may_share_memory(flat, result):
        result[...] = flat.reshape(shape)
    return result
