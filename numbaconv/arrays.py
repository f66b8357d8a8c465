"""Arrays at the door: what comes in is looked at once, here, and what goes out has the caller's axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from numbaconv.devices import cuda as cuda_devices
from numbaconv.devices.array import DeviceArray, as_device_array
from numbaconv.errors import DeviceUnavailable, ShapeError
from numbaconv.known import Known, likeness, remember
from numbaconv.recording import Recorder
from numbaconv.workspace import address_of, aligned_array

if TYPE_CHECKING:
    from numbaconv.plan import Plan

CPU, CUDA = 1, 2  # DLPack's numbers
TO_NCHW = {"nchw": (0, 1, 2, 3), "nhwc": (0, 3, 1, 2)}
FROM_NCHW = {"nchw": (0, 1, 2, 3), "nhwc": (0, 2, 3, 1)}


def host_array(value: Any, name: str) -> np.ndarray:
    """A float32 or float64 NumPy array of the same memory: NumPy's own, or anything with ``__dlpack__`` on the CPU.

    Raises
    ------
    TypeError
        When it is no array, or one that cannot be shared.
    ShapeError
        When its dtype is another.
    DeviceUnavailable
        When it lives on a device.
    """
    if type(value) is np.ndarray and value.dtype.char in "fd" and value.dtype.isnative and value.flags.aligned:
        return value
    if not isinstance(value, np.ndarray):
        if isinstance(value, DeviceArray) or hasattr(value, "__cuda_array_interface__"):
            raise DeviceUnavailable(f"{name} lives on a GPU and this runs on the CPU: copy it to the host first")
        if not hasattr(value, "__dlpack__"):
            raise TypeError(f"{name}: expected an array (NumPy, or any with __dlpack__), got {type(value).__name__}")
        try:
            on_host = value.__dlpack_device__()[0] == CPU
        except Exception as error:
            raise TypeError(f"{name}: cannot share its memory ({error}); pass a CPU array") from error
        if not on_host:
            raise DeviceUnavailable(f"{name} lives on a device and this runs on the CPU: copy it to the host first")
        try:
            value = np.from_dlpack(value)
        except (BufferError, RuntimeError, TypeError) as error:
            raise TypeError(f"{name}: cannot share its memory ({error}); pass a detached CPU tensor") from error
    if value.dtype not in (np.float32, np.float64):
        raise ShapeError(f"{name}: expected float32 or float64, got {value.dtype}; convert it with .astype('float32')")
    return np.asarray(value) if value.flags.aligned else np.array(value)


def any_array(value: Any, name: str, device: str = "cpu", stream: Any = None) -> Any:
    """A float32 or float64 array of the same memory: NumPy's on the host, a ``DeviceArray`` on a GPU.

    Parameters
    ----------
    value
        NumPy's array, ours, or anything with ``__dlpack__`` or ``__cuda_array_interface__``.
    name : str
        For messages.
    device : str
        Where the call runs: "cpu" takes host arrays only.
    stream : optional
        Where it is going to be used.

    Raises
    ------
    TypeError, ShapeError, DeviceUnavailable
    """
    if type(value) is np.ndarray or not lives_on_device(value):
        return host_array(value, name)
    if device.startswith("cpu"):
        where = "on the CPU" if device == "cpu" else "on both, dividing a batch of host arrays"
        raise DeviceUnavailable(
            f"{name} lives on a GPU and this runs {where}: copy {name} to the host first, or move all to the GPU"
        )
    try:
        array: Any = as_device_array(value, cuda_devices.runtime(device), stream)
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from error
    if array.dtype not in (np.float32, np.float64):
        raise ShapeError(f"{name}: expected float32 or float64, got {array.dtype}; convert it first")
    if min(array.strides, default=0) < 0:
        raise ShapeError(f"{name}: strides {array.strides} run backwards, which is not built on a GPU; copy it first")
    return array


def lives_on_device(value: Any) -> bool:
    """Whether an argument is an array in a GPU's memory."""
    if type(value) is np.ndarray:
        return False
    if isinstance(value, DeviceArray) or hasattr(value, "__cuda_array_interface__"):
        return True
    try:
        return value.__dlpack_device__()[0] == CUDA
    except Exception:  # no array, or one that says so itself when it is taken
        return False


def device_of(value: Any) -> str:
    """Where an array lives, as ``device=`` names it."""
    if not lives_on_device(value):
        return "cpu"
    try:
        return cuda_devices.home(value) or "cuda"
    except ImportError:  # asking the driver takes libraries; that they are missing is said when they are needed
        return "cuda"


def writable(out: Any, name: str = "out") -> np.ndarray:
    """`out` as an array that may be written.

    Raises
    ------
    ShapeError
        When it is read-only.
    TypeError
        When it is no NumPy array.
    """
    if not isinstance(out, np.ndarray):
        raise TypeError(f"{name}: expected a NumPy array, got {type(out).__name__}")
    if not out.flags.writeable:
        raise ShapeError(f"{name}: the array is read-only; pass a writable one or leave {name} away")
    host_array(out, name)
    return out


