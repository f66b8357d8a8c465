"""Parts of a problem: they cover it, each is a convolution itself, and they may run side by side."""

from __future__ import annotations

import dataclasses
import threading
import time

import numpy as np
import pytest
from cases import KINDS, in_memory, oracle, problem, whole
from numpy.testing import assert_allclose, assert_array_equal

import numbaconv as nc
from numbaconv.devices.crew import together
from numbaconv.division import band, divide, part_of
from numbaconv.plan import make_plan
from numbaconv.registry import make_lowering
from numbaconv.request import Epilogue, Request

# -------------------------------------------------------------------------------------------------------- bands, parts


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "no images"])
def test_a_band_is_the_convolution_that_makes_those_rows(rng, kind):
    p = problem(**KINDS[kind])
    x, w = whole(rng, *p.input_shape), whole(rng, *p.weight_shape)
    wanted = oracle(p, x, w)
    for row in range(p.oh):
        for rows in {1, 2, p.oh - row, p.oh // 2}:
            if not 0 < rows <= p.oh - row:
                continue
            read, part = band(p, row, rows)
            assert (part.oh, part.ow) == (rows, p.ow)
            assert part.ih == read.stop - read.start <= p.ih
            got = make_plan(part, "reference", Request())
            out = np.full(part.output_shape, np.nan, np.float32)
            got.run(x[:, :, read], got.prepare(w), out)
            assert_array_equal(out, wanted[:, :, row : row + rows], f"rows {row} ... {row + rows}")


def test_a_whole_band_is_the_problem_itself():
    p = problem(mb=3)
    assert part_of(p, 0, 3, 0, p.oh).problem is p
    assert part_of(p, 1, 1, 0, p.oh).problem == dataclasses.replace(p, mb=1)


WAYS = [
    "im2col", "im2col:batching=2", "im2col:batching=whole", "im2col:batching=block", "kn2row:threads=images",
    "kn2row:batching=3,threads=images", "implicit-gemm",
]  # fmt: skip


@pytest.mark.parametrize("spec", WAYS)
@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("limit", [None, 30_000, 3_000, 0])
def test_parts_cover_every_output_once(spec, threads, limit):
    p = problem(mb=5, ic=8, ih=23, pad_top=1)
    division = divide(p, make_lowering(spec), Request(num_threads=threads, max_workspace=limit))
    times = np.zeros((p.mb, p.oh), int)
    for part in division.parts:
        times[part.images, part.rows] += 1
        assert part.problem.mb == len(range(*part.images.indices(p.mb)))
        assert part.problem.oh == len(range(*part.rows.indices(p.oh)))
    assert (times == 1).all()
    sizes = [part.problem.mb * part.problem.oh for part in division.parts]
    assert sizes[0] == max(sizes)
    assert 1 <= division.workers <= threads
    assert division.request.num_threads == (1 if division.workers > 1 else threads)
    assert division.request.max_workspace is None


def test_how_many_images_together_is_as_asked():
    p = problem(mb=6)
    request = Request(num_threads=2)

    def images(spec):
        division = divide(p, make_lowering(spec), request)
        return [part.problem.mb for part in division.parts], division.workers

    assert images("im2col:threads=inner") == ([1] * 6, 1)
    assert images("im2col:threads=images") == ([1] * 6, 2)
    assert images("im2col:batching=whole,threads=inner") == ([6], 1)
    assert images("im2col:batching=whole,threads=images") == ([3, 3], 2)
    assert images("im2col:batching=4,threads=inner") == ([2, 2, 1, 1], 1)
    assert images("implicit-gemm") == ([6], 1)
    assert images("reference") == ([6], 1)


def test_less_memory_means_fewer_threads_then_fewer_images_then_fewer_rows():
    p = problem(mb=4, ic=16, ih=40, iw=40, pad_top=1)
    lowering = make_lowering("im2col:batching=whole,threads=images")
    seen = []
    limit = divide(p, lowering, Request(num_threads=2)).workspace_bytes(lowering)
    while True:
        division = divide(p, lowering, Request(num_threads=2, max_workspace=limit))
        needed = division.workspace_bytes(lowering)
        if needed > limit:
            break
        seen.append((division.workers, max(part.problem.mb for part in division.parts),
                     max(part.problem.oh for part in division.parts)))  # fmt: skip
        limit = needed - 1
    assert seen[0] == (2, 2, p.oh)
    assert seen[-1][:2] == (1, 1)
    assert seen[-1][2] < p.oh
    assert seen == sorted(seen, key=lambda way: -way[0] * way[1] * way[2])


@pytest.mark.parametrize("spec", [name for name in nc.list_lowerings() if name != "reference"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_every_lowering_keeps_to_less_memory(rng, spec, layout):
    p = problem(mb=3, ic=8, ih=19, iw=18, oc=10, pad_top=2, pad_left=1, pad_bottom=1, sh=2, layout=layout)
    same = dataclasses.replace(p, sh=1)
    variants = (p, dataclasses.replace(same, kh=1, kw=1, pad_top=0, pad_left=0, pad_bottom=0),
                dataclasses.replace(p, oc=8, g=8), *(dataclasses.replace(same, kh=kh, kw=kw)
                                                     for kh, kw in ((3, 3), (5, 5), (3, 1))))  # fmt: skip
    p = next(p for p in variants if make_lowering(spec).supports(p, Request()))
    x, w, bias = whole(rng, *p.input_shape), whole(rng, *p.weight_shape), whole(rng, p.oc)
    wanted = oracle(p, x, w, bias, activation="relu")
    free = nc.plan(p, spec, num_threads=2).workspace_bytes
    ran = 0
    for share in (1, 2, 4, 8, 16, 64):
        request = Request("cpu", 2, max_workspace=free // share, epilogue=Epilogue(True, False, "relu"))
        if divide(p, make_lowering(spec), request).workspace_bytes(make_lowering(spec)) > free // share:
            with pytest.raises(nc.WorkspaceExceeded) as refusal:
                make_plan(p, spec, request)
            assert refusal.value.needed > refusal.value.allowed == free // share
            continue
        plan = make_plan(p, spec, request)
        ran += 1
        assert plan.workspace_bytes <= free // share
        out = in_memory(np.full(p.output_shape, np.nan, np.float32), layout)
        plan.run(in_memory(x, layout), plan.prepare(w), out, bias)
        bound = make_lowering(spec).error_bound(p, request)
        off = 0.0 if bound == "exact" else bound * np.finfo(np.float32).eps * np.abs(oracle(p, abs(x), abs(w))).max()
        assert_allclose(out, wanted, rtol=0, atol=off, err_msg=f"1/{share}")
    assert ran


# -------------------------------------------------------------------------------------------------------- side by side


def test_work_is_done_by_several_threads_at_a_time():
    meeting = threading.Barrier(3, timeout=20)
    assert together(lambda number: (meeting.wait(), number)[1], 3) == [0, 1, 2]
    assert together(lambda number: threading.current_thread(), 1) == [threading.current_thread()]


@pytest.mark.parametrize("who", [0, 1, 2])
def test_an_exception_of_any_comes_out_when_all_have_ended(who):
    ended = []

    def work(number):
        if number == who:
            raise KeyError(number)
        time.sleep(0.02)
        ended.append(number)

    with pytest.raises(KeyError, match=str(who)):
        together(work, 3)
    assert sorted(ended) == sorted({0, 1, 2} - {who})
    assert together(lambda number: number, 3) == [0, 1, 2]


def test_callers_at_the_same_time_share_the_crew(rng):
    p = problem(mb=4, ic=16, ih=24, iw=24, pad_top=1)
    x, w = whole(rng, *p.input_shape), whole(rng, *p.weight_shape)
    wanted = oracle(p, x, w)
    handle = nc.plan(p, "im2col:threads=images", num_threads=3).prepare(w)
    assert handle.plan.workers == 3
    results: dict[int, list] = {}

    def caller(number):
        results[number] = [handle(x) for _ in range(5)]

    callers = [threading.Thread(target=caller, args=(number,)) for number in range(4)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(60)
    assert sorted(results) == [0, 1, 2, 3]
    for found in results.values():
        for got in found:
            assert_array_equal(got, wanted)


def test_a_forked_child_has_a_crew_of_its_own(python):
    assert "the same" in python("""
        import os
        import numpy as np
        import numbaconv as nc

        p = nc.ConvProblem(mb=4, ic=8, ih=20, iw=20, oc=6, kh=3, kw=3)
        rng = np.random.default_rng(0)
        x, w = (rng.standard_normal(shape).astype("f4") for shape in (p.input_shape, p.weight_shape))
        handle = nc.plan(p, "im2col:threads=images", num_threads=2).prepare(w)
        before = handle(x)
        child = os.fork()
        if not child:
            os._exit(0 if (handle(x) == before).all() else 3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        print("the same")
    """)
