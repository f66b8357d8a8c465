"""Convolution by fast Fourier transforms: a product for each frequency instead of one for each tap.

A tile of the input and the kernels are transformed; between the two transforms every frequency is a complex product of
matrices of its own, over the channels. A tile of n x n gives (n - r + 1)^2 outputs of an r x r kernel: the rest, where
the circle closes, is thrown away (overlap-save). So the larger the kernel, the more it saves: the cost hardly grows.

    x   ▒▒▒▒ tile n x n  ──transform──►  V [n·n/2][tiles][ic]       `fft-tiled`: a block of tiles at a time, in L2
                                          │ · U [n·n/2][ic][oc]     `fft`: the image is the tile, in three passes
    out   ▓▓ tile m x m  ◄──inverse────  M [n·n/2][tiles][oc]

Strides kill it: what it computes at stride 1 is thrown away but for every s-th row and column.

Paper: Mathieu, Henaff, LeCun, "Fast Training of Convolutional Networks through FFTs", arXiv 1312.5851 (2013); tiles:
Zlateski, Jia, Li, Durand, "FFT Convolutions are Faster than Winograd on Modern CPUs, Here's Why", arXiv 1809.07851.
Memory: spectra of the images, 4·n·n·(ic + oc) bytes each in float32, or of a block of tiles; work space for a tile.
Cost: 2·n·n·ic/g·oc multiply-adds a tile, and the transforms. Infinities and NaNs spread over their tile.
"""

from __future__ import annotations

import functools
from typing import ClassVar

import numpy as np

from numbaconv.lowering import LIMITS, YES, Lowering, Support, recorded
from numbaconv.lowerings._cuda_fft import CudaFFT
from numbaconv.lowerings._fft_cost import chosen_tiles, cycles, weight_bytes
from numbaconv.lowerings._fft_division import (
    Blocks,
    Shape,
    Tiles,
    outputs_of,
    read_of,
    spectra_of,
    whole_image,
    work_of,
)
from numbaconv.lowerings._fft_products import products_kernel
from numbaconv.lowerings._fft_task import FFT, SIZES, kernels_of, lift_task, lower_task, multiply_task, tiled_task
from numbaconv.lowerings._fft_tiles import transform_table
from numbaconv.lowerings._fft_weights import transformed_weights
from numbaconv.lowerings._winograd_strips import putting_kernel, taking_kernel, way_of
from numbaconv.machine import detect

MOST_WEIGHTS = 1 << 34
"""Bytes of transformed weights."""
PIECES_A_THREAD = 4


