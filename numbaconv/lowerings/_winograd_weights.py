"""Weights of a Winograd convolution, transformed once: G w G^T, a vector of output channels at a time.

    w [oc][ic][taps]  ──►  U [group][chunk of output channels][product][panel][ic][vectors of the panel]

Computed in float64 and rounded once: an error made here would be made in every product.
"""

from __future__ import annotations

import functools

import numpy as np

from numbaconv.devices.threads import parallel
from numbaconv.jit import Native, native
from numbaconv.lowerings._winograd_division import Filters, Shape
from numbaconv.lowerings._winograd_points import minimal_filter
from numbaconv.simd import array_at, record_at, stack
from numbaconv.workspace import address_of, aligned

FIELDS = ("w", "u", "down", "along", "inner", "channels", "kh", "kw", "n_h", "n_w", "vectors", "chunk", "panel")
WEIGHTS = np.dtype([(name, np.int64) for name in FIELDS])
"""Addresses of weights, transformed weights, and of G down a column and along a row, in float64; a group's channels."""
MOST_TAPS, MOST_HALVES = 5 * 5, 8 * 7
"""Of a kernel; of a kernel transformed down its columns."""


@functools.cache
def _task(itemsize: int, lanes: int) -> Native:
    """A task: a group and a vector of its output channels."""
    a_vector, taps_bytes, halves_bytes = 8 * lanes, MOST_TAPS * 8 * lanes, MOST_HALVES * 8 * lanes

    @native
    def task(number, worker, address):
        t = record_at(address, WEIGHTS)
        group, vector = number // t.vectors, number % t.vectors
        first = vector // t.chunk * t.chunk
        of_chunk = min(t.chunk, t.vectors - first)
        panel = (vector - first) // t.panel * t.panel
        width = min(t.panel, of_chunk - panel) * lanes
        begin = (group * t.vectors + first) * t.n_h * t.n_w + panel
        step = of_chunk * t.inner * lanes
        products, kernel = t.n_h * t.n_w, t.kh * t.kw
        u = array_at(itemsize, t.u, (group + 1) * t.vectors * products * t.inner * lanes)
        down, along = array_at(8, t.down, t.n_h * t.kh), array_at(8, t.along, t.n_w * t.kw)
        taps = array_at(8, stack(taps_bytes), kernel * lanes)
        halves = array_at(8, stack(halves_bytes), t.n_h * t.kw * lanes)
        sums = array_at(8, stack(a_vector), lanes)
        taps[:] = 0
        count = min(lanes, t.channels - vector * lanes)
        lane_step = t.inner * kernel
        w = array_at(itemsize, t.w + (group * t.channels + vector * lanes) * lane_step * itemsize, count * lane_step)
        for c in range(t.inner):
            for lane in range(count):
                for k in range(kernel):
                    taps[k * lanes + lane] = w[lane * lane_step + c * kernel + k]
            for i in range(t.n_h):
                for s in range(t.kw):
                    half = (i * t.kw + s) * lanes
                    for lane in range(lanes):
                        halves[half + lane] = 0
                    for r in range(t.kh):
                        factor, tap = down[i * t.kh + r], (r * t.kw + s) * lanes
                        for lane in range(lanes):
                            halves[half + lane] += factor * taps[tap + lane]
            place = begin * t.inner * lanes + c * width + (vector - first - panel) * lanes
            for i in range(t.n_h):
                for j in range(t.n_w):
                    for lane in range(lanes):
                        sums[lane] = 0
                    for s in range(t.kw):
                        factor, half = along[j * t.kw + s], (i * t.kw + s) * lanes
                        for lane in range(lanes):
                            sums[lane] += factor * halves[half + lane]
                    for lane in range(lanes):
                        u[place + lane] = sums[lane]
                    place += step

    return task


def transformed_weights(problem, filters: Filters, w: np.ndarray, threads: int) -> np.ndarray:
    """G w G^T, packed: (groups, elements of a group)."""
    p, shape = problem, Shape.of(problem)
    w = np.ascontiguousarray(w)
    size = shape.vectors * shape.lanes * p.icg * filters.products
    u = aligned(p.g * size * p.itemsize).view(p.dtype).reshape(p.g, size)
    down, along = (np.array(minimal_filter(m, r).g, np.float64) for m, r in (filters[:2], filters[2:]))
    record = np.zeros(1, WEIGHTS)
    values = {"w": address_of(w), "u": address_of(u), "down": address_of(down), "along": address_of(along),
              "inner": p.icg, "channels": p.ocg, "kh": p.kh, "kw": p.kw, "n_h": filters.n_h, "n_w": filters.n_w,
              "vectors": shape.vectors, "chunk": shape.chunk, "panel": shape.panel}  # fmt: skip
    for name, value in values.items():
        record[name] = value
    parallel(_task(p.itemsize, shape.lanes), p.g * shape.vectors, address_of(record), threads)
    return u
