"""What is said to be touched is what the source touches, in its order, and the product still comes out."""

from __future__ import annotations

import json

import numpy as np
import pytest

from numbaconv.errors import ShapeError
from numbaconv.jit import compiled
from numbaconv.ladder import step, steps, trace
from numbaconv.ladder.caches import Hierarchy, Level
from numbaconv.ladder.cliff import cliff, column_sets
from numbaconv.ladder.trace import CannotTrace, OutsideMatrix, record, traffic
from numbaconv.ladder.words import buffer
from numbaconv.teach import accesses, ranking

TOY = Hierarchy([Level("near", 4 * 16, 2, line=16), Level("far", 16 * 16, 4, line=16)])
"""Lines of four float32: two sets of two, then four sets of four."""


def whole(*shape):
    return np.random.default_rng(sum(shape)).integers(-4, 5, shape).astype(np.float32)


def ijk(a, b, out):
    """A student's own: plain Python."""
    for i in range(a.shape[0]):
        for j in range(b.shape[1]):
            total = 0.0
            for p in range(a.shape[1]):
                total += a[i, p] * b[p, j]
            out[i, j] = total
    return out


@compiled
def transpose(b, b_pack):
    for p in range(b.shape[0]):
        for j in range(b.shape[1]):
            b_pack[j, p] = b[p, j]


@compiled
def packed(a, b, out, first=0):
    b_pack = buffer(b, b.shape[1], b.shape[0])
    transpose(b, b_pack)
    for i in range(first, a.shape[0]):
        for j in range(b.shape[1]):
            out[i, j] = 0
            for p in range(a.shape[1]):
                out[i, j] += a[i, p] * b_pack[j, p]
    return out


def columns(a, out):
    for j in range(a.shape[1]):
        for i in range(a.shape[0]):
            out[j] += a[i, j]


# -------------------------------------------------------------------------------------------- the order of things


def test_a_plain_function_is_followed_access_by_access():
    m, k, n = 3, 5, 2
    a, b, out = whole(m, k), whole(k, n), np.full((m, n), np.nan, np.float32)
    recording = record(ijk, a, b, out, hierarchy=TOY)
    expected = []
    for i in range(m):
        for j in range(n):
            for p in range(k):
                expected += [[0, i, p, 0], [1, p, j, 0]]
            expected.append([2, i, j, 1])
    assert recording.events[:, :4].tolist() == expected
    assert [(one.name, one.rows, one.columns) for one in recording.matrices] == [
        ("a", 3, 5),
        ("b", 5, 2),
        ("out", 3, 2),
    ]
    assert (out == a @ b).all()


def test_functions_it_calls_buffers_and_options_are_followed():
    m, k, n = 2, 3, 2
    a, b, out = whole(m, k), whole(k, n), np.full((m, n), 7, np.float32)
    recording = record(packed, a, b, out, hierarchy=TOY, first=1)
    expected = []
    for p in range(k):
        for j in range(n):
            expected += [[1, p, j, 0], [3, j, p, 1]]
    for j in range(n):
        expected.append([2, 1, j, 1])
        for p in range(k):
            expected += [[2, 1, j, 0], [0, 1, p, 0], [3, j, p, 0], [2, 1, j, 1]]
    assert recording.events[:, :4].tolist() == expected
    assert (recording.matrices[3].name, recording.matrices[3].rows, recording.matrices[3].columns) == ("b_pack", n, k)
    assert (out[1] == (a @ b)[1]).all()
    assert (out[0] == 7).all()


def test_recording_and_counting_are_of_one_mind():
    shapes = (5, 7), (7, 3), (5, 3)
    recording = record(packed, *shapes, hierarchy=TOY)
    assert recording.traffic == traffic(packed, *shapes, hierarchy=TOY)
    assert recording.traffic.accesses == len(recording.events) == 2 * 21 + 15 * (1 + 4 * 7)
    for number, level in enumerate(recording.traffic.levels):
        assert (recording.events[:, 4] == number).sum() == level.hits
    assert (recording.events[:, 4] == 2).sum() == recording.traffic["far"].misses


@pytest.mark.parametrize(("leading", "near", "far"), [(None, 64, 16), (16, 64, 64), (20, 64, 16)])
def test_a_walk_down_columns_by_hand(leading, near, far):
    """Eight rows, two lines each. A column is in eight lines, and the near level has four.

    The far level holds all sixteen, unless a row is four lines long: then a column is in one set of four.
    """
    given = {} if leading is None else {"leading": {"a": leading}}
    counted = traffic(columns, whole(8, 8), np.zeros(8, np.float32), hierarchy=TOY, **given)
    assert counted.writes == 64
    events = record(columns, whole(8, 8), np.zeros(8, np.float32), hierarchy=TOY, **given).events
    of_a = events[events[:, 0] == 0]
    assert of_a[:, 1:3].tolist() == [[i, j] for j in range(8) for i in range(8)]
    assert ((of_a[:, 4] > 0).sum(), (of_a[:, 4] > 1).sum()) == (near, far)


