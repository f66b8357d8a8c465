"""A lowering is one class: named, checked when it is defined, registered, found, and then known everywhere."""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import ClassVar

import numpy as np
import oracles
import pytest
from numpy.testing import assert_array_equal

import numbaconv as nc
from numbaconv import registry
from numbaconv.lowering import GemmCall, Support
from numbaconv.lowerings.im2col import Im2col


@pytest.fixture(autouse=True)
def as_before():
    """What a test registers is forgotten after it."""
    nc.list_lowerings()
    kept = [(table, dict(table)) for table in (registry._classes, registry.broken)]
    yield
    for table, entries in kept:
        table.clear()
        table.update(entries)


def define(name="shift_and_add", **attributes):
    """A class as a notebook would define it: one product for each tap, summed in NumPy."""

    class ShiftAndAdd(nc.Lowering, abstract=True):
        family = "teaching"
        paper = "none"
        parameters: ClassVar = {"order": ("rows", "columns"), "repeats": (1, int)}

        def supports(self, problem, request):
            return Support("it knows no groups") if problem.g > 1 else Support()

        def lowering_bytes(self, problem, request):
            return problem.ic * problem.oh * problem.ow * problem.itemsize

        def gemm_calls(self, problem, request):
            p = problem
            return [GemmCall(p.oc, p.oh * p.ow, p.ic, p.mb * p.kh * p.kw)]

        def run(self, ctx, x, prepared, out):
            p = ctx.problem
            padded = np.pad(x, ((0, 0), (0, 0), (p.pad_top, p.pad_bottom), (p.pad_left, p.pad_right)))
            part = ctx.take("shifted", (p.ic, p.oh * p.ow))
            total = np.zeros((p.oc, p.oh * p.ow), p.dtype)
            for n in range(p.mb):
                for tap in range(p.kh * p.kw):
                    r, s = divmod(tap, p.kw)
                    ends = (p.oh - 1) * p.sh + 1, (p.ow - 1) * p.sw + 1
                    rows = slice(r * p.dh, r * p.dh + ends[0], p.sh)
                    columns = slice(s * p.dw, s * p.dw + ends[1], p.sw)
                    ctx.lower(lambda n=n, rows=rows, columns=columns: np.copyto(
                        part, padded[n, :, rows, columns].reshape(p.ic, -1)))  # fmt: skip
                    ctx.multiply(np.ascontiguousarray(prepared[:, :, r, s]), part, total, accumulate=tap > 0)
                out[n] = total.reshape(p.oc, p.oh, p.ow)
            ctx.epilogue(out)

    body = {key: value for key, value in vars(ShiftAndAdd).items() if key not in ("__dict__", "__weakref__")}
    return type("ShiftAndAdd", (nc.Lowering,), {**body, "name": name, **attributes})


# ----------------------------------------------------------------------------------------------------- registration


def test_a_registered_class_is_known_everywhere(rng):
    cls = define()
    assert nc.register(cls) is cls
    assert "shift_and_add" in nc.list_lowerings()
    x, w, bias = (rng.integers(-3, 4, shape).astype("f4") for shape in ((2, 5, 9, 10), (7, 5, 3, 3), (7,)))
    residual = rng.integers(-3, 4, (2, 7, 5, 10)).astype("f4")
    wanted = oracles.conv2d(x, w, bias, (2, 1), (1, 1, 1, 1), residual=residual, activation="relu")
    terms = {"stride": (2, 1), "padding": 1, "residual": residual, "activation": "relu"}
    for algorithm in ("shift_and_add", "shift_and_add:order=columns,repeats=3", cls(repeats=2)):
        assert_array_equal(nc.conv2d(x, w, bias, algorithm=algorithm, **terms), wanted)
    layer = nc.Conv2d.from_arrays(w, bias, (2, 1), 1, algorithm="shift_and_add", activation="relu")
    assert_array_equal(layer(x, residual=residual), wanted)
    assert layer.algorithm == "shift_and_add"
    assert set(layer.stage_times) == {"lower", "multiply", "lift"}
    problem = nc.ConvProblem.from_arrays(x, w, (2, 1), 1)
    row = next(row for row in nc.explain(problem).rows if row.name == "shift_and_add")
    assert row.runs
    assert row.lowering_bytes == 5 * 5 * 10 * 4
    assert row.panel_bytes == nc.plan(problem, "shift_and_add").panel_bytes > 0
    grouped = next(row for row in nc.explain("g2mb1ic4ih5oc4oh3kh3ph0").rows if row.name == "shift_and_add")
    assert not grouped.runs
    assert grouped.reason == "it knows no groups"
    with pytest.raises(nc.UnsupportedProblem, match="shift_and_add: it knows no groups"):
        nc.plan("g2mb1ic4ih5oc4oh3kh3ph0", "shift_and_add")


