"""Convolution by Fourier transforms on a GPU: cuFFT's, through CuPy, around products and kernels of our own.

    x  ──cut──►  tiles [channel][tile][n_h][n_w]  ──cuFFT──►  spectra  ──copy──►  V [group][frequency][2·ic/g][tile]
    w  ──────────────────────────────────────────cuFFT, once─────────────────►  U [group][frequency][2·ic/g][2·oc/g]
    out  ◄──joined──  tiles  ◄──cuFFT──  spectra  ◄──copy──  M [group][frequency][2·oc/g][tile]  =  U^T · V

A complex product is a real one of twice the sides, so it is our own, in one launch for many frequencies, at any
precision: of U the row of a real part is (re, im) of each conjugated weight, that of an imaginary part (-im, re). Of
`fft` the image is the tile; `fft-tiled` has the CPU's tiles. What cuFFT does on a call's stream cannot be recorded.

Memory: tiles (or the products' spectra, in the same place), V and M. CuPy takes the rest from its own pool and it is
counted nowhere: the spectra of the tiles, then the tiles of the outputs, and cuFFT's work space.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from numbaconv.accounts import GemmCall
from numbaconv.devices.array import DeviceArray, as_device_array
from numbaconv.devices.copying import MOST_DOWN, copy4, copy4_launch
from numbaconv.devices.cuda import runtime
from numbaconv.errors import DeviceUnavailable
from numbaconv.geometry import window_of
from numbaconv.lift import LIMITS
from numbaconv.lowering import Support
from numbaconv.lowering_cuda import MOST_ELEMENTS, CudaForm, copy_array
from numbaconv.lowerings._cuda_direct import NO_IMAGE, image_of
from numbaconv.lowerings._cuda_fft_kernels import Cut, cutting_grid, cutting_kernel, joining_grid, joining_kernel
from numbaconv.lowerings._cuda_matrices import (
    channels_times_pixels,
    matrix_operand,
    round_to,
    vector_of,
    weights_operand,
)
from numbaconv.lowerings._fft_division import Tiles, next_length, reach_of, read_of

MISSING = ("it transforms with cuFFT through CuPy, which is not installed here: pip install cupy-cuda13x "
           "(or cupy-cuda12x)")  # fmt: skip
EMULATED = "it transforms with cuFFT, which does not run on an emulated device"
COMPLEX = {4: np.dtype("complex64"), 8: np.dtype("complex128")}


def reached(device: str) -> bool:
    """Whether CuPy sees a device's memory."""
    return not runtime(device).emulated


class Sizes(NamedTuple):
    """Tiles of all images and frequencies of one; elements from row to row of V and M, and of U; and those of the three
    arrays that ``CudaFFT.run`` takes."""

    tiles: int
    frequencies: int
    pitch: int
    columns: int
    room: int
    v: int
    m: int


