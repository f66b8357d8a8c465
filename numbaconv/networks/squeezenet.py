"""SqueezeNet 1.1 (Iandola et al. 2016) as in torchvision: fire modules, no fully-connected layer."""

from __future__ import annotations

from numbaconv.networks.table import Walk

__all__ = ["squeezenet1_1"]

# Places in torchvision's `features` and squeezed channels of the fire modules; each expands to 4 + 4 times as many.
# A pooling stands before the modules 3, 6 and 9.
FIRES = {3: 16, 4: 16, 6: 32, 7: 32, 9: 48, 10: 48, 11: 64, 12: 64}


def squeezenet1_1(walk: Walk) -> None:
    """Squeeze by 1x1, expand by 1x1 and 3x3 side by side, concatenate."""
    walk.image(224)
    walk.conv("features.0", 64, 3, stride=2, pad=0)
    for place, squeezed in FIRES.items():
        if place in (3, 6, 9):
            walk.pool(3, 2, ceil=True)
        walk.conv(f"features.{place}.squeeze", squeezed, 1)
        fork = walk.place
        walk.conv(f"features.{place}.expand1x1", 4 * squeezed, 1)
        walk.place = fork
        walk.conv(f"features.{place}.expand3x3", 4 * squeezed, 3)
        walk.channels = 8 * squeezed
    walk.conv("classifier.1", 1000, 1)
