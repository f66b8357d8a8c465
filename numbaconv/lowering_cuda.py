"""The contract of a lowering on a GPU: ``CudaForm``, the same questions as ``Lowering``'s, and what it works with.

A lowering that runs on a GPU names its form: ``cuda = MyForm`` beside ``devices = ("cpu", "cuda")``. A form answers for
a device what the lowering answers for the CPU, in the same words; parts, memory limits and epilogues are the plan's
affair there as well. It issues kernels (``ctx.launch``) and products (``ctx.multiply``) and never waits: all of a call
is queued on one stream.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from numbaconv.accounts import GemmCall
from numbaconv.devices.copying import copy4, copy4_launch
from numbaconv.devices.cuda import runtime
from numbaconv.devices.replay import Recorder
from numbaconv.gemm.cuda import Place
from numbaconv.gemm.cuda_plan import CudaFinish, CudaPlan, Operand, Result, arithmetic_for, cuda_plan, run_product
from numbaconv.jit_cuda import Kernel
from numbaconv.lift import LIMITS
from numbaconv.problem import DTYPES, ConvProblem
from numbaconv.request import Request

if TYPE_CHECKING:
    from numbaconv.devices.array import DeviceArray
    from numbaconv.lowering import Lowering, Support

ALIGNMENT = 256
MOST_ELEMENTS = 1 << 31
"""Of an array that kernels count in 32 bits."""


def plan_of(call: GemmCall, dtype: str, request: Request) -> CudaPlan:
    """How a product is computed on the request's device."""
    device = runtime(request.device)
    itemsize = DTYPES[dtype]
    arithmetic = arithmetic_for(request.precision, itemsize, device.cc)
    return cuda_plan(
        call.m, call.n, call.k, call.batch, itemsize, arithmetic, device.multiprocessors, call.split
    )  # fmt: skip


class CudaForm:
    """A lowering's form on a GPU.

    Attributes
    ----------
    lowering : Lowering
        With its parameters (``values``).
    """

    def __init__(self, lowering: Lowering):
        self.lowering = lowering
        self.values = lowering.values

    def supports(self, problem: ConvProblem, request: Request) -> Support:
        """What the lowering says; a form that can less says so itself."""
        return self.lowering.supports(problem, request)

    def lacking(self, request: Request) -> str:
        """What the form needs besides the device and is not here; then it refuses every problem, with this reason."""
        return ""

    def lowering_bytes(self, problem: ConvProblem, request: Request) -> int:
        """Bytes of rearranged data that ``run`` takes. Exact."""
        return 0

    def gemm_calls(self, problem: ConvProblem, request: Request) -> list[GemmCall]:
        """The products that ``run`` issues."""
        return []

    def rearranged_bytes(self, problem: ConvProblem, request: Request) -> int:
        """Bytes written and read again on the way."""
        return 2 * self.lowering_bytes(problem, request)

    def share_of_peak(self, problem: ConvProblem) -> float:
        """Of the multiply-add peak, where a form issues no products and its threads fill the GPU."""
        return 0.05

    def threads(self, problem: ConvProblem) -> int:
        """Threads that work at the same time, where a form issues no products: few leave a GPU waiting for memory."""
        return problem.mb * problem.oc * problem.oh * problem.ow

    def panel_bytes(self, problem: ConvProblem, request: Request) -> int:
        """Bytes of the products' own scratch: that of the largest."""
        calls = self.gemm_calls(problem, request)
        return max((plan_of(c, problem.dtype, request).panel_bytes for c in calls if c.macs), default=0)

    def prepare_weights(self, ctx: CudaContext, w: DeviceArray) -> Any:
        """The weights (oc, ic/g, kh, kw) as ``run`` wants them: device arrays, from ``ctx.keep``."""
        raise NotImplementedError

    def run(self, ctx: CudaContext, x: DeviceArray, prepared: Any, out: DeviceArray) -> None:
        """Queue the computation; arrays as in ``Lowering.run``, but on the device."""
        raise NotImplementedError


class StageTimes(Mapping):
    """Seconds of the stages of a run on a GPU; looking at them waits for it."""

    def __init__(self, stages: tuple[str, ...]):
        self.marks: list[tuple[str, Any, Any]] = []
        self.stages = stages

    def __getitem__(self, stage: str) -> float:
        if stage not in self.stages:
            raise KeyError(stage)
        return sum(end.seconds_since(begin) for name, begin, end in self.marks if name == stage)

    def __iter__(self):
        return iter(self.stages)

    def __len__(self) -> int:
        return len(self.stages)

    def __repr__(self) -> str:
        return repr(dict(self))


