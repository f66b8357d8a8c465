"""The model of caches against cases worked by hand, a slow model in plain Python, and the processor's own counters."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest

from numbaconv.ladder.caches import BadCache, Hierarchy, Level, Simulation, simulate
from numbaconv.ladder.lru import replay
from numbaconv.machine import detect

LINE = 64


def served(lines, *levels, writes=()):
    """The level that had each of these lines, asked for in turn; `writes` says which places of the list are writes."""
    simulation = Simulation(Hierarchy(levels), log=len(lines))
    addresses = np.array(lines, np.int64) * LINE
    written = np.isin(np.arange(len(lines)), writes).astype(np.int64)
    replay(simulation.state, addresses, np.ones_like(addresses), written)
    assert (simulation.log[:, 0] == addresses).all()
    assert (simulation.log[:, 1] == written).all()
    return simulation.log[:, 2].tolist(), simulation.traffic


# ------------------------------------------------------------------------------------------------ worked by hand


def test_two_lines_fight_for_one_place_of_a_direct_mapped_cache():
    direct, two_ways = Level("L1", 4 * LINE, 1), Level("L1", 4 * LINE, 2)
    assert served([0, 4, 0, 4], direct)[0] == [1, 1, 1, 1]
    assert served([0, 5, 0, 5], direct)[0] == [1, 1, 0, 0]
    assert served([0, 4, 0, 4], two_ways)[0] == [1, 1, 0, 0]


def test_the_line_used_least_recently_goes():
    one_set = Level("L1", 2 * LINE, 2)
    a, b, c = 0, 1, 2
    assert served([a, b, a, c, a, b], one_set)[0] == [1, 1, 0, 1, 0, 1]  # c drives out b, for a was used after it


def test_a_fully_associative_cache_holds_what_fits_and_of_one_line_more_nothing():
    full = Level("L1", 4 * LINE, 4)
    assert served([0, 8, 16, 24] * 2, full)[0] == [1] * 4 + [0] * 4
    assert served([0, 8, 16, 24, 32] * 2, full)[0] == [1] * 10


@pytest.mark.parametrize(("lines", "stride", "misses"), [(8, 4096, 8), (9, 4096, 27), (9, 4096 + 64, 9)])
def test_a_power_of_two_stride_hits_one_set(lines, stride, misses):
    """32 KB in 8 ways are 64 sets: what lies 4096 bytes apart is in one of them, whatever else is free."""
    walk = np.tile(np.arange(lines) * stride, 3)
    assert simulate(walk, 4, None, Hierarchy([Level("L1", 32768, 8)]))["L1"].misses == misses


def test_sets_need_not_be_a_power_of_two():
    assert served([0, 3, 1, 0], Level("L1", 3 * LINE, 1))[0] == [1, 1, 1, 1]
    assert served([0, 1, 2, 0], Level("L1", 3 * LINE, 1))[0] == [1, 1, 1, 0]


def test_a_written_line_goes_down_when_it_is_driven_out():
    near, far = Level("L1", LINE, 1), Level("L2", 2 * LINE, 2)
    had, traffic = served([0, 1, 0], near, far, writes=[0])
    assert had == [2, 2, 1]
    assert (traffic.reads, traffic.writes) == (2, 1)
    assert traffic["L1"].written == LINE  # line 0; line 1 was only read
    assert traffic["L2"].written == 0  # it has it still
    _, traffic = served([0, 1, 2, 3, 4], near, far, writes=[0, 1])
    assert (traffic["L1"].written, traffic["L2"].written) == (2 * LINE, 2 * LINE)
    _, traffic = served([0, 1, 2, 3, 4], near, far)
    assert (traffic["L1"].written, traffic["L2"].written) == (0, 0)


def test_what_is_written_back_to_where_it_no_longer_is_drives_another_line_out():
    """L2 has one line and lost line 0 to line 1; line 0, dirty, then takes the place of line 1 there."""
    had, traffic = served([0, 1, 0, 2, 1], Level("L1", 2 * LINE, 2), Level("L2", LINE, 1), writes=[0])
    assert had == [2, 2, 0, 2, 2]
    _, traffic = served([0, 1, 2, 0], Level("L1", 2 * LINE, 2), Level("L2", LINE, 1), writes=[0])
    assert (traffic["L1"].written, traffic["L2"].written) == (LINE, 0)
    assert traffic["L2"].hits == 1


def test_a_write_allocates():
    assert served([7, 7], Level("L1", 4 * LINE, 2), writes=[0])[0] == [1, 0]


def test_a_vector_across_two_lines_asks_for_both():
    one = Hierarchy([Level("L1", 1024, 2)])
    aligned, crossing = simulate([0, 64], 64, None, one), simulate([0, 96], 64, None, one)
    assert (aligned.accesses, aligned["L1"].hits, aligned["L1"].misses) == (2, 0, 2)
    assert (crossing.accesses, crossing["L1"].hits, crossing["L1"].misses) == (2, 0, 3)
    assert simulate([60, 0, 64], [8, 4, 4], None, one)["L1"].hits == 2
    assert simulate([60, 0, 64], [4, 4, 4], None, one)["L1"].hits == 1


def test_bytes_are_lines_missed():
    traffic = simulate(np.arange(0, 4096, 4), 4, None, Hierarchy([Level("L1", 1024, 2), Level("L2", 8192, 4)]))
    assert traffic.accesses == 1024
    assert [(level.hits, level.misses, level.bytes) for level in traffic.levels] == [(960, 64, 4096), (0, 64, 4096)]
    assert "960 hits, 64 misses, 4,096 bytes in" in str(traffic)


# -------------------------------------------------------------------------------------------- a slow second model


def slowly(stream, levels):
    """(hits, misses, lines written back) of each level, with dictionaries in order of use."""
    sets = [[OrderedDict() for _ in range(level.sets)] for level in levels]
    counts = np.zeros((len(levels), 3), int)

    def put(number, line, dirty):
        if number == len(levels):
            return
        row = sets[number][line % levels[number].sets]
        row[line] = row.pop(line, False) or dirty
        if len(row) > levels[number].ways:
            victim, spoiled = row.popitem(last=False)
            if spoiled:
                counts[number, 2] += 1
                put(number + 1, victim, True)

    for line, write in stream:
        missed = []
        for number, level in enumerate(levels):
            if line in sets[number][line % level.sets]:
                counts[number, 0] += 1
                put(number, line, write and number == 0)
                break
            counts[number, 1] += 1
            missed.append(number)
        for number in reversed(missed):
            put(number, line, write and number == 0)
    return counts.tolist()


@pytest.mark.parametrize("sizes", [((8, 1), (16, 4), (48, 3)), ((6, 2), (12, 12)), ((16, 16),)])
def test_random_streams_cost_what_a_slow_model_says(sizes):
    generator = np.random.default_rng(len(sizes))
    levels = [Level(f"L{number}", lines * LINE, ways) for number, (lines, ways) in enumerate(sizes)]
    lines = np.minimum(generator.integers(0, 90, 5000), generator.integers(0, 90, 5000))
    writes = generator.integers(0, 2, 5000).astype(bool)
    traffic = simulate(lines * LINE + 5, 4, writes, Hierarchy(levels))
    counted = [[level.hits, level.misses, level.written // LINE] for level in traffic.levels]
    assert counted == slowly(zip(lines.tolist(), writes.tolist(), strict=True), levels)


# -------------------------------------------------------------------------------------------------- this machine's


def described(root, **indices):
    for name, (level, kind, ways) in indices.items():
        (root / name).mkdir()
        for file, text in (("level", level), ("type", kind), ("ways_of_associativity", ways)):
            (root / name / file).write_text(f"{text}\n")
        (root / name / "coherency_line_size").write_text("64\n")
    return root


def test_the_machines_sizes_and_linuxs_ways(tmp_path):
    machine = replace(detect(), l1d_bytes=49152, l2_bytes=2 << 20, l3_share=2621440)
    data, code = (1, "Data", 12), (1, "Instruction", 3)
    root = described(tmp_path, index0=data, index1=code, index2=(2, "Unified", 16), index3=(3, "Unified", 20))
    levels = Hierarchy.of(machine, root).levels
    assert [(level.name, level.size, level.ways) for level in levels] == [
        ("L1", 49152, 12),
        ("L2", 2 << 20, 16),
        ("L3", 2621440, 20),
    ]


def test_ways_nobody_tells_and_an_l3_that_is_not_there(tmp_path):
    machine = replace(detect(), l1d_bytes=32768, l2_bytes=1 << 20, l3_share=1 << 20)
    assert Hierarchy.of(machine, tmp_path).levels == (Level("L1", 32768, 8), Level("L2", 1 << 20, 8))
    root = described(tmp_path, index0=(1, "Data", 0), index1=(2, "Unified", 7))
    assert Hierarchy.of(machine, root).levels[1] == Level("L2", (1 << 20) // 448 * 448, 7)
    assert Hierarchy.of().levels[0].line >= 32


def test_what_no_cache_can_be():
    with pytest.raises(BadCache, match="L1: size must be a multiple of ways x line = 128; got 192"):
        Level("L1", 192, 2)
    with pytest.raises(BadCache, match="power of two; got 48"):
        Level("L1", 96, 2, line=48)
    with pytest.raises(BadCache, match="at least one level"):
        Hierarchy([])
    with pytest.raises(BadCache, match="the same line"):
        Hierarchy([Level("L1", 128, 2), Level("L2", 256, 2, line=32)])
    with pytest.raises(BadCache, match="must not be negative"):
        simulate([-1])


WALK = """
import sys
import numpy as np
from numbaconv.jit import compiled

