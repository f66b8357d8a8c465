"""The text form of a problem: benchdnn's convolution descriptor, and a suffix for what benchdnn cannot say.

Canonical form, which ``encode`` writes::

    g2 mb1 ic64 ih56 [iw28] oc64 oh56 [ow28] kh3 [kw3] sh1 [sw1] ph1 [pw1] [dh1 [dw1]] n"name" _f64_nhwc...

without the blanks. ``g`` is written when it is not 1, the tokens of the width when any of them differs from the
height's, dilations (0-based in text: 0 is dense) when one is not 0; everything else always. A convolution with a depth
axis also has ``id od kd sd pd dd``, each before its ``h`` token; when it is a cube these stand alone.

Reading follows benchdnn: tokens in any order, the last of several counts, ``_`` between them is ignored; mb = 2,
g = s = 1 and d = 0 by default; an axis without any token copies the next outer one; a missing output is computed with
equal pads (0 when missing); a missing pad is ``((o - 1) * s - i + ek) / 2``, ek being the dilated kernel. An end pad is
the one at the beginning when that makes the written output, else what the output needs: 0 when the input's unused tail
is shorter than a stride, negative when it is longer. The name, in quotes, is kept as it is; without quotes it runs to
the end of the text.

Suffixes, after the name or before it: ``_f64`` (float64), ``_nhwc``, ``_bwd_d`` and ``_bwd_w`` (backward data and
weights), and the end pads that differ from those read above: ``_pb1pr1`` (bottom and right; ``pe`` ends the depth).
"""

from __future__ import annotations

import re
from typing import Any

from numbaconv.errors import ShapeError

__all__ = ["decode", "encode"]

# One row an axis: its letter in tokens, and the fields of its begin pad and end pad; then the end pad's token.
AXES = (
    ("d", "pad_front", "pad_back", "pe"),
    ("h", "pad_top", "pad_bottom", "pb"),
    ("w", "pad_left", "pad_right", "pr"),
)
SUFFIXES = {
    "f64": ("dtype", "float64"),
    "nhwc": ("layout", "nhwc"),
    "bwd_d": ("direction", "backward-data"),
    "bwd_w": ("direction", "backward-weights"),
}
TOKEN = re.compile(r"(g|mb|ic|oc|[ioskpd][dhw])([0-9]+)")
SUFFIX = re.compile(r'_(?:(f64|nhwc|bwd_d|bwd_w)|((?:p[ebr]-?[0-9]+)+))(?=_|n"|$)')
END_PAD = re.compile(r"(p[ebr])(-?[0-9]+)")
QUOTED = re.compile(r'n"(.*)"', re.DOTALL)


def _extent(kernel: int, dilation: int) -> int:
    """Pixels a dilated kernel covers; dilation 1 is dense."""
    return (kernel - 1) * dilation + 1


def _end_pad(size: int, out: int, extent: int, stride: int, begin: int) -> int:
    """The end pad that a descriptor with these sizes means."""

    def makes_out(end: int) -> bool:
        return (size + begin + end - extent) // stride + 1 == out

    needed = (out - 1) * stride + extent - size - begin
    return begin if makes_out(begin) else 0 if needed < 0 and makes_out(0) else needed


# ----------------------------------------------------------------------------------------------------- writing


def encode(problem: Any) -> str:
    """A ``ConvProblem`` as its descriptor; ``decode`` gives back every field."""
    axes, ends = [], []
    for letter, begin, end, token in AXES:
        size, out, kernel, stride, dilation = (getattr(problem, name + letter) for name in "ioksd")
        pad, end_pad = getattr(problem, begin), getattr(problem, end)
        axes.append({"i": size, "o": out, "k": kernel, "s": stride, "p": pad, "d": dilation - 1})
        if end_pad != _end_pad(size, out, _extent(kernel, dilation), stride, pad):
            ends.append(f"{token}{end_pad}")
    depth, height, width = axes
    written = [("h", height)] if height == width else [("h", height), ("w", width)]
    if problem.is_3d:
        written = [("d", depth)] if depth == height == width else [("d", depth), ("h", height), ("w", width)]

    def tokens(kind: str) -> str:
        return "".join(f"{kind}{letter}{axis[kind]}" for letter, axis in written)

    dilated = any(axis["d"] for _, axis in written)
    parts = [
        f"g{problem.g}" if problem.g != 1 else "",
        f"mb{problem.mb}ic{problem.ic}{tokens('i')}oc{problem.oc}{tokens('o')}",
        *map(tokens, "ksp"),
        tokens("d") if dilated else "",
        f'n"{problem.name}"' if problem.name else "",
        *(f"_{text}" for text, (name, value) in SUFFIXES.items() if getattr(problem, name) == value),
        "_" + "".join(ends) if ends else "",
    ]
    return "".join(parts)


