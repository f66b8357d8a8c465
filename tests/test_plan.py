"""Plans: the same bits for any threads, scratch to the byte, limits obeyed, prepared once; and ``explain``."""

from __future__ import annotations

import dataclasses
import importlib

import numpy as np
import oracles
import pytest
from cases import KINDS, SPECS, arguments, in_memory, oracle, pairs, problem, runs, whole
from numpy.testing import assert_array_equal

import numbaconv as nc
from numbaconv.accounts import arena_bytes
from numbaconv.networks import layers
from numbaconv.plan import Plan, make_plan
from numbaconv.registry import lowerings
from numbaconv.request import Epilogue, Request
from numbaconv.select import choose
from numbaconv.workspace import Arena, aligned

plan_module = importlib.import_module("numbaconv.plan")  # the public function of that name stands before the module

LARGER = [
    dataclasses.replace(nc.ConvProblem.parse(text), layout=layout)
    for text in (
        "mb2ic32ih28oc48oh28kh3ph1", "mb1ic64ih56oc20oh56kh1ph0",
        "mb1ic300ih9oc70oh7kh3ph0", "g4mb1ic32ih40oc32oh38kh3ph0",
    )
    for layout in ("nchw", "nhwc")
]  # fmt: skip


THREADED = [(spec, p) for spec, p in pairs(LARGER) if spec != "reference"] + [("auto", p) for p in LARGER]


@pytest.mark.parametrize(("spec", "p"), THREADED, ids=str)
def test_the_same_bits_for_any_number_of_threads(rng, spec, p):
    x, w = (rng.standard_normal(shape).astype("f4") for shape in (p.input_shape, p.weight_shape))
    x = in_memory(x, p.layout)
    bits = {nc.conv2d(x, w, **arguments(p), algorithm=spec, num_threads=threads).tobytes() for threads in (1, 2, 3, 4)}
    assert len(bits) == 1
    assert len({nc.plan(p, spec, num_threads=threads).algorithm for threads in (1, 2, 4)}) == 1


FORMULAS = {
    "im2col": lambda p: p.ic * p.kh * p.kw * p.oh * p.ow,
    "im2row": lambda p: p.ic * p.kh * p.kw * p.oh * p.ow,
    "im2col-scan": lambda p: p.ic * p.kh * p.kw * p.oh * p.ow,
    "mec": lambda p: p.kw * p.ic * (p.ih + p.pad_top + p.pad_bottom) * p.ow,
    "mec-row": lambda p: p.kw * p.ic * (p.ih + p.pad_top + p.pad_bottom) * p.ow,
    "im2win": lambda p: p.kh * p.ic * p.oh * (p.iw + p.pad_left + p.pad_right),
    "cct-type2": lambda p: (p.kw * p.ic + p.kh * p.oc) * p.ih * p.ow,
    "indirect": lambda p: p.oh * p.ow * p.kh * p.kw + (p.ic * p.ih * p.iw if p.layout == "nchw" else 0),
} | dict.fromkeys(
    (
        "conv1x1",
        "patchify",
        "implicit-gemm",
        "direct",
        "direct-jit",
        "depthwise",
        "kn2row-aa",
        "kn2col-aa",
        "reference",
    ),
    lambda p: 0,
)
"""The papers' memory, in elements an image."""


def counted(plan: Plan, rng):
    """Run a plan in a poisoned arena of exactly the declared size with guards around; (lowered, panels) that it took.

    A part takes from an arena of its own; of each kind, the largest counts, once for every worker.
    """
    p, guard, workers = plan.problem, 4096, plan.workers
    size = workers * arena_bytes(plan.lowering_bytes // workers, plan.panel_bytes // workers)
    memory = aligned(size + 2 * guard)
    memory[:] = 0xFF
    arenas = []

    class OnlyThis:
        def __init__(self, wanted):
            assert wanted == size

        def __enter__(self):
            scratch = memory[guard : guard + size]
            return Arena(scratch, scratch.ctypes.data)

        def __exit__(self, *error):
            return None

    def of_a_part(*arguments):
        arenas.append(Arena(*arguments))
        return arenas[-1]

    x, w = whole(rng, *p.input_shape, dtype=p.dtype), whole(rng, *p.weight_shape, dtype=p.dtype)
    bias = whole(rng, p.oc, dtype=p.dtype) if plan.request.epilogue.bias else None
    out = in_memory(np.full(p.output_shape, np.nan, p.dtype), p.layout)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_module, "checked_out", OnlyThis)
        patch.setattr(plan_module, "Arena", of_a_part)
        plan.run(in_memory(x, p.layout), plan.prepare(w), out, bias)
    assert_array_equal(out, oracle(p, x, w, bias))
    assert (memory[:guard] == 0xFF).all()
    assert (memory[guard + size :] == 0xFF).all()
    panels = [arena.slices.get("panels", 0) for arena in arenas]
    lowered = [sum(arena.slices.values()) - taken for arena, taken in zip(arenas, panels, strict=True)]
    return workers * max(lowered), workers * max(panels)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("threads", [1, 2])
