"""Scratch memory: aligned, counted, one call's at a time, kept for the next and given back."""

from __future__ import annotations

import importlib
import threading

import numpy as np
import pytest

import numbaconv as nc
from numbaconv.workspace import ALIGNMENT, Arena, address_of, aligned, checked_out, release_workspaces, round_up

workspace = importlib.import_module("numbaconv.workspace")


@pytest.fixture(autouse=True)
def empty_shelf():
    release_workspaces()
    yield
    release_workspaces()


@pytest.mark.parametrize(("size", "rounded"), [(0, 0), (1, 64), (63, 64), (64, 64), (65, 128), (10**9 + 1, 1000000064)])
def test_sizes_are_whole_cache_lines(size, rounded):
    assert round_up(size) == rounded


@pytest.mark.parametrize("size", [0, 1, 64, 1000, 1 << 20])
def test_memory_begins_on_a_cache_line(size):
    memories = [aligned(size) for _ in range(5)]
    for memory in memories:
        assert memory.dtype == np.uint8
        assert memory.shape == (size,)
        assert size == 0 or memory.ctypes.data % ALIGNMENT == 0
        assert address_of(memory) == memory.ctypes.data


def test_an_arena_counts_every_slice():
    memory = aligned(1024)
    arena = Arena(memory, memory.ctypes.data)
    first, second, third = arena.take("a", 100), arena.take("b", 64), arena.take("a", 1)
    assert arena.slices == {"a": 101, "b": 64}
    assert [len(part) for part in (first, second, third)] == [100, 64, 1]
    starts = [part.ctypes.data - memory.ctypes.data for part in (first, second, third)]
    assert starts == [0, 128, 192]
    assert arena.used == 256
    assert len(arena.take("rest", 768)) == 768
    assert len(arena.take("nothing", 0)) == 0


def test_an_arena_gives_no_more_than_it_has():
    memory = aligned(256)
    arena = Arena(memory, memory.ctypes.data)
    arena.take("patches", 100)
    with pytest.raises(MemoryError, match=r"panels needs 129 bytes but 128 of the 256.*patches.*lowering_bytes"):
        arena.take("panels", 129)
    assert len(arena.take("panels", 128)) == 128


def test_the_next_call_gets_the_same_memory():
    with checked_out(10_000) as arena:
        first = arena.address
        assert len(arena.memory) == round_up(10_000)
        assert arena.memory.ctypes.data == first
    for size in (10_000, 1, 0, round_up(10_000)):
        with checked_out(size) as arena:
            assert arena.address == first
            assert len(arena.memory) == round_up(size)
            assert arena.slices == {}


def test_calls_at_the_same_time_get_memory_of_their_own():
    with checked_out(1000) as outer, checked_out(1000) as inner:
        outer.memory[:], inner.memory[:] = 1, 2
        assert (outer.memory == 1).all()
        assert not np.shares_memory(outer.memory, inner.memory)


def test_memory_comes_back_after_an_error():
    with pytest.raises(RuntimeError), checked_out(5000) as arena:  # noqa: PT012
        first = arena.address
        raise RuntimeError
    with checked_out(5000) as arena:
        assert arena.address == first


def test_a_larger_buffer_takes_the_place_of_a_smaller_one():
    with checked_out(1000):
        pass
    with checked_out(100_000):
        pass
    assert release_workspaces() == round_up(100_000)
    assert release_workspaces() == 0


def test_only_so_much_is_kept(monkeypatch):
    monkeypatch.setattr(workspace, "SHELF_BYTES", 3000)
    with checked_out(1024), checked_out(1024), checked_out(1024), checked_out(1024):
        pass
    assert release_workspaces() <= 3000


def test_released_memory_is_gone_and_the_next_call_gets_new(rng):
    x, w = rng.integers(-3, 4, (1, 8, 30, 30)).astype("f4"), rng.integers(-3, 4, (8, 8, 3, 3)).astype("f4")
    first = nc.conv2d(x, w, algorithm="im2col")
    assert nc.release_workspaces() > 0
    assert np.array_equal(nc.conv2d(x, w, algorithm="im2col"), first)


def test_many_threads_never_share_a_buffer():
    failures = []

    def caller(number):
        for turn in range(300):
            with checked_out(64 + 64 * ((number * 7 + turn) % 50)) as arena:
                part = arena.take("mine", len(arena.memory))
                part[:] = number
                if not (part == number).all():
                    failures.append(number)

    callers = [threading.Thread(target=caller, args=(number,)) for number in range(8)]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    assert not failures


def test_calls_do_not_grow_the_workspace_without_end(rng):
    a, b = rng.standard_normal((200, 300)).astype("f4"), rng.standard_normal((300, 250)).astype("f4")
    for size in range(50, 200):
        nc.gemm(a[:size], b[:, : size + 1])
    kept = release_workspaces()
    nc.gemm(a, b)
    assert kept <= 4 * release_workspaces()
