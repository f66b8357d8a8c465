"""MobileNet-v2 (Sandler et al. 2018) as in torchvision: inverted residual blocks around depthwise convolutions.

No convolution has a bias (batch normalisation follows each); a block's last one is linear.
"""

from __future__ import annotations

from numbaconv.networks.table import Walk

__all__ = ["mobilenet_v2"]

# Expansion, output channels, blocks, stride of the first block.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def mobilenet_v2(walk: Walk) -> None:
    """Width 1.0."""

    def conv(name: str, oc: int, k: int, stride: int = 1, groups: int = 1, activation: str | None = "relu6") -> None:
        walk.conv(f"features.{name}", oc, k, stride, groups=groups, bias=False, activation=activation)

    walk.image(224)
    conv("0.0", 32, 3, 2)
    block = 0
    for expansion, channels, blocks, first_stride in STAGES:
        for index in range(blocks):
            block += 1
            hidden, step = walk.channels * expansion, 0
            if expansion > 1:
                conv(f"{block}.conv.0.0", hidden, 1)
                step = 1
            conv(f"{block}.conv.{step}.0", hidden, 3, 1 if index else first_stride, groups=hidden)
            conv(f"{block}.conv.{step + 1}", channels, 1, activation=None)
    conv("18.0", 1280, 1)
    walk.pool(7, 1)
    walk.fc("classifier.1", 1000, activation=None)
