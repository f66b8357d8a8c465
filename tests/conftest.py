"""One cache of compiled code for the whole run, the same random numbers every time, and processes of their own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
OURS = "NUMBACONV_TESTS_OWN_CACHE"

# Before numbaconv is imported. The workers of pytest-xdist and every process that a test starts inherit it, so what
# one compiles, all others load.
if "NUMBACONV_CACHE_DIR" not in os.environ:
    os.environ["NUMBACONV_CACHE_DIR"] = os.environ[OURS] = tempfile.mkdtemp(prefix="numbaconv-tests-")

settings.register_profile(
    "numbaconv", deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
settings.load_profile("numbaconv")


def pytest_unconfigure(config):
    if OURS in os.environ and not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop(OURS), ignore_errors=True)


def pytest_runtest_setup(item):
    """What is marked "compiler" or "browser" needs one, or is skipped; NUMBACONV_REQUIRE_COMPILER, ...: or fails."""
    if item.get_closest_marker("compiler"):
        from cuda_code import missing

        if reason := missing():
            (pytest.fail if os.environ.get("NUMBACONV_REQUIRE_COMPILER") else pytest.skip)(reason)
    if item.get_closest_marker("browser"):
        from browser import missing as no_browser

        if reason := no_browser():
            (pytest.fail if os.environ.get("NUMBACONV_REQUIRE_BROWSER") else pytest.skip)(reason)


@pytest.fixture
def rng():
    return np.random.default_rng(20061)


@pytest.fixture
def mutant(monkeypatch):
    """``mutant(module, old, new)``: the module, built anew with a fault in its source."""

    def build(module, old, new):
        source = Path(module.__file__).read_text(encoding="utf-8")
        if old not in source:
            raise ValueError(f"there is no {old!r} to put a fault in")
        built = importlib.util.module_from_spec(importlib.util.spec_from_loader("mutant", None))
        monkeypatch.setitem(sys.modules, "mutant", built)
        exec(compile(source.replace(old, new), "mutant", "exec"), built.__dict__)
        return built

    return build


@pytest.fixture(scope="session")
def python():
    """``python(code, *arguments, env={...})`` runs code in an interpreter of its own and returns what it printed.

    It finds the package and the tests' own modules. A variable whose value in `env` is None is not set there. A process
    that ends with another code than `code_wanted`, or not in time, fails the test with all that it said.
    """

    def run(code, *arguments, env=None, timeout=240, code_wanted=0, stderr=False):
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(HERE))),
            "PYTHONFAULTHANDLER": "1",
            **(env or {}),
        }
        environment = {name: value for name, value in environment.items() if value is not None}
        command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
        try:
            done = subprocess.run(
                command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired as late:
            said = b"".join(filter(None, (late.stdout, late.stderr))).decode(errors="replace")
            pytest.fail(f"still running after {timeout} s; it said:\n{said}")
        if done.returncode != code_wanted:
            pytest.fail(f"exit code {done.returncode}; it said:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        return (done.stdout, done.stderr) if stderr else done.stdout

    return run