@compiled
def walk(x, lines, stride, rounds):
    at = 0
    for _ in range(rounds):
        for line in range(lines):
            at = x[line * stride + at]  # each load waits for the one before it
    return at

rounds, lines = int(sys.argv[1]), int(sys.argv[2])
walk(np.zeros(1 << 16, np.int64), lines, int(sys.argv[3]), rounds)
"""


def counted_misses(*command):
    counter = ["perf", "stat", "-x,", "-e", "L1-dcache-load-misses:u"]
    run = subprocess.run([*counter, *command], check=False, capture_output=True, text=True, timeout=120)
    try:
        return int(run.stderr.strip().splitlines()[-1].partition(",")[0])
    except (ValueError, IndexError):
        pytest.skip(f"perf stat counts no L1 misses here: {run.stderr.strip()[:200]}")


def walked_misses(rounds, lines, stride):
    return counted_misses(sys.executable, "-c", WALK, str(rounds), str(lines), str(stride))


def test_the_processor_counts_the_same_misses():
    """As many lines of one set as it has ways stay; twice as many miss at every load."""
    if shutil.which("perf") is None or os.name != "posix":
        pytest.skip("perf is not installed")
    counted_misses("true")
    level = Hierarchy.of().levels[0]
    stride, rounds = level.sets * level.line, 20_000
    for lines in (level.ways // 2, 2 * level.ways):
        modelled = simulate(np.tile(np.arange(lines) * stride, 10), 8, None, Hierarchy([level]))["L1"]
        share = (modelled.misses - lines) / (9 * lines)
        counted = walked_misses(rounds, lines, stride // 8) - walked_misses(0, lines, stride // 8)
        assert counted / (rounds * lines) == pytest.approx(share, abs=0.25)
