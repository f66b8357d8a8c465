"""Request and Epilogue: hashable keys that refuse what they cannot mean."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest

from numbaconv.request import Epilogue, Request


def test_defaults():
    assert Request() == Request("cpu", 1, "highest", "float32", None, Epilogue(False, False, None))


def test_equal_requests_are_one_key():
    a = Request(num_threads=np.int64(2), epilogue=Epilogue(bias=np.True_))
    b = Request(num_threads=2, epilogue=Epilogue(bias=True))
    assert a == b
    assert type(a.num_threads) is int
    assert a.epilogue.bias is True
    assert len({a, b, Request(num_threads=2)}) == 2
    assert pickle.loads(pickle.dumps(a)) == a


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Request().device = "cuda"


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:0", "cuda:12", "cpu+cuda", "cpu+cuda:1"])
def test_devices(device):
    assert Request(device=device).device == device


@pytest.mark.parametrize(
    ("argument", "value", "names"),
    [
        ("device", "gpu", "'cuda'"),
        ("device", "cuda:", "'cuda:<index>'"),
        ("device", "cpu ", "'cpu'"),
        ("device", None, "'cpu'"),
        ("num_threads", 0, "at least 1"),
        ("num_threads", 1.5, "1.5"),
        ("precision", "low", "'medium'"),
        ("accuracy", "exact", "'strict'"),
        ("max_workspace", -1, "at least 0"),
        ("max_workspace", "1GB", "'1GB'"),
        ("epilogue", "relu", "Epilogue"),
    ],
)
def test_a_wrong_argument_is_named_with_what_it_takes(argument, value, names):
    with pytest.raises(ValueError, match=argument) as caught:
        Request(**{argument: value})
    assert names in str(caught.value)


def test_epilogue():
    assert not Epilogue()
    assert Epilogue(bias=True)
    assert Epilogue(residual=True)
    assert Epilogue(activation="relu6")
    with pytest.raises(ValueError, match=r"activation must be one of None, 'relu', 'relu6'; got 'gelu'"):
        Epilogue(activation="gelu")
