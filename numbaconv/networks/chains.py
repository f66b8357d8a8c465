"""AlexNet (Caffe's bvlc_alexnet) and VGG-16/19 (torchvision's names): each one chain of layers."""

from __future__ import annotations

from numbaconv.networks.table import Walk

__all__ = ["alexnet", "alexnet_ungrouped", "vgg16", "vgg19"]


def alexnet(walk: Walk, groups: int = 2) -> None:
    """Krizhevsky, Sutskever and Hinton 2012 as trained on two GPUs: conv2, conv4 and conv5 in two groups."""
    walk.image(227)
    walk.conv("conv1", 96, 11, stride=4, pad=0)
    walk.pool(3, 2)
    walk.conv("conv2", 256, 5, groups=groups)
    walk.pool(3, 2)
    walk.conv("conv3", 384, 3)
    walk.conv("conv4", 384, 3, groups=groups)
    walk.conv("conv5", 256, 3, groups=groups)
    walk.pool(3, 2)
    walk.fc("fc6", 4096)
    walk.fc("fc7", 4096)
    walk.fc("fc8", 1000, activation=None)


def alexnet_ungrouped(walk: Walk) -> None:
    """AlexNet as it is mostly quoted in papers on convolution: the same sizes, one group."""
    alexnet(walk, groups=1)


def _vgg(walk: Walk, depths: tuple[int, ...]) -> None:
    walk.image(224)
    position = 0  # in torchvision's `features`: a convolution and its ReLU take two places, a pooling one
    for depth, channels in zip(depths, (64, 128, 256, 512, 512), strict=True):
        for _ in range(depth):
            walk.conv(f"features.{position}", channels, 3)
            position += 2
        walk.pool(2, 2)
        position += 1
    walk.fc("classifier.0", 4096)
    walk.fc("classifier.3", 4096)
    walk.fc("classifier.6", 1000, activation=None)


def vgg16(walk: Walk) -> None:
    """Simonyan and Zisserman 2014, configuration D."""
    _vgg(walk, (2, 2, 3, 3, 3))


def vgg19(walk: Walk) -> None:
    """Simonyan and Zisserman 2014, configuration E."""
    _vgg(walk, (2, 2, 4, 4, 4))
