"""The CUDA ladder: every step exact in the emulator, what its warps ask of memory, and the code it compiles to."""

from __future__ import annotations

import itertools
import json
import re

import numpy as np
import pytest
from cuda_code import LOCAL, WIDE, intermediate, link

import numbaconv as nc
from numbaconv.devices import cubins, emulated
from numbaconv.devices import cuda as cuda_devices
from numbaconv.devices.cuda import runtime
from numbaconv.devices.emulated import EmulatedRuntime
from numbaconv.devices.emulator import EmulationError, launch
from numbaconv.devices.intrinsics import (
    cp_async16,
    cp_async_commit,
    cp_async_wait,
    cuda,
    float32,
    ld4,
    multiply_tile,
    st4,
)
from numbaconv.devices.watching import watched
from numbaconv.errors import DeviceUnavailable, ShapeError
from numbaconv.ladder import step, steps
from numbaconv.ladder.warps import Instruction, traffic
from numbaconv.teach import device as section

STEPS = steps("cuda")
NAMES = ["naive", "coalesced", "shared", "register-tile", "async", "production"]
TILES = {"production": (64, 64, 16)}  # of a small product


@pytest.fixture
def emulator(monkeypatch):
    """The emulated device."""
    pytest.importorskip("greenlet", reason="the CUDA emulator runs on greenlets: pip install greenlet")
    monkeypatch.setenv("NUMBACONV_CUDA", "emulate")
    monkeypatch.delenv("NUMBACONV_CUDA_CC", raising=False)
    return runtime("cuda")


def whole(rng, m, n):
    return rng.integers(-4, 5, (m, n)).astype(np.float32)


def exact(function, rng, m, n, k):
    a, b, out = whole(rng, m, k), whole(rng, k, n), np.full((m, n), np.nan, np.float32)
    assert function(a, b, out=out) is out
    np.testing.assert_array_equal(out, a.astype(np.float64) @ b)


def each_step(names=NAMES):
    return pytest.mark.parametrize("name", names)


def edges(name):
    """Sizes around those of a block's tile."""
    module = step(name, "cuda").module
    bm, bn, bk = TILES.get(name) or (module.bm, module.bn, getattr(module, "bk", 16))
    return [(bm + 1, bn - 1, bk + 1), (3, bn + 1, bk - 1)]


def test_the_steps_are_there_and_say_what_they_are():
    assert [one.name for one in STEPS] == NAMES
    assert [one.number for one in STEPS] == [1, 2, 3, 4, 5, 6]
    for one in STEPS:
        assert one.title
        assert one.number == 1 or one.idea.startswith("Compared with the step before: ")
        assert "def gemm(a, b, out):" in one.source
        assert one.kernel.name in one.source or one.number == 6


# ----------------------------------------------------------------------------------------------------- results


@each_step()
def test_every_step_is_exact_whatever_the_sizes(emulator, rng, name):
    function = step(name, "cuda").function
    for sizes in [(5, 7, 3), (1, 1, 1), (9, 12, 8), (0, 3, 2), (3, 0, 2), (3, 2, 0), *edges(name)]:
        exact(function, rng, *sizes)


@each_step()
def test_arrays_on_the_device_stay_there(emulator, rng, name):
    """Also where they do not begin at a multiple of 16 bytes, and nothing beside them is written."""
    m, n, k = 6, 8, 12
    a, b = whole(rng, m, k), whole(rng, k, n)
    for shift in (0, 1):
        room = emulator.to_device(np.full(m * n + 8, 7, np.float32))
        out = room[shift : shift + m * n].reshape(m, n)
        there = []
        for x in (a, b):
            memory = emulator.to_device(np.concatenate([np.zeros(shift, np.float32), x.ravel()]))
            there.append(memory[shift:].reshape(x.shape))
        assert step(name, "cuda").function(*there, out=out) is out
        want = np.full(m * n + 8, 7, np.float32)
        want[shift : shift + m * n] = (a @ b).ravel()
        np.testing.assert_array_equal(room.copy_to_host(), want)


def test_host_arrays_may_have_any_strides(emulator, rng):
    a, b, out = whole(rng, 7, 5), whole(rng, 6, 7), np.full((5, 12), np.nan, np.float32)
    step("async", "cuda").function(a.T, b.T, out=out[:, ::2])
    np.testing.assert_array_equal(out[:, ::2], a.T @ b.T)
    assert np.isnan(out[:, 1::2]).all()


def test_the_last_step_is_the_production_kernel(emulator, monkeypatch):
    launched = []
    monkeypatch.setattr(EmulatedRuntime, "_run", lambda self, kernel, *arguments: launched.append(kernel))
    last = STEPS[-1]
    a, b = np.zeros((1024, 32), np.float32), np.zeros((32, 1024), np.float32)
    last.function(a, b, out=np.empty((1024, 1024), np.float32))
    assert any(kernel is last.kernel for kernel in launched)
    launched.clear()
    nc.gemm(a, b, device="cuda")
    assert any(kernel is last.kernel for kernel in launched)


