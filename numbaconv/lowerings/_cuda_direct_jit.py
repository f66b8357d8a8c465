"""``direct`` on a GPU, compiled for the problem: the same kernel, its sizes constants of the code.

    g:  ic  ih  iw  kh  kw  sh  sw  pad_top  pad_left  dh  dw  oh  ow  x_n  x_c  x_h  x_w
        ●   ·   ●   ●   ●   ●   ●   ·        ●         ●   ●   ·   ●   ·    ●    ●    ●        ● constant
    t:  images  ocg  has_bias  has_residual  padded  span                                      · an argument
        ·       ●    ●         ●             ●       ●

So the compiler unrolls what is short (a few channels at least, all taps where there are few), steps by constants,
multiplies where there was a division, and leaves out what is not asked for: bias, residual, and where no tap leaves the
input all questions whether one does. What parts of a problem differ in (images; a band's rows and pads at its top)
stays an argument: for parts with pads and parts without there are two kernels at most.
"""

from __future__ import annotations

import functools

from numbaconv.devices.intrinsics import int32
from numbaconv.geometry import Window
from numbaconv.jit_cuda import Function
from numbaconv.lowerings._cuda_direct import Known, Task
from numbaconv.lowerings.direct import CudaDirect

OF_WINDOW = ("ic", "iw", "kh", "kw", "sh", "sw", "pad_left", "dh", "dw", "ow", "x_c", "x_h", "x_w")
OF_TASK = ("ocg", "has_bias", "has_residual", "padded", "span")


def known_of(g: Window, t: Task) -> Known:
    """What is ``Known`` of a launch with g and t, and of those of the problem's other parts."""
    rows = g.pad_top == 0 and (g.oh - 1) * g.sh + (g.kh - 1) * g.dh < g.ih
    columns = g.pad_left == 0 and (g.ow - 1) * g.sw + (g.kw - 1) * g.dw < g.iw
    return _known(tuple(getattr(g, name) for name in OF_WINDOW), tuple(getattr(t, name) for name in OF_TASK),
                  rows and columns)  # fmt: skip


@functools.cache
def _known(of_window: tuple[int, ...], of_task: tuple[int, ...], inside: bool) -> Known:
    """One for equal numbers, so that there is one kernel."""
    ic, iw, kh, kw, sh, sw, pad_left, dh, dw, ow, x_c, x_h, x_w = of_window
    ocg, has_bias, has_residual, padded, span = of_task

    @Function
    def window(g):
        return Window(
            int32(ic), g.ih, int32(iw), int32(kh), int32(kw), int32(sh), int32(sw), g.pad_top, int32(pad_left),
            int32(dh), int32(dw), g.oh, int32(ow), g.x_n, int32(x_c), int32(x_h), int32(x_w),
        )  # fmt: skip

    @Function
    def task(t):
        return Task(t.images, int32(ocg), int32(has_bias), int32(has_residual), int32(padded), int32(span), t.w_k,
                    t.w_tap)  # fmt: skip

    numbers = zip((*OF_WINDOW, *OF_TASK), (*of_window, *of_task), strict=True)
    name = "".join(f"_{name}{number}" for name, number in numbers)
    return Known(window, task, inside, f"{name}_{'inside' if inside else 'edges'}")


class CudaDirectJit(CudaDirect):
    """``CudaDirect`` with a kernel compiled for the problem."""

    def share_of_peak(self, problem):
        return 0.36  # not measured on a GPU: a guess that it is a little faster than the kernel for any problem

    def known(self, g, t):
        return known_of(g, t)
