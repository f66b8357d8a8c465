"""Plans on a GPU: weights prepared there, parts run one after another on a stream, arrays in and out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from numbaconv.accounts import count_bytes
from numbaconv.arrays import FROM_NCHW, TO_NCHW, any_array, as_nchw, checked_image, lives_on_device, writable
from numbaconv.devices.array import DeviceArray, may_share_memory
from numbaconv.devices.cuda import runtime
from numbaconv.devices.replay import Recorder, Recording, likeness
from numbaconv.errors import ShapeError
from numbaconv.lowering import STAGES
from numbaconv.lowering_cuda import ALIGNMENT, CudaContext, StageTimes, copy_array

if TYPE_CHECKING:
    from numbaconv.plan import Plan

SLICES = 8  # of a part's scratch, each aligned
KEPT_RECORDINGS = 8
"""Likenesses of arrays that are remembered with prepared weights."""


class Prepared:
    """Weights on a device as a lowering's form wants them, and what was launched with them: see ``devices.replay``."""

    def __init__(self, weights: Any):
        self.weights = weights
        self.recordings: dict[tuple, Recording] = {}

    @property
    def nbytes(self) -> int:
        return count_bytes(self.weights)


def prepare(plan: Plan, w, stream=None) -> Prepared:
    """The weights as the lowering's form wants them, on the device."""
    device = runtime(plan.request.device)
    w = w if isinstance(w, DeviceArray) else device.to_device(np.ascontiguousarray(w), stream)
    first = plan.division.parts[0].problem if plan.division.parts else plan.problem
    return Prepared(plan.form.prepare_weights(CudaContext(first, plan.division.request, stream), w))


def run_parts(plan: Plan, x, prepared: Prepared, out, bias, residual, stream=None, timed: bool = True) -> StageTimes:
    """Queue every part; all arrays on the device, seen as ``CudaForm.run`` takes them.

    What the first call with arrays of some likeness launches, later ones launch again.

    Returns
    -------
    StageTimes
        Seconds of the stages, where `timed`; looked at, they wait for the run.
    """
    device, division = runtime(plan.request.device), plan.division
    times = StageTimes(STAGES)
    memory = device.empty((plan.workspace_bytes + SLICES * ALIGNMENT,), np.uint8, stream)
    arrays = (x, out, memory, bias, residual)
    key = tuple(map(likeness, arrays))
    known = prepared.recordings.get(key)
    if known is not None:
        known.replay(device, arrays, device.stream(stream), times.marks if timed else None)
        return times
    recorder = Recorder(device, arrays)
    for part in division.parts:
        added = None if residual is None else residual[part.images, :, part.rows]
        ctx = CudaContext(part.problem, division.request, stream, memory, plan.panel_bytes, bias, added,
                          times if timed else None, recorder)  # fmt: skip
        plan.form.run(ctx, x[part.images, :, part.input_rows], prepared.weights, out[part.images, :, part.rows])
    if recorder.usable:
        while len(prepared.recordings) >= KEPT_RECORDINGS:
            prepared.recordings.pop(next(iter(prepared.recordings)), None)
        prepared.recordings[key] = recorder.recording
    return times


def keep_bias(plan: Plan, bias, stream=None):
    """A bias, on the device."""
    if bias is None or isinstance(bias, DeviceArray):
        return bias
    return runtime(plan.request.device).to_device(bias, stream)


def new_output(problem, device, stream=None) -> DeviceArray:
    """An uninitialised (mb, oc, oh, ow) on the device, in memory as the problem's layout says."""
    shape = [problem.output_shape[axis] for axis in FROM_NCHW[problem.layout]]
    return device.empty(shape, problem.dtype, stream).transpose(TO_NCHW[problem.layout])


def run_plan(
    plan: Plan, x, prepared, bias, residual=None, out=None, layout: str | None = None, stream=None, timed: bool = True
):
    """``arrays.run_plan`` on a GPU: host arrays are copied there and the result back, device arrays stay.

    Raises
    ------
    ShapeError
        When an array is not what the plan was made for.
    """
    problem, device = plan.problem, runtime(plan.request.device)
    layout, stream = layout or problem.layout, device.stream(stream)
    on_device, unbatched = isinstance(x, DeviceArray), x.ndim == 3
    source = _image(x, "x", problem.input_shape, problem.dtype, layout, device, stream)
    if (residual is not None) != plan.request.epilogue.residual:
        wanted = "a" if plan.request.epilogue.residual else "no"
        raise ShapeError(
            f"residual: the plan was made for {wanted} residual; make it with residual={residual is not None}"
        )
    if residual is not None:
        residual = _image(residual, "residual", problem.output_shape, problem.dtype, layout, device, stream)
    if bias is not None and not isinstance(bias, DeviceArray):
        bias = device.to_device(bias, stream)
    final = None
    if out is not None and lives_on_device(out):
        final = checked_image(
            any_array(out, "out", device.device, stream), "out", problem.output_shape, problem.dtype, layout
        )
    elif out is not None:
        checked_image(writable(out), "out", problem.output_shape, problem.dtype, layout)
    shared = final is not None and any(
        may_share_memory(final, other) for other in (source, residual) if other is not None
    )
    target = final if final is not None and _addressable(final) and not shared else new_output(problem, device, stream)
    times = StageTimes(STAGES)
    if target.size:
        times = run_parts(plan, source, prepared, target, bias, residual, stream, timed)
    if final is not None:
        if final is not target:
            copy_array(device, target, final, stream)
        return out, times
    if out is not None:
        as_nchw(out, layout)[...] = device.to_host(target, None, stream)
        return out, times
    result = target.transpose(FROM_NCHW[layout])
    result = result[0] if unbatched else result
    return (result if on_device else device.to_host(result, None, stream)), times


def _addressable(image: DeviceArray) -> bool:
    """Whether kernels can write to it: steps forward, no element twice."""
    return all(step > 0 for step, size in zip(image.strides, image.shape, strict=True) if size > 1)


def _image(array, name: str, shape, dtype, layout: str, device, stream) -> DeviceArray:
    """An (mb, c, h, w) view of an argument on the device, checked."""
    array = any_array(array, name, device.device, stream)
    if not isinstance(array, DeviceArray):
        return device.to_device(checked_image(array, name, shape, dtype, layout), stream)
    return checked_image(array, name, shape, dtype, layout)
