"""The find-database: what was measured, kept for later processes in a plain file; storage only.

One JSON object a line, the last one for a key counts:

    {"chosen": "direct", "key": {"problem": "mb1ic64...", "request": {...}, "machine": {...}, ...}, "times": {...}}

A line is written by a single ``write`` to a file that was opened to append. Nobody has to read what others wrote in
order to add to it, so no process can lose another's lines, whenever it dies; a lock and a new file in the old one's
place would have to read, merge and write all of it, and lose what comes from whoever does not heed the lock. POSIX has
the offset move and the write happen as one step; lines are short (``LONGEST``), so that no file system cuts them. What
a full disk or a power cut leaves half written is skipped, with one warning, and ends before the next line begins. (On
NFS the two steps are two, and of lines written at the same moment one may be lost: it is measured again.)
"""

from __future__ import annotations

import functools
import json
import math
import os
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numbaconv.jit import cache_directory

__all__ = ["Entry", "FindDatabase", "database"]

NAME = "measured.jsonl"
LONGEST = 4096
"""Bytes of a line; what is longer is kept in memory only."""


@dataclass(frozen=True)
class Entry:
    """What is kept under a key.

    Parameters
    ----------
    chosen : str
        Who won.
    times : mapping of str to float or None
        Seconds of everyone; None for who has no time.

    Raises
    ------
    ValueError, TypeError
        When these are no times, or the winner has none.
    """

    chosen: str
    times: Mapping[str, float | None]

    def __post_init__(self) -> None:
        for name, seconds in self.times.items():
            if seconds is not None and not 0 < seconds < math.inf:
                raise ValueError(f"{name} cannot take {seconds!r} seconds")
        if self.times.get(self.chosen) is None:
            raise ValueError(f"{self.chosen!r} won without a time")


class FindDatabase:
    """Times by key: in memory, and in a file where there is one.

    Parameters
    ----------
    path : Path or None
        The file; it need not exist. None: memory only.
    """

    def __init__(self, path: Path | None):
        self.path = path
        self.damaged = 0
        self._entries: dict[str, Entry] = {}
        self._lock = threading.Lock()
        self._said: set[str] = set()
        self._file, self._read = 0, 0  # inode, and the bytes of it that were read

    def find(self, key: Mapping[str, Any]) -> Entry | None:
        """What was measured under a key, by this process or another."""
        text = _text(key)
        with self._lock:
            if text not in self._entries:
                self._refresh()
            return self._entries.get(text)

    def add(self, key: Mapping[str, Any], entry: Entry) -> None:
        """Remember what was measured."""
        text = _text(key)
        line = _text({"key": json.loads(text), "chosen": entry.chosen, "times": dict(entry.times)}).encode() + b"\n"
        with self._lock:
            self._entries[text] = entry
            if self.path is not None and len(line) <= LONGEST:
                try:
                    self._append(self.path, line)
                except OSError as error:
                    self._say("add", f"cannot add to {self.path} ({error}); this process alone knows what it measures")

    @staticmethod
    def _append(path: Path, line: bytes) -> None:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            end = os.lseek(handle, 0, os.SEEK_END)
            if end:
                os.lseek(handle, end - 1, os.SEEK_SET)
                if os.read(handle, 1) != b"\n":  # somebody's line was cut off: let it end here
                    line = b"\n" + line
            if os.write(handle, line) != len(line):
                raise OSError("the disk is full")
        finally:
            os.close(handle)

    def _refresh(self) -> None:
        """Read the lines that were added since the last time."""
        if self.path is None:
            return
        try:
            with open(self.path, "rb") as file:
                state = os.fstat(file.fileno())
                if state.st_ino != self._file or state.st_size < self._read:  # another file of that name
                    self._file, self._read = state.st_ino, 0
                file.seek(self._read)
                added = file.read()
        except FileNotFoundError:
            return
        except OSError as error:
            self._say("read", f"cannot read {self.path} ({error}); what it holds is measured anew")
            return
        whole = added[: added.rfind(b"\n") + 1]  # the last line may be on its way
        self._read += len(whole)
        for line in filter(None, whole.split(b"\n")):
            try:
                key, entry = _decoded(line)
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                self.damaged += 1
                self._say("damage", f"{self.path} has damaged lines, which are skipped (the first: {error})")
            else:
                self._entries[key] = entry

    def _say(self, trouble: str, text: str) -> None:
        """Warn, once of each trouble."""
        if trouble not in self._said:
            self._said.add(trouble)
            warnings.warn(f"numbaconv: {text}", RuntimeWarning, stacklevel=4)


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True)


def _decoded(line: bytes) -> tuple[str, Entry]:
    """(key, entry) of a line; any of several errors where it is not what ``add`` writes."""
    found = json.loads(line)
    key, entry = found["key"], Entry(found["chosen"], found["times"])
    if not isinstance(key, dict):
        raise TypeError("the key is no object")
    return _text(key), entry


@functools.cache
def database() -> FindDatabase:
    """This process's; its file lies in the cache directory."""
    directory = cache_directory()
    return FindDatabase(None if directory is None else directory / NAME)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=database.cache_clear)  # its lock may have been held by a thread the child lacks
