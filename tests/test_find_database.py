"""The find-database: lines appended by many processes, damage, places that cannot be written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest

from numbaconv import find_database
from numbaconv.find_database import LONGEST, Entry, FindDatabase

KEY = {"problem": "mb1ic3", "request": {"device": "cpu", "max_workspace": None}}
FOUND = Entry("direct", {"direct": 1.25e-3, "im2col": None})
PROCESSES, EACH = 6, 150
WRITER = """
import sys
from pathlib import Path
from numbaconv.find_database import Entry, FindDatabase

path, number, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
store = FindDatabase(path)
sys.stdin.readline()  # all begin together
for i in range(count):
    name = "x" * (1 + 97 * i % 1500)
    store.add({"writer": number, "entry": i}, Entry(name, {name: i + 1.5}))
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "measured.jsonl"


def test_another_process_finds_what_was_added(path):
    store = FindDatabase(path)
    assert store.find(KEY) is None
    store.add(KEY, FOUND)
    assert store.find(KEY) == FOUND
    other = FindDatabase(path)
    assert other.find(dict(reversed(KEY.items()))) == FOUND  # the order of a key's parts does not count
    assert other.find(KEY | {"problem": "mb2ic3"}) is None
    second = Entry("im2col", {"direct": 2.0, "im2col": 1})
    store.add(KEY, second)
    store.add({"late": 1}, FOUND)
    assert other.find({"late": 1}) == FOUND  # added after the other began to read
    assert FindDatabase(path).find(KEY) == second  # the last one counts
    assert path.stat().st_mode & 0o777 == 0o600


def test_many_processes_lose_nothing(path):
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(number), str(EACH)],
            stdin=subprocess.PIPE, cwd=Path(__file__).parent.parent,
        )
        for number in range(PROCESSES)
    ]  # fmt: skip
    for writer in writers:
        writer.stdin.write(b"\n")
        writer.stdin.flush()
    assert [writer.wait(120) for writer in writers] == [0] * PROCESSES
    store = FindDatabase(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(PROCESSES):
            for i in range(EACH):
                name = "x" * (1 + 97 * i % 1500)
                assert store.find({"writer": number, "entry": i}) == Entry(name, {name: i + 1.5})
    assert store.damaged == 0


def test_many_threads_lose_nothing(path):
    store = FindDatabase(path)
    threads = [threading.Thread(target=lambda n=n: [store.add({n: i}, FOUND) for i in range(50)]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(FindDatabase(path).find({str(n): i}) == FOUND for n in range(4) for i in range(50))


DAMAGED = [
    b"rubbish",
    b"\xff\xfe\x00",
    b"[1, 2]",
    b'{"key": {"a": 1}, "chosen": "direct"}',
    b'{"key": {"a": 1}, "chosen": "direct", "times": {"im2col": 1.0}}',
    b'{"key": {"a": 1}, "chosen": "direct", "times": {"direct": null}}',
    b'{"key": {"a": 1}, "chosen": "direct", "times": {"direct": "fast"}}',
    b'{"key": {"a": 1}, "chosen": "direct", "times": {"direct": -1.0}}',
    b'{"key": {"a": 1}, "chosen": "direct", "times": {"direct": NaN}}',
    b'{"key": {"a": 1}, "chosen": "direct", "times": [1.0]}',
    b'{"key": {"a": 1}, "chosen": ["direct"], "times": {"direct": 1.0}}',
    b'{"key": [1], "chosen": "direct", "times": {"direct": 1.0}}',
    b"[" * 3000,
]


def test_damaged_lines_are_skipped_with_one_warning(path):
    FindDatabase(path).add(KEY, FOUND)
    with open(path, "ab") as file:
        file.write(b"\n".join([*DAMAGED, b"", b""]))
    FindDatabase(path).add({"behind": 1}, FOUND)
    store = FindDatabase(path)
    keys = KEY, {"behind": 1}, {"a": 1}
    with pytest.warns(RuntimeWarning, match="damaged lines, which are skipped") as said:
        found = [store.find(key) for key in keys]
    assert found == [FOUND, FOUND, None]
    assert len(said) == 1
    assert store.damaged == len(DAMAGED)


def test_a_line_cut_off_does_not_spoil_the_next(path):
    FindDatabase(path).add(KEY, FOUND)
    with open(path, "ab") as file:
        file.write(b'{"key": {"cut": 1}, "times": {"dir')
    early = FindDatabase(path)
    assert early.find({"cut": 1}) is None
    assert early.damaged == 0  # it may be on its way
    early.add({"next": 1}, FOUND)
    with pytest.warns(RuntimeWarning, match="damaged"):
        assert FindDatabase(path).find({"next": 1}) == FOUND


def test_a_file_that_was_replaced_is_read_from_its_beginning(path):
    reader = FindDatabase(path)
    FindDatabase(path).add(KEY, FOUND)
    assert reader.find(KEY) == FOUND
    path.rename(path.with_suffix(".old"))
    writer = FindDatabase(path)
    for number in range(3):
        writer.add({"new": number}, FOUND)
    assert reader.find({"new": 0}) == FOUND


def test_without_a_file_it_works_in_memory():
    store = FindDatabase(None)
    assert store.find(KEY) is None
    store.add(KEY, FOUND)
    assert store.find(KEY) == FOUND


def test_a_file_that_cannot_be_written_is_said_once(tmp_path):
    store = FindDatabase(tmp_path)  # a directory cannot be opened to append
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        store.add(KEY, FOUND)
        store.add({"a": 1}, FOUND)
        assert store.find(KEY) == FOUND
        assert store.find({"b": 1}) is None
    assert sorted(str(one.message).split(str(tmp_path))[0] for one in said) == [
        "numbaconv: cannot add to ", "numbaconv: cannot read "
    ]  # fmt: skip


def test_a_long_entry_stays_in_memory(path):
    store = FindDatabase(path)
    long = Entry("x" * LONGEST, {"x" * LONGEST: 1.0})
    store.add(KEY, long)
    assert store.find(KEY) == long
    assert not path.exists()


def test_the_database_of_the_process(monkeypatch, tmp_path):
    monkeypatch.setattr(find_database, "cache_directory", lambda: None)
    find_database.database.cache_clear()
    assert find_database.database().path is None
    monkeypatch.setattr(find_database, "cache_directory", lambda: tmp_path)
    find_database.database.cache_clear()
    assert find_database.database().path == tmp_path / find_database.NAME
    assert find_database.database() is find_database.database()
    find_database.database.cache_clear()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_does_not_wait_for_its_parents_threads(monkeypatch, tmp_path):
    monkeypatch.setattr(find_database, "cache_directory", lambda: tmp_path)
    find_database.database.cache_clear()
    parents = find_database.database()
    with parents._lock:  # as a thread that the child will not have
        child = os.fork()
        if not child:
            signal.alarm(60)  # ends a child that waits for the lock
            find_database.database().add(KEY, FOUND)
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert parents.find(KEY) == FOUND
    find_database.database.cache_clear()
