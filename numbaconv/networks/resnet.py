"""ResNet-18 and ResNet-50 (He et al. 2015) as in torchvision: v1.5, whose bottlenecks stride in the 3x3 convolution.

No convolution has a bias: a batch normalisation follows each. The last ReLU of a block comes behind the addition, so
the block's last convolution and the projection have none.
"""

from __future__ import annotations

from collections.abc import Callable

from numbaconv.networks.table import Walk

__all__ = ["resnet18", "resnet50"]


def _basic(walk: Walk, name: str, width: int, stride: int) -> None:
    """Two 3x3 convolutions."""
    walk.conv(f"{name}.conv1", width, 3, stride, bias=False)
    walk.conv(f"{name}.conv2", width, 3, bias=False, activation=None)


def _bottleneck(walk: Walk, name: str, width: int, stride: int) -> None:
    """1x1 down, 3x3, 1x1 up to four times the width."""
    walk.conv(f"{name}.conv1", width, 1, bias=False)
    walk.conv(f"{name}.conv2", width, 3, stride, bias=False)
    walk.conv(f"{name}.conv3", 4 * width, 1, bias=False, activation=None)


def _resnet(walk: Walk, block: Callable[[Walk, str, int, int], None], depths: tuple[int, ...]) -> None:
    walk.image(224)
    walk.conv("conv1", 64, 7, 2, bias=False)
    walk.pool(3, 2, pad=1)
    for stage, depth in enumerate(depths):
        for index in range(depth):
            name = f"layer{stage + 1}.{index}"
            stride = 2 if stage and not index else 1
            fork = walk.place
            block(walk, name, 64 << stage, stride)
            end = walk.place
            if end != fork:
                walk.place = fork
                walk.conv(f"{name}.downsample.0", end[0], 1, stride, bias=False, activation=None)
    walk.pool(7, 1)
    walk.fc("fc", 1000, activation=None)


def resnet18(walk: Walk) -> None:
    """Two basic blocks a stage."""
    _resnet(walk, _basic, (2, 2, 2, 2))


def resnet50(walk: Walk) -> None:
    """3, 4, 6 and 3 bottlenecks."""
    _resnet(walk, _bottleneck, (3, 4, 6, 3))
