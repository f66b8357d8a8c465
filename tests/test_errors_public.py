"""Wrong use of the public functions: an error of ours that names the argument and what it got; never a crash."""

from __future__ import annotations

import numpy as np
import pytest
from cases import whole

import numbaconv as nc

X, W, BIAS = np.ones((2, 4, 9, 10), "f4"), np.ones((6, 4, 3, 3), "f4"), np.ones(6, "f4")
A, B = np.ones((20, 30), "f4"), np.ones((30, 25), "f4")


def locked(shape):
    array = np.zeros(shape, "f4")
    array.flags.writeable = False
    return array


def conv(*arguments, **options):
    return lambda: nc.conv2d(*arguments, **options)


def gemm(*arguments, **options):
    """The call, and the same with a place for the result, which may take a shorter way."""

    def call(**more):
        return nc.gemm(*arguments, **(more | options))

    return call


def linear(*arguments, **options):
    return lambda: nc.linear(*arguments, **options)


def plan(*arguments, **options):
    return lambda: nc.plan(*arguments, **options)


SHAPE, VALUE, TYPE, DEVICE = nc.ShapeError, ValueError, TypeError, nc.DeviceUnavailable
TEXT = "mb1ic4ih9oc6oh7kh3ph0"

CONV = {
    "x float16": (conv(X.astype("f2"), W), SHAPE, "x: expected float32 or float64, got float16"),
    "x integer": (conv(X.astype("i4"), W), SHAPE, "x: .*int32"),
    "x complex": (conv(X.astype("c8"), W), SHAPE, "x: .*complex64"),
    "x objects": (conv(X.astype(object), W), SHAPE, "x: .*object"),
    "w float16": (conv(X, W.astype("f2")), SHAPE, "w: .*float16"),
    "mixed dtypes": (conv(X, W.astype("f8")), SHAPE, "x is float32 and w is float64"),
    "bias of another dtype": (conv(X, W, BIAS.astype("f8")), SHAPE, r"bias: expected \(6,\) of float32.*float64"),
    "bias of another length": (conv(X, W, BIAS[:5]), SHAPE, r"bias: expected \(6,\).*\(5,\)"),
    "bias with two axes": (conv(X, W, BIAS[None]), SHAPE, r"bias: expected \(6,\).*\(1, 6\)"),
    "bias a number": (conv(X, W, 1.0), TYPE, "bias: expected an array"),
    "x with two axes": (conv(X[0, 0], W), SHAPE, r"x must have 4 axes.*\(9, 10\)"),
    "x with five axes": (conv(X[None], W), SHAPE, r"x must have 4 axes.*\(1, 2, 4, 9, 10\)"),
    "x a scalar": (conv(np.float32(1) * np.ones(()).astype("f4"), W), (SHAPE, TYPE), "x"),
    "w with three axes": (conv(X, W[0]), SHAPE, r"w must have 4 axes.*\(4, 3, 3\)"),
    "channels": (conv(X, W[:, :3]), SHAPE, r"4 channels \(shape \(2, 4, 9, 10\).*w of shape \(6, 3, 3, 3\)"),
    "channels of a layout": (conv(X, W, layout="nhwc"), SHAPE, "10 channels.*layout 'nhwc'"),
    "groups": (conv(X, W[:, :2], groups=3), SHAPE, "groups=3"),
    "groups that do not divide": (conv(X, W[:5, :2], groups=2), SHAPE, "g=2.*oc=5"),
    "groups zero": (conv(X, W, groups=0), SHAPE, "groups=0"),
    "groups a float": (conv(X, W, groups=1.0), SHAPE, r"groups must be an int; got 1\.0"),
    "kernel too large": (conv(X[:, :, :2], W), SHAPE, "kernel 3x3.*input 2x10"),
    "no channels": (conv(X[:, :0], W[:, :0]), SHAPE, "ic"),
    "no outputs": (conv(X, W[:0]), SHAPE, "oc"),
    "no kernel": (conv(X, W[:, :, :0]), SHAPE, "kh"),
    "no height": (conv(X[:, :, :0], W), SHAPE, "ih"),
    "stride zero": (conv(X, W, None, 0), SHAPE, "stride"),
    "stride negative": (conv(X, W, None, (1, -1)), SHAPE, "stride"),
    "stride a float": (conv(X, W, None, 1.5), SHAPE, r"stride.*1\.5"),
    "stride of three": (conv(X, W, None, (1, 1, 1)), SHAPE, r"stride.*\(1, 1, 1\)"),
    "stride a word": (conv(X, W, None, "2"), SHAPE, "stride.*'2'"),
    "padding negative": (conv(X, W, None, 1, -1), SHAPE, "padding.*-1"),
    "padding a word": (conv(X, W, None, 1, "full"), SHAPE, "padding.*'full'"),
    "padding of three": (conv(X, W, None, 1, (1, 1, 1)), SHAPE, "padding.*four values"),
    "padding None": (conv(X, W, None, 1, None), SHAPE, "padding.*None"),
    "dilation zero": (conv(X, W, None, 1, 0, 0), SHAPE, "dilation"),
    "layout": (conv(X, W, layout="NCHW"), SHAPE, "layout must be one of 'nchw', 'nhwc'; got 'NCHW'"),
    "activation": (conv(X, W, activation="gelu"), VALUE, "activation must be .* None, 'relu', 'relu6'; got 'gelu'"),
    "activation a list": (conv(X, W, activation=["relu"]), VALUE, "activation"),
    "precision": (conv(X, W, precision="low"), VALUE, "precision must be .*'highest', 'high', 'medium'; got 'low'"),
    "accuracy": (conv(X, W, accuracy="bad"), VALUE, "accuracy must be one of .*'bad'"),
    "threads zero": (conv(X, W, num_threads=0), VALUE, "num_threads must be at least 1"),
    "threads a float": (conv(X, W, num_threads=2.0), VALUE, "num_threads must be an int"),
    "workspace negative": (conv(X, W, max_workspace=-1), VALUE, "max_workspace must be at least 0"),
    "workspace a word": (conv(X, W, max_workspace="1 MB"), VALUE, "max_workspace must be an int"),
    "stream": (conv(X, W, stream=object()), DEVICE, "stream"),
    "cuda": (conv(X, W, device="cuda"), DEVICE, "'cuda'.*device='cpu'"),
    "a second gpu": (conv(X, W, device="cuda:1"), DEVICE, "'cuda:1'"),
    "both devices": (conv(X, W, device="cpu+cuda"), DEVICE, "cuda"),
    "no device": (conv(X, W, device="tpu"), VALUE, "device must be .*'tpu'"),
    "device a number": (conv(X, W, device=0.5), VALUE, "device"),
    "algorithm": (conv(X, W, algorithm="im2cool"), nc.UnknownLowering, "did you mean 'im2col'"),
    "algorithm None": (conv(X, W, algorithm=None), TYPE, "algorithm: .*None"),
    "algorithm a class": (conv(X, W, algorithm=nc.Lowering), TYPE, "algorithm: expected a name or a Lowering instance"),
    "algorithm that refuses": (conv(X, W, algorithm="conv1x1"), nc.UnsupportedProblem, "conv1x1: the kernel is 3x3"),
    "residual shape": (conv(X, W, residual=X), SHAPE, r"residual: expected \(2, 6, 7, 8\).*\(2, 4, 9, 10\)"),
    "residual dtype": (conv(X, W, residual=np.zeros((2, 6, 7, 8))), SHAPE, "residual: .*float32.*float64"),
    "out shape": (conv(X, W, out=np.zeros((2, 6, 7, 9), "f4")), SHAPE, r"out: expected \(2, 6, 7, 8\).*\(2, 6, 7, 9\)"),
    "out of an image": (conv(X, W, out=np.zeros((6, 7, 8), "f4")), SHAPE, r"out: expected \(2, 6, 7, 8\)"),
    "out dtype": (conv(X, W, out=np.zeros((2, 6, 7, 8))), SHAPE, "out: .*float32.*float64"),
    "out read-only": (conv(X, W, out=locked((2, 6, 7, 8))), SHAPE, "out: the array is read-only"),
    "out a list": (conv(X, W, out=[]), TYPE, "out: expected a NumPy array, got list"),
    "workspace": (conv(X, W, algorithm="im2col", max_workspace=1), nc.WorkspaceExceeded, "max_workspace allows 1;"),
}  # fmt: skip

