"""``ladder.check``: wrong functions that it must reject, with the right reason, and right ones that it must accept."""

from __future__ import annotations

import sys

import numba
import numpy as np
import oracles
import pytest

from numbaconv.errors import NumbaconvError
from numbaconv.ladder import check, step
from numbaconv.ladder.check_calls import Student
from numbaconv.ladder.step import UnknownStep
from numbaconv.timing import Sample

# ------------------------------------------------------------------------------------------------- right ones


def loops(a, b, out):
    for i in range(a.shape[0]):
        for j in range(b.shape[1]):
            total = 0.0
            for p in range(a.shape[1]):
                total += float(a[i, p]) * float(b[p, j])
            out[i, j] = total


def returns(a, b):
    return a @ b


def by_name(a, b, *, out):
    np.matmul(a, b, out=out)


def by_another_name(a, b, c):
    c[...] = a @ b


def with_an_option(a, b, block=32):
    return a @ b


@pytest.mark.parametrize("function", [returns, by_name, by_another_name, with_an_option, numba.njit(loops)])
def test_right_functions_are_right(function):
    report = check(function, speed=False)
    assert report, str(report)
    assert report.failure is None
    assert report.shapes >= 30
    assert " is right: " in str(report)


def test_a_step_of_ours_is_right_and_goes_by_its_name():
    report = check(step("ikj"), speed=False)
    assert report
    assert str(report).startswith("ikj is right")


def test_what_is_slow_is_tried_on_what_there_is_time_for():
    report = check(loops, speed=False, budget_s=0.5)
    assert report
    assert "257 x 263 x 269" in report.skipped
    assert "take too long" in str(report)


# ------------------------------------------------------------------------------------------------- wrong ones


def transposed(a, b, out):
    out[...] = (a @ b).T if len(a) == b.shape[1] else a @ b


def reads_b_transposed(a, b, out):
    out[...] = a @ (b.T if b.shape[0] == b.shape[1] else b)


def exchanged(a, b):
    return b @ a if a.shape == b.shape == a.T.shape else a @ b


def assigns(a, b, out):
    out[...] = 0
    for p in range(a.shape[1]):
        out[...] = a[:, p, None] * b[p]


def twice(a, b, out):
    out[...] = 2 * (a @ b)


def whole_rows_of_four(a, b, out):
    end = len(a) // 4 * 4
    out[:end] = a[:end] @ b


def zeros_in_ragged_columns(a, b, out):
    end = b.shape[1] // 8 * 8
    out[:, :end], out[:, end:] = a @ b[:, :end], 0


def wrong_in_ragged_tiles(a, b, out):
    out[...] = a @ b
    out[len(a) // 4 * 4 :] += 1
    out[:, b.shape[1] // 4 * 4 :] += 1


def sum_cut_short(a, b, out):
    k = a.shape[1] // 4 * 4
    out[...] = a[:, :k] @ b[:k]


def sum_with_an_overlap(a, b, out):
    out[...] = a[:, :5] @ b[:5] + a[:, 4:] @ b[4:]


def accumulates(a, b, out):
    out += a @ b


def writes_elsewhere(a, b, out):
    out = a @ b
    return out


def modifies(a, b, out):
    out[...] = a @ b
    b[...] = 0


def writes_beyond(a, b, out):
    out[...] = a @ b
    memory = out.base if out.base.ndim == 1 else out.base.base
    first = (out.ctypes.data - memory.ctypes.data) // 4
    memory[first + out.size] = 0


def reads_beyond(a, b, out):
    memory = a.base if a.base.ndim == 1 else a.base.base
    first = (a.ctypes.data - memory.ctypes.data) // 4
    out[...] = a @ b + 0 * memory[first + a.size]


def raises(a, b, out):
    if len(a) % 2:
        raise IndexError("index 9 is out of bounds")
    out[...] = a @ b


def half(a, b, out):
    out[...] = a.astype("f2") @ b.astype("f2")


def whole(a, b, out):
    out[...] = np.trunc(a @ b)


def returns_nothing(a, b):
    a @ b


def returns_the_transpose(a, b):
    return (a @ b).T if len(a) != b.shape[1] else a @ b


class Racy:
    """Another result at every call."""

    def __init__(self):
        self.calls = 0

    def __call__(self, a, b, out):
        self.calls += 1
        out[...] = a @ b + self.calls


WRONG = {
    transposed: ["the result is transposed"],
    reads_b_transposed: ["B is read transposed"],
    exchanged: ["A and B are exchanged"],
    assigns: ["only the last p counts"],
    twice: ["twice"],
    whole_rows_of_four: ["m = 9,", "10 elements of out are never written: in the last row of 9"],
    zeros_in_ragged_columns: ["n = 4,", "nothing is added up"],
    wrong_in_ragged_tiles: ["m = 9, n = 10", "wrong in the last row of 9", "and in the last 2 columns of 10"],
    sum_cut_short: ["k = 11", "p = 8 ... 10 are missing from the sum over k = 11", "stops too early"],
    sum_with_an_overlap: ["k = 16", "p = 4 is twice in the sum"],
    accumulates: ["adds to what out held"],
    writes_elsewhere: ["out is never written; it returns another array"],
    modifies: ["input b is modified"],
    writes_beyond: ["writes before or behind out"],
    reads_beyond: ["reads outside of its operands"],
    raises: ["m = 9, n = 10, k = 11", "IndexError: index 9 is out of bounds"],
    half: ["normal numbers", "the error is too large", "more coarsely than in float32"],
    whole: ["normal numbers", "cut to whole numbers"],
    returns_nothing: ["returned None"],
    returns_the_transpose: ["the result has the shape (10, 9), not (9, 10)", "the result is transposed"],
}


@pytest.mark.parametrize("function", WRONG, ids=lambda function: function.__name__)
def test_wrong_functions_are_wrong_for_the_reason_said(function):
    report = check(function, budget_s=2)
    said = str(report)
    assert not report
    assert report.speeds == ()
    for words in WRONG[function]:
        assert words in said, said


def test_what_differs_from_call_to_call_is_said_to():
    assert "a second call gives another result" in str(check(Racy()))


def test_the_first_wrong_element_is_named():
    failure = check(wrong_in_ragged_tiles).failure
    assert failure.place == (0, 8)
    assert failure.got == failure.expected + 1


def test_a_compiled_function_that_does_not_compile_is_reported():
    @numba.njit
    def mine(a, b, out):
        out[0, 0] = a.no_such_thing

    said = str(check(mine))
    assert "TypingError" in said
    assert "no_such_thing" in said


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda a: a, "takes 1 arguments by place; a step takes (a, b, out)"),
        (lambda a, b, out, m, n: None, "also needs m, n"),
    ],
)
def test_what_no_step_is_called_like_is_refused(function, words):
    with pytest.raises(NumbaconvError) as error:
        check(function)
    assert words in str(error.value)