def test_register_is_a_decorator_and_a_cell_run_again_replaces_its_forerunner():
    first, second = define(), define(paper="a better one")
    nc.register(first)
    nc.register(first)
    nc.register(second)
    assert registry.make_lowering("shift_and_add").paper == "a better one"
    assert nc.list_lowerings().count("shift_and_add") == 1


def test_the_name_of_another_class_is_refused():
    before = nc.list_lowerings()
    with pytest.raises(ValueError, match=r"im2col.*belongs to numbaconv\.lowerings\.im2col\.Im2col"):
        nc.register(define("im2col"))
    with pytest.raises(ValueError, match="reference"):
        nc.register(define("reference"))
    assert nc.list_lowerings() == before
    assert registry.make_lowering("im2col") == Im2col()


@pytest.mark.parametrize(
    "thing",
    [3, "im2col", object, Im2col(), lambda x: x, None],
    ids=["number", "name", "class", "instance", "function", "none"],
)
def test_only_lowerings_are_registered(thing):
    with pytest.raises(TypeError, match="Lowering"):
        nc.register(thing)


# --------------------------------------------------------------------------------------------- checked when defined


@pytest.mark.parametrize("missing", ["name", "family", "paper"])
@pytest.mark.parametrize("value", ["", "  ", None, 3])
def test_what_a_class_must_say(missing, value):
    with pytest.raises(TypeError, match=f"ShiftAndAdd.*`{missing}`"):
        define(**{missing: value})


def test_a_class_must_run():
    with pytest.raises(TypeError, match=r"Lazy.*run\(self, ctx, x, prepared, out\)"):
        type("Lazy", (nc.Lowering,), {"name": "lazy", "family": "f", "paper": "p"})
    with pytest.raises(TypeError, match="`name`"):
        type("Nameless", (nc.Lowering,), {"family": "f", "paper": "p", "run": lambda *_: None})


@pytest.mark.parametrize("name", ["a:b", "a,b", "a=b", "a b", "a*", "a?", "auto", "measure"])
def test_names_that_could_not_be_asked_for_are_refused(name):
    with pytest.raises(TypeError, match="name"):
        define(name)


def test_a_base_of_a_family_needs_no_name():
    class Family(nc.Lowering, abstract=True):
        family = "teaching"
        paper = "none"

        def run(self, ctx, x, prepared, out):
            out[...] = self.value

    class One(Family):
        name = "always_one"
        value = 1

    nc.register(One)
    assert (nc.conv2d(np.zeros((1, 1, 4, 4), "f4"), np.zeros((2, 1, 3, 3), "f4"), algorithm="always_one") == 1).all()


# -------------------------------------------------------------------------------------------------------- parameters


def test_parameters_by_name_and_by_text():
    default, other, *_ = Im2col.parameters["batching"]
    assert Im2col().values["batching"] == default
    assert Im2col().spec == Im2col(batching=default).spec == "im2col"
    assert Im2col(batching=other).spec == f"im2col:batching={other}"
    for value in (3, "3", np.int64(3)):
        assert Im2col(batching=value).spec == "im2col:batching=3"
        assert Im2col(batching=value) == Im2col(batching=3)
        assert hash(Im2col(batching=value)) == hash(Im2col(batching=3))
    assert Im2col(batching=3) != Im2col(batching=4) != Im2col()
    for lowering in (Im2col(), Im2col(batching="whole"), Im2col(batching=7)):
        assert registry.make_lowering(lowering.spec) == lowering
        assert lowering.spec in repr(lowering)
    assert registry.make_lowering("im2col: batching = whole").spec == "im2col:batching=whole"
    given = Im2col(batching="whole")
    assert registry.make_lowering(given) is given


@pytest.mark.parametrize("value", [0, -1, "0", "-3", "1.5", 1.5, True, None, "images", "", [], float("nan")], ids=repr)
def test_values_that_a_parameter_does_not_take(value):
    with pytest.raises(ValueError, match=r"im2col: batching must be one of .*'whole', a positive integer, got"):
        Im2col(batching=value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("im2col:batchin=image", "no parameter 'batchin'.*batching"),
        ("im2col:image", "name=value"),
        ("im2col:batching=2,whole", "name=value"),
        ("im2col:batching=", "batching must be one of"),
        ("reference:x=1", "no parameter 'x'.*none"),
    ],
)
def test_texts_that_name_no_lowering_say_what_is_wrong(text, words):
    with pytest.raises(ValueError, match=words):
        nc.plan("mb1ic3ih8oc4oh6kh3ph0", text)


