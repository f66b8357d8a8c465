"""Threads that do not hurt: real processes with many threads, forks, other libraries, limits, and clean exits."""

from __future__ import annotations

import os

import numpy as np
import pytest

from numbaconv.devices.threads import MAX_TASKS, parallel
from numbaconv.jit import compiled, native
from numbaconv.simd import load_i64, store_i64

PREAMBLE = """
import atexit, os, signal, sys, threading, time
import numpy as np, oracles
import numbaconv as nc

rng = np.random.default_rng(3)
whole = lambda *shape: rng.integers(-3, 4, shape).astype("f4")
A, B = whole(150, 200), whole(200, 170)
X, W, BIAS = whole(2, 16, 20, 20), whole(24, 16, 3, 3), whole(24)
PRODUCT, IMAGE = oracles.matmul(A, B), oracles.conv2d(X, W, BIAS, pads=(1, 1, 1, 1), activation="relu")

def compute(threads=2):
    assert np.array_equal(nc.gemm(A, B, num_threads=threads), PRODUCT)
    assert np.array_equal(nc.gemm(A, B, out=np.empty((150, 170), "f4"), num_threads=threads), PRODUCT)
    exact = {"activation": "relu", "accuracy": "fma", "num_threads": threads}
    assert np.array_equal(nc.conv2d(X, W, BIAS, padding=1, **exact), IMAGE)

def workers():
    return sum(thread.name.startswith("numbaconv") for thread in threading.enumerate())
"""


@pytest.fixture
def alone(python):
    """Run code behind the preamble, in a process of its own; it has to say "done" at the end."""

    def run(code, **options):
        said = python(PREAMBLE + code + '\nprint("done")\n', **options)
        assert said.splitlines()[-1] == "done", said
        return said

    return run


# ---------------------------------------------------------------------------------------------------- many callers


def test_eight_threads_call_at_once(alone):
    alone(
        """
failures = []
def caller(number):
    try:
        for turn in range(40):
            compute(1 + (number + turn) % 4)
    except BaseException as error:
        failures.append(error)
callers = [threading.Thread(target=caller, args=(number,)) for number in range(8)]
for each in callers: each.start()
for each in callers: each.join()
assert not failures, failures
assert 1 <= workers() <= 3
"""
    )


def test_eight_threads_call_at_once_in_a_cold_process(python, tmp_path):
    """The first calls of all, before anything is compiled or loaded."""
    code = """
barrier, failures = threading.Barrier(8), []
def caller():
    try:
        barrier.wait()
        compute()
    except BaseException as error:
        failures.append(error)
callers = [threading.Thread(target=caller) for _ in range(8)]
for each in callers: each.start()
for each in callers: each.join()
assert not failures, failures
"""
    python(PREAMBLE + code, env={"NUMBACONV_CACHE_DIR": str(tmp_path)})


def test_threads_share_a_plan_a_layer_and_a_packed_operand(alone):
    alone(
        """
layer = nc.Conv2d.from_arrays(W, BIAS, padding=1, activation="relu", accuracy="fma", num_threads=2)
problem = nc.ConvProblem.from_arrays(X, W, padding=1)
plan = nc.plan(problem, bias=True, activation="relu", accuracy="fma", num_threads=2).prepare(W, BIAS)
packed, linear = nc.prepack_a(A), nc.Linear.from_arrays(B.T, num_threads=2)
failures = []
def caller(number):
    try:
        for turn in range(40):
            mb = 1 + (number + turn) % 2
            assert np.array_equal(layer(X[:mb]), IMAGE[:mb])
            assert np.array_equal(plan(X), IMAGE)
            columns = 1 + (number * 7 + turn) % 170
            assert np.array_equal(nc.gemm(packed, B[:, :columns], num_threads=2), PRODUCT[:, :columns])
            rows = 1 + (number + turn * 11) % 150
            assert np.array_equal(linear(A[:rows]), PRODUCT[:rows])
    except BaseException as error:
        failures.append(repr(error))
callers = [threading.Thread(target=caller, args=(number,)) for number in range(8)]
for each in callers: each.start()
for each in callers: each.join()
assert not failures, failures
"""
    )


# ------------------------------------------------------------------------------------------------------------ forks

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

IN_A_CHILD = """
def in_a_child(work, seconds=60):
    child = os.fork()
    if not child:
        code = 1
        try:
            signal.alarm(seconds)
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, f"the child ended with {os.waitstatus_to_exitcode(status)}"
"""


@needs_fork
def test_a_forked_child_computes_after_the_parent_used_the_pool(alone):
    alone(
        IN_A_CHILD
        + """
compute()
assert workers() == 1
def work():
    assert workers() == 0
    for _ in range(3):
        compute()
    compute(3)
    in_a_child(compute)  # a child of a child
for _ in range(5):
    in_a_child(work)
    compute()
"""
    )