def test_ladders_that_cannot_be_checked_say_so():
    with pytest.raises(NumbaconvError, match="not for 'cuda'"):
        check(returns, "cuda")
    with pytest.raises(UnknownStep, match="did you mean 'conv'"):
        check(returns, "con")


# ------------------------------------------------------------------------------------------------ convolutions


def convolution(x, w, stride, padding, out):
    out[...] = oracles.conv2d(x, w, None, (stride,) * 2, (padding,) * 4)


def forgets_the_padding(x, w, stride, padding, out):
    framed = np.zeros_like(oracles.conv2d(x, w, None, (stride,) * 2, (padding,) * 4))
    inner = oracles.conv2d(x, w, None, (stride,) * 2, (0,) * 4)
    framed[..., : inner.shape[2], : inner.shape[3]] = inner
    out[...] = framed


def flips_the_kernel(x, w, stride, padding):
    return oracles.conv2d(x, w[:, :, ::-1, ::-1], None, (stride,) * 2, (padding,) * 4)


def test_convolutions():
    assert check(convolution, "conv", speed=False, budget_s=2)
    said = str(check(flips_the_kernel, "conv"))
    assert "(whole numbers)" in said
    assert "the kernel is flipped" in said
    said = str(check(forgets_the_padding, "conv"))
    assert "padding 1" in said
    assert not check(lambda x, w, stride, padding, out: None, "conv")


# ----------------------------------------------------------------------------------------------------- speed


def test_the_report_says_where_on_the_ladder_it_stands(monkeypatch):
    rates = {"": 20e9, "ijk": 1e9, "ikj": 30e9}

    def burst(functions, **_):
        return {name: Sample((2 * 64**3 / rates.get(name, 40e9),), 0) for name in functions}

    module = sys.modules["numbaconv.ladder.check"]
    monkeypatch.setattr(module, "burst", burst)
    monkeypatch.setattr(module, "fma_peak", lambda *_: 100.0)
    monkeypatch.setattr(sys.modules["numbaconv.ladder.check_gemm"], "SIDES_TO_TIME", (64,))
    report = check(returns)
    assert [speed.problem for speed in report.speeds] == ["64 x 64 x 64"]
    assert report.speeds[0].gflops == pytest.approx(20)
    assert "20 GFLOP/s, 20 % of a core's peak; between 'ijk' (1) and 'ikj' (30)" in str(report)
    rates[""] = 50e9
    assert "beyond 'blocked' (40)" in str(check(returns))
    rates[""] = 0.5e9
    assert "slower than 'ijk'" in str(check(returns))


def test_a_call_to_be_timed_is_the_function_itself():
    seen = []
    student = Student(lambda a, b, out: seen.append(out.shape), 2)
    student.ready((np.zeros((2, 3)), np.zeros((3, 4))), (2, 4))()
    assert seen == [(2, 4)]
