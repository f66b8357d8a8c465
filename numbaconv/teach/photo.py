"""Photographs as arrays: the one that ships with the package, and any file that Pillow reads."""

from __future__ import annotations

import warnings
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numbaconv.errors import NumbaconvError

__all__ = ["MissingLibrary", "UnreadablePhotograph", "grey", "photograph", "photograph_path", "read_photograph"]

LUMA = np.array([0.299, 0.587, 0.114])
"""How bright red, green and blue look (ITU-R BT.601)."""


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


class UnreadablePhotograph(NumbaconvError, ValueError):
    """A file from which Pillow gets no picture.

    Parameters
    ----------
    path : path
    reason : str
    """

    def __init__(self, path: str | PathLike[str], reason: str):
        super().__init__(f"cannot read {path}: {reason}")


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
    with _pillow().open(photograph_path()) as image:
        return np.array(image.convert("RGB"))


def read_photograph(path: str | PathLike[str], longest: int | None = None) -> NDArray[np.float32]:
    """A picture of any kind as red, green and blue.

    It is turned as its EXIF data say; of several frames it is the first. What is transparent lies on white. Grey levels
    of 16 bits keep them; those of 32 bits, whose white no file tells, are stretched from black to white.

    Parameters
    ----------
    path : path
    longest : int, optional
        A larger picture is scaled until its longer side has so many pixels.

    Returns
    -------
    ndarray of float32
        (rows, columns, 3), from 0 to 1.

    Raises
    ------
    UnreadablePhotograph, MissingLibrary
    """
    image_module = _pillow()
    try:
        with warnings.catch_warnings(action="ignore"), image_module.open(path) as image:  # it is read or it is not
            if longest is not None and image.format == "JPEG":
                image.draft(None, (2 * longest, 2 * longest))  # decodes fewer pixels where there are many
            return _shrunk(_planes(image), longest)
    except MemoryError:
        raise
    except image_module.UnidentifiedImageError:
        raise UnreadablePhotograph(path, "it is not a picture that Pillow knows") from None
    except OSError as error:
        raise UnreadablePhotograph(path, error.strerror or str(error)) from error
    except Exception as error:  # a damaged file makes decoders raise whatever they stumble over
        raise UnreadablePhotograph(path, str(error) or type(error).__name__) from error


def grey(colours: NDArray[np.float32]) -> NDArray[np.float32]:
    """How bright the pixels of (rows, columns, 3) are: (rows, columns)."""
    return (colours @ LUMA).astype(np.float32)  # summed in float64: what is grey stays what it is


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError:
        raise MissingLibrary("Pillow", "reading a photograph") from None
    return Image


def _planes(image: Any) -> list[Any]:
    """One picture of grey levels, or three of colours, in Pillow's mode "F", from 0 to 1."""
    from PIL import Image, ImageOps

    turned = ImageOps.exif_transpose(image)
    if turned.mode.startswith("I;16"):
        levels = (np.asarray(turned) / 65535).astype(np.float32)
    elif turned.mode in ("I", "F"):
        levels = _stretched(np.asarray(turned, np.float64))
    else:
        rgb = np.asarray(_on_white(turned), np.float32) / 255
        return [Image.fromarray(np.ascontiguousarray(rgb[..., plane])) for plane in range(3)]
    return [Image.fromarray(levels)]


def _stretched(levels: NDArray[np.float64]) -> NDArray[np.float32]:
    low, high = levels.min(), levels.max()
    if not np.isfinite(high - low):
        raise ValueError("it has pixels that are not finite")
    return ((levels - low) / ((high - low) or 1.0)).astype(np.float32)


def _on_white(image: Any) -> Any:
    """The picture in mode "RGB", on white paper where it is transparent."""
    from PIL import Image

    if "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _shrunk(planes: list[Any], longest: int | None) -> NDArray[np.float32]:
    from PIL import Image

    width, height = planes[0].size
    if longest is not None and max(width, height) > longest:
        scale = longest / max(width, height)
        size = (max(round(width * scale), 1), max(round(height * scale), 1))
        planes = [plane.resize(size, Image.Resampling.LANCZOS) for plane in planes]
    pixels = np.stack([np.asarray(plane) for plane in planes], axis=-1)
    return np.ascontiguousarray(np.broadcast_to(np.clip(pixels, 0, 1), (*pixels.shape[:2], 3)))