GEMM = {
    "a float16": (gemm(A.astype("f2"), B), SHAPE, "a: expected float32 or float64, got float16"),
    "b integer": (gemm(A, B.astype("i8")), SHAPE, "b: .*int64"),
    "mixed dtypes": (gemm(A, B.astype("f8")), SHAPE, "a is float32 and b is float64"),
    "a vector": (gemm(A[0], B), SHAPE, r"a: expected at least 2 axes.*\(30,\)"),
    "b vector": (gemm(A, B[:, 0]), SHAPE, r"b: expected at least 2 axes.*\(30,\)"),
    "sizes": (gemm(A, A), SHAPE, r"a of shape \(20, 30\) has 30 columns but b of shape \(20, 30\) has 20 rows"),
    "batches": (gemm(np.ones((3, 2, 2), "f4"), np.ones((4, 2, 2), "f4")), SHAPE, r"do not broadcast"),
    "out shape": (gemm(A, B, out=np.zeros((25, 20), "f4")), SHAPE, r"out: expected \(20, 25\).*\(25, 20\)"),
    "out dtype": (gemm(A, B, out=np.zeros((20, 25))), SHAPE, "out: .*float32.*float64"),
    "out read-only": (gemm(A, B, out=locked((20, 25))), SHAPE, "out: the array is read-only"),
    "out a list": (gemm(A, B, out=[1]), TYPE, "out: expected a NumPy array, got list"),
    "beta without out": (gemm(A, B, beta=1), SHAPE, "beta=1.*no `out`"),
    "alpha a word": (gemm(A, B, alpha="two"), (TYPE, VALUE), "alpha|two"),
    "bias length": (gemm(A, B, bias=np.ones(20, "f4")), SHAPE, r"bias: .*\(25,\), \(1, 25\) or \(20, 1\).*\(20,\)"),
    "bias dtype": (gemm(A, B, bias=np.ones(25)), SHAPE, "bias: .*float64"),
    "bias a number": (gemm(A, B, bias=1.0), TYPE, "bias: expected an array"),
    "residual": (gemm(A, B, residual=np.ones(25, "f4")), SHAPE, r"residual: expected \(20, 25\).*\(25,\)"),
    "residual dtype": (gemm(A, B, residual=np.ones((20, 25))), SHAPE, "residual: .*float64"),
    "activation": (gemm(A, B, activation="gelu"), VALUE, "activation must be one of .*'gelu'"),
    "activation a list": (gemm(A, B, activation=["relu"]), VALUE, "activation"),
    "precision": (gemm(A, B, precision="low"), VALUE, "precision"),
    "accuracy": (gemm(A, B, accuracy="low"), VALUE, "accuracy"),
    "threads zero": (gemm(A, B, num_threads=0), VALUE, "num_threads must be at least 1"),
    "threads a float": (gemm(A, B, num_threads=2.0), VALUE, "num_threads must be an int"),
    "threads a word": (gemm(A, B, num_threads="all"), VALUE, "num_threads must be an int"),
    "device": (gemm(A, B, device="cuda"), DEVICE, "cuda"),
    "no device": (gemm(A, B, device="tpu"), VALUE, "device"),
    "stream": (gemm(A, B, stream=1), DEVICE, "stream"),
    "packed as b": (gemm(nc.prepack_b(B), B), SHAPE, "a: it is packed as operand 'b'"),
    "packed, transposed": (gemm(A, nc.prepack_b(B), transpose_b=True), SHAPE, "b: .*transposed"),
    "packed, other k": (gemm(nc.prepack_a(A), A), SHAPE, "30 columns.*20 rows"),
    "packed, other dtype": (gemm(nc.prepack_a(A), B.astype("f8")), SHAPE, "a is float32 and b is float64"),
    "both packed": (gemm(nc.prepack_a(A), nc.prepack_b(B)), SHAPE, "only one operand may be prepacked"),
    "packed and blocking": (gemm(nc.prepack_a(A), B, blocking=nc.Blocking(4, 16, 16, 16, 16)), SHAPE, "blocking"),
    "blocking": (gemm(A, B, blocking=nc.Blocking(4, 17, 16, 16, 16)), VALUE, "blocking: nr must be a multiple"),
    "prepack a vector": (lambda: nc.prepack_a(A[0]), SHAPE, r"a: expected a matrix.*\(30,\)"),
    "prepack nothing": (lambda: nc.prepack_b(B[:0]), SHAPE, r"b: .*\(0, 25\)"),
    "prepack float16": (lambda: nc.prepack_a(A.astype("f2")), SHAPE, "a: .*float16"),
    "prepack threads": (lambda: nc.prepack_a(A, num_threads=-1), VALUE, "num_threads"),
}  # fmt: skip

