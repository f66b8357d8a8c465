"""What a user may write for stride, dilation and padding, turned into plain integers."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from numbaconv.errors import ShapeError

__all__ = ["pair", "resolve_padding"]

WORDS = ("valid", "same", "same_upper", "same_lower")


def _integers(value: Any, name: str, lengths: tuple[int, ...], wanted: str) -> tuple[int, ...]:
    """`value` as a tuple of ints whose length is one of `lengths`; a lone int counts as a tuple of one."""
    items = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else (value,)
    if hasattr(value, "__array__") and getattr(value, "ndim", 0) == 1:
        items = tuple(value)
    try:
        numbers = tuple(operator.index(item) for item in items)
    except TypeError:
        numbers = ()
    if len(numbers) not in lengths:
        raise ShapeError(f"{name} must be {wanted}; got {value!r}")
    return numbers


def pair(value: Any, name: str) -> tuple[int, int]:
    """An int, or a sequence of one or two ints, as (vertical, horizontal).

    Parameters
    ----------
    value : int or sequence of int
    name : str
        The argument's name, for the message.

    Raises
    ------
    ShapeError
        When `value` is neither.
    """
    numbers = _integers(value, name, (1, 2), "an int or a pair of ints")
    return numbers[0], numbers[-1]


def _same(size: int, kernel: int, stride: int, dilation: int, upper: bool) -> tuple[int, int]:
    """Pads (before, after) that make ceil(size / stride) outputs; the odd pixel goes after when `upper`."""
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    small, large = total // 2, total - total // 2
    return (small, large) if upper else (large, small)


def resolve_padding(
    padding: Any,
    in_size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[int, int, int, int]:
    """Padding in any accepted form as four numbers of pixels.

    Parameters
    ----------
    padding : int, sequence of int or str
        One pad for all sides; (vertical, horizontal); (top, left, bottom, right); ``"valid"`` (none);
        ``"same"`` = ``"same_upper"`` or ``"same_lower"``: ``ceil(in / stride)`` outputs a side, the odd pixel
        at the end (upper) or the beginning (lower), as ONNX and TensorFlow define it.
    in_size, kernel, stride, dilation : pair of int
        Input (ih, iw), kernel (kh, kw), strides and dilations (1 = dense).

    Returns
    -------
    tuple of int
        (top, left, bottom, right).

    Raises
    ------
    ShapeError
        When `padding` is none of these.
    """
    if isinstance(padding, str):
        if padding not in WORDS:
            raise ShapeError(f"padding must be ints or one of {', '.join(map(repr, WORDS))}; got {padding!r}")
        if padding == "valid":
            return 0, 0, 0, 0
        sides = [
            _same(*sizes, upper=padding != "same_lower")
            for sizes in zip(in_size, kernel, stride, dilation, strict=True)
        ]
        return sides[0][0], sides[1][0], sides[0][1], sides[1][1]
    wanted = f"an int, a pair, four values (top, left, bottom, right) or one of {', '.join(map(repr, WORDS))}"
    numbers = _integers(padding, "padding", (1, 2, 4), wanted)
    if min(numbers) < 0:
        raise ShapeError(f"padding must not be negative; got {padding!r}; crop the input instead")
    if len(numbers) == 4:
        return numbers[0], numbers[1], numbers[2], numbers[3]
    return numbers[0], numbers[-1], numbers[0], numbers[-1]
