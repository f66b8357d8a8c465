"""Source code as a page shows it: coloured by words, with the lines that are new marked."""

from __future__ import annotations

import builtins
import difflib
import io
import keyword
import tokenize
from collections.abc import Iterator
from typing import Any

__all__ = ["coloured", "compared"]

Span = tuple[str, str]
"""A kind of word, "" for none, and its text."""

STRINGS = {tokenize.STRING} | {
    getattr(tokenize, name) for name in ("FSTRING_START", "FSTRING_MIDDLE", "FSTRING_END") if hasattr(tokenize, name)
}
BUILTINS = frozenset(vars(builtins)) | {"prange"}


def coloured(source: str) -> list[list[Span]]:
    """The lines of `source`, each as spans; their texts joined are the line again."""
    lines = source.splitlines()
    found: list[list[Span]] = [[] for _ in lines]
    ends = [0] * len(lines)

    def put(row: int, first: int, last: int, kind: str) -> None:
        plain = lines[row][ends[row] : first]
        found[row] += [("", plain)] * bool(plain) + [(kind, lines[row][first:last])] * (last > first)
        ends[row] = last

    for kind, (top, left), (bottom, right) in _words(source):
        for row in range(top - 1, bottom):
            put(row, left if row == top - 1 else 0, right if row == bottom - 1 else len(lines[row]), kind)
    for row, line in enumerate(lines):
        put(row, len(line), len(line), "")
    return found


def _words(source: str) -> Iterator[tuple[str, tuple[int, int], tuple[int, int]]]:
    """Kind, start and end of every word that has a colour."""
    before = ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if kind := _kind(token, before):
            yield kind, token.start, token.end
        before = token.string


def _kind(token: tokenize.TokenInfo, before: str) -> str:
    if token.type == tokenize.COMMENT:
        return "comment"
    if token.type in STRINGS:
        return "string"
    if token.type == tokenize.NUMBER:
        return "number"
    if token.type != tokenize.NAME:
        return ""
    if keyword.iskeyword(token.string):
        return "keyword"
    if before in ("def", "class", "@"):
        return "name"
    return "builtin" if token.string in BUILTINS and before != "." else ""


def compared(source: str, before: str | None) -> list[dict[str, Any]]:
    """The lines of `source`, and between them those of `before` that went.

    Parameters
    ----------
    source, before : str
        None where nothing came before: no line is new then.

    Returns
    -------
    list of dict
        "kind": "same", "new" or "gone"; "spans". A line that was only moved in or out is the same, and an empty one is
        never new.
    """
    lines = coloured(source)
    if before is None:
        return [_line("same", spans) for spans in lines]
    old = coloured(before)
    texts, old_texts = (["".join(text for _, text in spans).strip() for spans in side] for side in (lines, old))
    found = []
    matcher = difflib.SequenceMatcher(None, old_texts, texts, autojunk=False)
    for _, first, last, top, bottom in matcher.get_opcodes():
        if old_texts[first:last] == texts[top:bottom]:
            found += [_line("same", spans) for spans in lines[top:bottom]]
            continue
        found += [_line("gone", spans) for spans in old[first:last] if spans]
        found += [_line("new" if spans else "same", spans) for spans in lines[top:bottom]]
    return found


def _line(kind: str, spans: list[Span]) -> dict[str, Any]:
    return {"kind": kind, "spans": spans}
