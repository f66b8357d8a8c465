"""machine and probes: what is detected, under every override; fake caches and cgroups; measured ceilings."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import numpy as np
import pytest

from numbaconv import machine, probes
from numbaconv.errors import DeviceUnavailable

KIB, MIB = 1 << 10, 1 << 20
x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="names x86-64 processors")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's files")

REPORT = """
import dataclasses, json
from numbaconv.machine import default_threads, detect
facts = dataclasses.asdict(detect()) | {"threads": default_threads(), "lanes": detect().lanes("float64")}
print(json.dumps({name: sorted(value) if isinstance(value, frozenset) else value for name, value in facts.items()}))
"""


OVERRIDES = ["NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBACONV_VECTOR_BITS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS"]


def in_a_process(code=REPORT, **variables):
    """What `code` prints as JSON in a process of its own, or what it says when it fails."""
    environment = {name: value for name, value in os.environ.items() if name not in OVERRIDES} | variables
    run = subprocess.run([sys.executable, "-c", code], check=False, env=environment, capture_output=True, text=True)
    return json.loads(run.stdout) if run.returncode == 0 else run.stderr


# ------------------------------------------------------------------------------------------------ vector facts


def test_detected_facts_fit_together():
    here = machine.detect()
    assert here is machine.detect()
    assert here.vector_bits in (128, 256, 512)
    assert here.lanes(np.float32) == here.vector_bits // 32 == 2 * here.lanes("float64")
    assert 1 <= here.cores <= os.cpu_count()
    assert 8 * KIB <= here.l1d_bytes < here.l2_bytes <= here.l3_bytes
    assert here.l2_bytes <= here.l3_share or here.l3_share == 4 * MIB
    assert here.l3_share <= 4 * MIB
    assert here.amx <= here.features
    assert here.cpu_name
    hash(here)


@x86
@pytest.mark.parametrize(
    ("name", "bits", "fma"),
    [
        ("generic", 128, False),
        ("nehalem", 128, False),
        ("sandybridge", 256, False),
        ("haswell", 256, True),
        ("znver3", 256, True),
        ("skylake-avx512", 512, True),  # LLVM prefers 256 bits for its own loops there
        ("sapphirerapids", 512, True),
        ("znver4", 512, True),
    ],
)
def test_named_processors(name, bits, fma):
    assert machine._emitted(name, "") == (bits, fma)


@x86
def test_features_alone_can_widen():
    assert machine._emitted("x86-64", "+avx512f") == (512, True)
    assert machine._emitted("skylake-avx512", "-avx512f,-fma") == (256, False)


@x86
@pytest.mark.parametrize(
    ("variables", "bits", "fma"),
    [
        ({"NUMBA_CPU_NAME": "haswell"}, 256, True),
        ({"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""}, 256, True),
        ({"NUMBA_CPU_NAME": "nehalem"}, 128, False),
        ({"NUMBA_CPU_NAME": "generic"}, 128, False),
    ],
)
def test_numba_told_to_compile_for_another_processor(variables, bits, fma):
    if machine.detect().vector_bits < bits or (fma and not machine.detect().fma):
        pytest.skip("this processor is older than the one named")
    facts = in_a_process(**variables)
    assert (facts["vector_bits"], facts["vector_registers"], facts["fma"]) == (bits, 16, fma)
    assert facts["lanes"] == bits // 64
    assert facts["llvm_name"] == variables["NUMBA_CPU_NAME"]
    assert not facts["amx"]
    assert not [flag for flag in facts["features"] if flag.startswith("avx512") or (flag == "fma" and not fma)]


@pytest.mark.parametrize("bits", [128, 256, 512])
def test_narrower_vectors_by_force(bits):
    plain, forced = in_a_process(), in_a_process(NUMBACONV_VECTOR_BITS=str(bits))
    if bits <= plain["vector_bits"]:
        assert forced == plain | {"vector_bits": bits, "lanes": bits // 64}
    else:
        assert f"DeviceUnavailable: NUMBACONV_VECTOR_BITS={bits}, and this CPU has vectors of" in forced


def test_wider_vectors_and_nonsense_are_refused(monkeypatch):
    monkeypatch.setenv("NUMBACONV_VECTOR_BITS", "512")
    with pytest.raises(DeviceUnavailable, match="set it to at most 256, or unset it"):
        machine._forced_bits(256)
    monkeypatch.setenv("NUMBACONV_VECTOR_BITS", "wide")
    with pytest.raises(ValueError, match="must be 128, 256 or 512; got 'wide'"):
        machine._forced_bits(512)
    monkeypatch.setenv("NUMBACONV_VECTOR_BITS", "")
    assert machine._forced_bits(512) == 512


# ------------------------------------------------------------------------------------------------------- caches


def write(path, **contents):
    path.mkdir(parents=True)
    for name, text in contents.items():
        (path / name.replace("__", ".")).write_text(text + "\n")


def fake_caches(root, *caches):
    for index, (level, kind, size, sharers) in enumerate(caches):
        write(root / f"index{index}", level=str(level), type=kind, size=size, shared_cpu_list=sharers)
    return root


@linux
@pytest.mark.parametrize(
    ("caches", "expected"),
    [
        # two threads a core: the L1 and L2 are the core's; 16 threads are 8 cores on the L3
        (
            [(1, "Data", "48K", "0,8"), (1, "Instruction", "64K", "0,8"), (2, "Unified", "2048K", "0,8"),
             (3, "Unified", "32M", "0-15")],
            (48 * KIB, 2 * MIB, 32 * MIB, 4 * MIB),
        ),
        # a small L3 is shared out
        (
            [(1, "Data", "32K", "0"), (2, "Unified", "256K", "0"), (3, "Unified", "6144K", "0-3")],
            (32 * KIB, 256 * KIB, 6 * MIB, 1536 * KIB),
        ),
        # no L3, and four cores on one L2
        ([(1, "Data", "32K", "0"), (2, "Unified", "1M", "0-3")], (32 * KIB, 256 * KIB, 1 * MIB, 256 * KIB)),
        # an L4 is the last level
        (
            [(1, "Data", "32K", "0"), (2, "Unified", "1M", "0"), (3, "Unified", "4M", "0-3"),
             (4, "Unified", "1G", "0-3")],
            (32 * KIB, 1 * MIB, 1024 * MIB, 4 * MIB),
        ),
        ([(1, "Data", "65536", "0"), (2, "Unified", "1M", "0,1")], (64 * KIB, 512 * KIB, MIB, 512 * KIB)),
        ([(1, "Data", "0K", "0"), (2, "Unified", "?", "0")], (32 * KIB, 512 * KIB, 2 * MIB, 2 * MIB)),
        ([], (32 * KIB, 512 * KIB, 2 * MIB, 2 * MIB)),
    ],
)  # fmt: skip
def test_caches(tmp_path, caches, expected):
    assert machine._caches(fake_caches(tmp_path, *caches)) == expected


@linux
def test_caches_with_a_file_missing(tmp_path):
    root = fake_caches(tmp_path, (1, "Data", "64K", "0"), (2, "Unified", "1M", "0"))
    (root / "index1" / "size").unlink()
    assert machine._caches(root)[:2] == (64 * KIB, 512 * KIB)


# -------------------------------------------------------------------------------------------------------- cores


def quotas(root, membership):
    (root / "membership").write_text(membership)
    return list(machine._quotas(root, root / "membership"))


def test_cgroup_2_counts_every_level(tmp_path):
    write(tmp_path / "a" / "b", cpu__max="max 100000")
    (tmp_path / "a" / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "cpu.max").write_text("400000 100000\n")
    assert quotas(tmp_path, "0::/a/b\n") == [1.5, 4.0]


def test_cgroup_2_in_a_container_that_shows_its_own_root(tmp_path):
    (tmp_path / "cpu.max").write_text("200000 100000\n")
    assert quotas(tmp_path, "0::/the/hosts/path\n") == [2.0]


def test_cgroup_1(tmp_path):
    write(tmp_path / "cpu,cpuacct" / "job", cpu__cfs_quota_us="50000", cpu__cfs_period_us="100000")
    write(tmp_path / "cpuset" / "job", cpu__cfs_quota_us="10000", cpu__cfs_period_us="100000")
    assert quotas(tmp_path, "7:cpuset:/job\n4:cpu,cpuacct:/job\n1:name=systemd:/\n") == [0.5]


def test_cgroup_without_limits(tmp_path):
    write(tmp_path / "cpu", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    (tmp_path / "cpu.max").write_text("nonsense\n")
    assert quotas(tmp_path, "1:cpu:/\n0::/\n") == []
    assert list(machine._quotas(tmp_path, tmp_path / "absent")) == []


@pytest.mark.parametrize(("grants", "cores"), [([], 8), ([3.9, 16.0], 3), ([0.2], 1), ([100.0], 8)])
def test_cores_are_cut_by_the_smallest_quota(monkeypatch, grants, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "_quotas", lambda root, membership: iter(grants))
    assert machine._cores() == cores


@linux
def test_affinity_is_respected():
    one = min(os.sched_getaffinity(0))
    facts = in_a_process(f"import os; os.sched_setaffinity(0, {{{one}}})\n{REPORT}")
    assert facts["cores"] == facts["threads"] == 1


@pytest.mark.parametrize(
    ("variables", "threads"),
    [({}, 8), ({"NUMBA_NUM_THREADS": "3"}, 3), ({"OMP_NUM_THREADS": "4,2"}, 4), ({"OMP_NUM_THREADS": ""}, 8),
     ({"NUMBA_NUM_THREADS": "64"}, 8), ({"NUMBA_NUM_THREADS": "6", "OMP_NUM_THREADS": "2"}, 2)],
)  # fmt: skip
def test_default_threads(monkeypatch, variables, threads):
    class Eight:
        cores = 8

    monkeypatch.setattr(machine, "detect", Eight)
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert machine.default_threads() == threads


@pytest.mark.parametrize("wrong", ["0", "-2", "many"])
def test_default_threads_names_the_variable_that_is_wrong(monkeypatch, wrong):
    monkeypatch.setenv("OMP_NUM_THREADS", wrong)
    with pytest.raises(ValueError, match=f"OMP_NUM_THREADS must be a positive number; got '{wrong}'"):
        machine.default_threads()


# ------------------------------------------------------------------------------------------------------- probes


@pytest.fixture
def fresh_store(tmp_path, monkeypatch):
    monkeypatch.setattr(probes, "_this_process", {})
    monkeypatch.setattr(probes, "cache_directory", lambda: tmp_path)
    return tmp_path


@pytest.mark.parametrize("fused", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_peak_kernel_computes_what_is_counted(dtype, fused):
    lanes, accumulators, x, y = machine.detect().lanes(dtype), 12, 0.75, 0.5
    kernel = probes.fma_kernel(np.dtype(dtype).itemsize, lanes, fused and int(machine.detect().fma), accumulators)
    for rounds in (0, 1, 5):
        # acc -> x acc + y, from x i: after r rounds x^(r+1) i + y (1 - x^r) / (1 - x), summed over i and lanes
        each = [x ** (rounds + 1) * i + y * (1 - x**rounds) / (1 - x) for i in range(accumulators)]
        assert kernel(rounds, x, y) == pytest.approx(lanes * sum(each), rel=1e-5)


def test_sum_kernel_reads_every_element_once():
    values = np.random.default_rng(0).integers(-99, 99, 3 * 1024).astype(np.float32)
    kernel = probes._sum_kernel(machine.detect().lanes(np.float32))
    assert kernel(values.ctypes.data, values.nbytes) == values.sum()
    assert kernel(values.ctypes.data + 4096, 4096) == values[1024:2048].sum()


def test_copy_kernel_copies():
    source, target = np.arange(100), np.zeros(101, int)
    probes._copy(source, target[:100])
    np.testing.assert_array_equal(target, [*range(100), 0])


def test_ceilings_are_kept_by_thread_count_and_measured_again_on_request(fresh_store, monkeypatch):
    answers = iter([10.0, 20.0, 11.0])
    monkeypatch.setattr(probes, "_measure_fma", lambda dtype, threads: next(answers))
    assert probes.fma_peak("float32", 1) == probes.fma_peak(np.float32, 1) == 10.0
    assert probes.fma_peak("float64", 1) == 20.0
    monkeypatch.setattr(probes, "_this_process", {})  # another process: the disk knows
    assert (probes.fma_peak("float32", 1), probes.fma_peak("float64", 1)) == (10.0, 20.0)
    assert probes.fma_peak("float32", 1, refresh=True) == probes.fma_peak("float32", 1) == 11.0
    (store,) = fresh_store.iterdir()
    assert json.loads(store.read_text()) == {"fma float32 x1": 11.0, "fma float64 x1": 20.0}


def test_ceilings_without_a_disk_and_with_a_spoilt_one(fresh_store, monkeypatch):
    monkeypatch.setattr(probes, "_measure_fma", lambda dtype, threads: 1.0)
    probes.ceilings_file().write_text("{ spoilt")
    assert probes.fma_peak("float32", 2) == 1.0
    assert json.loads(probes.ceilings_file().read_text()) == {"fma float32 x2": 1.0}
    monkeypatch.setattr(probes, "cache_directory", lambda: None)
    assert probes.fma_peak("float32", 3) == 1.0


def test_store_is_named_by_facts_that_do_not_change_between_processes():
    code = "import json; from numbaconv.probes import ceilings_file as file; print(json.dumps(file() and file().name))"
    names = {in_a_process(code, PYTHONHASHSEED=seed) for seed in "123"}
    assert len(names) == 1


@pytest.mark.parametrize("threads", [1, 2])
def test_real_measurements(fresh_store, monkeypatch, threads):
    monkeypatch.setattr(probes, "SPELL_SECONDS", 0.01)
    monkeypatch.setattr(probes, "GIB", MIB)
    peak = probes.fma_peak("float32", threads)
    read, copy = probes.read_bandwidth(threads, MIB), probes.copy_bandwidth(threads, MIB)
    assert np.isfinite([peak, read, copy]).all()
    assert min(peak, read, copy) > 0


def test_peak_of_threads_that_never_ran_together_is_not_invented(fresh_store, monkeypatch):
    monkeypatch.setattr(probes, "SPELLS", 1)
    monkeypatch.setattr(probes, "SPELL_SECONDS", 0.01)
    monkeypatch.setattr(probes, "_together", lambda threads, task: [task(i) for i in range(threads)])  # in turn
    assert probes.fma_peak("float32", 2) == 0.0


def test_measure_gathers_all(monkeypatch):
    seen = []

    def remembered(key, refresh, measure_now):
        seen.append((key, refresh))
        return float(len(seen))

    monkeypatch.setattr(probes, "_remembered", remembered)
    assert probes.measure(2, refresh=True) == probes.Ceilings(2, 1.0, 2.0, 3.0, 4.0)
    assert seen == [(f"{key} x2", True) for key in ("fma float32", "fma float64", "read 1073741824", "copy 1073741824")]
