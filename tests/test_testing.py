"""The conformance suite accepts what is right, and names what is wrong with lowerings that were made wrong."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import misdeclared
import planted
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import ForgottenDilation, Fractions, Refusing, Right, Taps, TooRough

import numbaconv as nc
from numbaconv import registry
from numbaconv.lowering import YES, Support
from numbaconv.lowering_cuda import CudaForm
from numbaconv.lowerings import _template
from numbaconv.lowerings._template import Template
from numbaconv.testing import ConformanceError, check_lowering, check_problem, trial
from numbaconv.testing.grid import grid, random_problem

ALL = nc.list_lowerings()


# ------------------------------------------------------------------------------------------- every lowering there is


@pytest.mark.parametrize("name", ALL)
def test_a_lowering_keeps_its_contract(name):
    report = check_lowering(registry.lowerings(name)[0], quick=True)
    assert report.ran
    assert report.lowerings[0] == name


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_a_lowering_keeps_its_contract_on_the_whole_grid(name):
    assert check_lowering(registry.make_lowering(name), seed=7).ran


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=12)
@given(data=st.data(), threads=st.integers(1, 3))
def test_a_lowering_on_random_problems(name, data, threads):
    problem = random_problem(lambda low, high: data.draw(st.integers(low, high)))
    check_problem(registry.make_lowering(name), problem, num_threads=threads)


def test_the_template_works_and_is_short():
    report = check_lowering(Template, quick=True)
    assert len(report.ran) == len(list(grid(True, 0)))
    assert not report.refused
    assert len(Path(_template.__file__).read_text(encoding="utf-8").splitlines()) <= 80
    assert "template" not in ALL


# ------------------------------------------------------------------------------------------ lowerings that are right


def test_a_right_lowering_passes():
    report = check_lowering(Right, quick=True)
    assert report.lowerings == ["right", "right:batching=image", "right:threads=inner", "right:threads=images"]
    assert not report.refused
    assert check_lowering(Right(batching="image"), quick=True, seed=3).lowerings == ["right:batching=image"]


def test_a_refusing_lowering_passes_and_says_what_it_refused():
    report = check_lowering(Refusing, quick=True)
    grouped = {str(p) for _, p in grid(True, 0) if p.g > 1}
    assert set(report.refused) == grouped
    assert set(report.refused.values()) == {"it has groups"}
    assert grouped.isdisjoint(report.ran)
    assert check_problem(Refusing, nc.ConvProblem.parse("mb1ic4ih5oc4oh3kh3ph0"))
    assert not check_problem(Refusing, nc.ConvProblem.parse("g2mb1ic4ih5oc4oh3kh3ph0"))


# ------------------------------------------------------------------------------------------ lowerings that are wrong


WRONG = [
    (planted.OffByOnePad, "result", r"expected .*, got .*when the pads are off by one \(top 1, left 2\)|top \d"),
    (planted.ForgottenDilation, "result", "when the dilation is forgotten"),
    (planted.SwappedStrides, "result", "when the strides sh and sw are swapped"),
    (planted.IgnoresGroups, "result", "when the groups are ignored"),
    (planted.ReadsOutside, "result", "reads outside the input"),
    (planted.WritesOutside, "writes outside", "around the output, "),
    (misdeclared.UndeclaredScratch, "memory", "takes more scratch than it declares"),
    (misdeclared.NearlyDeclaredScratch, "memory", r"declares 1,976 bytes, 1,980 were taken.*'total': 1980"),
    (planted.DependsOnThreads, "the same bits for any threads", r"2 thread.* on 1 thread\(s\): out\[.*expected.*got"),
    (planted.HalfWritten, "result", "got nan.*never written, or read before they were written"),
    (planted.Uninitialised, "result", "got nan.*uninitialised scratch reaches the result"),
    (planted.HiddenUninitialised, "repeatable", "second run, on scratch that holds other numbers"),
    (planted.NoResidual, "result", "residual=True.*when the residual is not added"),
    (planted.OverflowsScratch, "writes outside", "in the scratch, . bytes behind its slice 'total'"),
    (planted.ChangesInput, "inputs are left alone", "the input was changed"),
    (planted.KeepsWeights, "result", "prepare_weights keeps the caller's array"),
    (planted.BakesInPads, "result", "max_workspace=.*expected"),
    (planted.Imprecise, "accuracy", "relative error .*e-04 on normal inputs, allowed 2.5 times direct"),
    (planted.OneBadElement, "accuracy", r"an element is off by .* out\[1, 39, 19, 19\]: .*\(1 of 32,000 elements"),
    (misdeclared.Raises, "run", "raised IndexError: list index out of range"),
    (misdeclared.RaisesWhenAsked, "supports", "not raise ZeroDivisionError"),
    (misdeclared.NoReason, "supports", "without a reason"),
    (misdeclared.PlainFalse, "supports", r"must return YES or Support\('why not'\), got True"),
    (misdeclared.RefusesEverything, "coverage", "nothing was checked"),
    (misdeclared.Unlisted, "memory", "gemm_calls does not list it"),
    (misdeclared.ListsTooFew, "gemm_calls", r"8 product\(s\) m=5 n=99 k=3 of Operands.* were issued and not declared"),
    (misdeclared.ListsTooMany, "gemm_calls", r"1 product\(s\) m=70 n=80 k=90 .* were declared and not issued"),
    (misdeclared.FloatBytes, "lowering_bytes", "must be a whole number of bytes, got 1980.0"),
    (misdeclared.SpoilsWeights, "prepare_weights", "wrote into the weights"),
    (misdeclared.CannotPrepare, "prepare_weights", "raised ValueError: cannot reshape"),
    (misdeclared.CannotPlan, "plan", "no plan can be made: KeyError: 'tile'"),
    (planted.LateActivation, "result", "activation='relu6'.* when the activation comes before bias and residual"),
    (planted.RecordsTooLittle, "recorded", "recorded on other arrays gives other bits.*expected.*got"),
    (planted.ForgetsBiasAlone, "result", r"bias=True, residual=False.* when the bias is not added"),
]  # fmt: skip
"""A class, the rule that it breaks, and what the message must say."""


@pytest.mark.parametrize(("cls", "rule", "words"), WRONG, ids=lambda value: getattr(value, "name", ""))
def test_a_wrong_lowering_is_rejected_and_the_message_names_what_is_wrong(cls, rule, words):
    with pytest.raises(ConformanceError) as error:
        check_lowering(cls, quick=True)
    said = str(error.value)
    assert (error.value.lowering, error.value.check) == (cls.name, rule), said
    assert said.startswith(f"lowering {cls.name} on "), said
    assert re.search(words, said, re.DOTALL), said


def test_a_failure_is_an_assertion_error_that_says_where():
    problem = nc.ConvProblem.parse("mb1ic4ih9oc4oh5kh3ph0dh1")
    with pytest.raises(AssertionError, match=rf"forgotten-dilation on {problem} \(mine, 1 thread") as error:
        check_problem(ForgottenDilation(), problem, label="mine")
    assert re.search(
        r"out\[0, \d, \d, \d\]: expected -?\d+\.0, got -?\d+\.0 \([\d,]+ of 100 elements", str(error.value)
    )
    assert check_problem(ForgottenDilation(), nc.ConvProblem.parse("mb1ic4ih9oc4oh7kh3ph0"))


def test_problems_of_ones_own_are_checked_besides_the_grid():
    class OnlyThirteen(Taps):
        name = "only-thirteen"

        def supports(self, problem, request):
            return YES if problem.kh == 13 else Support("the kernel is not 13 high")

    wide = nc.ConvProblem.parse("mb2ic3ih20oc4oh8kh13ph0")
    assert check_lowering(OnlyThirteen, quick=True, problems=[wide]).ran == [str(wide)]
    with pytest.raises(ConformanceError, match="nothing was checked"):
        check_lowering(OnlyThirteen, quick=True)


def test_a_lowering_for_another_device_only_has_nothing_to_show_on_this_one():
    class Elsewhere(Taps):
        name = "elsewhere"
        devices = ("cuda",)
        cuda = CudaForm

    report = check_lowering(Elsewhere, quick=True)
    assert not report.ran
    assert "no form for device 'cpu'" in next(iter(report.refused.values()))


@pytest.mark.parametrize("bound", ["nearly", 0, -1.0])
def test_an_error_bound_that_says_nothing(bound):
    class Bounded(Taps):
        name = "bounded"

        def error_bound(self, problem, request):
            return bound

    with pytest.raises(ConformanceError, match="error_bound: must be 'exact' or a positive factor"):
        check_problem(Bounded, nc.ConvProblem.parse("mb1ic4ih9oc4oh7kh3ph0"))


def test_a_bound_is_held_to():
    assert check_lowering(Fractions, quick=True).ran
    with pytest.raises(ConformanceError, match=r"accuracy: relative error .*allowed 100 times direct float32's"):
        check_lowering(TooRough, quick=True)


def make_plan_wrongly(monkeypatch, wrong):
    """Have plans made by `wrong`, which gets the right way as its first argument."""
    right = trial.make_plan
    monkeypatch.setattr(trial, "make_plan", lambda *arguments: wrong(right, *arguments))


def test_a_plan_that_ignores_the_limit_is_seen(monkeypatch):
    def unlimited(right, problem, lowering, request):
        return right(problem, lowering, dataclasses.replace(request, max_workspace=None))

    make_plan_wrongly(monkeypatch, unlimited)
    with pytest.raises(ConformanceError, match=r"max_workspace: the plan takes 128,000 of 64,000 bytes allowed"):
        check_lowering(Right(), quick=True)


@pytest.mark.parametrize(
    ("needed", "allowed", "words"),
    [
        (0, 0, "says needed=0, allowed=0"),
        (1, 0, "needed=1, allowed=0"),
        (9, None, "64,009 bytes were said to be"),
    ],
)
def test_a_refusal_for_want_of_memory_with_wrong_numbers_is_seen(monkeypatch, needed, allowed, words):
    def refusing(right, problem, lowering, request):
        if (limit := request.max_workspace) is None:
            return right(problem, lowering, request)
        raise nc.WorkspaceExceeded(limit + needed if allowed is None else needed, limit if allowed is None else allowed)

    make_plan_wrongly(monkeypatch, refusing)
    with pytest.raises(ConformanceError, match=words) as error:
        check_lowering(Right(), quick=True)
    assert error.value.check == "max_workspace"


def test_a_refused_problem_that_is_planned_all_the_same_is_seen(monkeypatch):
    make_plan_wrongly(monkeypatch, lambda right, problem, lowering, request: right(problem, "reference", request))
    with pytest.raises(ConformanceError, match="supports: a problem that it refuses can be planned"):
        check_lowering(Refusing, quick=True)


def test_something_that_is_no_lowering():
    for thing in (3, "im2col", object):
        with pytest.raises(TypeError, match="expected a Lowering"):
            check_lowering(thing)
