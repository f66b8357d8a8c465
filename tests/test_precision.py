"""The study of bf16's errors: they are in the order of the arithmetics' digits, and what it prints agrees."""

from __future__ import annotations

import importlib.util

import pytest

from numbaconv.bench.plot_precision import precision_plot
from numbaconv.bench.precision import ARITHMETICS, measure, table


@pytest.fixture(scope="module")
def rows():
    return list(measure((64, 147), ("normal", "log-uniform, 1e-9 to 1e9")))


def test_more_digits_err_less(rows):
    for kind, k in {(row.data, row.k) for row in rows}:
        of = {row.arithmetic: row for row in rows if (row.data, row.k) == (kind, k)}
        assert list(of) == list(ARITHMETICS)
        for better, worse in (("TF32", "bf16"), ("bf16x3", "TF32"), ("float32", "bf16x3"), ("bf16x6", "bf16x3")):
            assert 3 * of[better].norm < of[worse].norm
            assert 3 * of[better].worst < of[worse].worst
        assert of["bf16x3"].norm <= 1e-5
        assert of["bf16x6"].norm <= 3 * of["float32"].norm


def test_the_table_has_the_largest_errors_of_all_depths(rows):
    title, _, normal, _ = table(rows).splitlines()
    assert title.split(" | ")[1:] == [*list(ARITHMETICS)[:-1], "bf16x6 |"]
    most = max(row.worst for row in rows if (row.data, row.arithmetic) == ("normal", "bf16x3"))
    assert f"/ {most:.1e}" in normal.split(" | ")[3]


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")
def test_the_plot_is_drawn(rows, tmp_path):
    precision_plot(tmp_path / "errors.png", rows)
    assert (tmp_path / "errors.png").stat().st_size > 10_000