class CudaFFT(CudaForm):
    """Cut, transform and copy; multiply; copy, transform back and join."""

    def supports(self, problem, request):
        answer = self.lowering.supports(problem, request)
        if answer and (reason := self.lacking(request)):
            return Support(reason)
        sizes = self._sizes(problem)
        if answer and problem.g * sizes.frequencies * 2 * problem.icg * sizes.columns >= MOST_ELEMENTS:
            return Support("its transformed weights have more elements than 32 bits count, which GPU kernels do")
        return answer

    def lacking(self, request):
        if importlib.util.find_spec("cupy") is None:
            return MISSING
        return "" if reached(request.device) else EMULATED

    def lowering_bytes(self, problem, request):
        sizes = self._sizes(problem)
        return (sizes.room + sizes.v + sizes.m) * problem.itemsize

    def rearranged_bytes(self, problem, request):
        """With CuPy's arrays: spectra before the products and tiles after them, about as large as V and M."""
        return 2 * (self.lowering_bytes(problem, request) + sum(self._sizes(problem)[-2:]) * problem.itemsize)

    def gemm_calls(self, problem, request):
        p, sizes = problem, self._sizes(problem)
        products = p.g * sizes.frequencies
        return [GemmCall(2 * p.ocg, sizes.tiles, 2 * p.icg, batch=min(MOST_DOWN, products - first))
                for first in range(0, products, MOST_DOWN)]  # fmt: skip

    def prepare_weights(self, ctx, w):
        p, tiles, sizes = ctx.problem, self.tiles(ctx.problem), self._sizes(ctx.problem)
        kept = ctx.keep((p.g * sizes.frequencies, 2 * p.icg, sizes.columns))
        circle, reach = ctx.keep((p.oc, p.icg, tiles.n_h, tiles.n_w)), reach_of(p)
        copy_array(ctx.device, w, circle[:, :, : reach[0] : p.dh, : reach[1] : p.dw], ctx.stream)
        with _cupy(ctx) as cupy:
            conjugate = cupy.fft.rfft2(cupy.from_dlpack(circle), norm="forward").conj()
            rows = [_ours(ctx, cupy, spectra) for spectra in (conjugate, 1j * conjugate)]
        matrices = kept.reshape(p.g, sizes.frequencies, p.icg, 2, sizes.columns)
        for group, (part, row) in itertools.product(range(p.g), enumerate(rows)):
            source = row[group * p.ocg : (group + 1) * p.ocg].reshape(p.ocg, p.icg, sizes.frequencies, 2)
            target = matrices[group, :, :, part, : 2 * p.ocg].reshape(sizes.frequencies, p.icg, p.ocg, 2)
            copy_array(ctx.device, source, target.transpose(2, 1, 0, 3), ctx.stream)
        return kept

    def run(self, ctx, x, prepared, out):
        p, sizes, tiles = ctx.problem, self._sizes(ctx.problem), self.tiles(ctx.problem)
        room, v, m = (ctx.take(name, (getattr(sizes, name),)) for name in ("room", "v", "m"))
        read = dict(zip(("ih", "iw"), read_of(p), strict=True))
        cut = self._cut(p, p.ic)
        pieces = room[: p.ic * sizes.tiles * tiles.n_h * tiles.n_w].reshape(p.ic, sizes.tiles, tiles.n_h, tiles.n_w)
        ctx.launch("lower", cutting_kernel(x.itemsize), cutting_grid(cut), x, pieces, window_of(p, x, **read), cut)
        with ctx.outside("lower"), _cupy(ctx) as cupy:
            spectra = _ours(ctx, cupy, cupy.fft.rfft2(cupy.from_dlpack(pieces)))
        for source, target in self._by_groups(p, spectra, v, p.icg):
            _copy(ctx, "lower", source, target)

        first, lines = 0, [side.reshape(p.g * sizes.frequencies, -1) for side in (v, m)]
        for call in self.gemm_calls(p, ctx.request):
            source = matrix_operand(lines[0][first:], sizes.pitch, 1, 2 * p.icg * sizes.pitch)
            channels_times_pixels(ctx, call, weights_operand(prepared[first:]), source, lines[1][first:], sizes.pitch,
                                  1, 2 * p.ocg * sizes.pitch, rows=True)  # fmt: skip
            first += call.batch

        spectra = room[: 2 * p.oc * sizes.tiles * sizes.frequencies]
        spectra = spectra.reshape(p.oc, sizes.tiles, tiles.n_h, 2 * (tiles.n_w // 2 + 1))
        for target, source in self._by_groups(p, spectra, m, p.ocg):
            _copy(ctx, "lift", source, target)
        with ctx.outside("lift"), _cupy(ctx) as cupy:
            there = cupy.from_dlpack(spectra).view(COMPLEX[x.itemsize])
            pieces = _ours(ctx, cupy, cupy.fft.irfft2(there, s=(tiles.n_h, tiles.n_w), norm="forward"))
        residual, o = ctx.residual, image_of(out)
        cut = self._cut(p, p.oc, int(ctx.bias is not None), int(residual is not None))
        ctx.launch("lift", joining_kernel(x.itemsize), joining_grid(cut, o), pieces, out, ctx.bias, residual, cut, o,
                   NO_IMAGE if residual is None else image_of(residual),
                   *LIMITS[ctx.request.epilogue.activation])  # fmt: skip

    def tiles(self, problem) -> Tiles:
        """The CPU's, if need be larger: all taps of a kernel have places of their own on the circle."""
        tiles, (rows, columns) = self.lowering.tiles(problem), reach_of(problem)
        sides = {"n_h": next_length(max(tiles.n_h, rows)), "n_w": next_length(max(tiles.n_w, columns))}
        return tiles._replace(**sides)

    def _sizes(self, problem) -> Sizes:
        p, tiles = problem, self.tiles(problem)
        rows, columns = tiles.counts(p)
        count, frequencies = p.mb * rows * columns, tiles.n_h * (tiles.n_w // 2 + 1)
        pitch, outputs = (round_to(size, vector_of(p.itemsize)) for size in (count, 2 * p.ocg))
        room = count * max(p.ic * tiles.n_h * tiles.n_w, 2 * p.oc * frequencies)
        return Sizes(count, frequencies, pitch, outputs, room, 2 * p.ic * frequencies * pitch,
                     2 * p.oc * frequencies * pitch)  # fmt: skip

    def _cut(self, problem, channels: int, *with_store: int) -> Cut:
        p, tiles = problem, self.tiles(problem)
        rows, columns = tiles.counts(p)
        return Cut(p.mb * rows * columns, rows, columns, channels, tiles.n_h, tiles.n_w, tiles.m_h, tiles.m_w, p.sh,
                   p.sw, *with_store)  # fmt: skip

    def _by_groups(self, problem, spectra, matrices, channels: int) -> Iterator[tuple[DeviceArray, DeviceArray]]:
        """A group's channels in spectra as cuFFT has them and in V or M, both (channel, tile, frequency, part)."""
        p, sizes = problem, self._sizes(problem)
        spectra = spectra.reshape(p.g, channels, sizes.tiles, sizes.frequencies, 2)
        matrices = matrices.reshape(p.g, sizes.frequencies, channels, 2, sizes.pitch)[..., : sizes.tiles]
        return ((spectra[group], matrices[group].transpose(1, 3, 0, 2)) for group in range(p.g))


@contextlib.contextmanager
def _cupy(ctx) -> Iterator[Any]:
    """CuPy, working on a context's device and stream."""
    try:
        cupy: Any = importlib.import_module("cupy")
    except ImportError as error:
        raise DeviceUnavailable(f"CuPy is installed and cannot be imported: {error}") from error
    handle, number = ctx.device.stream(ctx.stream), ctx.device.index
    stream = cupy.cuda.ExternalStream(handle, number) if handle else cupy.cuda.Stream.null
    with cupy.cuda.Device(number), stream:
        yield cupy


def _ours(ctx, cupy, array) -> DeviceArray:
    """An array of CuPy's as one of ours, complex numbers as two real ones side by side."""
    array = cupy.ascontiguousarray(array).view(ctx.problem.dtype)
    shared = as_device_array(array, ctx.device, ctx.stream)
    assert shared is not None
    return shared


def _copy(ctx, stage: str, source, target) -> None:
    """Queue a copy as a piece of a stage."""
    steps = [[step // array.itemsize for step in array.strides] for array in (source, target)]
    grid, records = copy4_launch(source.shape, *steps)
    if grid is not None:
        ctx.launch(stage, copy4(source.itemsize), grid, source, target, *records)
