"""Write the tables of README.md that are made from the package itself: the catalogue of lowerings.

    python scripts/readme.py            # write them between their marks
    python scripts/readme.py --check    # end with 1 if they are not what is there

Figures that were measured are written by scripts/studies.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numbaconv as nc
from numbaconv.registry import lowerings

README = Path(__file__).resolve().parent.parent / "README.md"
EXAMPLE = 'mb1ic128ih56oc256oh56kh3ph1n"vgg16:features.10"'
OWN_SHAPES = {
    "conv1x1": 'mb1ic256ih56oc64oh56kh1n"resnet50:layer1.1.conv1"',
    "patchify": 'mb1ic3ih224oc768oh14kh16sh16n"ViT-B/16"',
    "winograd-f2-5": 'mb1ic96ih27oc256oh27kh5ph2n"alexnet:conv2"',
    "winograd-f4-5": 'mb1ic96ih27oc256oh27kh5ph2n"alexnet:conv2"',
    "winograd-1d": 'mb1ic128ih17iw17oc128oh17ow17kh1kw7ph0pw3n"inception_v3:Mixed_6b.branch7x7_2"',
    "depthwise": 'g144mb1ic144ih56oc144oh56kh3ph1n"mobilenet_v2:features.3"',
}
"""What lowerings that do not run the example are shown on."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--readme", type=Path, default=README, metavar="FILE")
    options = parser.parse_args(arguments)
    text = options.readme.read_text(encoding="utf-8")
    wanted = between(text, "lowerings", catalogue())
    if options.check:
        if text != wanted:
            print(f"{options.readme.name}: the table of lowerings is not what the package says; run scripts/readme.py")
        return int(text != wanted)
    options.readme.write_text(wanted, encoding="utf-8")
    return 0


def between(text: str, mark: str, content: str) -> str:
    """`text` with what stands between <!-- mark --> and <!-- /mark --> replaced."""
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        sys.exit(f"the marks {begin} and {end} must be there once")
    head, rest = text.split(begin)
    return f"{head}{begin}\n{content}\n{end}{rest.split(end)[1]}"


def catalogue() -> str:
    """The lowerings with their memory and multiply-adds, on one thread."""
    lines = ["| lowering | lowered, KiB | multiply-adds | products m x k x n | paper |", "|---|---|---|---|---|"]
    for cls in lowerings():
        problem = nc.ConvProblem.parse(OWN_SHAPES.get(cls.name, EXAMPLE))
        row = next(row for row in nc.explain(problem, num_threads=1).rows if row.name == cls.name)
        calls = [call for call in row.gemm_calls if call.count]
        products = ", ".join(f"{call.count} of {call.m} x {call.k} x {call.n}" for call in calls[:3])
        products += f", {len(calls) - 3} more kinds" * (len(calls) > 3)
        lines.append(f"| `{cls.name}` | {row.lowering_bytes / 1024:,.0f} | {row.macs / problem.macs:.3f} | "
                     f"{products or 'none'} | {cls.paper} |")  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
