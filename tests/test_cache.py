"""Compiled code on disk: found again by the next process, never stale, never in the way."""

from __future__ import annotations

import importlib
import os
import pickle
import shutil
import stat
import subprocess
import sys
import warnings
from pathlib import Path

import numba
import pytest

import numbaconv
from numbaconv import jit
from numbaconv.jit import PACKAGE, build_key, cache_directory, compiled, native

WORK = """
import sys
import numpy as np
import numba.core.compiler as compiler
compilations = []
real = compiler.compile_extra
def counting(*arguments, **options):
    compilations.append(str(options.get("func", arguments[2:3])))
    return real(*arguments, **options)
compiler.compile_extra = counting

import numbaconv as nc
a, b = np.ones((90, 200), "f4"), np.ones((200, 70), "f4")
for threads in 1, 2:
    assert (nc.gemm(a, b, num_threads=threads) == 200).all()
    assert (nc.gemm(a, b[:, :1].copy(), num_threads=threads) == 200).all()
assert (nc.gemm(nc.prepack_a(a), b, bias=np.ones(70, "f4"), activation="relu6") == 6).all()
assert (nc.gemm(a.astype("f8"), b.astype("f8")) == 200).all()
image, kernel = np.ones((2, 8, 30, 30), "f4"), np.ones((9, 8, 3, 3), "f4")
apart = {*nc.list_lowerings("winograd*"), *nc.list_lowerings("fft*"), "conv1x1", "depthwise", "patchify"}
for algorithm in set(nc.list_lowerings()) - apart:
    assert (nc.conv2d(image, kernel, algorithm=algorithm) == 72).all()
assert (nc.conv2d(image, kernel[:, :, :1, :1], algorithm="conv1x1") == 8).all()
assert (nc.conv2d(image, kernel[:8, :1], groups=8, algorithm="depthwise") == 9).all()
assert (nc.conv2d(image, kernel, stride=3, algorithm="patchify") == 72).all()
assert (nc.conv2d(image, kernel, algorithm="winograd-f2") == 72).all()
assert abs(nc.conv2d(image, kernel, algorithm="fft") - 72).max() < 1e-3
assert abs(nc.conv2d(image, kernel, algorithm="fft-tiled") - 72).max() < 1e-3
nc.Conv2d(8, 9, 3)(image)
print(len(compilations), *compilations)
"""
"""Something of everything; prints how many functions were compiled."""

SMALL = """
import sys
sys.path.insert(0, sys.argv[1])
import warnings
import functions
assert functions.double(21) == 42
functions.task.address
print(sum(functions.double.stats.cache_hits.values()), functions.task.code.cache_hits)
"""
"""Two functions of a module of its own: how many were found on disk."""

FUNCTIONS = """
from numbaconv.jit import compiled, native

@compiled
def double(x):
    return 2 * x

@native
def task(number, worker, address):
    number + worker
"""


def compilations(python, directory, **options) -> int:
    return int(python(WORK, env={"NUMBACONV_CACHE_DIR": str(directory)}, **options).split()[0])


@pytest.fixture(scope="module")
def warm(python, tmp_path_factory):
    """A cache directory in which one process did the work."""
    directory = tmp_path_factory.mktemp("warm")
    assert compilations(python, directory) > 20
    return directory


@pytest.fixture
def functions(tmp_path):
    place = tmp_path / "module"
    place.mkdir()
    (place / "functions.py").write_text(FUNCTIONS)
    return place


def hits(python, functions, directory, **options):
    said = python(SMALL, functions, env={"NUMBACONV_CACHE_DIR": str(directory)}, **options)
    return sum(map(int, said.split()))


# -------------------------------------------------------------------------------------------------------- warm starts


def test_a_second_process_compiles_nothing(python, warm):
    before = {path.name for path in (warm / build_key()).iterdir()}
    assert compilations(python, warm) == 0
    assert {path.name for path in (warm / build_key()).iterdir()} == before


def test_everything_is_in_one_directory_named_after_the_build(warm):
    assert [path.name for path in warm.iterdir()] == [build_key()]
    assert {path.suffix for path in (warm / build_key()).iterdir()} == {".nbi", ".nbc"}


