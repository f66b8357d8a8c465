"""A pool of threads of our own: `parallel(body, tasks, arguments, num_threads)`.

Why not Numba's threading layers: GNU OpenMP dies in a forked child and spins for milliseconds, workqueue aborts
the process when two Python threads use it, TBB is seldom found; and each makes every parallel function cost a
second of compilation and a quarter of a second of loading. This pool is a few words of shared memory:

    ticket   generation | threads | tasks | next      one int64; taking a task is one compare-and-swap
    finished how many tasks are done                  the caller returns when all are

* Tasks are taken in order by whoever is free, the caller included: a thread that is late (asleep, or robbed of
  its core by a neighbour) delays nobody. Results never depend on who ran a task.
* An idle worker spins for about 0.1 ms, then sleeps in the kernel (futex).
* Linux likes to wake a thread on the core of whoever wakes it, and leaves it waiting there for milliseconds. So a
  caller lets a sleeping worker wake anywhere but on its own core, and sends one that is there to another.
* When another Python thread has the pool, the call runs its tasks itself, one after another.
* A forked child starts with an empty pool and fills it when it needs to.
* Where the kernel has no futex (not Linux) there are no workers and everything runs on the caller.
"""

from __future__ import annotations

import atexit
import os
import threading
import time

import numpy as np

from numbaconv.devices import atomics
from numbaconv.jit import Native, compiled
from numbaconv.simd import invoke, load_i64, store_i64
from numbaconv.workspace import aligned

MAX_THREADS = 256
MAX_TASKS = (1 << 20) - 1
LINE = 64
TICKET, FINISHED, BODY, ARGUMENTS, BUSY, STOP = (i * LINE for i in range(6))
ALLOWED, ELSEWHERE = 6 * LINE, 8 * LINE  # bit masks of cores: the caller's mask, and that without its core
MASK_BYTES = 128
WORKERS = 10 * LINE  # one line a worker:
ASLEEP, CORE, NUMBER, SENT = 0, 8, 16, 24  # 1 while it sleeps; its core; its thread number; 1 when sent elsewhere
SPINS = 1500  # pauses of about 60 ns before a worker goes to sleep
PATIENCE = 4000  # pauses before a waiting caller lets others run between its looks


@compiled
def _take(state, worker):
    """The next task for `worker`, or -1 when there is none."""
    while True:
        ticket = atomics.load(state + TICKET)
        task = ticket & 0xFFFFF
        if task >= (ticket >> 20) & 0xFFFFF or worker >= (ticket >> 40) & 0x3FF:
            return -1
        if atomics.compare_exchange(state + TICKET, ticket, ticket + 1):
            return task


@compiled
def _work(state, worker):
    """Run tasks until none is left to take."""
    while True:
        task = _take(state, worker)
        if task < 0:
            return
        invoke(load_i64(state + BODY), (task, worker, load_i64(state + ARGUMENTS)))
        atomics.add(state + FINISHED, 1)


@compiled
def _worker(state, worker):
    """A worker's life: work, spin, sleep."""
    bed = state + WORKERS + worker * LINE
    atomics.store(bed + NUMBER, atomics.thread_number())
    while True:
        spins = 0
        while atomics.load(state + STOP) == 0:
            atomics.store(bed + CORE, atomics.current_core())
            if atomics.exchange(bed + SENT, 0) == 1:
                atomics.allow_cores(0, state + ALLOWED, MASK_BYTES)
            _work(state, worker)
            spins += 1
            if spins > SPINS:
                break
            atomics.relax()
        atomics.store(bed, 1)
        if atomics.load(state + STOP) != 0:
            return
        ticket = atomics.load(state + TICKET)
        idle = ticket & 0xFFFFF >= (ticket >> 20) & 0xFFFFF or worker >= (ticket >> 40) & 0x3FF
        if idle:
            atomics.sleep_while(bed, 1)
        atomics.store(bed, 0)