@needs_fork
def test_forks_while_other_threads_are_in_the_pool_and_in_the_workspace(alone):
    alone(
        IN_A_CHILD
        + """
over, failures = threading.Event(), []
def busy():
    try:
        while not over.is_set():
            compute()
    except BaseException as error:
        failures.append(error)
others = [threading.Thread(target=busy, daemon=True) for _ in range(3)]
for each in others: each.start()
for _ in range(25):
    in_a_child(compute)
over.set()
for each in others: each.join()
assert not failures, failures
"""
    )


@needs_fork
def test_forks_while_another_thread_compiles(alone):
    """The child lacks the thread that holds the compiler's locks."""
    alone(
        IN_A_CHILD
        + """
from numbaconv.jit import native
def fresh(number):
    @native
    def task(a, b, c):
        number + a
    return task.address
compute()
over, count = threading.Event(), [0]
def busy():
    while not over.is_set():
        count[0] += 1
        fresh(count[0])
other = threading.Thread(target=busy, daemon=True)
other.start()
while not count[0]:
    time.sleep(0.01)
for turn in range(15):
    in_a_child(lambda: (fresh(-turn), compute()))
    time.sleep(0.02)
over.set()
other.join()
"""
    )


@needs_fork
def test_a_pool_of_processes_by_fork(alone):
    alone(
        """
import multiprocessing, warnings
warnings.simplefilter("ignore", DeprecationWarning)
compute()
def row(number):
    compute()
    return nc.gemm(A[number : number + 1], B, num_threads=2)
with multiprocessing.get_context("fork").Pool(3) as pool:
    rows = pool.map(row, range(24))
assert np.array_equal(np.concatenate(rows), PRODUCT[:24])
with multiprocessing.get_context("fork").Pool(2, initializer=compute) as pool:
    assert pool.map(abs, [-1]) == [1]
"""
    )


# ----------------------------------------------------------------------------------------------------- neighbours


@pytest.mark.peers
def test_beside_torch_in_one_process(alone, request):
    if not os.environ.get("NUMBACONV_REQUIRE_PEERS"):
        pytest.importorskip("torch")
    for order in ("torch first", "ours first"):
        alone(
            f"""
if {order == "ours first"}:
    compute()
import torch
x, w, bias = (torch.from_numpy(v) for v in (X, W, BIAS))
for turn in range(30):
    assert np.array_equal(torch.relu(torch.nn.functional.conv2d(x, w, bias, padding=1)).numpy(), IMAGE)
    compute(1 + turn % 3)
    assert np.array_equal((torch.from_numpy(A) @ torch.from_numpy(B)).numpy(), PRODUCT)
failures = []
def caller(number):
    try:
        for _ in range(20):
            compute() if number % 2 else torch.nn.functional.conv2d(x, w, bias, padding=1)
    except BaseException as error:
        failures.append(error)
callers = [threading.Thread(target=caller, args=(number,)) for number in range(6)]
for each in callers: each.start()
for each in callers: each.join()
assert not failures, failures
"""
        )


@pytest.mark.parametrize("layer", ["workqueue", "omp", "tbb", "default"])
def test_whatever_threading_layer_numba_is_told_to_use(alone, layer):
    """We use none; what a user's own parallel function does is between Numba and the user."""
    alone(
        """
callers = [threading.Thread(target=compute) for _ in range(4)]
for each in callers: each.start()
for each in callers: each.join()
compute()
""",
        env={"NUMBA_THREADING_LAYER": layer},
    )


def test_beside_numbas_own_parallel_functions(alone):
    alone(
        """
import numba
@numba.njit(parallel=True)
def total(x):
    s = 0.0
    for i in numba.prange(len(x)):
        s += x[i]
    return s
for _ in range(5):
    assert total(np.ones(100_000)) == 100_000
    compute()
"""
    )


