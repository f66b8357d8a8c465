"""Banks of kernels for pictures: edges, stripes, blurs and one's own; and what a picture answers to them.

A convolution here is what it is in every neural network: a correlation. A kernel looks like what it responds to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numbaconv.api import conv2d
from numbaconv.errors import NumbaconvError
from numbaconv.teach.photo import grey

__all__ = ["BANKS", "Bank", "BankError", "bank", "pixels_for", "respond"]

ORIENTATIONS, WAVELENGTHS, PHASES = 8, 6, 2
GABOR_SIZE, BLUR_SIZE = 11, 13
LEAST_SIZE, MOST_SIZE = 5, 255

SOBEL_X = np.outer([1, 2, 1], [-1, 0, 1])
"""Brighter to the right: a difference of the columns, averaged over three rows."""


class BankError(NumbaconvError, ValueError):
    """Kernels that cannot be had, or that are none."""


@dataclass(frozen=True)
class Bank:
    """Kernels that are applied together, as one convolution with so many output channels.

    Parameters
    ----------
    name : str
    kernels : ndarray of float32
        (oc, ic, kh, kw); ic is 1 for grey levels and 3 for red, green and blue.
    labels : sequence of str
        Of each kernel, for people.
    columns : int
        Kernels in a row of their picture.
    strength : bool
        Whether the root of the sum of the responses' squares means something: how steep an edge is.
    """

    name: str
    kernels: NDArray[np.float32]
    labels: Sequence[str]
    columns: int
    strength: bool = False

    @property
    def signed(self) -> bool:
        """Whether a response can be negative where the picture is not."""
        return bool((self.kernels < 0).any())

    def __len__(self) -> int:
        return len(self.kernels)


def bank(name: str, size: int | None = None) -> Bank:
    """A bank by its name, or out of a file.

    Parameters
    ----------
    name : str
        "sobel": two differences, 3x3. "gabor": 96 patches of stripes in 8 orientations, 6 wavelengths and 2 phases.
        "blur": Gaussians and boxes. Or the path of a ``.npy`` file of shape (oc, kh, kw), for grey levels, or
        (oc, ic, kh, kw) with ic 1 or 3.
    size : int, optional
        Rows and columns of "gabor" (11) and "blur" (13).

    Raises
    ------
    BankError
    """
    if name.lower().endswith(".npy"):
        build: Any = lambda: _from_file(Path(name))  # noqa: E731
    elif name in BANKS:
        build = BANKS[name]
    else:
        raise BankError(f"unknown bank {name!r}; known: {', '.join(BANKS)}, or the path of a .npy file")
    if size is None:
        return build()
    if name not in ("gabor", "blur"):
        raise BankError(f"the kernels of {name!r} have the size they have; leave the size away")
    if not LEAST_SIZE <= size <= MOST_SIZE:
        raise BankError(f"the size of {name!r} must be {LEAST_SIZE} to {MOST_SIZE}; got {size}")
    return build(size)


def pixels_for(kernels: NDArray, colours: NDArray[np.float32]) -> NDArray[np.float32]:
    """The picture (rows, columns, 3) as the input (1, ic, rows, columns) that the kernels want."""
    channels = grey(colours)[None] if kernels.shape[1] == 1 else colours.transpose(2, 0, 1)
    return np.ascontiguousarray(channels[None])


def respond(
    image: NDArray,
    kernels: NDArray | Bank | str,
    stride: Any = 1,
    padding: Any = "same",
    algorithm: str = "auto",
    device: str | None = None,
) -> NDArray[np.float32]:
    """The response maps of a picture: one a kernel.

    Parameters
    ----------
    image : array (rows, columns) or (rows, columns, 3)
        uint8 (0 to 255), or float (0 to 1).
    kernels : array (oc, kh, kw) or (oc, ic, kh, kw), Bank or str
        A str is a name for ``bank``.
    stride, padding, algorithm, device
        As in ``numbaconv.conv2d``.

    Returns
    -------
    ndarray of float32
        (oc, oh, ow).

    Raises
    ------
    BankError, ShapeError, UnsupportedProblem
    """
    colours = _colours(image)
    chosen = bank(kernels) if isinstance(kernels, str) else kernels
    weights = chosen.kernels if isinstance(chosen, Bank) else checked(chosen, "kernels")
    x = pixels_for(weights, colours)
    return conv2d(x, weights, stride=stride, padding=padding, algorithm=algorithm, device=device)[0]


def checked(kernels: Any, name: str) -> NDArray[np.float32]:
    """Kernels as (oc, ic, kh, kw) in float32.

    Raises
    ------
    BankError
        For other shapes, for what is no number, and where an element is not finite.
    """
    array = np.asarray(kernels)
    if array.dtype.kind not in "biuf":
        raise BankError(f"{name}: kernels are real numbers; got dtype {array.dtype}")
    if array.ndim not in (3, 4):
        raise BankError(f"{name}: kernels have the shape (oc, kh, kw) or (oc, ic, kh, kw); got {array.shape}")
    if array.ndim == 3:
        array = array[:, None]
    if array.shape[1] not in (1, 3):
        raise BankError(
            f"{name}: kernels take 1 channel (grey levels) or 3 (red, green, blue); got {array.shape[1]} in "
            f"{array.shape}, (oc, ic, kh, kw)"
        )
    if not array.size:
        raise BankError(f"{name}: there is no kernel in the shape {array.shape}")
    with np.errstate(over="ignore"):
        single = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(single).all():
        raise BankError(f"{name}: an element is not a finite number in float32")
    return single


def _colours(image: Any) -> NDArray[np.float32]:
    array = np.asarray(image)
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=-1)
    if array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise BankError(f"image: expected (rows, columns) or (rows, columns, 3); got shape {array.shape}")
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise BankError(f"image: expected uint8 from 0 to 255, or floats from 0 to 1; got dtype {array.dtype}")
    return array.astype(np.float32) / np.float32(255 if array.dtype == np.uint8 else 1)


# --------------------------------------------------------------------------------------------------------- the banks


def _sobel() -> Bank:
    kernels = np.stack([SOBEL_X, SOBEL_X.T])[:, None].astype(np.float32)
    return Bank("sobel", kernels, ("brighter to the right", "brighter below"), columns=2, strength=True)


def _gabor(size: int = GABOR_SIZE) -> Bank:
    """Stripes under a Gaussian, orientation by orientation; in each every wavelength with both phases.

    With u = x cos t + y sin t and v = y cos t - x sin t, pixels from the middle, y downwards::

        envelope = exp(-(u^2 + v^2 / 2) / (2 s^2))          s = 0.4 wavelength
        kernel   = envelope (cos(2 pi u / wavelength + phase) - level)

    `level` makes the elements add up to 0, so that an even surface gets no response; then their magnitudes are scaled
    to add up to 1, so that responses to pixels from 0 to 1 stay within -1/2 and 1/2.
    """
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    kernels, labels = [], []
    for turn in range(ORIENTATIONS):
        angle = np.pi * turn / ORIENTATIONS
        u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        for wavelength in np.geomspace(max(size / 4, 2.5), 0.75 * size, WAVELENGTHS):
            envelope = np.exp(-(u**2 + v**2 / 2) / (2 * (0.4 * wavelength) ** 2))
            for phase, kind in zip((0.0, -np.pi / 2), ("line", "edge"), strict=True):
                waves = np.cos(2 * np.pi * u / wavelength + phase)
                kernel = envelope * (waves - (envelope * waves).sum() / envelope.sum())
                kernels.append(kernel / np.abs(kernel).sum())
                labels.append(f"{np.degrees(angle):g}°, {wavelength:.1f} px, {kind}")
    return Bank("gabor", np.array(kernels, np.float32)[:, None], labels, columns=WAVELENGTHS * PHASES)


def _blur(size: int = BLUR_SIZE) -> Bank:
    """Means: Gaussians with a standard deviation of a twelfth, a sixth and a quarter of the size; then boxes."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    kernels, labels = [], []
    for part in (1 / 12, 1 / 6, 1 / 4):
        kernels.append(np.exp(-(x**2 + y**2) / (2 * (part * size) ** 2)))
        labels.append(f"Gaussian, sigma {part * size:.2g} px")
    for part in (1 / 3, 2 / 3, 1.0):
        half = part * size / 2
        inside = (np.abs(x) < half) & (np.abs(y) < half)
        kernels.append(inside.astype(np.float64))
        labels.append(f"box, {int(inside.any(axis=0).sum())} px")
    scaled = np.array([kernel / kernel.sum() for kernel in kernels], np.float32)
    return Bank("blur", scaled[:, None], labels, columns=3)


def _from_file(path: Path) -> Bank:
    try:
        array = np.load(path, allow_pickle=False)
    except OSError as error:
        raise BankError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, EOFError, MemoryError) as error:
        raise BankError(f"{path} is not an array of numbers as numpy.save writes it: {error}") from error
    if not isinstance(array, np.ndarray):
        raise BankError(f"{path} is an archive; save one array with numpy.save")
    kernels = checked(array, str(path))
    labels = [f"kernel {number}" for number in range(len(kernels))]
    return Bank(path.name, kernels, labels, columns=min(len(kernels), max(12, int(np.sqrt(1.5 * len(kernels))))))


BANKS = {"sobel": _sobel, "gabor": _gabor, "blur": _blur}
"""The banks that have a name."""
