"""The kernels' transforms, made once: exact to float64, conjugated, scaled, and packed for the products.

    U of a group    [chunk of output channels][frequency][panel][input channel][real, imaginary][vectors of the panel]

What networks call a convolution is a correlation, hence the conjugates. Taps are where their dilation puts them on the
circle; the sums over them are two products with matrices of cosines and sines, along rows and along columns.
"""

from __future__ import annotations

import numpy as np

from numbaconv.lowerings._fft_codelets import turn
from numbaconv.lowerings._fft_division import Shape, Tiles
from numbaconv.workspace import aligned


def _waves(length: int, taps: int, dilation: int) -> np.ndarray:
    """exp(+2·pi·i·frequency·tap·dilation/length), frequencies by taps."""
    circle = np.array([complex(*turn(-number, length)) for number in range(length)])
    return circle[np.outer(np.arange(length), dilation * np.arange(taps)) % length]


def transformed_weights(problem, tiles: Tiles, shape: Shape, w: np.ndarray) -> np.ndarray:
    """The weights' spectra, packed: (groups, elements)."""
    p, lanes = problem, shape.lanes
    down, across = _waves(tiles.n_h, p.kh, p.dh), _waves(tiles.n_w, p.kw, p.dw)[: tiles.n_w // 2 + 1]
    down *= 0.5 / (tiles.n_h * tiles.n_w)
    a_vector = 2 * tiles.products * p.icg * lanes
    packed = aligned(p.g * shape.vectors * a_vector * p.itemsize).view(p.dtype).reshape(p.g, -1)
    for group, place in zip(np.asarray(w).reshape(p.g, p.ocg, p.icg, p.kh, p.kw), packed):
        for first in range(0, shape.vectors, shape.chunk):
            end = min(first + shape.chunk, shape.vectors)
            chunk = place[first * a_vector : end * a_vector].reshape(tiles.products, -1)
            for panel in range(first, end, shape.panel):
                wide = min(shape.panel, end - panel) * lanes
                begin = 2 * (panel - first) * p.icg * lanes
                there = chunk[:, begin : begin + 2 * p.icg * wide].reshape(tiles.products, p.icg, 2, wide)
                channels = group[panel * lanes : panel * lanes + wide]
                taps = np.zeros((p.kh, p.kw, p.icg, wide))
                taps[..., : len(channels)] = channels.transpose(2, 3, 1, 0)
                rows = np.matmul(across, taps.reshape(p.kh, p.kw, -1))
                frequency = 0
                for j, count in tiles.columns():
                    spectra = np.matmul(down[:count], rows[:, j]).reshape(count, p.icg, wide)
                    target = there[frequency : frequency + count]
                    target[:, :, 0], target[:, :, 1] = spectra.real, spectra.imag
                    frequency += count
    return packed