class Fourier(Lowering, abstract=True):
    """What both have in common; they name the tile, and what runs."""

    family = "fft"
    devices, cuda = ("cpu", "cuda"), CudaFFT
    chunked: ClassVar[bool]

    def tiles(self, problem) -> Tiles:
        """The tile of a problem."""
        raise NotImplementedError

    def shape(self, problem) -> Shape:
        """Its vectors of output channels."""
        return Shape.of(problem, self.chunked)

    def supports(self, problem, request):
        for stride, taps, dilation in ((problem.sh, problem.kh, problem.dh), (problem.sw, problem.kw, problem.dw)):
            if len({tap * dilation % stride for tap in range(taps)}) < stride:
                return Support(f"stride {stride} leaves out pixels that its transforms would mix with the others")
        size = weight_bytes(problem, self.tiles(problem), self.shape(problem))
        return YES if size <= MOST_WEIGHTS else Support(f"its transformed weights would take {size >> 30} GiB")

    def share_of_peak(self, problem):
        taken = cycles(problem, self.tiles(problem), self.chunked) * detect().lanes(problem.dtype)
        return self.multiply_adds(problem) / taken if taken else 1.0

    def error_bound(self, problem, request):
        """Measured: the transforms' error hardly grows, the direct method's does, with the terms of its sums."""
        return 14 / problem.K**0.5 + 1.6 / (problem.kh * problem.kw) ** 0.5

    def multiply_adds(self, problem) -> int:
        """Of the complex products, four each; those of outputs that strides throw away are among them."""
        tiles = self.tiles(problem)
        rows, columns = tiles.counts(problem)
        return 4 * problem.mb * rows * columns * tiles.products * problem.icg * problem.oc

    def preparing_bytes(self, problem):
        """Complex arithmetic in NumPy, as measured, in units of memory's speed."""
        size = weight_bytes(problem, self.tiles(problem), self.shape(problem))
        return problem.weight_bytes + (12 + problem.kh) * size

    def prepare_weights(self, problem, request, w):
        return transformed_weights(problem, self.tiles(problem), self.shape(problem), w)

    @recorded
    def run(self, ctx, x, prepared, out):
        p, residual = ctx.problem, ctx.residual
        if not out.size:
            return
        apart = residual is not None and way_of(residual.strides, p.itemsize) != way_of(out.strides, p.itemsize)
        last = not apart  # bias, residual and limits go into the last store
        added = residual if last else None
        strides = x.strides, out.strides, (0,) * 4 if added is None else added.strides
        record, constants, no_bias = _setup(self, p, ctx.threads, *strides)
        limits = np.array(LIMITS[ctx.request.epilogue.activation if last else None], p.dtype)
        bias = ctx.bias if last and ctx.bias is not None else no_bias
        self.compute(ctx, record, {"x": x, "out": out, "w": prepared, "bias": bias, "limits": limits,
                                   "residual": added, **constants})  # fmt: skip
        if not last:
            ctx.epilogue(out)

    def blocks(self, problem, threads: int) -> Blocks:
        """How the tiles are cut."""
        raise NotImplementedError

    def scratch_step(self, problem, threads: int) -> int:
        """Bytes of a worker's scratch, where each has its own."""
        return 0

    def compute(self, ctx, record, arrays) -> None:
        """Run the tasks of a record that wants these arrays and its scratch."""
        raise NotImplementedError


