"""What a layer table is made of: the ``Layer``, and the ``Walk`` that builds a table as an architecture is read out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numbaconv.problem import ConvProblem

__all__ = ["Layer", "Walk"]


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer that is a matrix product.

    Parameters
    ----------
    name : str
        The layer's name in the model file the table follows.
    kind : {"conv", "fc"}
    problem : ConvProblem
        A fully-connected layer is a 1x1 convolution of a 1x1 map: ic = its inputs, oc = its outputs.
    bias : bool
        Whether the layer itself has one (a batch normalisation that follows is no bias).
    activation : None, "relu" or "relu6"
        What follows directly. A ReLU behind a residual addition does not.
    """

    name: str
    kind: str
    problem: ConvProblem
    bias: bool
    activation: str | None


class Walk:
    """A place in a network: the map that arrives there (`channels` of `size` x `size` pixels) and the layers so far.

    Parameters
    ----------
    network : str
        Name of the network, part of every problem's name.
    mb, layout, dtype
        As in ``ConvProblem``.
    """

    def __init__(self, network: str, *, mb: int, layout: str, dtype: str):
        self.network = network
        self.common: dict[str, Any] = {"mb": mb, "layout": layout, "dtype": dtype}
        self.layers: list[Layer] = []
        self.channels = self.size = 0

    def image(self, size: int, channels: int = 3) -> None:
        """Start with an image of `size` x `size` pixels."""
        self.size, self.channels = size, channels

    @property
    def place(self) -> tuple[int, int]:
        """The map here; assign it to come back to a fork."""
        return self.channels, self.size

    @place.setter
    def place(self, place: tuple[int, int]) -> None:
        self.channels, self.size = place

    def conv(
        self,
        name: str,
        oc: int,
        k: int,
        stride: int = 1,
        pad: int | None = None,
        groups: int = 1,
        bias: bool = True,
        activation: str | None = "relu",
    ) -> None:
        """A convolution with a k x k kernel; without `pad`, the pad that keeps the map's size at stride 1."""
        pad = k // 2 if pad is None else pad
        problem = ConvProblem(
            ic=self.channels, ih=self.size, iw=self.size, oc=oc, kh=k, kw=k, sh=stride, sw=stride, g=groups,
            pad_top=pad, pad_left=pad, pad_bottom=pad, pad_right=pad, name=f"{self.network}:{name}", **self.common,
        )  # fmt: skip
        self.layers.append(Layer(name, "conv", problem, bias, activation))
        self.channels, self.size = oc, problem.oh

    def pool(self, k: int, stride: int, pad: int = 0, ceil: bool = False) -> None:
        """A pooling window; `ceil` lets the last one hang over the edge, as Caffe does."""
        self.size = (self.size + 2 * pad - k + (stride - 1 if ceil else 0)) // stride + 1

    def fc(self, name: str, outputs: int, activation: str | None = "relu") -> None:
        """A fully-connected layer on the whole map."""
        inputs = self.channels * self.size**2
        problem = ConvProblem(
            ic=inputs, ih=1, iw=1, oc=outputs, kh=1, kw=1, name=f"{self.network}:{name}", **self.common
        )
        self.layers.append(Layer(name, "fc", problem, True, activation))
        self.channels, self.size = outputs, 1
