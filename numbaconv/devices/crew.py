"""Python threads that work side by side: ``together(work, workers)``.

For work that is Python between long stretches of compiled code, which hold no lock of the interpreter: a thread an
image. What is compiled through and through runs on the pool of ``devices.threads``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

_crew: ThreadPoolExecutor | None = None
_size = 0
_lock = threading.Lock()


def _enough(threads: int) -> ThreadPoolExecutor:
    """An executor of at least so many threads; a smaller one finishes what it has and goes."""
    global _crew, _size
    with _lock:
        if _crew is None or _size < threads:
            if _crew is not None:
                _crew.shutdown(wait=False)
            _crew, _size = ThreadPoolExecutor(threads, thread_name_prefix="numbaconv-crew"), threads
        return _crew


def _reset():
    global _crew, _size, _lock
    _crew, _size, _lock = None, 0, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset)


def together(work: Callable[[int], Any], workers: int) -> list[Any]:
    """``work(0) ... work(workers - 1)`` at the same time, the first on the caller's thread; their results in order.

    All have ended when it returns. An exception of any is raised, the first worker's first. Where no more threads can
    be had (the interpreter is shutting down) there are fewer results: let the work be taken, not dealt out.
    """
    hired: list[Future] = []
    for number in range(1, workers):
        try:
            hired.append(_submit(work, number, workers - 1))
        except RuntimeError:
            break
    try:
        first = work(0)
    finally:
        done = [future.exception() for future in hired]
    for error in done:
        if error is not None:
            raise error
    return [first, *(future.result() for future in hired)]


def _submit(work, number: int, threads: int) -> Future:
    try:
        return _enough(threads).submit(work, number)
    except RuntimeError:  # another caller has just replaced the executor
        return _enough(threads).submit(work, number)
