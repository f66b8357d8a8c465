"""The photograph that ships with the package, for pages and commands that are given none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from numbaconv.errors import NumbaconvError

__all__ = ["MissingLibrary", "photograph", "photograph_path"]


class MissingLibrary(NumbaconvError, ImportError):
    """A library of the extra ``teach`` is not installed.

    Parameters
    ----------
    library : str
    purpose : str
        What needs it.
    """

    def __init__(self, library: str, purpose: str):
        self.library = library
        super().__init__(f"{purpose} needs {library}; pip install 'numbaconv[teach]'")


def photograph_path() -> Path:
    """The file: a JPEG of 240 x 160 pixels. ``static/LICENSES.md`` says whose it is."""
    return Path(__file__).parent / "static" / "photograph.jpg"


def photograph() -> NDArray[np.uint8]:
    """A small photograph of a cat: stripes in all directions, whiskers, smooth surfaces.

    Returns
    -------
    ndarray of uint8
        (160, 240, 3): rows, columns, and red, green, blue.

    Raises
    ------
    MissingLibrary
        Without Pillow.
    """
    try:
        from PIL import Image
    except ImportError:
        raise MissingLibrary("Pillow", "reading a photograph") from None
    with Image.open(photograph_path()) as image:
        return np.array(image.convert("RGB"))