class CudaContext:
    """What a form works with during one call: scratch, launches, products and the epilogue."""

    def __init__(
        self, problem: ConvProblem, request: Request, stream=None, memory=None, panel_bytes: int = 0, bias=None,
        residual=None, times: StageTimes | None = None, device=None,
    ):  # fmt: skip
        self.problem, self.request, self.stream = problem, request, stream
        self.device = device or runtime(request.device)
        self.bias, self.residual, self.times = bias, residual, times
        self.memory, self._used, self._panel_bytes = memory, 0, panel_bytes
        self.slices: dict[str, int] = {}
        self.products: list[GemmCall] = []

    # ---------------------------------------------------------------------------------------------------- memory

    def take(self, name: str, shape, dtype=None) -> DeviceArray:
        """An array in the call's scratch, uninitialised; its bytes count towards ``lowering_bytes``."""
        dtype = np.dtype(dtype or self.problem.dtype)
        size = math.prod(shape) * dtype.itemsize
        room = 0 if self.memory is None else self.memory.nbytes
        if self._used + size > room:
            raise MemoryError(
                f"workspace: {name} needs {size} bytes but {room - self._used} of the {room} declared are left "
                f"(taken: {self.slices}); declare more in lowering_bytes or panel_bytes"
            )
        start = self._used
        self._used += -(-size // ALIGNMENT) * ALIGNMENT
        self.slices[name] = self.slices.get(name, 0) + size
        return self.memory[start : start + size].view(dtype).reshape(shape)

    def keep(self, shape, dtype=None) -> DeviceArray:
        """New memory of zeros that outlives the call, for prepared weights."""
        kept = self.device.empty(shape, dtype or self.problem.dtype, self.stream)
        self.device.fill(kept, 0, self.stream)
        return kept

    # ---------------------------------------------------------------------------------------------------- stages

    def launch(self, stage: str, kernel: Kernel, grid, *arguments) -> None:
        """Queue a kernel as a piece of "lower", "multiply" or "lift"."""
        self._stage(stage)
        begin = self.device.record(self.stream) if self.times is not None else None
        self.device.launch(kernel, grid, arguments, self.stream)
        self._mark(stage, begin)

    @contextlib.contextmanager
    def outside(self, stage: str) -> Iterator[None]:
        """Around what another library queues on the call's stream, a piece of a stage: such a call is not recorded."""
        if isinstance(self.device, Recorder):
            self.device.usable = False
        begin = self.device.record(self.stream) if self.times is not None else None
        yield
        self._mark(stage, begin)

    def _stage(self, stage: str) -> None:
        if isinstance(self.device, Recorder):
            self.device.stage = stage

    def _mark(self, stage: str, begin) -> None:
        if self.times is not None:
            self.times.marks.append((stage, begin, self.device.record(self.stream)))

    def multiply(self, call: GemmCall, a: Operand, b: Operand, c: Result, pixels: str, finish: CudaFinish) -> None:
        """Queue a product, as declared in ``gemm_calls``; arguments as ``gemm.cuda_plan.run_product``'s."""
        plan = plan_of(call, self.problem.dtype, self.request)
        if plan.panel_bytes > self._panel_bytes:
            raise MemoryError(f"{call} needs {plan.panel_bytes} bytes of scratch, {self._panel_bytes} are declared: "
                              "gemm_calls does not list it")  # fmt: skip
        scratch = None
        if plan.panel_bytes:
            scratch = self._panels().view(np.dtype(self.problem.dtype))
        self.products.append(call)
        self._stage("multiply")
        begin = self.device.record(self.stream) if self.times is not None else None
        run_product(self.device, self.stream, plan, a, b, c, pixels, finish, scratch)
        self._mark("multiply", begin)

    def _panels(self):
        if "panels" not in self.slices:
            self._scratch = self.take("panels", (self._panel_bytes,), np.uint8)
        return self._scratch

    # -------------------------------------------------------------------------------------------------- epilogue

    def finish(self, along: str, residual: Result | None = None, plain: bool = False, beta: float = 0.0) -> CudaFinish:
        """The epilogue for a product whose lines ("row" or "column") are the output channels; none where `plain`."""
        if plain:
            return CudaFinish(along=along, beta=beta)
        low, high = LIMITS[self.request.epilogue.activation]
        return CudaFinish(self.bias, along, residual, beta=beta, low=low, high=high)


def copy_array(device, source: DeviceArray, target: DeviceArray, stream=None) -> None:
    """Queue a copy of an array of up to four axes to another of its shape, any strides forward."""
    steps = [[step // array.itemsize for step in array.strides] for array in (source, target)]
    grid, records = copy4_launch(source.shape, *steps)
    if grid is not None:
        device.launch(copy4(source.itemsize), grid, (source, target, *records), stream)


def image_place(image: DeviceArray, channels: int, batch: int = 0) -> Place:
    """Where channels and pixels of an image (n, c, h, w) are; `channels` of a group, the next `batch` elements on."""
    n, c, h, w = (step // image.itemsize for step in image.strides)
    rows, columns = image.shape[2:]
    if rows == 1 or h == columns * w:  # one row after the other: pixels of an image are one run
        rows, columns = 1, rows * columns
    return Place(rows, columns, c, n, h, w, batch, channels)