def bias_array(bias: Any, channels: int, dtype, device: str = "cpu", stream: Any = None) -> Any:
    """A bias, checked against the output channels; a contiguous copy, so that the output may overlap the original."""
    if bias is None:
        return None
    bias = any_array(bias, "bias", device, stream)
    if isinstance(bias, DeviceArray):
        return _device_bias(bias, channels, dtype)
    if bias.shape != (channels,) or bias.dtype != dtype:
        raise ShapeError(f"bias: expected ({channels},) of {np.dtype(dtype)}, got {bias.shape} of {bias.dtype}")
    return np.array(bias)


def _device_bias(bias, channels: int, dtype):
    if bias.shape != (channels,) or bias.dtype != dtype or not bias.flags.c_contiguous:
        raise ShapeError(
            f"bias: expected ({channels},) of {np.dtype(dtype)}, contiguous, got {bias.shape} of {bias.dtype} with "
            f"strides {bias.strides}"
        )
    return bias


def as_nchw(array: np.ndarray, layout: str) -> np.ndarray:
    """A view (mb, c, h, w) of an array whose axes are `layout`'s; one image counts as a batch of one."""
    if array.ndim == 3:
        array = array[None]
    return array.transpose(TO_NCHW[layout])


def plain_image(image: np.ndarray) -> bool:
    """Whether a kernel can address it: steps forward, distinct elements, the rows of an image one after another."""
    _, _, rows, columns = image.shape
    step_row, step = image.strides[2:]
    forward = image.flags.aligned and all(
        stride > 0 for stride, size in zip(image.strides, image.shape, strict=True) if size > 1
    )
    return forward and (rows == 1 or columns == 1 or step_row == columns * step)


def _forward(x: np.ndarray) -> np.ndarray:
    """`x`, or a copy where an axis runs backwards (kernels count from the lowest address)."""
    return np.array(x, order="K") if min(x.strides, default=0) < 0 else x


def new_output(problem) -> np.ndarray:
    """An uninitialised (mb, oc, oh, ow), in memory as the problem's layout says."""
    n, c, h, w = problem.output_shape
    size = problem.itemsize
    steps = (c * h * w, h * w, w, 1) if problem.layout == "nchw" else (h * w * c, 1, w * c, c)
    strides = tuple(size * step for step in steps)
    return aligned_array((n, c, h, w), problem.dtype, strides, problem.output_bytes)


def run_plan(plan: Plan, x, prepared, bias, residual=None, out=None, layout: str | None = None, kept=None):
    """Run a plan on arrays whose axes are in `layout` (the problem's, unless given); returns (result, stage times).

    `kept` is ``recording.Kept(prepared, bias)``, where the caller has it at hand.

    Raises
    ------
    ShapeError
        When an array is not what the plan was made for.
    """
    layout = layout or plan.problem.layout
    key = likeness(x, out, residual, layout)
    known = plan.known.get(key)
    if known is not None:
        done = known.run(x, prepared, bias, residual, out, kept)
        if done is not None:
            return done
    return _run_checked(plan, x, prepared, bias, residual, out, layout, key if known is None else None)


def _run_checked(plan: Plan, x, prepared, bias, residual, out, layout: str, key):
    """The long way of ``run_plan``; under `key` the plan may keep what it learns."""
    problem, given = plan.problem, (x, residual)
    x = host_array(x, "x")
    unbatched = x.ndim == 3
    source = checked_image(x, "x", problem.input_shape, problem.dtype, layout)
    if (residual is not None) != plan.request.epilogue.residual:
        wanted = "a" if plan.request.epilogue.residual else "no"
        raise ShapeError(
            f"residual: the plan was made for {wanted} residual; make it with residual={residual is not None}"
        )
    if residual is not None:
        residual = checked_image(
            host_array(residual, "residual"), "residual", problem.output_shape, problem.dtype, layout
        )
        residual = residual if plain_image(residual) else np.ascontiguousarray(residual)
    target = final = None
    if out is not None:
        final = checked_image(writable(out), "out", problem.output_shape, problem.dtype, layout)
        shared = np.may_share_memory(final, source) or (residual is not None and np.may_share_memory(final, residual))
        target = final if plain_image(final) and not shared else None
    if target is None:
        target = new_output(problem)
    source = _forward(source)
    in_place = key is not None and target.size > 0 and (final is None or final is target)
    in_place = in_place and all(
        array is None or address_of(array) == address_of(was)
        for array, was in zip((source, residual), given, strict=True)
    )
    recorder = Recorder(source, target, residual, prepared, bias) if in_place and plan.recorded else None
    if recorder is not None and not recorder.usable:  # because of where these arrays lie
        recorder = None
    times = plan.run(source, prepared, target, bias, residual, recorder) if target.size else {}
    if final is not None:
        if final is not target:
            final[...] = target
        result = out
    else:
        result = target.transpose(FROM_NCHW[layout])
        result = result[0] if unbatched else result
    if recorder is not None:
        remember(plan, key, Known(recorder.recording, plan.arena_bytes, source, result, residual))
    return result, times


def checked_image(array: Any, name: str, shape, dtype, layout: str) -> Any:
    """An (mb, c, h, w) view of an argument, checked."""
    if array.ndim in (3, 4):
        image = as_nchw(array, layout)
        if image.shape == tuple(shape) and array.dtype == dtype:
            return image
    wanted = tuple(shape[axis] for axis in FROM_NCHW[layout])
    raise ShapeError(
        f"{name}: expected {wanted} of {dtype} (axes {', '.join(layout)}; a batch of one may leave the first away), "
        f"got {array.shape} of {array.dtype}"
    )
