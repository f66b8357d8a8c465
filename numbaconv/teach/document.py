"""The page as text: template, styles, scripts, the charting library, the photograph and the data in one file.

``static/page.html`` says where each goes, in marks such as ``{{styles}}``. Scripts are ES modules in the order of
``SCRIPTS``: `base.js` makes the object ``teach`` that the others speak through.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numbaconv.teach.listing import compared
from numbaconv.teach.photo import photograph, photograph_path

__all__ = ["SCRIPTS", "build"]

STATIC = Path(__file__).parent / "static"
LIBRARIES = ("d3", "plot")
SCRIPTS = (
    "base", "charts", "listing", "player", "memory-order", "ladder", "access", "cliff", "sweep", "roofline", "device",
    "patches", "lowering", "convolution", "about",
)  # fmt: skip
"""Files of ``static/``, in the order in which they run."""

PIXELS_WIDE = 12
"""Of the photograph made so small that its pixels can be counted."""


def build(document: Mapping[str, Any]) -> str:
    """The page that shows `document`, as ``page.gather`` makes it."""
    parts = {
        "styles": _static("page.css"),
        "libraries": "\n".join(map(_library, LIBRARIES)),
        "data": _embedded({**document, "sections": _with_listings(document["sections"]), "photograph": _pictures()}),
        "scripts": "\n".join(_script(_static(f"{name}.js"), ' type="module"') for name in SCRIPTS),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], _static("page.html"))


def _static(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


def _library(name: str) -> str:
    licence = _static(f"vendor/LICENSE-{name}.txt").strip()
    return _script(f"/*!\n{licence}\n*/\n{_static(f'vendor/{name}.min.js')}")


def _script(code: str, attributes: str = "") -> str:
    """A script element; what would end it or hide its end does not occur in ours, and must not in a library."""
    if found := re.search(r"</script|<!--", code, re.IGNORECASE):
        raise ValueError(f"a script contains {found[0]!r}, which a page cannot hold")
    return f"<script{attributes}>\n{code.strip()}\n</script>"


def _embedded(data: object) -> str:
    """JSON that no HTML parser takes for the end of its element, whatever the texts in it say."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _with_listings(sections: Mapping[str, Any]) -> dict[str, Any]:
    """The sections, with every step's code as lines, those marked that the step before did not have."""
    found = dict(sections)
    for name, steps in (("ladder", "steps"), ("device", "steps"), ("convolution", "ladder")):
        section = found.get(name) or {}
        if steps in section:
            rows = section[steps]
            before = [None, *(step["source"] for step in rows)]
            found[name] = {**section, steps: [
                {**step, "listing": compared(step["source"], old if step["number"] > 1 else None)}
                for step, old in zip(rows, before, strict=False)
            ]}  # fmt: skip
    return found


def _pictures() -> dict[str, Any]:
    """The photograph: its file as a data URI, and rows of pixels of a very small one."""
    file = base64.b64encode(photograph_path().read_bytes()).decode("ascii")
    image = photograph()
    height, width, _ = image.shape
    return {
        "uri": f"data:image/jpeg;base64,{file}", "width": width, "height": height, "pixels": _coarse(image).tolist()
    }  # fmt: skip


def _coarse(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image in few square pixels, each the mean of those it stands for."""
    side = image.shape[1] // PIXELS_WIDE
    height = image.shape[0] // side
    blocks = image[: height * side, : PIXELS_WIDE * side].reshape(height, side, PIXELS_WIDE, side, 3)
    return blocks.mean(axis=(1, 3)).round().astype(np.uint8)
