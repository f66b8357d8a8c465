"""The peer on a GPU: PyTorch, which is cuDNN there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numbaconv.bench.contender import Contender
from numbaconv.bench.conv_peers import torch_sizes
from numbaconv.bench.peers import Peer
from numbaconv.bench.place import OnDevice, Place
from numbaconv.problem import ConvProblem

__all__ = ["TorchCuda", "device_peers"]


class TorchCuda(Peer):
    """torch.nn.functional.conv2d on tensors that live on the device, in the problem's memory order.

    In float32 throughout (no TF32), with cuDNN's own choice of the fastest algorithm, made in the first call; a single
    pixel's 1x1 convolution is torch.nn.functional.linear. An activation works in place on the result.

    Parameters
    ----------
    device : str
        "cuda:0".
    """

    name = "torch (cuDNN)"
    modules = ("torch",)

    def __init__(self, device: str):
        self.device = device

    def reason(self) -> str:
        missing = super().reason()
        if missing:
            return missing
        import torch

        return "" if torch.cuda.is_available() else "torch is built without CUDA, or finds no device"

    def version(self) -> str:
        import torch

        return f"{super().version()} (cuDNN {torch.backends.cudnn.version()})"

    def conv(
        self, problem: ConvProblem, x: NDArray, w: NDArray, bias: NDArray | None, activation: str | None = None
    ) -> Contender:
        """Ready to convolve (mb, ic, ih, iw) by (oc, ic/g, kh, kw), with everything on the device.

        Raises
        ------
        UnsupportedProblem
            Where the pads differ at two ends.
        """
        import torch

        sizes = torch_sizes(problem)
        p = problem
        dense = (p.ih, p.iw, p.kh, p.kw, p.oh, p.ow, p.g) == (1,) * 7
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True
        order = torch.channels_last if problem.layout == "nhwc" else torch.contiguous_format

        def there(array: NDArray) -> Any:
            return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

        image, weights = (there(array).contiguous(memory_format=order) for array in (x, w))
        if dense:
            image, weights = image.reshape(p.mb, p.ic), weights.reshape(p.oc, p.ic)
        shift = None if bias is None else there(bias)
        finish: Callable[[Any], Any] | None = {
            None: None, "relu": torch.relu_, "relu6": lambda y: y.clamp_(0, 6)
        }[activation]  # fmt: skip

        def call() -> Any:
            with torch.inference_mode():
                if dense:
                    y = torch.nn.functional.linear(image, weights, shift)
                else:
                    y = torch.nn.functional.conv2d(image, weights, shift, *sizes)
                return y if finish is None else finish(y)

        def result() -> NDArray:
            return call().cpu().contiguous().numpy().reshape(p.output_shape).copy()

        return Contender(self.name, call, result)


def device_peers(place: Place) -> list[TorchCuda]:
    """The peers that can run where our arrays live; none on the CPU (they have a benchmark of their own)."""
    if not isinstance(place, OnDevice) or place.emulated:
        return []
    peer = TorchCuda(place.runtime.device)
    return [] if peer.reason() else [peer]