def test_an_unknown_name_offers_close_ones():
    with pytest.raises(nc.UnknownLowering, match=r"'im2cool'; did you mean 'im2col'") as error:
        nc.plan("mb1ic3ih8oc4oh6kh3ph0", "im2cool:batching=image")
    assert error.value.matches[0] == "im2col"
    with pytest.raises(nc.UnknownLowering, match="auto"):
        nc.plan("mb1ic3ih8oc4oh6kh3ph0", "aut")
    with pytest.raises(nc.UnknownLowering, match=r"conv1x1.*reference"):
        nc.plan("mb1ic3ih8oc4oh6kh3ph0", "")


# --------------------------------------------------------------------------------------------------------- the list


def test_the_list_ends_with_the_reference_and_takes_patterns():
    names = nc.list_lowerings()
    assert names[-1] == "reference"
    assert len(names) == len(set(names))
    catalogue = {
        "direct", "depthwise", "im2col", "im2col-scan", "im2row", "implicit-gemm", "cct-type2", "kn2row", "kn2col",
        "kn2row-as", "kn2col-as", "kn2row-aa", "kn2col-aa", "mec", "mec-row", "im2win", "indirect", "conv1x1",
        "patchify",
    }  # fmt: skip
    assert catalogue <= set(names)
    assert nc.list_lowerings("im2col*") == ["im2col", "im2col-scan"]
    assert nc.list_lowerings("conv?x?") == ["conv1x1"]
    assert nc.list_lowerings("IM2COL") == []
    assert nc.list_lowerings("nothing*") == []
    assert nc.list_lowerings(device="cpu") == names
    assert nc.list_lowerings(device="cuda") == nc.list_lowerings(device="cuda:1") == names


def test_every_lowering_of_the_catalogue_says_who_it_is():
    for cls in registry.lowerings():
        assert cls.family
        assert cls.paper
        assert set(cls.devices) <= {"cpu", "cuda"}
        assert cls.__doc__
        assert importlib.import_module(cls.__module__).__doc__


class _Entry:
    def __init__(self, name, loads):
        self.name, self.load = name, loads


def test_other_distributions_bring_lowerings_and_a_broken_one_harms_nobody(monkeypatch):
    def breaks():
        raise ImportError("no module named its_own_helper")

    entries = [_Entry("good", lambda: define("from_elsewhere")), _Entry("bad", breaks), _Entry("no_class", lambda: 3)]
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda group: entries if group == "numbaconv.lowerings" else []
    )
    registry._discover.cache_clear()
    try:
        assert "from_elsewhere" in nc.list_lowerings()
        assert set(registry.broken) == {"bad", "no_class"}
        assert "its_own_helper" in registry.broken["bad"]
        assert "plug-in bad is broken: ImportError" in str(nc.explain("mb1ic3ih8oc4oh6kh3ph0"))
    finally:
        monkeypatch.undo()
        registry._discover.cache_clear()


# --------------------------------------------------------------------------------------- declarations that are wrong


def test_scratch_that_was_not_declared_is_refused():
    nc.register(define(lowering_bytes=lambda self, problem, request: 0, gemm_calls=lambda self, problem, request: []))
    x, w = np.zeros((1, 64, 30, 30), "f4"), np.zeros((4, 64, 3, 3), "f4")
    with pytest.raises(MemoryError, match="lowering_bytes"):
        nc.conv2d(x, w, algorithm="shift_and_add")


def test_a_product_that_was_not_declared_is_refused():
    nc.register(define(gemm_calls=lambda self, problem, request: [GemmCall(1, 1, 1)]))
    x, w = np.zeros((1, 64, 30, 30), "f4"), np.zeros((4, 64, 3, 3), "f4")
    with pytest.raises(MemoryError, match="gemm_calls"):
        nc.conv2d(x, w, algorithm="shift_and_add")


@pytest.mark.parametrize("answer", [True, False])
def test_an_answer_that_is_no_support_does_not_spoil_the_listing(answer, monkeypatch):
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))

    class Plain(nc.Lowering):
        name, family, paper = "plain-answer", "test", "none"

        def supports(self, problem, request):
            return answer

        def run(self, ctx, x, prepared, out):
            out[...] = 0

    nc.register(Plain)
    small = nc.ConvProblem(1, 3, 8, 8, 4, 3, 3)
    row = next(row for row in nc.explain(small).rows if row.name == "plain-answer")
    assert (row.runs, row.reason) == (answer, "" if answer else "it gives no reason")


def test_an_abstract_class_is_not_registered():
    class Shared(nc.Lowering, abstract=True):
        pass

    with pytest.raises(TypeError, match="abstract"):
        nc.register(Shared)