OTHERS = {
    "linear: features": (linear(A, np.ones((5, 7), "f4")), SHAPE, r"x.*30.*w.*\(5, 7\)"),
    "linear: w with one axis": (linear(A, A[0]), SHAPE, r"\bw\b.*\(30,\)"),
    "linear: w with three axes": (linear(A, A[None]), SHAPE, r"\bw\b.*\(1, 20, 30\)"),
    "linear: w a scalar": (linear(A, np.ones((), "f4")), SHAPE, r"\bw\b.*\(\)"),
    "linear: x a scalar": (linear(np.ones((), "f4"), A), SHAPE, r"\bx\b.*got.*\(\)"),
    "linear: mixed dtypes": (linear(A, A.astype("f8")), SHAPE, "float32.*float64"),
    "linear: bias": (linear(A, A, np.ones(7, "f4")), SHAPE, r"bias: .*\(20,\).*\(7,\)"),
    "linear: out shape": (linear(A, A, out=np.ones((20, 7), "f4")), SHAPE, r"out: expected \(20, 20\).*\(20, 7\)"),
    "linear: out dtype": (linear(A, A, out=np.ones((20, 20))), SHAPE, "out: .*float64"),
    "linear: out read-only": (linear(A, A, out=locked((20, 20))), SHAPE, "read-only"),
    "linear: activation": (linear(A, A, activation="gelu"), VALUE, "activation"),
    "linear: packed": (linear(A, nc.prepack_a(A)), SHAPE, "w"),
    "plan: no problem": (plan(3), TYPE, "problem: expected a ConvProblem or a descriptor, got 3"),
    "plan: no descriptor": (plan("mb1ic3"), SHAPE, "mb1ic3"),
    "plan: layout": (plan(TEXT, layout="chwn"), (SHAPE, VALUE), "layout.*'chwn'"),
    "plan: algorithm": (plan(TEXT, "im2cool"), nc.UnknownLowering, "im2col"),
    "plan: cuda": (plan(TEXT, device="cuda"), DEVICE, "cuda"),
    "plan: stream": (plan(TEXT, stream=1), DEVICE, "stream"),
    "plan: run before prepare": (lambda: nc.plan(TEXT)(X[:1, :, :, :9]), RuntimeError, "prepare"),
    "plan: weights": (lambda: nc.plan(TEXT).prepare(W[:, :3]), SHAPE, r"w: expected \(6, 4, 3, 3\).*\(6, 3, 3, 3\)"),
    "plan: weights' dtype": (lambda: nc.plan(TEXT).prepare(W.astype("f8")), SHAPE, "w: .*float32.*float64"),
    "plan: a bias too many": (lambda: nc.plan(TEXT).prepare(W, BIAS), SHAPE, r"bias: .*no bias.*bias=True"),
    "plan: a bias missing": (lambda: nc.plan(TEXT, bias=True).prepare(W), SHAPE, r"bias: .*a bias.*bias=False"),
    "plan: a residual too many": (lambda: prepared()(X[:1, :, :, :9], residual=X), SHAPE, "residual: .*no residual"),
    "plan: a residual missing": (lambda: prepared(residual=True)(X[:1, :, :, :9]), SHAPE, "residual: .*a residual"),
    "plan: input": (lambda: prepared()(X), SHAPE, r"x: expected \(1, 4, 9, 9\).*\(2, 4, 9, 10\)"),
    "plan: input's dtype": (lambda: prepared()(X[:1, :, :, :9].astype("f8")), SHAPE, "x: .*float32.*float64"),
    "explain: no problem": (lambda: nc.explain(None), TYPE, "problem"),
    "explain: device": (lambda: nc.explain(TEXT, device="cuda"), DEVICE, "cuda"),
    "explain: precision": (lambda: nc.explain(TEXT, precision="low"), VALUE, "precision"),
    "layer: weights": (lambda: nc.Conv2d.from_arrays(W[0]), SHAPE, r"w: expected 4 axes.*\(4, 3, 3\)"),
    "layer: weights a list": (lambda: nc.Conv2d.from_arrays([1.0]), TYPE, "w: expected an array"),
    "layer: bias": (lambda: nc.Conv2d.from_arrays(W, BIAS[:2]), SHAPE, r"bias: expected \(6,\).*\(2,\)"),
    "Linear: weights": (lambda: nc.Linear.from_arrays(BIAS), SHAPE, r"w: expected 2 axes.*\(6,\)"),
    "Linear: input": (lambda: nc.Linear(7, 4)(A), SHAPE, r"x.*30.*w.*\(4, 7\)"),
}  # fmt: skip


