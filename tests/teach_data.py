"""Invented data of the form that ``numbaconv teach`` measures: for tests of the page, and for nothing else."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

from numbaconv import ConvProblem, explain

CPU = ("ijk", "ikj", "blocked", "packed", "register-tile", "vector", "parallel", "production")
SPEEDS = (0.9, 5.2, 6.1, 7.4, 21.0, 96.0, 188.0, 205.0)
LOWERINGS = ("im2col", "implicit-gemm", "kn2row", "kn2row-aa", "mec", "direct", "winograd-f2", "fft")
AXES = {"kernel": [1, 3, 5], "stride": [1, 2], "channels": [16, 64], "size": [14, 28]}

LOOPS = """from numbaconv.jit import compiled


@compiled
def gemm(a, b, out):
    m, k = a.shape
    n = b.shape[1]
    for {0} in range({1}):
        for {2} in range({3}):
            for {4} in range({5}):  # step {6}: </script><!-- & "quotes"
                out[i, j] += a[i, p] * b[p, j]
    return out
"""
ORDERS = (("i", "m", "j", "n", "p", "k"), ("i", "m", "p", "k", "j", "n"))


def source(number: int) -> str:
    text = LOOPS.format(*ORDERS[min(number - 1, 1)], number)
    return text.replace("    return", "    # one more idea\n" * (number - 2) + "    return")


def step(number: int, name: str) -> dict[str, Any]:
    idea = f"Compared with the step before: ``{name}`` is new, because an invented\nidea saves invented bytes.\n\nMore."
    return {"number": number, "name": name, "title": f"The idea {name}", "idea": idea, "source": source(number)}


def ladder() -> dict[str, Any]:
    sizes = [64, 128, 256, 512, 1024]
    assembly = {"text": "vmovups zmm1, [rax]\nvfmadd231ps zmm0, zmm1, zmm2\n", "loads": 1, "stores": 0, "fmas": 1,
                "multiply_adds": 1, "spills": 0, "lanes": 16}  # fmt: skip
    steps = [
        {**step(i, name), "seconds": 2 * 512**3 / speed / 1e9, "gflops": speed, "threads": 1 + (i > 6), "rows": 512,
         "assembly": assembly, "loads_per_fma": 2 / i}
        for i, (name, speed) in enumerate(zip(CPU, SPEEDS, strict=True), start=1)
    ]  # fmt: skip
    curves = [
        {"name": name, "sizes": sizes, "gflops": [speed * (1.3 - 0.1 * i) for i in range(len(sizes))]}
        for name, speed in zip(CPU, SPEEDS, strict=True)
    ]
    return {
        "m": 512,
        "n": 512,
        "k": 512,
        "peak_gflops": 118.0,
        "peak_gflops_all_threads": 236.0,
        "threads": 2,
        "steps": steps,
        "curves": curves,
    }


def events(order: str, m: int, n: int, k: int) -> list[list[int]]:
    """The accesses of three loops, with lines of 4 and caches of 8 and 16 lines, the oldest displaced."""
    found: list[list[int]] = []
    lines: list[tuple[int, int, int]] = []

    def touch(matrix: int, row: int, column: int, write: int) -> None:
        line = (matrix, row, column // 4)
        age = lines.index(line) if line in lines else 16
        found.append([matrix, row, column, write, 0 if age < 8 else 1 if age < 16 else 2])
        if line in lines:
            lines.remove(line)
        lines.insert(0, line)
        del lines[16:]

    sizes = {"i": m, "j": n, "p": k}
    for place in itertools.product(*(range(sizes[index]) for index in order)):
        i, j, p = (place[order.index(index)] for index in "ijp")
        touch(0, i, p, 0)
        touch(1, p, j, 0)
        touch(2, i, j, 0)
        touch(2, i, j, 1)
    return found


def accesses() -> dict[str, Any]:
    m, n, k = 6, 8, 8
    matrices = [{"name": name, "rows": r, "columns": c} for name, r, c in (("a", m, k), ("b", k, n), ("c", m, n))]
    packed = [*matrices, {"name": "a_pack", "rows": 4, "columns": 4}, {"name": "b_pack", "rows": 4, "columns": 8}]
    buffers = [[3, 3, 3, 1, 2], [4, 0, 7, 0, 0]]
    leading = [480, 496, 512, 528, 544]
    levels = [
        {"name": name, "hits": 900 - i, "misses": 100 + i, "bytes": 6400.0 * (3 - i)}
        for i, name in enumerate(("L1", "L2"))
    ]
    return {
        "hierarchy": [{"name": "L1", "size": 32768, "ways": 8, "line": 64}],
        "traffic": [{"step": name, "m": 96, "n": 96, "k": 96, "accesses": 1000, "levels": levels} for name in CPU[:4]],
        "animation": {
            "m": m, "n": n, "k": k, "line_elements": 4, "levels": ["L1", "L2"],
            "steps": [
                {"name": "ijk", "matrices": matrices, "events": events("ijp", m, n, k)},
                {"name": "ikj", "matrices": matrices, "events": events("ipj", m, n, k)},
                {"name": "packed", "matrices": packed, "events": [*events("pij", m, n, k), *buffers]},
            ],
        },
        "cliff": {"steps": [
            {"name": name, "leading": leading, "gflops": [1.0, 0.9, 0.3, 0.9, 1.0],
             "misses_per_mac": [0.1, 0.12, 0.9, 0.12, 0.1]}
            for name in ("ijk", "blocked")
        ]},
    }  # fmt: skip


def sweeps() -> list[dict[str, Any]]:
    def cell(x: int, y: int) -> dict[str, Any]:
        refused = x * y > 96
        return {"x": x, "y": y, "gflops": None if refused else 10.0 + x * y,
                "reason": "more sums than registers" if refused else None}  # fmt: skip

    xs, ys = [1, 2, 4, 8], [4, 8, 16, 32]
    tile = {"name": "tile", "title": "The tile in registers", "x": {"name": "mr", "values": xs},
            "y": {"name": "nr", "values": ys}, "cells": [cell(x, y) for x in xs for y in ys],
            "model": {"x": 2, "y": 32}, "best": {"x": 2, "y": 32}}  # fmt: skip
    return [tile, {**tile, "name": "blocks", "title": "The blocks", "model": None}]


def roofline() -> dict[str, Any]:
    points = [
        {"name": name, "group": "ladder", "intensity": 2.0**i, "gflops": speed, "threads": 1 + (i > 5),
         "l1": 0.1 * 2**i if i < 6 else None}
        for i, (name, speed) in enumerate(zip(CPU, SPEEDS, strict=True))
    ]  # fmt: skip
    lowered = [
        {"name": name, "group": "lowering", "intensity": 20.0 + 9 * i, "gflops": 80.0 + 3 * i, "threads": 1, "l1": None}
        for i, name in enumerate(LOWERINGS)
    ]
    return {
        "size": 192, "problem": "mb1ic64ih56oc64kh3ph1",
        "peaks": [{"name": "one number at a time", "gflops": 7.4, "threads": 1},
                  *({"name": "vectors", "gflops": 118.0 * threads, "threads": threads} for threads in (1, 2))],
        "bandwidths": [{"name": name, "gb_s": speed * threads, "threads": threads}
                       for name, speed in (("L1", 400.0), ("L2", 150.0), ("memory", 20.0)) for threads in (1, 2)],
        "points": points + lowered,
    }  # fmt: skip


def device() -> dict[str, Any]:
    def picture(number: int) -> dict[str, Any]:
        side = 32 if number < 4 else 128
        warp = [[0, lane if number == 1 else 0, load, lane, load] for load in range(2) for lane in range(32)]
        matrices = [{"name": name, "rows": side, "columns": side} for name in "ABC"]
        return {"matrices": matrices, "warp": [*warp, *([2, 0, lane, lane, 2] for lane in range(32))]}

    names = ("naive", "coalesced", "shared", "register-tile", "async", "production")
    steps = [
        {**step(i, name), "picture": picture(i), "global_loads": 4096 // i, "shared_loads": 1000 * (i > 2),
         "transactions": 9000 // i, "macs": 32768, "bytes_per_mac": 8.0 / i, "sectors": {"a": 32, "b": 4, "c": 4}}
        for i, name in enumerate(names, start=1)
    ]  # fmt: skip
    return {"m": 64, "n": 64, "k": 64, "reason": None, "steps": steps}


def problem(kernel: int, stride: int, channels: int, size: int) -> ConvProblem:
    """The layer that the sliders choose: as many channels out as in, padded by half the kernel."""
    return ConvProblem.parse(f"mb1ic{channels}ih{size}oc{channels}kh{kernel}sh{stride}ph{kernel // 2}")


def lowering_bytes(chosen: ConvProblem) -> dict[str, int | None]:
    """What ``explain`` says of each lowering; None where it refuses."""
    rows = {row.name: row for row in explain(chosen).rows}
    return {name: rows[name].lowering_bytes if rows[name].runs else None for name in LOWERINGS}


def memory() -> dict[str, Any]:
    def table(place: tuple[int, ...], axes: list[list[int]]) -> Any:
        if not axes:
            return lowering_bytes(problem(*place))
        return {value: table((*place, value), axes[1:]) for value in axes[0]}

    def refused(part: dict[Any, Any]) -> dict[Any, Any]:
        return {
            key: refused(value) if isinstance(value, dict) else 0 for key, value in part.items() if value is not None
        }

    found = table((), list(AXES.values()))
    return {"axes": AXES, "lowerings": list(LOWERINGS), "bytes": found, "refusals": refused(found),
            "reasons": ["an invented reason"]}  # fmt: skip


def strides(title: str) -> dict[str, Any]:
    rows = [
        {"stride": s, "descriptor": f"sh{s}", "worked": f"4 // {s} + 1", "oh": 4 // s + 1, "ow": 4 // s + 1,
         "patches": 9, "macs": 81, "im2col_bytes": 324, "copies": 1.65, "columns_shared": 1, "rows_reached": 7}
        for s in (1, 2)
    ]  # fmt: skip
    return {"title": title, "rows": rows}


def convolution() -> dict[str, Any]:
    names = ("loops", "im2col", "implicit", "kn2row-aa", "direct", "winograd")
    other = {
        "descriptor": "mb1ic8ih28oc8kh5ph2",
        "layer": "Another layer",
        "seconds": 1e-3,
        "gflops": 50.0,
        "lowering_bytes": 10,
        "production": {"name": "direct", "seconds": 1e-3, "gflops": 9.0, "lowering_bytes": 0},
    }
    steps = [
        {**step(i, name), **other, "descriptor": "mb1ic64ih28oc64kh3ph1", "layer": "Invented layer",
         "seconds": 0.02 / i, "gflops": 10.0 * i, "lowering_bytes": 1000 * i, "others": [other]}
        for i, name in enumerate(names, start=1)
    ]  # fmt: skip
    kernels, sides = [3, 5, 7, 9], [1, 2]
    cells = [
        {"kernel": k, "stride": s, "descriptor": f"kh{k}sh{s}", "gemm": "direct", "gemm_seconds": 1e-4 * k * k / s**2,
         **({"fft": None, "fft_seconds": None, "reason": "pixels are left out"} if s > 1 and k < 5 else
            {"fft": "fft-tiled", "fft_seconds": 2e-3, "reason": None})}
        for s in sides for k in kernels
    ]  # fmt: skip
    blog = {
        "m": 256, "k": 1152, "n": 192, "macs": 256 * 1152 * 192,
        "measured": [{"name": "numbaconv.gemm", "seconds": 6e-4, "gflops": 188.7, "share_of_peak": 0.8}],
        "steps": [{"title": "The layer", "text": "Invented."}, {"title": "How much work", "text": "57 million."}],
    }  # fmt: skip
    return {
        "ladder": steps, "memory": memory(), "blog": blog,
        "stride": {"rule": "oh = an invented rule", "small": strides("7 x 7"), "layer": strides("AlexNet")},
        "fourier": {"kernels": kernels, "strides": sides, "layer": "64 channels", "threads": 2, "cells": cells},
    }  # fmt: skip


def document() -> dict[str, Any]:
    """All of it, as ``page.gather`` would give it."""
    machine = {
        "cpu_name": "Invented CPU", "llvm_name": "znver0", "vector_bits": 512, "vector_registers": 32,
        "l1d_bytes": 32768, "l2_bytes": 1 << 20, "l3_bytes": 32 << 20, "cores": 2,
    }  # fmt: skip
    about = {
        "machine": machine, "python": "0", "system": "Linux", "versions": ["numbaconv 0", "numba 0", "python 0"],
        "threads": 2, "date": "2000-01-01T00:00:00+00:00", "seconds": math.pi * 40, "quick": True,
    }  # fmt: skip
    sections = {
        "ladder": ladder(), "accesses": accesses(), "sweep": sweeps(), "roofline": roofline(), "device": device(),
        "convolution": convolution(),
    }  # fmt: skip
    return json.loads(json.dumps({"format": 1, "about": about, "sections": sections}))
