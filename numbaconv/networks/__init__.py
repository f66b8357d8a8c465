"""Layer tables of real networks: what is benchmarked, and what the network commands of the CLI run.

``layers("resnet50")`` lists a network's convolutions and fully-connected layers in the order they run. Each table is a
short walk through the architecture (see ``table.Walk``). ``networks.alexnet`` is a whole forward pass.
"""

from __future__ import annotations

from collections.abc import Callable

from numbaconv.errors import UnknownName
from numbaconv.networks import chains, googlenet, mobilenet, resnet, squeezenet
from numbaconv.networks.table import Layer, Walk

__all__ = ["NETWORKS", "Layer", "UnknownNetwork", "layers"]

NETWORKS: dict[str, Callable[[Walk], None]] = {
    "alexnet": chains.alexnet,
    "alexnet_ungrouped": chains.alexnet_ungrouped,
    "vgg16": chains.vgg16,
    "vgg19": chains.vgg19,
    "googlenet": googlenet.googlenet,
    "resnet18": resnet.resnet18,
    "resnet50": resnet.resnet50,
    "mobilenet_v2": mobilenet.mobilenet_v2,
    "squeezenet1_1": squeezenet.squeezenet1_1,
}
"""Networks by name, each with the function that walks it."""


class UnknownNetwork(UnknownName):
    """There is no table of a network of this name."""

    what = "network"


def layers(name: str, mb: int = 1, layout: str = "nchw", dtype: str = "float32") -> list[Layer]:
    """The convolutions and fully-connected layers of a network, in the order they run.

    Parameters
    ----------
    name : str
        One of ``NETWORKS``; ``-`` counts as ``_``, capitals as small letters.
    mb : int
        Images.
    layout : {"nchw", "nhwc"}
    dtype : {"float32", "float64"}

    Returns
    -------
    list of Layer

    Raises
    ------
    UnknownNetwork
        With the names that come close.
    """
    key = str(name).lower().replace("-", "_")
    if key not in NETWORKS:
        raise UnknownNetwork(name, NETWORKS)
    walk = Walk(key, mb=mb, layout=layout, dtype=dtype)
    NETWORKS[key](walk)
    return walk.layers
