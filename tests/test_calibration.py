"""The cost model's figures of a machine: typical until it is measured on request, and kept for other processes."""

from __future__ import annotations

import pytest

from numbaconv import probes
from numbaconv.calibration import SHARES, TYPICAL, Rates, calibrate, rates
from numbaconv.problem import ConvProblem
from numbaconv.request import Request
from numbaconv.select import candidate, lowerings


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine that does 50 GFLOP/s, copies 2 GB/s and reads 100 GB/s from its cache, and was never calibrated."""
    monkeypatch.setattr(probes, "ceilings_file", lambda: tmp_path / "ceilings.json")
    monkeypatch.setattr(probes, "fma_peak", lambda dtype, threads, refresh: 50.0)
    monkeypatch.setattr(probes, "copy_bandwidth", lambda threads, refresh: 2.0)
    monkeypatch.setattr(probes, "read_bandwidth", lambda threads, size, refresh: 100.0)
    rates.cache_clear()
    yield tmp_path / "ceilings.json"
    rates.cache_clear()


def test_typical_until_asked_for_and_kept_then(machine):
    assert rates() == TYPICAL
    probes.keep(machine, "fma float32 x1", 7.0)  # what others measured in passing
    rates.cache_clear()
    assert rates() == TYPICAL
    wanted = Rates(50e9 * SHARES.peak, 2e9 * SHARES.memory, 100e9 * SHARES.cache)
    assert calibrate() == pytest.approx(wanted)
    assert rates() == pytest.approx(wanted)
    rates.cache_clear()  # as in another process
    assert rates() == pytest.approx(wanted)


@pytest.mark.parametrize("text", ["{ spoilt", '{"calibrated peak": 1.0}', '{"calibrated peak": "x"}'])
def test_a_spoilt_file_is_none(machine, text):
    machine.write_text(text)
    assert rates() == TYPICAL


def test_predictions_heed_it(machine):
    (direct,) = lowerings("direct")
    problem, request = ConvProblem.parse("mb1ic64ih56oc64kh3ph1"), Request()
    before = candidate(direct(), problem, request).seconds
    calibrate()
    assert candidate(direct(), problem, request).seconds == pytest.approx(before * TYPICAL.peak / 50e9, rel=0.1)