def test_two_processes_compile_at_once_into_one_directory(python, functions, tmp_path):
    """Several start together on nothing; none fails, and what they leave serves the next."""
    environment = {**os.environ, "NUMBACONV_CACHE_DIR": str(tmp_path / "shared"), "PYTHONPATH": str(PACKAGE.parent)}
    command = [sys.executable, "-c", SMALL, str(functions)]
    together = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in together:
        said, complaints = process.communicate(timeout=240)
        assert process.returncode == 0, complaints
        assert said, complaints
    assert hits(python, functions, tmp_path / "shared") == 2


# ------------------------------------------------------------------------------------------------------------- stale


@pytest.fixture
def copied_package(tmp_path, monkeypatch):
    """The sources elsewhere, and ``build_key`` looking there, at each call anew."""
    place = tmp_path / "numbaconv"
    shutil.copytree(PACKAGE, place, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(jit, "PACKAGE", place)
    return place


def test_the_key_follows_every_source_file_and_the_processor(copied_package, monkeypatch):
    key_now = build_key.__wrapped__
    monkeypatch.setattr(jit, "source_key", jit.source_key.__wrapped__)
    assert key_now() == build_key()  # the same sources elsewhere are the same build
    seen = {build_key()}
    for path in sorted(copied_package.rglob("*.py")):
        path.write_text(path.read_text() + "\n# another line\n")
        seen.add(key_now())
    assert len(seen) == 1 + len(list(copied_package.rglob("*.py")))
    (copied_package / "lowerings" / "_another.py").write_text("")
    seen.add(key_now())
    monkeypatch.setattr(numba.config, "CPU_NAME", "nehalem")
    seen.add(key_now())
    monkeypatch.setattr(numba.config, "CPU_FEATURES", "+sse2")
    seen.add(key_now())
    monkeypatch.setattr(numba, "__version__", "0.1")
    seen.add(key_now())
    assert len(seen) == 4 + len(list(copied_package.rglob("*.py")))
    assert key_now() in seen


@pytest.fixture
def reimported(functions, tmp_path, monkeypatch):
    """Import the module anew, as a new process would; returns it and how many of its functions were found on disk."""
    monkeypatch.setattr(jit, "cache_directory", lambda: tmp_path / "cache")
    monkeypatch.syspath_prepend(functions)

    def again():
        sys.modules.pop("functions", None)
        importlib.invalidate_caches()
        shutil.rmtree(functions / "__pycache__", ignore_errors=True)
        module = importlib.import_module("functions")
        assert module.double(21) == 42
        assert module.task.address
        return module, sum(module.double.stats.cache_hits.values()) + module.task.code.cache_hits

    yield again
    sys.modules.pop("functions", None)


def test_an_edited_function_of_a_user_is_compiled_anew(reimported, functions):
    assert [reimported()[1] for _ in range(2)] == [0, 2]
    path = functions / "functions.py"
    path.write_text(FUNCTIONS.replace("2 * x", "x + 21"))
    os.utime(path, (1, 1))  # not even a newer file: another time is enough
    module, found = reimported()
    assert module.double(1) == 22
    assert found == 0
    assert reimported()[1] == 2


def _made_by(number):
    @native
    def task(a, b, c):
        number + a

    return task


def test_functions_of_one_factory_have_files_of_their_own():
    """The cells of a closure are part of the name; else processes that compile at once would overwrite each other."""
    names = set()
    for number in (1, 2, 3):
        code = _made_by(number).code
        names.add(code._cache._cache_file._index_path)
        assert os.path.isfile(code._cache._cache_file._index_path)
    assert len(names) == 3


# ----------------------------------------------------------------------------------------------- where, and if not


def test_the_directory_is_where_the_environment_says(monkeypatch, tmp_path):
    assert cache_directory() == Path(os.environ["NUMBACONV_CACHE_DIR"])
    monkeypatch.setattr(sys, "platform", "linux")
    for variables, wanted in (
        ({"NUMBACONV_CACHE_DIR": "a/b"}, "a/b"),
        ({"NUMBACONV_CACHE_DIR": "", "XDG_CACHE_HOME": "xdg"}, "xdg/numbaconv"),
        ({"XDG_CACHE_HOME": "xdg", "HOME": "home"}, "xdg/numbaconv"),
        ({"HOME": "home"}, "home/.cache/numbaconv"),
    ):
        with monkeypatch.context() as patch:
            for name in ("NUMBACONV_CACHE_DIR", "XDG_CACHE_HOME"):
                patch.delenv(name, raising=False)
            for name, value in variables.items():
                patch.setenv(name, value and str(tmp_path / value))
            assert cache_directory.__wrapped__() == tmp_path / wanted
            assert stat.S_IMODE((tmp_path / wanted).stat().st_mode) == 0o700


ONCE = """
import sys, warnings
sys.path.insert(0, sys.argv[1])
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import numbaconv as nc, functions
    from numbaconv.jit import cache_directory
    assert functions.double(21) == 42
    assert functions.double(2.5) == 5
    functions.task.address
ours = [str(warning.message) for warning in caught if "numbaconv" in str(warning.message)]
print(len(ours), cache_directory(), *ours, sep="|")
"""


@pytest.mark.parametrize("variable", ["HOME", "XDG_CACHE_HOME", "NUMBACONV_CACHE_DIR"])
def test_a_home_that_takes_no_files_costs_one_warning(python, functions, tmp_path, variable):
    """A file where a directory should be: nobody can write below it, not even the superuser."""
    (tmp_path / "file").write_text("")
    (tmp_path / "tmp").mkdir()
    env = {"NUMBACONV_CACHE_DIR": None, "XDG_CACHE_HOME": None, "TMPDIR": str(tmp_path / "tmp")}
    env[variable] = str(tmp_path / "file" / "home")
    count, place, message = python(ONCE, functions, env=env).strip().split("|")
    assert count == "1"
    assert place == str(tmp_path / "tmp" / f"numbaconv-{os.getuid()}")
    assert str(tmp_path / "file") in message
    assert place in message
    assert "NUMBACONV_CACHE_DIR" in message
    assert any(Path(place).rglob("*.nbc"))


@pytest.mark.skipif(os.getuid() == 0 if hasattr(os, "getuid") else True, reason="the superuser may write everywhere")
def test_a_read_only_home_costs_one_warning(python, functions, tmp_path):
    home = tmp_path / "home"
    home.mkdir(mode=0o500)
    env = {"NUMBACONV_CACHE_DIR": None, "XDG_CACHE_HOME": None, "HOME": str(home), "TMPDIR": str(tmp_path)}
    assert python(ONCE, functions, env=env).startswith("1|")


def test_nowhere_to_write_at_all_still_computes(python, functions, tmp_path):
    (tmp_path / "file").write_text("")
    code = "import sys, tempfile\ntempfile.tempdir = sys.argv[2]\n" + ONCE
    env = {"NUMBACONV_CACHE_DIR": str(tmp_path / "file" / "cache")}
    count, place, message = python(code, functions, tmp_path / "file" / "tmp", env=env).strip().split("|")
    assert (count, place) == ("1", "None")
    assert "compiling anew in every process" in message


@pytest.mark.parametrize("ending", ["gone", "a file"])
def test_a_directory_that_vanishes_costs_compilations_and_nothing_else(reimported, tmp_path, ending):
    module, _ = reimported()
    shutil.rmtree(tmp_path / "cache")
    if ending == "a file":
        (tmp_path / "cache").touch()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert module.double(2.5) == 5
        assert module.double(1 + 2j) == 2 + 4j
        assert reimported()[1] == 0
    assert all("numbaconv" in str(warning.message) for warning in caught), [str(w.message) for w in caught]


# ------------------------------------------------------------------------------------------------------------ damage


DAMAGES = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "noise": lambda data: bytes(range(256)) * 4,
    "another pickle": lambda data: pickle.dumps({}),
    "a good start": lambda data: data[:-7] + b"1234567",
}


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_compiled_anew(reimported, tmp_path, suffix, damage):
    assert [reimported()[1] for _ in range(2)] == [0, 2]
    files = sorted(tmp_path.rglob(f"*{suffix}"))
    assert len(files) == 2
    for path in files:
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        assert reimported()[1] == 0
    assert reimported()[1] == 2


def test_functions_of_a_notebook_are_compiled_but_not_kept(tmp_path):
    kept = set(Path(cache_directory()).rglob("*"))
    space: dict = {"compiled": compiled, "native": native}
    exec("@compiled\ndef half(x):\n    return x / 2\n@native\ndef task(a, b, c):\n    a + b\n", space)
    assert space["half"](3.0) == 1.5
    assert space["task"].address
    assert set(Path(cache_directory()).rglob("*")) == kept


def test_the_tests_use_a_directory_that_is_set():
    assert os.environ["NUMBACONV_CACHE_DIR"]
    assert Path(numbaconv.__file__).parent == PACKAGE
