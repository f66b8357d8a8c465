"""What the process really takes during a run is what was declared: resident memory on problems of 100 MB."""

from __future__ import annotations

import sys

import pytest

import numbaconv as nc

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peaks of resident memory are read from /proc")

# Sides of a square image of 64 channels for which a lowering takes about 100 MB; others take little on any.
SIDES = {"im2col": 208, "im2row": 208, "im2col-scan": 208, "kn2row": 208, "kn2col": 208, "cct-type2": 255, "mec": 360,
         "mec-row": 360, "im2win": 360, "kn2row-as": 620, "kn2col-as": 620, "indirect": 590}  # fmt: skip

CODE = """
import ctypes, gc, sys
import numpy as np
import numbaconv as nc

def resident(field):
    for line in open("/proc/self/status"):
        if line.startswith(field):
            return 1024 * int(line.split()[1])

name, text, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
p = nc.ConvProblem.parse(text)
rng = np.random.default_rng(0)
x, w = (rng.standard_normal(shape, dtype=np.float32) for shape in (p.input_shape, p.weight_shape))
out = np.zeros(p.output_shape, np.float32)
handle = nc.plan(p, name, num_threads=threads).prepare(w)
handle(x, out=out)  # everything is compiled and loaded
nc.release_workspaces()
gc.collect()
ctypes.CDLL(None).malloc_trim(0)
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
before = resident("VmRSS")
handle(x, out=out)
print(handle.lowering_bytes, handle.workspace_bytes, resident("VmHWM") - before)
"""


@pytest.mark.parametrize("name", [name for name in nc.list_lowerings() if name != "reference"])
def test_the_peak_is_what_was_declared(python, name):
    side = SIDES.get(name, 208)
    text = {
        "conv1x1": "mb1ic64ih208oc64oh208kh1",
        "depthwise": "g64mb1ic64ih208oc64oh208kh3ph1",
        "patchify": "mb1ic64ih208oc64oh104kh2sh2",
        "fft": "mb4ic16ih208oc16oh208kh3ph1",
        "winograd-1d": "mb1ic64ih208iw208oc64oh208ow208kh3kw1ph1pw0",
        "winograd-f2-5": "mb1ic64ih208oc64oh208kh5ph2",
        "winograd-f4-5": "mb1ic64ih208oc64oh208kh5ph2",
    }.get(name, f"mb1ic64ih{side}oc64oh{side}kh3ph1")
    lowered, declared, peak = map(int, python(CODE, name, text, 2).split())
    assert (lowered > 95e6) == (name in SIDES)
    assert abs(peak - declared) <= 0.02 * declared + (1 << 20), f"declared {declared}, peak {peak}"
