"""GoogLeNet (Inception v1, Szegedy et al. 2014) as in Caffe's bvlc_googlenet, without the auxiliary classifiers."""

from __future__ import annotations

from numbaconv.networks.table import Walk

__all__ = ["googlenet"]

# Channels of the branches: 1x1; 3x3 reduced and full; 5x5 reduced and full; behind the pooling.
INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


def _inception(walk: Walk, name: str) -> None:
    """Four branches side by side on one map, their channels concatenated."""
    fork = walk.place
    one, three_reduced, three, five_reduced, five, pooled = INCEPTIONS[name]
    walk.conv(f"inception_{name}/1x1", one, 1)
    for kernel, reduced, full in ((3, three_reduced, three), (5, five_reduced, five)):
        walk.place = fork
        walk.conv(f"inception_{name}/{kernel}x{kernel}_reduce", reduced, 1)
        walk.conv(f"inception_{name}/{kernel}x{kernel}", full, kernel)
    walk.place = fork
    walk.conv(f"inception_{name}/pool_proj", pooled, 1)
    walk.channels = one + three + five + pooled


def googlenet(walk: Walk) -> None:
    """Every pooling between stages rounds its size up, as Caffe does."""
    walk.image(224)
    walk.conv("conv1/7x7_s2", 64, 7, stride=2)
    walk.pool(3, 2, ceil=True)
    walk.conv("conv2/3x3_reduce", 64, 1)
    walk.conv("conv2/3x3", 192, 3)
    for stage in "345":
        walk.pool(3, 2, ceil=True)
        for name in INCEPTIONS:
            if name.startswith(stage):
                _inception(walk, name)
    walk.pool(7, 1)
    walk.fc("loss3/classifier", 1000, activation=None)