@pytest.mark.parametrize(
    ("vector", "offset", "columns", "accesses", "lines"),
    [(0, 0, 64, 128, 128), (64, 0, 64, 8, 8), (64, 16, 64, 8, 16), (64, 16, 56, 8, 14), (32, 16, 64, 16, 24)],
)
def test_vectors_along_a_row(vector, offset, columns, accesses, lines):
    """64 bytes that do not begin with a line lie on two; the last vector of a row of 56 elements is half as long."""

    def copy(a, out):
        for j in range(a.shape[1]):
            out[0, j] = a[0, j]

    caches = Hierarchy([Level("L1", 32768, 8)])
    a, out = whole(1, columns), np.empty((1, columns), np.float32)
    counted = traffic(copy, a, out, hierarchy=caches, vector=vector, offset=offset)
    assert (counted.accesses, counted["L1"].hits + counted["L1"].misses) == (accesses, lines)
    assert (out == a).all()


def test_a_convolution_in_four_axes():
    def conv(x, w, stride, out):
        for c in range(w.shape[0]):
            for i in range(out.shape[2]):
                for j in range(w.shape[3]):
                    out[0, c, i, 0] += x[0, 0, np.uint32(i * stride), j] * w[c, 0, 0, j - w.shape[3]]

    x, w, out = whole(1, 1, 5, 4), whole(3, 1, 1, 4), np.zeros((1, 3, 2, 1), np.float32)
    recording = record(conv, x, w, 3, out, hierarchy=TOY)
    assert len(recording.events) == 4 * 3 * 2 * 4
    assert [(one.rows, one.columns) for one in recording.matrices] == [(5, 4), (3, 4), (6, 1)]
    assert recording.events[-3:, :4].tolist() == [[0, 3, 3, 0], [1, 2, 3, 0], [2, 5, 0, 1]]
    assert (out[0, :, 1, 0] == w[:, 0, 0] @ x[0, 0, 3]).all()


def test_a_buffer_made_again_lies_where_it_lay():
    def again(a, sizes):
        for round in range(100):
            b = buffer(a, 1, 1 + round % sizes)
            b[0, 0] = round

    assert len(record(again, (1, 1), 1, hierarchy=TOY).matrices) <= 3
    with pytest.raises(CannotTrace, match="more than 64 different matrices; make buffers once"):
        traffic(again, (1, 1), 99, hierarchy=TOY)


# ----------------------------------------------------------------------------------------------- the ladder's steps


@pytest.mark.parametrize("one", accesses.followed(), ids=lambda one: one.name)
def test_a_step_that_is_followed_computes_its_product(one):
    a, b, out = whole(5, 19), whole(19, 37), np.full((5, 37), np.nan, np.float32)
    counted = traffic(one.function, a, b, out, hierarchy=TOY)
    assert (out == a @ b).all()
    assert counted.writes >= 5 * 37
    assert counted["far"].misses >= (5 * 19 + 19 * 37 + 5 * 37) // 4


def test_the_last_steps_are_left_out_because_they_cannot_be_followed():
    names = [one.name for one in steps("cpu")]
    assert [one.name for one in accesses.followed()] == names[: -len(accesses.THREADED)]
    for name in accesses.THREADED:
        with pytest.raises(CannotTrace):
            traffic(step(name).function, (4, 4), (4, 4), (4, 4), hierarchy=TOY)


def test_the_model_ranks_the_orders_of_access():
    """A machine of a tenth: B is twice its L3, blocks fill half its L2. Operands lie as NumPy's large arrays do."""
    sizes = {"L1": (4096, 8), "L2": (32768, 8), "L3": (131072, 16)}
    caches = Hierarchy([Level(name, *size) for name, size in sizes.items()])
    m, n, k = 24, 264, 264
    found = {}
    for name in ranking.ORDERS:
        blocks = {"kc": 32, "nc": 128} if name in ("blocked", "packed") else {}
        counted = ranking.counted(name, (m, n, k), 16, caches, **blocks)
        misses = [level.misses / (m * n * k) for level in counted.levels]
        lookups = (counted[0].hits + counted[0].misses) / (m * n * k)
        found[name] = ranking.model_ns(lookups, misses, (400, 160, 60, 30))
    assert sorted(found, key=found.get, reverse=True) == list(ranking.ORDERS)


