"""``conv2d`` and ``plan``: one call from arrays to result; and what this machine has."""

from __future__ import annotations

import functools
import platform
from typing import Any, NamedTuple

import llvmlite
import numba
import numpy as np

from numbaconv.arrays import any_array, bias_array, device_of
from numbaconv.devices import cuda as cuda_devices
from numbaconv.errors import DeviceUnavailable, ShapeError
from numbaconv.jit import build_key, cache_directory
from numbaconv.layouts import LAYOUTS
from numbaconv.lowering import Lowering
from numbaconv.machine import default_threads, detect
from numbaconv.plan import Handle, Plan, make_plan
from numbaconv.problem import ConvProblem
from numbaconv.products import check_device, threads_for
from numbaconv.request import Epilogue, Request


def conv2d(
    x: Any,
    w: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    algorithm: str | Lowering = "auto",
    device: str | None = None,
    layout: str = "nchw",
    precision: str = "highest",
    accuracy: str = "float32",
    activation: str | None = None,
    residual: Any = None,
    max_workspace: int | None = None,
    out: np.ndarray | None = None,
    num_threads: int | None = None,
    stream: Any = None,
) -> np.ndarray:
    """Two-dimensional convolution (cross-correlation, as in every neural-network library).

    Parameters
    ----------
    x : array (mb, ic, ih, iw) or (ic, ih, iw)
        float32 or float64, any strides; NumPy's, or any with ``__dlpack__``, on the CPU or a GPU. With
        ``layout="nhwc"`` (mb, ih, iw, ic). The result keeps x's memory order.
    w : array (oc, ic/groups, kh, kw)
        Of x's dtype.
    bias : array (oc,), optional
    stride, dilation : int or pair
        Dilation 1 is dense.
    padding : int, pair, four ints, "valid", "same" (= "same_upper") or "same_lower"
        Four are (top, left, bottom, right).
    groups : int
    algorithm : str or Lowering
        ``"auto"`` (the fastest by prediction), ``"measure"`` (the fastest of those that are timed when a problem is
        first seen, and remembered), a name (``list_lowerings()``), a name with parameters
        (``"im2col:batching=image"``), an instance.
    device : {None, "cpu", "cuda", "cuda:1", "cpu+cuda"}
        None: where x lives. Host arrays are copied to a GPU and the result back; an array on a GPU stays there, and so
        does its result (see ``devices.array.DeviceArray``). "cpu+cuda" divides a batch between both.
    layout : {"nchw", "nhwc"}
        Order of x's, residual's, out's and the result's axes.
    precision, accuracy : str
        See ``Request``.
    activation : {None, "relu", "relu6"}
        Applied last, in the same store as bias and residual.
    residual : array of the output's shape, optional
        Added before the activation.
    max_workspace : int, optional
        Bytes of scratch that may be used.
    out : ndarray, optional
        Where the result goes.
    num_threads : int, optional
        The result has the same bits for any number.
    stream : optional
        The CUDA stream on which the work is queued: an int, or an object of torch, cupy or cuda.core; the default
        stream, unless given. Pass the one on which another library's arrays are used, or it may reuse their memory
        before they have been read.

    Returns
    -------
    ndarray or DeviceArray (mb, oc, oh, ow), or as `layout` says
        `out`, if it was given.

    Raises
    ------
    ShapeError
        When shapes, dtypes or sizes do not describe a convolution.
    UnknownLowering, UnsupportedProblem, WorkspaceExceeded, DeviceUnavailable
    """
    on_host = type(x) is np.ndarray and device in (None, "cpu")  # most often: nothing to ask
    device = "cpu" if on_host else check_device(device, device_of(x))
    x, w = any_array(x, "x", device, stream), any_array(w, "w", device, stream)
    words = (groups, layout, device, num_threads, precision, accuracy, max_workspace,
             bias is not None, residual is not None, activation)  # fmt: skip
    pose = _posed if _plain(stride, padding, dilation) and _hashable(words) else _posed.__wrapped__
    problem, request = pose(x.shape, x.strides, x.dtype, w.shape, w.dtype, stride, padding, dilation, *words)
    _check_stream(stream, device)
    bias = bias_array(bias, problem.oc, x.dtype, device, stream)
    chosen = make_plan(problem, algorithm, request)
    prepared = chosen.prepare(w, stream) if problem.mb else None
    return chosen.compute(x, prepared, bias, residual, out, layout, stream, timed=False)[0]


class _Like(NamedTuple):
    """What ``ConvProblem.from_arrays`` looks at."""

    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    dtype: Any


