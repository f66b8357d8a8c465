"""Layers that keep their weights, prepared: ``Conv2d`` and ``Linear``."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from numbaconv.accounts import count_bytes
from numbaconv.api import make_request
from numbaconv.arrays import any_array, bias_array, device_of, host_array
from numbaconv.dense import linear, prepack_b
from numbaconv.devices.cuda import runtime
from numbaconv.errors import DeviceUnavailable, ShapeError
from numbaconv.gemm import PackedMatrix
from numbaconv.gemm.dot import MOST_COLUMNS
from numbaconv.layouts import LAYOUTS
from numbaconv.padding import pair
from numbaconv.plan import make_plan
from numbaconv.problem import ConvProblem
from numbaconv.products import check_device
from numbaconv.registry import make_lowering
from numbaconv.request import Epilogue, Request

KEPT_PLANS = 8
"""Input shapes whose prepared weights a layer keeps."""


def _uniform(rng, shape, fan_in: int, dtype) -> np.ndarray:
    bound = 1 / math.sqrt(max(1, fan_in))
    return rng.uniform(-bound, bound, shape).astype(dtype)


class _State(NamedTuple):
    """Weights, bias and what was prepared from them; replaced as one, read once a call."""

    weight: np.ndarray
    bias: np.ndarray | None
    prepared: dict


def _request(num_threads, precision, accuracy, max_workspace, device, epilogue: Epilogue):
    return make_request(device, num_threads, precision, accuracy, max_workspace, None, epilogue)


class _Layer:
    """Weights and bias, checked; what is prepared from them, forgotten when they change."""

    axes: int
    _state: _State

    def set_weights(self, w: Any, bias: Any = None) -> None:
        """Replace weights and bias (None: no bias).

        Raises
        ------
        ShapeError
            When the shapes are not those of the layer.
        """
        w = host_array(w, "w")
        known = self._state.weight if hasattr(self, "_state") else None
        if w.ndim != self.axes or (known is not None and w.shape != known.shape):
            wanted = f"shape {known.shape}" if known is not None else f"{self.axes} axes"
            raise ShapeError(f"w: expected {wanted}, got shape {w.shape}")
        self._state = _State(np.array(w), bias_array(bias, w.shape[0], w.dtype), {})

    @property
    def weight(self) -> np.ndarray:
        """The weights; replace them by ``set_weights``."""
        return self._state.weight

    @property
    def bias(self) -> np.ndarray | None:
        """The bias; replace it by ``set_weights``."""
        return self._state.bias


class Conv2d(_Layer):
    """A convolution layer, the arguments of ``torch.nn.Conv2d``.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size, stride, dilation : int or pair
    padding : int, pair, four ints or word
    groups : int
    bias : bool
    dtype : dtype
    seed : int, optional
        Of the random weights: uniform in +-1/sqrt(fan-in).
    algorithm, device, layout, precision, accuracy, activation, max_workspace, num_threads
        As in ``conv2d``.

    Attributes
    ----------
    weight : ndarray (out_channels, in_channels/groups, kh, kw)
    bias : ndarray (out_channels,) or None
    algorithm : str or None
        The lowering that ran last; None before the first call.
    workspace_bytes, prepared_bytes : int
        Scratch of the last call; memory of the prepared weights.
    stage_times : dict
        Seconds of the last call's stages.
    """

    axes = 4

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0,
                 dilation: Any = 1, groups: int = 1, bias: bool = True, *, dtype="float32", seed: int | None = None,
                 **options):  # fmt: skip
        kh, kw = pair(kernel_size, "kernel_size")
        if min(in_channels, out_channels, kh, kw) < 1:
            raise ShapeError(
                "in_channels, out_channels and kernel_size must be at least 1; "
                f"got {in_channels}, {out_channels}, {kernel_size}"
            )
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ShapeError(f"groups={groups} must divide in_channels={in_channels} and out_channels={out_channels}")
        rng = np.random.default_rng(seed)
        shape = out_channels, in_channels // groups, kh, kw
        w = _uniform(rng, shape, math.prod(shape[1:]), dtype)
        self.configure(stride, padding, dilation, groups, **options)
        self.set_weights(w, _uniform(rng, out_channels, math.prod(shape[1:]), dtype) if bias else None)

    @classmethod
    def from_arrays(
        cls,
        w: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        **options,
    ) -> Conv2d:
        """A layer with these weights (oc, ic/groups, kh, kw) and bias (oc,)."""
        layer = cls.__new__(cls)
        layer.configure(stride, padding, dilation, groups, **options)
        layer.set_weights(w, bias)
        return layer

    def configure(
        self,
        stride=1,
        padding=0,
        dilation=1,
        groups=1,
        *,
        algorithm="auto",
        device=None,
        layout="nchw",
        precision="highest",
        accuracy="float32",
        activation=None,
        max_workspace=None,
        num_threads=None,
    ):
        """Set everything but the weights; arguments as in ``conv2d``."""
        if not (isinstance(algorithm, str) and algorithm in ("auto", "measure")):
            algorithm = make_lowering(algorithm)
        if layout not in LAYOUTS:
            raise ShapeError(f"layout must be one of {', '.join(map(repr, LAYOUTS))}; got {layout!r}")
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.layout, self._wanted, self._activation = layout, algorithm, activation
        self._device = check_device(device) if device is not None else None
        self._request = functools.partial(_request, num_threads, precision, accuracy, max_workspace)
        self._request("cpu", Epilogue(activation=activation))  # wrong words fail here, not in the first call
        self.algorithm: str | None = None
        self.workspace_bytes = 0
        self.stage_times: Mapping[str, float] = {}
        self._lock = threading.Lock()

    def to(self, device: str) -> Conv2d:
        """The layer, on another device: its weights are prepared there once and stay.

        Raises
        ------
        DeviceUnavailable
        """
        self._device = check_device(device)
        with self._lock:
            self._state.prepared.clear()
        return self

    @property
    def prepared_bytes(self) -> int:
        return sum(count_bytes(ready[1]) for ready in self._state.prepared.values())

    def __call__(self, x: Any, out: Any = None, residual: Any = None, stream: Any = None) -> Any:
        """Convolve `x`, as ``conv2d`` does."""
        if type(x) is np.ndarray and self._device in (None, "cpu"):  # most often: nothing to ask
            device = "cpu"
        else:
            device = check_device(self._device, device_of(x))
            x = any_array(x, "x", device, stream)
        state = self._state
        ready = state.prepared.get((x.shape, x.strides, x.dtype, residual is not None, device))
        if ready is None:
            ready = self._ready(state, any_array(x, "x", device, stream), residual is not None, device)
        plan, prepared, bias, kept, algorithm, scratch = ready
        result, times = plan.compute(x, prepared, bias, residual, out, self.layout, stream, kept=kept)
        self.algorithm, self.workspace_bytes, self.stage_times = algorithm, scratch, times
        return result

    def _ready(self, state: _State, x: Any, residual: bool, device: str) -> tuple:
        """(plan, prepared weights, bias, where they lie, name of the lowering, scratch) for an input like `x`."""
        key = x.shape, x.strides, x.dtype, residual, device
        problem = ConvProblem.from_arrays(
            x, state.weight, self.stride, self.padding, self.dilation, self.groups, self.layout
        )
        request = self._request(device, Epilogue(state.bias is not None, residual, self._activation))
        plan = make_plan(problem, self._wanted, request)
        with self._lock:
            if key not in state.prepared:
                while len(state.prepared) >= KEPT_PLANS:
                    state.prepared.pop(next(iter(state.prepared)))
                bias = plan.keep_bias(state.bias)
                prepared = plan.prepare(state.weight) if problem.mb else None
                kept = plan.kept(prepared, bias)
                state.prepared[key] = plan, prepared, bias, kept, plan.spec, plan.workspace_bytes
            return state.prepared[key]


class Linear(_Layer):
    """A fully-connected layer, the arguments of ``torch.nn.Linear``.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
    dtype, seed, activation, num_threads, device, precision, accuracy
        As in ``Conv2d``.

    Attributes
    ----------
    weight : ndarray (out_features, in_features)
    bias : ndarray (out_features,) or None
    """

    axes = 2

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dtype="float32",
        seed: int | None = None,
        **options,
    ):
        rng = np.random.default_rng(seed)
        w = _uniform(rng, (out_features, in_features), in_features, dtype)
        self.configure(**options)
        self.set_weights(w, _uniform(rng, out_features, in_features, dtype) if bias else None)

    @classmethod
    def from_arrays(cls, w: Any, bias: Any = None, **options) -> Linear:
        """A layer with these weights (out, in) and bias (out,)."""
        layer = cls.__new__(cls)
        layer.configure(**options)
        layer.set_weights(w, bias)
        return layer

    def configure(self, *, activation=None, num_threads=None, device=None, precision="highest", accuracy="float32"):
        """Set everything but the weights; arguments as in ``linear``."""
        make_request(device, num_threads, precision, accuracy, None, None, Epilogue(activation=activation))
        self._device = device
        self._options = {"activation": activation, "num_threads": num_threads,
                         "precision": precision, "accuracy": accuracy}  # fmt: skip
        self._lock = threading.Lock()

    def to(self, device: str) -> Linear:
        """The layer, on another device: its weights are copied there once and stay.

        Raises
        ------
        DeviceUnavailable
        """
        if "+" in Request(device=device).device:
            raise DeviceUnavailable("Linear: 'cpu+cuda' divides the images of a convolution; use 'cuda' or 'cpu'")
        self._device = check_device(device)
        with self._lock:
            self._state.prepared.clear()
        return self

    @property
    def prepared_bytes(self) -> int:
        return count_bytes(list(self._state.prepared.values()))

    def __call__(self, x: Any, out: Any = None, stream: Any = None) -> Any:
        """``linear(x, weight, bias)``; beyond a few rows of x the weights are packed, once a number of rows."""
        device = check_device(self._device, device_of(x))
        x = any_array(x, "x", device, stream)
        state = self._state
        if device == "cpu":
            rows = x.size // max(1, x.shape[-1]) if x.ndim else 0
            w, bias = self._weights(state, rows), state.bias
        else:
            w, bias = self._copies(state, device)
        return linear(x, w, bias, out=out, device=device, stream=stream, **self._options)

    def _copies(self, state: _State, device: str):
        """Weights and bias on a GPU: the weights turned, as the product's tiles want them."""
        with self._lock:
            if device not in state.prepared:
                home = runtime(device)
                turned = home.to_device(np.ascontiguousarray(state.weight.T), None).T
                bias = None if state.bias is None else home.to_device(state.bias, None)
                home.synchronize(None)  # other streams will read them
                state.prepared[device] = [turned, bias]
            return state.prepared[device]

    def _weights(self, state: _State, rows: int) -> np.ndarray | PackedMatrix:
        if rows <= MOST_COLUMNS:
            return state.weight
        key = 1 << (rows - 1).bit_length()  # one packing serves all numbers of rows up to the next power of two
        with self._lock:
            if key not in state.prepared:
                state.prepared.clear()
                state.prepared[key] = prepack_b(state.weight.T, key, self._options["num_threads"])
            return state.prepared[key]
