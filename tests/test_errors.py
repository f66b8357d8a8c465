"""Our errors: each is the built-in a caller would catch, survives pickling, and says what to do."""

from __future__ import annotations

import pickle

import pytest

from numbaconv import errors
from numbaconv.networks import UnknownNetwork

EXAMPLES = [
    (errors.ShapeError("x has 3 channels"), ValueError),
    (errors.UnsupportedProblem({"im2col": "no depth axis", "conv1x1": "the kernel is 3x3"}), ValueError),
    (errors.UnsupportedProblem("no depth axis"), ValueError),
    (errors.UnknownLowering("im2cool", ["im2col", "conv1x1"]), LookupError),
    (errors.WorkspaceExceeded(2048, 1024), MemoryError),
    (errors.DeviceUnavailable("no CUDA driver"), RuntimeError),
    (UnknownNetwork("alexnot", ["alexnet"]), LookupError),
]


@pytest.mark.parametrize(("error", "builtin"), EXAMPLES, ids=lambda value: getattr(value, "__name__", None))
def test_every_error_is_ours_and_a_builtin(error, builtin):
    assert isinstance(error, errors.NumbaconvError)
    assert isinstance(error, builtin)


@pytest.mark.parametrize("error", [error for error, _ in EXAMPLES], ids=lambda error: type(error).__name__)
def test_errors_survive_pickling(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_unsupported_problem_lists_each_reason():
    text = str(EXAMPLES[1][0])
    assert "im2col: no depth axis" in text
    assert "conv1x1: the kernel is 3x3" in text


def test_unknown_lowering_offers_close_matches_and_else_all_names():
    assert str(EXAMPLES[3][0]) == "unknown lowering 'im2cool'; did you mean 'im2col'?"
    assert str(errors.UnknownLowering("fft", ["im2col", "conv1x1"])) == "unknown lowering 'fft'; known: im2col, conv1x1"
    assert "known: none" in str(errors.UnknownLowering("fft", []))


def test_workspace_exceeded_keeps_its_numbers():
    error = errors.WorkspaceExceeded(2048, 1024)
    assert (error.needed, error.allowed) == (2048, 1024)
    assert "2,048" in str(error)
    assert "1,024" in str(error)
    assert "max_workspace" in str(error)