@functools.lru_cache(1024, typed=True)
def _posed(x_shape, x_strides, x_dtype, w_shape, w_dtype, stride, padding, dilation, groups, layout, device,
           num_threads, precision, accuracy, max_workspace, bias, residual, activation):  # fmt: skip
    """The problem and the request that the arguments of ``conv2d`` make, remembered: both take a while to check."""
    x, w = _Like(x_shape, x_strides, x_dtype), _Like(w_shape, None, w_dtype)
    problem = ConvProblem.from_arrays(x, w, stride, padding, dilation, groups, layout)
    epilogue = Epilogue(bias, residual, activation)
    return problem, make_request(
        device, num_threads, precision, accuracy, max_workspace, None, epilogue, prepared=False
    )


def _plain(*values: Any) -> bool:
    """Whether values are words, ints or tuples of ints, none of which equals one that is refused, as 1.0 equals 1."""
    kinds: set[type] = set()
    for value in values:
        kinds.update(map(type, value)) if type(value) is tuple else kinds.add(type(value))
    return kinds <= {int, str}


def _hashable(values: tuple) -> bool:
    try:
        hash(values)
    except TypeError:
        return False
    return True


def _check_stream(stream: Any, device: str) -> None:
    if stream is not None and device == "cpu":
        raise DeviceUnavailable("stream: only a CUDA device has streams; pass device='cuda' or leave stream away")


def make_request(
    device, num_threads, precision, accuracy, max_workspace, stream, epilogue: Epilogue, prepared: bool = True
) -> Request:
    """The request that the arguments of a call make.

    Raises
    ------
    ValueError
        Naming the argument.
    DeviceUnavailable
    """
    device = check_device(device)
    _check_stream(stream, device)
    return Request(device, threads_for(num_threads), precision, accuracy, max_workspace, epilogue, prepared)


def plan(
    problem: ConvProblem | str,
    algorithm: str | Lowering = "auto",
    device: str | None = None,
    *,
    layout: str | None = None,
    precision: str = "highest",
    accuracy: str = "float32",
    bias: bool = False,
    residual: bool = False,
    activation: str | None = None,
    max_workspace: int | None = None,
    num_threads: int | None = None,
    stream: Any = None,
) -> Handle:
    """Choose once, prepare once, run many times.

    Parameters
    ----------
    problem : ConvProblem or str
        Or its descriptor.
    layout : {"nchw", "nhwc"}, optional
        Order of the axes of the arrays to come; the problem's memory order, unless given.
    bias, residual : bool
        Whether the runs will have them.
    algorithm, device, precision, accuracy, activation, max_workspace, num_threads, stream
        As in ``conv2d``.

    Returns
    -------
    Handle
        ``prepare(w, bias)``, then call it with x. Several threads may call one handle.
    """
    problem = as_problem(problem)
    if layout not in (None, *LAYOUTS):
        raise ShapeError(f"layout must be one of {', '.join(map(repr, LAYOUTS))}; got {layout!r}")
    request = make_request(device, num_threads, precision, accuracy, max_workspace, stream,
                           Epilogue(bias, residual, activation))  # fmt: skip
    return Handle(make_plan(problem, algorithm, request), layout, stream)


def as_problem(problem: ConvProblem | str) -> ConvProblem:
    """A problem, from itself or its descriptor.

    Raises
    ------
    TypeError, ShapeError
    """
    if isinstance(problem, ConvProblem):
        return problem
    if isinstance(problem, str):
        return ConvProblem.parse(problem)
    raise TypeError(f"problem: expected a ConvProblem or a descriptor, got {problem!r}")


def cuda_available() -> bool:
    """Whether ``device="cuda"`` can be used; ``show_config`` says why not."""
    return cuda_devices.available()


def _cuda_config() -> str:
    reason = cuda_devices.reason()
    if reason is not None:
        return f"not available ({reason})"
    device = cuda_devices.runtime()
    return (f"{device.name}, compute capability {device.cc[0]}.{device.cc[1]}, {device.multiprocessors} "
            f"multiprocessors, {device.memory_bytes >> 20} MiB")  # fmt: skip


def show_config() -> str:
    """Versions, machine, threads and cache, as text; printed and returned."""
    machine = detect()
    text = "\n".join(
        [
            f"numba {numba.__version__}, llvmlite {llvmlite.__version__}, numpy {np.__version__}, "
            f"python {platform.python_version()}",
            f"cpu: {machine.cpu_name} ({machine.llvm_name}), {machine.vector_bits}-bit vectors, "
            f"{machine.vector_registers} registers, fma {'yes' if machine.fma else 'no'}",
            f"caches in KiB: L1d {machine.l1d_bytes >> 10}, L2 {machine.l2_bytes >> 10}, L3 {machine.l3_bytes >> 10}",
            f"threads: {default_threads()} of {machine.cores} cores",
            f"cache: {cache_directory() or 'none writable'} ({build_key()})",
            f"cuda: {_cuda_config()}",
        ]
    )
    print(text)
    return text


__all__ = ["Plan", "ShapeError", "conv2d", "cuda_available", "plan", "show_config"]