SMALL = (5, 7, 3)
FAULTS = [
    ("naive", "a[at(i, p, k)]", "a[at(i, p, m)]", SMALL),  # the wrong leading dimension, right for squares
    ("coalesced", "umod32(cuda.threadIdx.x, bn)", "umod32(cuda.threadIdx.x, bm)", (9, 30, 4)),
    ("coalesced", "if i < m and j < n:", "if i < m:", SMALL),
    ("shared", "        cuda.syncthreads()\n    if i < m", "    if i < m", (5, 7, 33)),
    ("shared", "if p + y < k and j < n", "if j < n", SMALL),
    ("register-tile", "a_tile[at(y + r * down, q, bk)]", "a_tile[at(y * mr + r, q, bk)]", SMALL),
    ("async", "0, k, bk):\n        wait_for_copies()\n", "0, k, bk):\n", SMALL),
    ("async", "min(max(int32(k - q), 0), vector) if i < m else 0", "vector if i < m else 0", SMALL),
    ("async", ", row=vector)", ")", SMALL),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new", "sizes"), FAULTS)
def test_a_fault_would_be_seen(emulator, rng, mutant, monkeypatch, name, old, new, sizes):
    monkeypatch.setattr(cubins, "_digests", {})  # the mutant's kernel has the same name
    module = mutant(step(name, "cuda").module, old, new)
    with pytest.raises((AssertionError, EmulationError)):
        exact(module.gemm, rng, *sizes)


# ------------------------------------------------------------------------------------------------------ errors


def test_what_does_not_fit_is_said(emulator, rng):
    function = step("naive", "cuda").function
    a, b, out = np.zeros((3, 4), np.float32), np.zeros((4, 5), np.float32), np.zeros((3, 5), np.float32)
    fixed = out.copy()
    fixed.flags.writeable = False
    there = emulator.to_device(np.zeros((6, 6), np.float32))
    for arguments, said in [
        ((a, b[:3], out), r"a of shape \(3, 4\) has 4 columns but b of shape \(3, 5\) has 3 rows"),
        ((a, b, out.T), r"out: expected shape \(3, 5\), got \(5, 3\)"),
        ((a, b.astype(np.float64), out), "b: the ladder takes matrices of float32"),
        ((a, b[0], out), "b: the ladder takes matrices of float32"),
        ((a, b, fixed), "out: the array is read-only"),
        ((there[:, ::2], there[:3], there), "a: on a device the ladder takes matrices whose rows follow one another"),
        ((there, there, there), "out: it shares memory with a or b"),
    ]:
        with pytest.raises(ShapeError, match=said):
            function(*arguments)


@each_step()
def test_without_a_device_the_reason_is_said(monkeypatch, name):
    monkeypatch.setenv("NUMBACONV_CUDA", "")
    monkeypatch.setattr(cuda_devices, "_runtimes", {})
    monkeypatch.setattr(cuda_devices, "_reason", lambda index: "there is none")
    a = np.zeros((2, 2), np.float32)
    with pytest.raises(DeviceUnavailable, match=r"there is none; or (set NUMBACONV_CUDA=emulate|use device='cpu')"):
        step(name, "cuda").function(a, a, out=a.copy())


def test_asynchronous_copies_need_a_gpu_that_has_them(emulator, monkeypatch):
    monkeypatch.setenv("NUMBACONV_CUDA_CC", "7.5")
    a = np.zeros((2, 2), np.float32)
    with pytest.raises(DeviceUnavailable, match=r"needs compute capability 8\.0"):
        step("async", "cuda").function(a, a, out=a.copy())


# ---------------------------------------------------------------------------------------------- memory accesses

COUNTED = {  # sectors of a warp's first load of A and of B and of its store to C; each multiply-add's loads and bytes
    "naive": ((32, 1, 32), 2, 0, 33),
    "coalesced": ((1, 4, 4), 2, 0, 5),
    "shared": ((4, 4, 4), 2 / 32, 2, 8 / 32),
    "register-tile": ((4, 4, 4), 2 / 128, 16 / 64, 8 / 128),
    "async": ((16, 16, 16), 2 / 4 / 128, 16 / 4 / 64, 8 / 128),
    "production": ((4, 16, 16), (1 + 1 / 4) / 128, 16 / 4 / 64, 8 / 128),  # A element by element, B by 128 bits
}


def test_the_page_has_what_a_block_asks_of_memory(emulator, monkeypatch):
    monkeypatch.setenv("NUMBACONV_CUDA_CC", "7.5")  # whatever is asked for elsewhere
    ticks = []
    found = section.measure(True, ticks.append)
    assert len(ticks) == section.units(True) == len(NAMES)
    assert (found["m"], found["n"], found["k"]) == (256, 256, 32)
    assert json.loads(json.dumps(found)) == found
    for one in found["steps"]:
        sectors, global_loads, shared_loads, bytes_per_mac = COUNTED[one["name"]]
        assert tuple(one["sectors"].values()) == sectors, one["name"]
        assert one["macs"] == 256 * 256 * 32
        assert one["global_loads"] == global_loads * one["macs"], one["name"]
        assert one["shared_loads"] == shared_loads * one["macs"], one["name"]
        assert one["bytes_per_mac"] == bytes_per_mac == 32 * one["transactions"] / one["macs"], one["name"]
        assert one["bank_conflicts"] == 0 or one["name"] == "production"
    assert section.os.environ["NUMBACONV_CUDA_CC"] == "7.5"

    naive, coalesced, *others = (one["picture"] for one in found["steps"])
    assert [[part["rows"], part["columns"]] for part in naive["matrices"]] == [[32, 32], [32, 8], [32, 8]]
    for load in range(8):  # lanes go down a column of A and share an element of B; and the other way round
        assert sorted(at for at in naive["warp"] if at[4] == 2 * load) == [[0, i, load, i, 2 * load] for i in range(32)]
        assert {tuple(at[:3]) for at in naive["warp"] if at[4] == 2 * load + 1} == {(1, load, 0)}
        assert {tuple(at[:3]) for at in coalesced["warp"] if at[4] == 2 * load} == {(0, 0, load)}
        assert sorted(at[2:4] for at in coalesced["warp"] if at[4] == 2 * load + 1) == [[i, i] for i in range(32)]
    for picture in (naive, coalesced, *others):
        ours = [tuple(at[1:3]) for at in picture["warp"] if at[0] == 2]
        assert {at[4] for at in picture["warp"] if at[0] == 2} == {picture["warp"][-1][4]}
        assert len(ours) == len(set(ours)) in (32, 64 * 32)  # who computes what: each element once


@each_step(["naive", "async"])
def test_a_product_counts_as_many_times_its_first_block(emulator, rng, name):
    module = step(name, "cuda").module
    m, n, k = 2 * module.bm, module.bn, 16
    a, b = emulator.to_device(whole(rng, m, k)), emulator.to_device(whole(rng, k, n))
    one, all_ = (traffic(module.gemm, a, b, emulator.empty((m, n), np.float32), blocks) for blocks in (1, None))
    assert all_.macs == 2 * one.macs == m * n * k
    for kind in ("global_loads", "global_stores", "shared_loads", "shared_stores"):
        many, few = getattr(all_, kind), getattr(one, kind)
        assert (many.instructions, many.accesses, many.moved) == (2 * few.instructions, 2 * few.accesses, 2 * few.moved)


def test_accesses_are_counted_in_the_emulator_only():
    with pytest.raises(DeviceUnavailable, match="NUMBACONV_CUDA=emulate"):
        traffic(nc.gemm, *[np.zeros((2, 2), np.float32)] * 3)


def test_a_page_without_the_emulator_says_why(monkeypatch):
    monkeypatch.setattr(cuda_devices, "_runtimes", {})
    monkeypatch.setattr(emulated.importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("NUMBACONV_CUDA", raising=False)
    with pytest.raises(DeviceUnavailable, match="pip install greenlet"):
        section.measure(True, lambda text: None)
    assert "NUMBACONV_CUDA" not in section.os.environ


@pytest.mark.parametrize(
    ("lanes", "sectors", "wavefronts"),
    [
        ([(lane, lane, 1) for lane in range(32)], 4, (1, 1)),
        ([(lane, lane + 1, 1) for lane in range(32)], 5, (1, 1)),  # not aligned
        ([(lane, 5, 1) for lane in range(32)], 1, (1, 1)),
        ([(lane, 2 * lane, 1) for lane in range(32)], 8, (2, 1)),
        ([(lane, 32 * lane, 1) for lane in range(32)], 32, (32, 1)),
        ([(lane, 33 * lane, 1) for lane in range(32)], 32, (1, 1)),  # padded rows
        ([(lane, 4 * lane, 4) for lane in range(32)], 16, (4, 4)),
        ([(lane, 4 * (lane // 16), 4) for lane in range(32)], 1, (4, 4)),
        ([(lane, 16 * lane, 4) for lane in range(8)], 8, (4, 1)),
        ([(3, 8, 1)], 1, (1, 1)),
    ],
)
def test_sectors_and_wavefronts_of_a_warp(lanes, sectors, wavefronts):
    asked = Instruction("a", False, 4096, 64, lanes)
    assert (asked.sectors, asked.wavefronts) == (sectors, wavefronts)


multiply, wait = multiply_tile(1, 8, 4, 4, 4, 4, 4), cp_async_wait(0)


def test_a_watcher_is_told_of_every_access(emulator):
    def kernel(a, out):
        shared = cuda.shared.array(16, float32, alignment=16)
        sums = cuda.local.array(16, float32)
        for e in range(16):
            sums[e] = float32(0)
        cp_async16(shared, 0, a, 4, 4)
        cp_async16(shared, 4, a, 8, 0)  # zeros: nothing is read
        cp_async_commit()
        wait()
        shared[8] = a[2]
        multiply(shared, 0, shared, 4, sums)
        v = ld4(a, 0)
        st4(out, 4, v[0], v[1], v[2], shared[8])
        out[0] = sums[0]

    told = []
    a, out = np.arange(12, dtype=np.float32), np.zeros(8, np.float32)

    def touched(thread, memory, index, count, writes):
        told.append((thread.number, memory.name, index, count, writes))

    with watched(touched):
        launch(kernel, (1,), 1, a, out)
    x, s, y = "argument 0", "shared array 0", "argument 1"
    assert told == [
        (0, *one)
        for one in [
            (x, 4, 4, False), (s, 0, 4, True), (s, 4, 4, True), (x, 2, 1, False), (s, 8, 1, True), (s, 0, 4, False),
            (s, 4, 4, False), (x, 0, 4, False), (s, 8, 1, False), (y, 4, 4, True), (y, 0, 1, True),
        ]
    ]  # fmt: skip
    np.testing.assert_array_equal(out, [0, 0, 0, 0, 0, 1, 2, 2])
    launch(kernel, (1,), 1, a, out)
    assert len(told) == 11


def test_a_watcher_may_ask_for_the_first_blocks_only(emulator):
    def kernel(out):
        out[cuda.blockIdx.x] = 1

    told, out = [], np.zeros(4, np.float32)
    with watched(lambda thread, *access: told.append(thread.block.blockIdx.x), blocks=2):
        launch(kernel, (4,), 1, out)
    assert told == [0, 1]
    np.testing.assert_array_equal(out, [1, 1, 0, 0])


# ------------------------------------------------------------------------------------------------- machine code

DEPTHS = {"naive": None, "coalesced": None, "shared": 32, "register-tile": 16 * 64, "async": 16 * 64,
          "production": 16 * 64}  # fmt: skip
"""Multiply-adds of a thread for a tile of k; None: there are no tiles."""


def issued(code, adds):
    """(multiply-adds, instructions) of a thread for a tile of k: the loop over tiles, with what loops in it."""
    places = {label: place for place, (label, _, _) in enumerate(code.lines) if label}
    loops = []
    for place, (_, _, operands) in enumerate(code.lines):
        target = re.search(r"\.L_x_\d+", operands)
        if target and places.get(target[0], place) < place:
            body = [operation for _, operation, _ in code.lines[places[target[0]] : place + 1] if operation]
            loops.append((sum(operation.startswith("FFMA") for operation in body), len(body)))
    most = max(found for found, _ in loops)
    sizes = sorted(size for found, size in loops if found == most)
    if adds is None or len(sizes) == 1:
        assert adds in (None, most)
        return most, sizes[0]
    inner, outer = sizes
    times, rest = divmod(adds, most)
    assert rest == 0
    return adds, times * inner + outer - inner


@pytest.mark.compiler
def test_the_code_of_the_steps():
    """No spills, no local memory; ever more of the instructions are multiply-adds."""
    shares = {(8, 0): [], (9, 0): []}
    for one in STEPS:
        assembled = intermediate(one.kernel, (8, 0))
        for cc, along in shares.items():
            code = link(assembled, cc)
            assert code.spilled == (0, 0, 0), (one.name, cc)
            assert code.used["registers"] <= one.kernel.registers, (one.name, cc)
            assert not [operation for operation in code.operations if WIDE.match(operation) or LOCAL.match(operation)]
            adds, all_ = issued(code, DEPTHS[one.name])
            along.append(adds / all_)
            print(one.name, cc, code.used, f"multiply-adds: {adds} of {all_} instructions, {adds / all_:.1%}")
            if one.name == "async":
                loads = [operation for operation in code.hot_loop("FFMA") if operation.startswith("LDS")]
                assert loads == 16 * ["LDS.128"]
                assert sum(operation.startswith("LDGSTS") for operation in code.operations) == 2 * 4
    for along in shares.values():
        assert along[0] == pytest.approx(along[1], abs=0.01)
        assert all(later > 1.05 * earlier for earlier, later in itertools.pairwise(along[1:])), along
        assert along[2] > 0.25
        assert along[3] > 0.45
        assert along[4] > 0.70
        assert along[5] > 0.85