def prepared(**options):
    return nc.plan(TEXT, **options).prepare(W)


EVERY = {
    f"{kind}, {name}": case
    for kind, cases in (("conv", CONV), ("gemm", GEMM), ("", OTHERS))
    for name, case in cases.items()
}


@pytest.mark.parametrize("name", EVERY)
def test_wrong_use_is_refused_in_words(name):
    wrong, error, words = EVERY[name]
    for _ in range(2):  # the second time through whatever the first left in a cache
        with pytest.raises(error, match=words) as caught:
            wrong()
    if error in (SHAPE, DEVICE):
        assert isinstance(caught.value, nc.NumbaconvError)
        assert isinstance(caught.value, ValueError if error is SHAPE else RuntimeError)


@pytest.mark.parametrize("name", GEMM)
def test_wrong_use_is_refused_where_the_result_has_a_place_too(name):
    wrong, error, words = GEMM[name]
    if name in ("beta without out", "prepack a vector", "prepack nothing", "prepack float16", "prepack threads"):
        return
    out = np.zeros((20, 25), "f4")
    nc.gemm(A, B, out=out)
    before = out.copy()
    for _ in range(2):
        with pytest.raises(error, match=words):
            wrong(out=out)
    assert np.array_equal(out, before)


def test_a_number_of_threads_is_checked_however_often_its_like_was_asked_for():
    nc.gemm(A, B, num_threads=2)
    with pytest.raises(ValueError, match="num_threads must be an int"):
        nc.gemm(A, B, num_threads=2.0)


