"""All cases of the check of a GPU, the most important ones first."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from numbaconv.bench.gpu import (
    convs,
    facts,
    ladder,
    networks,
    products,
    sharing,
    speed,
    tiles,
    words,
)
from numbaconv.bench.gpu.case import Case

__all__ = ["VERSIONS", "all_cases", "chosen"]

VERSIONS = "device: versions"
ORDER = (
    VERSIONS, "device: memory*", "device: arguments*", "device: strided*", "words: *",
    "products: *rows x rows", "products: precision*", "products: epilogues*",
    "sharing: host*", "sharing: Conv2d", "sharing: torch*",
    "device: ceilings", "gemm: 4096 x 4096 x 4096", "gemm: 8192*", "device: clocks",
    "lowerings: * float32", "lowerings: accuracy",
    "gemm: *", "resnet50: *", "vgg16: *", "calls: *", "ladder: *",
    "tiles: *other tiles*", "tiles: *",
    "sharing: *", "products: *", "lowerings: *", "mobilenet*", "device: compiled kernels",
)  # fmt: skip
"""Patterns of keys; a case runs where the first that fits it stands."""


def rank(case: Case) -> int:
    return next((place for place, pattern in enumerate(ORDER) if fnmatch.fnmatchcase(case.key, pattern)), len(ORDER))


def all_cases(quick: bool) -> list[Case]:
    """Every case, in the order in which they run."""
    modules = (words, products, sharing, speed, convs, networks, ladder, tiles, facts)
    found = [facts.first(), *(case for module in modules for case in module.cases(quick))]
    return sorted(found, key=rank)


def chosen(cases: Sequence[Case], patterns: Sequence[str]) -> list[Case]:
    """Those whose key one of some patterns fits; all without patterns; the versions always."""
    return [
        case
        for case in cases
        if not patterns or case.key == VERSIONS or any(fnmatch.fnmatchcase(case.key, pattern) for pattern in patterns)
    ]
