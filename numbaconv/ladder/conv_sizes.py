"""What every step of the convolution ladder asks of its arguments."""

from __future__ import annotations

import numpy as np

from numbaconv.errors import ShapeError
from numbaconv.problem import ConvProblem

__all__ = ["framed", "problem_of"]


def problem_of(x, w, stride: int, padding: int, out) -> ConvProblem:
    """The sizes of ``conv(x, w, stride, padding, out)``: mb ic ih iw, oc kh kw, oh ow.

    Raises
    ------
    ShapeError
        When the arrays do not go together, or are not plain float32 ones.
    """
    arrays = {"x (mb, ic, ih, iw)": x, "w (oc, ic, kh, kw)": w, "out (mb, oc, oh, ow)": out}
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype != np.float32 or array.ndim != 4:
            raise ShapeError(f"{name} must be a float32 array of four axes; got {_described(array)}")
        if not array.flags.c_contiguous:
            raise ShapeError(f"{name} must lie in memory as its axes say; pass numpy.ascontiguousarray of it")
    for name, number in (("stride", stride), ("padding", padding)):
        if not isinstance(number, int | np.integer):
            raise ShapeError(f"{name} must be one int, for both directions; got {number!r}")
    problem = ConvProblem.from_arrays(x, w, int(stride), int(padding))
    if out.shape != problem.output_shape:
        raise ShapeError(f"out must have shape {problem.output_shape} for {problem}; got {out.shape}")
    if np.may_share_memory(out, x) or np.may_share_memory(out, w):
        raise ShapeError("out must not share memory with x or w: they are read while it is written")
    return problem


def _described(array) -> str:
    return f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else repr(type(array).__name__)


def framed(image: np.ndarray, padding: int, height: int, width: int) -> np.ndarray:
    """A copy of (ic, ih, iw) in zeros, `padding` rows and columns in, (ic, height, width) in all.

    Loops over it need not ask whether a tap lies outside.
    """
    ic, ih, iw = image.shape
    frame = np.zeros((ic, height, width), np.float32)
    rows, columns = min(ih, height - padding), min(iw, width - padding)
    if rows > 0 and columns > 0:
        frame[:, padding : padding + rows, padding : padding + columns] = image[:, :rows, :columns]
    return frame