def test_the_cliff_is_one_set_of_the_first_level():
    caches = Hierarchy([Level("L1", 32768, 8), Level("L2", 1 << 20, 8)])
    assert [column_sets(columns, 192, caches) for columns in (504, 512, 520, 1024)] == [64, 2, 64, 1]
    down = cliff(step("ijk").function, (504, 512, 520), m=2, hierarchy=caches)
    along = cliff(step("ikj").function, (504, 512, 520), m=2, hierarchy=caches)
    assert down.misses_per_mac == pytest.approx((0.065, 1.0, 0.065), abs=0.02)
    assert along.misses_per_mac == pytest.approx((0.065, 0.065, 0.065), abs=0.02)
    assert min(down.gflops) > 0


def test_the_section_of_the_page(monkeypatch):
    monkeypatch.setattr(accesses, "QUICK_SHAPE", (3, 17, 5))
    monkeypatch.setattr(accesses, "LEADING", (16, 32))
    told = []
    section = accesses.measure(True, told.append)
    assert len(told) == accesses.units(True)
    assert [row["step"] for row in section["traffic"]] == [one.name for one in accesses.followed()]
    assert section["traffic"][0]["accesses"] == 3 * 17 * (2 * 5 + 1)
    assert [level["name"] for level in section["traffic"][0]["levels"]] == [one["name"] for one in section["hierarchy"]]
    beyond = {}
    for drawn in section["animation"]["steps"]:
        events = np.array(drawn["events"])
        for number, matrix in enumerate(drawn["matrices"]):
            mine = events[events[:, 0] == number]
            assert mine[:, 1].max() == matrix["rows"] - 1
            assert mine[:, 2].max() == matrix["columns"] - 1
        beyond[drawn["name"]] = (events[:, 4] == len(section["animation"]["levels"])).sum()
    assert beyond["ijk"] > beyond["ikj"] > beyond["blocked"]
    assert [one["name"] for one in drawn["matrices"]] == ["a", "b", "out", "a_pack", "b_pack"]
    assert [set(one) for one in section["cliff"]["steps"]] == [{"name", "leading", "gflops", "misses_per_mac"}] * 3
    assert json.loads(json.dumps(section)) == section


# ------------------------------------------------------------------------------------------- what is refused, and how


def slices(a):
    a[0, :] = 1


def transposes(a):
    return a.T


def sums(a):
    return np.sum(a)


def makes(a):
    total = np.zeros(3)
    for i in range(a.shape[0]):
        total[0] += a[i, 0]


@compiled
def makes_below(a):
    makes_compiled(a)


makes_compiled = compiled(makes)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (slices, r"slices cannot be followed: only elements \(a\[i, p\]\) and \.shape.*a slice\]"),
        (transposes, "Unknown attribute 'T'"),
        (sums, "Numba says: .*sum"),
        (makes, "np.zeros, whose accesses would not be seen; make it by numbaconv.ladder.words.buffer"),
        (makes_below, "makes makes an array"),
        (np.dot, "only a function written in Python"),
    ],
)
def test_what_cannot_be_followed_is_refused_in_words(function, words):
    with pytest.raises(CannotTrace, match=words):
        traffic(function, (4, 4), hierarchy=TOY)


def test_a_loop_too_long_is_found():
    def beyond(a, end):
        for i in range(end):
            a[i, 0] = 1

    with pytest.raises(OutsideMatrix, match="index 4 of an axis that has 4 elements"):
        traffic(beyond, (4, 4), 5, hierarchy=TOY)


def test_operands_that_do_not_fit(monkeypatch):
    fortran = np.asfortranarray(whole(8, 8))
    for arguments, words, options in [
        ((fortran, (8,)), "a must be a writable, C-contiguous array", {}),
        (((8, 8), (8,), (8,)), r"columns\(a, out\): too many positional arguments", {}),
        (((8, 8),), r"columns\(a, out\): missing a required argument: 'out'", {}),
        (((8, 8), (8,)), "leading of a must be at least the columns", {"leading": {"a": 7}}),
        (((8, 8), (8,)), r"leading names \['b'\]", {"leading": {"b": 7}}),
    ]:
        with pytest.raises(ShapeError, match=words):
            traffic(columns, *arguments, hierarchy=TOY, **options)
    monkeypatch.setattr(trace, "MOST_EVENTS", 10)
    with pytest.raises(CannotTrace, match="192 accesses are more than can be recorded"):
        record(columns, (8, 8), (8,), hierarchy=TOY)