# ----------------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("env", "wanted"),
    [
        ({"NUMBA_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": "1,2"}, 1),
        ({"NUMBA_NUM_THREADS": "7", "OMP_NUM_THREADS": "1"}, 1),
        ({"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "9"}, 1),
        ({"NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": None}, min(2, len(os.sched_getaffinity(0)))),
    ],
)
def test_the_threads_of_a_call_are_limited_by_the_environment(alone, env, wanted):
    alone(
        f"""
from numbaconv.machine import default_threads
assert default_threads() == {wanted}
big, other = whole(600, 600), whole(600, 600)
for _ in range(3):
    nc.gemm(big, other)
    nc.conv2d(X, W)
    nc.linear(whole(4000), whole(3000, 4000))
    nc.Conv2d.from_arrays(W, num_threads=None)(X)
assert workers() == {wanted} - 1
""",
        env={"NUMBA_NUM_THREADS": None, "OMP_NUM_THREADS": None} | env,
    )


linux = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity masks are Linux's")

PIN = """
import os
one, before = {min(os.sched_getaffinity(0))}, set(os.listdir("/proc/self/task"))
os.sched_setaffinity(0, one)
"""

WATCH = """
big, other = whole(500, 500), whole(500, 500)
for _ in range(300):
    nc.gemm(big, other, num_threads=3)
for thread in set(os.listdir("/proc/self/task")) - before:
    allowed = os.sched_getaffinity(int(thread))
    assert allowed == one, f"worker {thread} may run on {allowed}"
"""


@linux
def test_an_affinity_mask_set_before_the_import_is_respected(python):
    python(
        PIN
        + PREAMBLE
        + """
from numbaconv.machine import default_threads
assert default_threads() == 1
compute(None)
nc.gemm(whole(500, 500), whole(500, 500))
assert workers() == 0
"""
        + WATCH
    )


@linux
def test_an_affinity_mask_set_after_the_import_is_respected(python):
    python(PREAMBLE + PIN + WATCH)


def test_small_problems_stay_on_the_caller(alone):
    alone(
        """
for _ in range(20):
    nc.gemm(whole(30, 40), whole(40, 50), num_threads=2)
    nc.gemm(whole(30, 40), whole(40, 1), num_threads=2)
    nc.prepack_a(whole(20, 20), num_threads=2)
    nc.linear(whole(20), whole(30, 20), num_threads=2)
    nc.conv2d(whole(1, 3, 8, 8), whole(4, 3, 3, 3), padding=1, num_threads=2)
    nc.conv2d(whole(1, 16, 8, 8), whole(8, 16, 1, 1), num_threads=2)
assert workers() == 0
assert threading.active_count() == 1
nc.gemm(whole(400, 400), whole(400, 400), num_threads=2)
assert workers() == 1
"""
    )


# ------------------------------------------------------------------------------------------------------------ exits


@pytest.mark.parametrize(
    "ending",
    [
        "compute()",
        "compute(4)",
        "compute()\nsys.exit(0)",
        "atexit.register(compute)",
        "compute()\natexit.register(compute)",
        "atexit.register(compute)\ncompute()\natexit.register(lambda: compute(4))",
        "threading.Thread(target=lambda: (time.sleep(0.2), compute())).start()",
    ],
)
def test_the_interpreter_ends_right_after_parallel_work(python, ending):
    python(PREAMBLE + ending)


@pytest.mark.parametrize("callers", [1, 3])
def test_the_interpreter_ends_while_daemon_threads_compute(python, callers):
    code = f"""
big, other = whole(700, 700), whole(700, 700)
def forever():
    while True:
        nc.gemm(big, other, num_threads=2)
        nc.conv2d(X, W, num_threads=2)
for _ in range({callers}):
    threading.Thread(target=forever, daemon=True).start()
time.sleep(0.5)
"""
    for _ in range(2):
        python(PREAMBLE + code)


# ------------------------------------------------------------------------------------------------------------ stress


@native
def count_up(task, worker, counters):
    """Add one to the task's counter, and say who did it."""
    place = counters + 16 * task
    store_i64(place, load_i64(place) + 1)
    store_i64(place + 8, worker)


@compiled
def _spin(turns):
    total = 0
    for turn in range(turns):
        total += turn ^ total
    return total


@native
def count_up_unevenly(task, worker, counters):
    place = counters + 16 * task
    store_i64(place + 8, worker + 0 * _spin((task * 7919) % 3000))
    store_i64(place, load_i64(place) + 1)


@pytest.mark.parametrize("body", [count_up, count_up_unevenly], ids=lambda body: body.__name__)
@pytest.mark.parametrize("threads", [2, 3, 8])
def test_every_task_runs_exactly_once(rng, body, threads):
    room = np.zeros((5000, 2), np.int64)
    for _ in range(3000):
        tasks = int(rng.choice([0, 1, 2, 3, 5, 17, 100, rng.integers(1, 800)]))
        room[: tasks + 1] = 0
        parallel(body, tasks, room.ctypes.data, threads)
        assert (room[:tasks, 0] == 1).all()
        assert not room[tasks].any()
        assert (room[:tasks, 1] < min(threads, tasks)).all()


def test_as_many_tasks_as_there_can_be_and_more():
    room = np.zeros((MAX_TASKS, 2), np.int64)
    parallel(count_up, MAX_TASKS, room.ctypes.data, 2)
    assert (room[:, 0] == 1).all()
    with pytest.raises(ValueError, match=f"{MAX_TASKS + 1} tasks"):
        parallel(count_up, MAX_TASKS + 1, room.ctypes.data, 2)


def test_more_threads_than_there_can_be(alone):
    alone(
        """
from numbaconv.devices.threads import MAX_THREADS
assert np.array_equal(nc.gemm(A, B, num_threads=5000), PRODUCT)
assert workers() < MAX_THREADS
compute(5000)
"""
    )