# ----------------------------------------------------------------------------------------------------- reading


def decode(text: str) -> dict[str, Any]:
    """The fields of the ``ConvProblem`` that a descriptor stands for.

    Parameters
    ----------
    text : str

    Returns
    -------
    dict
        Keyword arguments of ``ConvProblem``.

    Raises
    ------
    ShapeError
        Naming the token and its position, or the size that is missing or does not fit.
    """
    if not isinstance(text, str):
        raise ShapeError(f"a descriptor must be a string; got {text!r}")
    text = text.strip()
    tokens, ends, fields = _scan(text)
    problem = {name: tokens.get(name, default) for name, default in (("mb", 2), ("g", 1), ("ic", 0), ("oc", 0))}
    for name in ("ic", "oc"):
        if not problem[name]:
            raise ShapeError(f"descriptor {text!r} lacks {name}")

    given = {letter: _axis(tokens, letter) for letter, *_ in AXES}
    if not any(given.values()):
        raise ShapeError(f"descriptor {text!r} has no size of any axis; it needs at least ih, kh or oh")
    depth = given["d"]
    given["h"] = given["h"] or (None if given["w"] else depth)
    given["w"] = given["w"] or (given["h"] if not depth or given["h"] is depth else None)
    if depth and not (given["h"] and given["w"]):
        raise ShapeError(f"descriptor {text!r} has a depth axis; give both h and w tokens with it, or neither")
    for letter, begin, end, token in AXES:
        if axis := given[letter]:
            axis = _deduce(axis, letter, ends.get(token), text)
            problem |= {name + letter: axis[name] for name in "iksd"} | {begin: axis["p"], end: axis["end"]}
        elif letter != "d":  # a convolution along the width alone
            problem |= {f"i{letter}": 1, f"k{letter}": 1}
    return problem | fields


def _scan(text: str) -> tuple[dict[str, int], dict[str, int], dict[str, str]]:
    """Cut a descriptor into its numbers, its end pads, and the fields that are words."""
    tokens: dict[str, int] = {}
    ends: dict[str, int] = {}
    fields: dict[str, str] = {}
    position = 0
    while position < len(text):
        if match := SUFFIX.match(text, position):
            if match[1]:
                name, value = SUFFIXES[match[1]]
                fields[name] = value
            ends |= {token: int(number) for token, number in END_PAD.findall(match[2] or "")}
        elif "name" not in fields and (match := TOKEN.match(text, position)):
            tokens[match[1]] = int(match[2])
        elif "name" not in fields and (match := QUOTED.match(text, position)):
            fields["name"] = match[1]
        elif "name" not in fields and text[position] == "n":
            fields["name"] = text[position + 1 :]
            break
        elif text[position] == "_":
            position += 1
            continue
        else:
            unknown = re.match(r"_?[^\W\d_]*-?\d*", text[position:])
            token = (unknown and unknown[0]) or text[position]
            raise ShapeError(f"descriptor {text!r} has an unknown token {token!r} at position {position}")
        position = match.end()
    return tokens, ends, fields


def _axis(tokens: dict[str, int], letter: str) -> dict[str, int] | None:
    """One axis's numbers with benchdnn's defaults (no pad: -1; dilation as ours, from 1); None when it says nothing."""
    size, out, kernel, dilation = (tokens.get(name + letter, 0) for name in "iokd")
    stride, pad = tokens.get("s" + letter, 1), tokens.get("p" + letter, -1)
    if not (size or out or kernel or dilation or stride != 1 or pad > 0):
        return None
    return {"i": size, "o": out, "k": kernel, "s": stride, "p": pad, "d": dilation + 1}


def _deduce(axis: dict[str, int], letter: str, end: int | None, text: str) -> dict[str, int]:
    """Fill in an axis's output, pad and end pad; check a written output against written pads."""
    size, out, kernel, stride, pad, dilation = axis.values()
    for name, value in (("i", size), ("k", kernel), ("s", stride)):
        if not value:
            raise ShapeError(f"descriptor {text!r} lacks {name}{letter}, or gives it as 0")
    extent = _extent(kernel, dilation)
    if pad < 0:
        pad = max((out - 1) * stride - size + extent, 0) // 2 if out else 0
    if end is None:
        end = _end_pad(size, out, extent, stride, pad) if out else pad
    elif out and (size + pad + end - extent) // stride + 1 != out:
        raise ShapeError(f"descriptor {text!r}: o{letter}{out} does not follow from its input, kernel, stride and pads")
    return {"i": size, "k": kernel, "s": stride, "p": pad, "d": dilation, "end": end}