def test_the_scratch_is_what_was_declared(rng, spec, layout, threads):
    kinds = [kind for kind in KINDS if kind != "no images"]
    ran = 0
    for kind in kinds:
        p = problem(**KINDS[kind], layout=layout)
        if not runs(spec, p):
            continue
        ran += 1
        plan = make_plan(p, spec, Request("cpu", threads, epilogue=Epilogue(bias=True)))
        assert counted(plan, rng) == (plan.lowering_bytes, plan.panel_bytes), kind
        assert plan.workspace_bytes == plan.lowering_bytes + plan.panel_bytes
        if spec in FORMULAS:
            assert plan.lowering_bytes == plan.workers * FORMULAS[spec](p) * 4, kind
    assert ran


@pytest.mark.parametrize("spec", ["im2col", "im2col:batching=image"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_blocks_shrink_to_the_workspace_allowed(rng, spec, layout):
    p = dataclasses.replace(nc.ConvProblem.parse("mb2ic16ih20oc24oh20kh3ph1"), layout=layout)
    x, w = whole(rng, *p.input_shape), whole(rng, *p.weight_shape)
    wanted = oracle(p, x, w)
    free = nc.plan(p, spec, num_threads=2).workspace_bytes
    with pytest.raises(nc.WorkspaceExceeded) as error:
        nc.plan(p, spec, num_threads=2, max_workspace=0)
    least, shrunk = error.value.needed, set()
    for limit in np.linspace(0, 1.2 * free, 25).astype(int).tolist():
        if limit < least:
            with pytest.raises(nc.WorkspaceExceeded, match=f"{least:,} bytes.*{limit:,}") as error:
                nc.plan(p, spec, num_threads=2, max_workspace=limit)
            assert (error.value.needed, error.value.allowed) == (least, limit)
            continue
        handle = nc.plan(p, spec, num_threads=2, max_workspace=limit)
        assert handle.workspace_bytes <= limit
        shrunk.add(handle.lowering_bytes)
        assert sum(counted(handle.plan, rng)) <= limit
        got = nc.conv2d(in_memory(x, layout), w, **arguments(p), algorithm=spec, max_workspace=limit, num_threads=2)
        assert_array_equal(got, wanted)
    assert len(shrunk) > 2


@pytest.mark.parametrize("spec", ["im2col", "im2col:batching=image", "im2col:batching=whole"])
def test_the_workspace_said_to_be_needed_is_enough_and_the_least(spec):
    p = nc.ConvProblem.parse("mb2ic64ih56oc64oh56kh3ph1")
    with pytest.raises(nc.WorkspaceExceeded) as least:
        nc.plan(p, spec, max_workspace=0)
    for limit in np.geomspace(1, 4e7, 40).astype(int).tolist():
        if limit >= least.value.needed:
            assert nc.plan(p, spec, max_workspace=limit).workspace_bytes <= limit
        else:
            with pytest.raises(nc.WorkspaceExceeded) as error:
                nc.plan(p, spec, max_workspace=limit)
            assert error.value.needed == least.value.needed


def test_auto_stays_within_the_workspace():
    p = nc.ConvProblem.parse("mb1ic64ih56oc64oh56kh3ph1")
    for limit in (0, 10_000, 10_000_000):
        handle = nc.plan(p, max_workspace=limit)
        assert handle.workspace_bytes <= limit
    assert nc.plan(p, max_workspace=0).workspace_bytes == 0
    assert nc.plan(p, accuracy="fma").algorithm == "direct-jit"
    depthwise = nc.ConvProblem.parse("g64mb1ic64ih56oc64oh56kh3ph1")
    assert nc.plan(depthwise).algorithm == "depthwise"


# ------------------------------------------------------------------------------------------------------ plan, explain


def test_a_plan_is_prepared_once_and_run_on_many_inputs(rng):
    p = problem(mb=2, pad_top=1)
    w, bias = whole(rng, *p.weight_shape), whole(rng, p.oc)
    handle = nc.plan(p, "im2col", bias=True, residual=True, activation="relu", num_threads=2)
    with pytest.raises(RuntimeError, match="prepare"):
        handle(whole(rng, *p.input_shape))
    assert handle.prepared_bytes == 0
    assert handle.prepare(w, bias) is handle
    assert handle.prepared_bytes >= p.weight_bytes
    assert handle.algorithm == "im2col"
    w[...] = np.nan  # packed: the array is no longer needed
    weights = handle.prepared_bytes
    for _ in range(3):
        w = whole(rng, *p.weight_shape)
        handle.prepare(w, bias)
        x, residual, out = whole(rng, *p.input_shape), whole(rng, *p.output_shape), np.empty(p.output_shape, "f4")
        wanted = oracle(p, x, w, bias, residual, "relu")
        assert_array_equal(handle(x, residual=residual), wanted)
        assert handle(x, out, residual) is out
        assert_array_equal(out, wanted)
        assert set(handle.stage_times) == {"lower", "multiply", "lift"}
        assert handle.stage_times["lower"] > 0
        assert handle.stage_times["multiply"] > 0
    assert handle.prepared_bytes == weights


def test_a_plan_takes_a_descriptor_and_axes_of_either_order(rng):
    handle = nc.plan("mb1ic3ih9oc4oh7kh3ph0", layout="nhwc")
    x, w = whole(rng, 1, 9, 9, 3), whole(rng, 4, 3, 3, 3)
    assert_array_equal(handle.prepare(w)(x).transpose(0, 3, 1, 2), oracles.conv2d(x.transpose(0, 3, 1, 2), w))


def test_the_bytes_of_a_plan_are_plain_ints():
    handle = nc.plan("mb1ic3ih9oc4oh7kh3ph0", "im2col")
    for name in ("workspace_bytes", "lowering_bytes", "panel_bytes", "prepared_bytes"):
        assert type(getattr(handle, name)) is int, name


def test_explain_says_who_runs_and_why_others_do_not():
    p = problem(ic=16, oc=16)
    told = nc.explain(p, num_threads=2)
    rows = {row.name: row for row in told.rows}
    assert set(rows) == {cls.name for cls in lowerings()}
    assert not rows["conv1x1"].runs
    assert "3x3" in rows["conv1x1"].reason
    assert told.chosen == nc.plan(p, num_threads=2).algorithm == told.rows[0].name
    assert [row.runs for row in told.rows] == sorted((row.runs for row in told.rows), reverse=True)
    for name in ("im2col", "reference"):
        handle = nc.plan(p, name, num_threads=2)
        assert rows[name].runs
        assert rows[name].macs == p.macs
        assert (rows[name].lowering_bytes, rows[name].panel_bytes) == (handle.lowering_bytes, handle.panel_bytes)
        assert rows[name].workspace_bytes == handle.workspace_bytes
        assert 0 < rows[name].seconds < 10
    text = str(told)
    assert str(p) in text
    assert "refused: the kernel is 3x3" in text
    assert all(name in text for name in rows)
    limited = nc.explain(str(p), max_workspace=0)
    assert limited.chosen == "direct-jit"
    assert nc.explain(problem(id=4, kd=2)).chosen == "none"
    assert "float32 runs" in str(nc.explain(p, precision="high"))


def test_a_direction_or_depth_that_is_not_built_is_refused_with_the_reason():
    for p, words in ((problem(direction="backward-data"), "backward-data"), (problem(id=4, kd=2), "depth")):
        with pytest.raises(nc.UnsupportedProblem, match=words) as every:
            nc.plan(p)
        assert set(every.value.reasons) == {cls.name for cls in lowerings()}
        with pytest.raises(nc.UnsupportedProblem, match=words) as one:
            nc.plan(p, "im2col")
        assert set(one.value.reasons) == {"im2col"}


def test_auto_chooses_without_looking_at_the_threads():
    for layer in (*layers("googlenet"), *layers("mobilenet_v2")):
        if layer.kind == "conv":
            chosen = {choose(layer.problem, Request(num_threads=threads)).spec for threads in (1, 2, 7)}
            assert len(chosen) == 1, layer.problem


@pytest.mark.parametrize("name", nc.list_lowerings())
def test_a_plan_for_no_images_is_prepared_and_run(name):
    """No product can be planned for nothing, and none is needed."""
    for text in ("mb0ic3ih8oc4kh3", "mb0ic3ih8oc4kh1", "g4mb0ic4ih8oc4kh3", "mb0ic3ih8iw8oc4kh2kw2sh2sw2ph0pw0"):
        try:
            handle = nc.plan(text, name, residual=True)
        except nc.UnsupportedProblem:
            continue
        p = handle.problem
        x, w, residual = (np.ones(shape, "f4") for shape in (p.input_shape, p.weight_shape, p.output_shape))
        assert handle.prepare(w)(x, residual=residual).shape == p.output_shape
        assert handle.prepared_bytes == 0