@compiled
def _send_elsewhere(state, bed, core):
    """Move a worker off the caller's `core`, if there is another."""
    if not atomics.own_cores(state + ALLOWED, MASK_BYTES):
        return
    others = 0
    for word in range(MASK_BYTES // 8):
        mask = load_i64(state + ALLOWED + 8 * word)
        if word == core // 64:
            mask &= ~(1 << core % 64)
        others |= mask
        store_i64(state + ELSEWHERE + 8 * word, mask)
    if others and atomics.load(bed + NUMBER):
        atomics.store(bed + SENT, 1)
        atomics.allow_cores(atomics.load(bed + NUMBER), state + ELSEWHERE, MASK_BYTES)


@compiled
def fork_join(state, body, tasks, arguments, threads):
    """Do all `tasks` on `threads` threads (the caller and threads - 1 workers) and return when they are done."""
    if threads <= 1 or tasks <= 1 or not atomics.compare_exchange(state + BUSY, 0, 1):
        for task in range(tasks):
            invoke(body, (task, 0, arguments))
        return
    store_i64(state + BODY, body)
    store_i64(state + ARGUMENTS, arguments)
    atomics.store(state + FINISHED, 0)
    threads = min(threads, tasks)  # a worker that is still awake has no scratch unless it was counted
    generation = ((atomics.load(state + TICKET) >> 50) + 1) & 0x1FFF
    atomics.store(state + TICKET, generation << 50 | threads << 40 | tasks << 20)
    core = atomics.current_core()
    for worker in range(1, threads):
        bed = state + WORKERS + worker * LINE
        asleep = atomics.load(bed) == 1
        if asleep or (atomics.load(bed + CORE) == core and atomics.load(bed + SENT) == 0):
            _send_elsewhere(state, bed, core)
        if asleep and atomics.exchange(bed, 0) == 1:
            atomics.wake(bed)
    _work(state, 0)
    waits = 0
    while atomics.load(state + FINISHED) < tasks:
        atomics.relax()
        waits += 1
        if waits > PATIENCE:
            atomics.give_way()
    atomics.store(state + BUSY, 0)


class _Pool:
    """The workers and the words that they share, in one process."""

    def __init__(self):
        size = WORKERS + MAX_THREADS * LINE
        self.memory = aligned(size)
        self.memory[:] = 0
        self.state = self.memory.ctypes.data
        if atomics.CAN_SLEEP:
            self.memory[WORKERS:].view(np.int64)[1 :: LINE // 8] = -1  # no worker is on any core yet
        self.workers: list[threading.Thread] = []
        self.growing = threading.Lock()
        self.stopped = False

    def grow(self, threads: int) -> int:
        """Have threads - 1 workers, if that can be; how many threads there are, the caller included."""
        if not atomics.CAN_SLEEP or self.stopped:
            return 1
        with self.growing:
            while len(self.workers) < threads - 1:
                number = len(self.workers) + 1
                worker = threading.Thread(
                    target=_worker, args=(self.state, number), name=f"numbaconv-{number}", daemon=True
                )
                try:
                    worker.start()
                except RuntimeError:  # the interpreter is shutting down, or the system is out of threads
                    break
                self.workers.append(worker)
                deadline = time.monotonic() + 0.1
                while not self.at_work(number) and time.monotonic() < deadline:
                    time.sleep(1e-4)
        return min(threads, len(self.workers) + 1)

    def at_work(self, number: int) -> bool:
        """Whether a worker has begun."""
        return bool(self.memory[WORKERS + number * LINE + NUMBER :][:8].any())

    def stop(self):
        """Let every worker end: compiled code must not outlive the interpreter."""
        self.stopped = True
        if not self.workers:
            return
        _stop(self.state, len(self.workers))
        for worker in self.workers:
            worker.join(1.0)


@compiled
def _stop(state, workers):
    atomics.store(state + STOP, 1)
    for worker in range(1, workers + 1):
        bed = state + WORKERS + worker * LINE
        atomics.store(bed, 0)
        atomics.wake(bed)


_pool = _Pool()


def _reset():
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset)
atexit.register(lambda: _pool.stop())


def parallel(body: Native, tasks: int, arguments: int, num_threads: int) -> None:
    """Call ``body(task, worker, arguments)`` for every task below `tasks`.

    Parameters
    ----------
    body : Native
        Takes the task's number, the number of the thread that runs it (below `num_threads` and below `tasks`: the
        index of its private scratch) and `arguments`, an address.
    tasks : int
        How many; taken in order, in parallel, by any thread.
    arguments : int
        Handed through.
    num_threads : int
        How many threads may take part.

    Raises
    ------
    ValueError
        For more than ``MAX_TASKS`` tasks: a task should be worth microseconds, so give each a stretch of the work.
    """
    if tasks > MAX_TASKS:
        raise ValueError(f"parallel: {tasks} tasks are more than {MAX_TASKS}; let each do a larger part of the work")
    state, num_threads = pool_for(num_threads if tasks > 1 else 1)
    fork_join(state, body.address, tasks, arguments, num_threads)


def pool_for(num_threads: int) -> tuple[int, int]:
    """The pool with as many threads as it can have, for compiled code that calls ``fork_join`` itself."""
    pool = _pool
    if num_threads - 1 > len(pool.workers):
        num_threads = pool.grow(min(num_threads, MAX_THREADS))
    return pool.state, num_threads