def test_a_refused_call_writes_nothing_and_keeps_nothing(rng):
    out = whole(rng, 20, 25)
    before = out.copy()
    for options in ({"bias": np.ones(3, "f4")}, {"residual": A}, {"activation": "gelu"}, {"num_threads": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            nc.gemm(A, B, out=out, **options)
        assert np.array_equal(out, before)


def test_no_features_are_zeros_and_the_bias():
    x, w, bias = np.zeros((3, 0), "f4"), np.zeros((5, 0), "f4"), np.arange(5).astype("f4")
    assert np.array_equal(nc.linear(x, w), np.zeros((3, 5)))
    assert np.array_equal(nc.linear(x, w, bias), np.broadcast_to(bias, (3, 5)))
    assert nc.linear(np.zeros((0, 7), "f4"), np.zeros((5, 7), "f4")).shape == (0, 5)
    assert nc.linear(np.zeros((2, 0, 7), "f4"), np.zeros((5, 7), "f4")).shape == (2, 0, 5)
    assert np.array_equal(nc.Linear.from_arrays(w, bias)(x), np.broadcast_to(bias, (3, 5)))


@pytest.mark.parametrize("algorithm", ["auto", "kn2row-aa", "im2col", "direct"])
@pytest.mark.parametrize("options", [{}, {"max_workspace": 1000}])
def test_a_mistyped_pad_is_refused_before_anything_is_planned(algorithm, options):
    for padding in (200_000, 10**6, 10**9):
        with pytest.raises(nc.UnsupportedProblem, match="larger than 4 TiB"):
            nc.conv2d(X, W, padding=padding, algorithm=algorithm, **options)
