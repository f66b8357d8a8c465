"""What stands between the matrix products of a network: ReLU, response normalisation, max pooling, softmax.

float32 images in NCHW order; NaN goes through all of them.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from numbaconv.devices.threads import parallel
from numbaconv.errors import ShapeError
from numbaconv.jit import compiled
from numbaconv.machine import default_threads
from numbaconv.networks.operator_kernels import NORM, POOL, norm_task, pool_task

__all__ = ["local_response_norm", "max_pool", "relu", "softmax"]

Images = NDArray[np.float32]

# Pixels of a task of the normalisation: long enough to outweigh its start, short enough that every thread gets some.
RUN = 256


def _floats(x: Images, axes: int | None = None) -> Images:
    """`x` as the kernels want it: float32 and C-contiguous."""
    x = np.ascontiguousarray(x)
    if x.dtype != np.float32:
        raise ShapeError(f"x must be float32; got {x.dtype}")
    if axes is not None and x.ndim != axes:
        raise ShapeError(f"x must have {axes} axes; got shape {x.shape}")
    return x


@compiled
def _relu(x, out):
    zero = np.float32(0)
    for index in range(len(out)):
        value = x[index]
        if value < zero:
            value = zero
        out[index] = value


@compiled
def _relu_in_place(x):
    # A function of its own: LLVM does not vectorise two arrays that turn out to be one.
    zero = np.float32(0)
    for index in range(len(x)):
        if x[index] < zero:
            x[index] = zero


def relu(x: Images, out: Images | None = None) -> Images:
    """max(x, 0).

    Parameters
    ----------
    x : float32 array
    out : float32 array, optional
        C-contiguous; may be `x`.

    Returns
    -------
    float32 array
        `out`, or a new array.
    """
    if out is None:
        x = _floats(x)
        out = np.empty_like(x)
    elif out.shape != x.shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ShapeError(f"out must be C-contiguous float32 of shape {x.shape}; got {out.dtype} of shape {out.shape}")
    if out is x:
        _relu_in_place(out.reshape(-1))
    else:
        _relu(_floats(x).reshape(-1), out.reshape(-1))
    return out


def local_response_norm(x: Images, alpha: float = 1e-4, *, num_threads: int | None = None) -> Images:
    """Normalisation across five channels: x / (1 + alpha / 5 * sum of x**2 over them)**0.75.

    Window and exponent are AlexNet's and GoogLeNet's.

    Parameters
    ----------
    x : float32 array (mb, channels, h, w)
    alpha : float
        Not negative.
    num_threads : int, optional

    Returns
    -------
    float32 array
        A new one, of x's shape. The channel itself is the middle one of the five; beyond the first and the last channel
        there is nothing.

    Raises
    ------
    ShapeError
    """
    x = _floats(x, axes=4)
    if not alpha >= 0:
        raise ShapeError(f"alpha must not be negative; got {alpha}")
    out = np.empty_like(x)
    mb, channels, pixels = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    if x.size:
        scale = np.array([alpha / 5], np.float32)
        runs = -(-pixels // RUN)
        call = np.array([(x.ctypes.data, out.ctypes.data, scale.ctypes.data, channels, pixels, runs, RUN)], NORM)
        parallel(norm_task(), mb * runs, call.ctypes.data, num_threads or default_threads())
    return out


def max_pool(x: Images, size: int = 3, stride: int = 2, *, num_threads: int | None = None) -> Images:
    """The largest value of each size x size window.

    Parameters
    ----------
    x : float32 array (mb, channels, h, w)
    size, stride : int
        Windows start every `stride` pixels until one reaches the edge; that one may hang over it (Caffe's rounding up).
    num_threads : int, optional

    Returns
    -------
    float32 array (mb, channels, oh, ow)
        oh = ceil((h - size) / stride) + 1.

    Raises
    ------
    ShapeError
    """
    x = _floats(x, axes=4)
    mb, channels, ih, iw = x.shape
    if not 1 <= stride <= size <= min(ih, iw):
        raise ShapeError(f"1 <= stride <= size <= the map's {ih}x{iw} is needed; got size={size}, stride={stride}")
    oh, ow = (-((size - pixels) // stride) + 1 for pixels in (ih, iw))
    over = [(0, (outputs - 1) * stride + size - pixels) for outputs, pixels in ((oh, ih), (ow, iw))]
    if over != [(0, 0), (0, 0)]:
        x = np.pad(x, [(0, 0), (0, 0), *over], constant_values=-np.inf)
    out = np.empty((mb, channels, oh, ow), np.float32)
    call = np.array([(x.ctypes.data, out.ctypes.data, *x.shape[2:], oh, ow)], POOL)
    parallel(pool_task(size, stride), mb * channels, call.ctypes.data, num_threads or default_threads())
    return out


@compiled
def _softmax(x, out):
    rows, columns = x.shape
    for row in range(rows):
        largest = x[row, 0]
        for column in range(1, columns):
            largest = max(largest, x[row, column])
        total = 0.0
        for column in range(columns):
            out[row, column] = math.exp(np.float64(x[row, column]) - largest)
            total += out[row, column]
        factor = np.float32(1.0 / total)
        for column in range(columns):
            out[row, column] *= factor


def softmax(x: Images) -> Images:
    """exp(x) over its sum along the last axis.

    Parameters
    ----------
    x : float32 array (mb, classes)

    Returns
    -------
    float32 array (mb, classes)

    Raises
    ------
    ShapeError
    """
    x = _floats(x, axes=2)
    out = np.empty_like(x)
    if x.size:
        _softmax(x, out)
    return out