@functools.lru_cache(1024)
def _setup(lowering: Fourier, problem, threads: int, x_strides, o_strides, r_strides):
    """(record without addresses, tables that belong into its fields, a bias of zeros)."""
    p, size, shape, tiles = problem, problem.itemsize, lowering.shape(problem), lowering.tiles(problem)
    blocks, lanes = lowering.blocks(p, threads), shape.lanes
    kernels = np.zeros((shape.panel, 2), np.int64)
    for vectors in {shape.panel, shape.vectors % shape.panel or shape.panel}:
        for rows in {blocks.fewest_rows, blocks.most_rows}:
            kernels[vectors - 1, rows - blocks.fewest_rows] = products_kernel(size, lanes, rows, vectors).address
    no_bias = np.zeros(p.oc + lanes, p.dtype)
    general, stages = kernels_of(size, lanes)
    tables = [transform_table(size, lanes, length) for length in (tiles.n_h, tiles.n_w)]
    outputs, counts, read = outputs_of(p), tiles.counts(p), read_of(p)
    values = {
        **general, "fewest_rows": blocks.fewest_rows, "scratch_step": lowering.scratch_step(p, threads),
        "take": taking_kernel(size, lanes, way_of(x_strides, size)).address,
        "put": putting_kernel(size, lanes, way_of(o_strides, size)).address,
        **tiles._asdict(), "outputs_h": outputs[0], "outputs_w": outputs[1], "tiles_h": counts[0], "tiles_w": counts[1],
        "tiles": blocks.tiles, "row_groups": blocks.groups, "groups_a_block": blocks.groups_a_block,
        "blocks": blocks.blocks, "parts": blocks.parts, "groups": p.g, "pieces": pieces_of(tiles, threads),
        "inner": p.icg, "channels": p.ocg, "pairs_in": -(-p.icg // (2 * lanes)), "pairs_out": -(-shape.vectors // 2),
        "vector": lanes * size, "vectors": shape.vectors, "chunk": shape.chunk, "panel": shape.panel,
        "products": tiles.products, "w_group": 2 * tiles.products * p.icg * shape.vectors * lanes * size,
        **spectra_of(p, tiles, shape, blocks.together), **work_of(p, tiles),
        **{name: getattr(p, name) for name in SIZES}, "ih": read[0], "iw": read[1],
    }  # fmt: skip
    for letter, strides in (("x", x_strides), ("o", o_strides), ("r", r_strides)):
        values |= {f"{letter}_{axis}": step for axis, step in zip("nchw", strides)}
    record = np.zeros(1, FFT)
    for name, value in values.items():
        record[name] = value
    constants = {"stages": stages, "kernels": kernels, "table_h": tables[0][0], "table_w": tables[1][0]}
    return record, constants, no_bias


def pieces_of(tiles: Tiles, threads: int) -> int:
    """Into how many tasks the frequencies are cut."""
    return min(tiles.products, 1 if threads == 1 else PIECES_A_THREAD * threads)


class WholeFFT(Fourier):
    """The image is one tile: the fewest multiply-adds for large kernels, and the most memory."""

    name, chunked, bands = "fft", False, False
    paper = "Mathieu, Henaff, LeCun: Fast Training of Convolutional Networks through FFTs, arXiv 1312.5851 (2013)"

    def tiles(self, problem):
        return whole_image(problem)

    def blocks(self, problem, threads):
        return Blocks.whole(problem)

    def _sizes(self, problem, threads: int) -> tuple[int, int, int]:
        """Bytes of V, of M, and of all threads' work space."""
        shape, tiles = self.shape(problem), self.tiles(problem)
        spectra = spectra_of(problem, tiles, shape, self.blocks(problem, threads).together)
        pairs = max(-(-problem.icg // (2 * shape.lanes)), -(-shape.vectors // 2))
        workers = min(threads, problem.mb * problem.g * pairs)
        work = workers * work_of(problem, tiles)["work_step"]
        return problem.g * spectra["v_bytes"], problem.g * spectra["m_bytes"], work

    def lowering_bytes(self, problem, request):
        return sum(self._sizes(problem, request.num_threads)) if problem.mb else 0

    def compute(self, ctx, record, arrays):
        p = ctx.problem
        names = {"v": "spectra of the images", "m": "spectra of the outputs", "work": "work space"}
        for (field, name), size in zip(names.items(), self._sizes(p, ctx.threads), strict=True):
            arrays[field] = ctx.take(name, (size,), np.uint8)
        images = p.mb * p.g
        ctx.lower(lower_task, images * int(record["pairs_in"][0]), record, **arrays)
        ctx.multiply_by(multiply_task, p.g * int(record["pieces"][0]), record, **arrays)
        ctx.lift(lift_task, images * int(record["pairs_out"][0]), record, **arrays)


class TiledFFT(Fourier):
    """Tiles that overlap (overlap-save), of a size chosen by kernel and channels."""

    name, chunked = "fft-tiled", True
    paper = "Zlateski, Jia, Li, Durand: FFT Convolutions are Faster than Winograd on Modern CPUs, arXiv 1809.07851"

    def tiles(self, problem):
        return chosen_tiles(problem)

    def blocks(self, problem, threads):
        return Blocks.of(problem, self.tiles(problem), threads)

    def _scratch(self, problem, threads: int) -> tuple[int, int, int]:
        """Number of tasks, a worker's bytes, and all workers'."""
        blocks, tiles = self.blocks(problem, threads), self.tiles(problem)
        spectra = spectra_of(problem, tiles, self.shape(problem), blocks.together)
        tasks = blocks.blocks * blocks.parts * problem.g
        step = spectra["v_bytes"] + spectra["m_bytes"] + work_of(problem, tiles)["work_step"]
        return tasks, step, min(threads, tasks) * step

    def lowering_bytes(self, problem, request):
        return self._scratch(problem, request.num_threads)[2] if problem.mb else 0

    def rearranged_bytes(self, problem, request):
        """None: V and M stay in a core's cache; the weights' way is in ``share_of_peak``."""
        return 0

    def scratch_step(self, problem, threads):
        return self._scratch(problem, threads)[1]

    def compute(self, ctx, record, arrays):
        tasks, _, size = self._scratch(ctx.problem, ctx.threads)
        ctx.multiply_by(tiled_task, tasks, record, v=ctx.take("blocks of tiles", (size,), np.uint8), **arrays)
