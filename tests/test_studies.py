"""The papers' studies: measured on small stand-ins through the same code, written into a README, and checked there."""

from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from numbaconv.bench import studies, studies_page, studies_tables
from numbaconv.bench.contender import WrongResult, conv_reference, normal
from numbaconv.bench.studies import Figures, Group, Layer, Measured
from numbaconv.problem import ConvProblem
from numbaconv.timing import Sample

SMALL = ConvProblem(1, 4, 7, 7, 6, 3, 3, pad_top=1, pad_left=1, pad_bottom=1, pad_right=1)
STRIDED = ConvProblem(1, 3, 9, 9, 4, 3, 3, sh=2, sw=2)
README = "before\n" + "".join(f"<!-- study:{name} -->\nold\n<!-- /study:{name} -->\n" for name in studies.STUDIES)


def stand_ins():
    """The real studies' groups and lowerings, with small problems."""
    anderson, cct, cudnn, fft = (make() for make in studies.STUDIES.values())
    (ratio, batching), (kernels, strides) = cct, fft
    return {
        "anderson": [
            replace(anderson[0], layers=(Layer("a", SMALL), Layer("b", STRIDED), Layer("c", replace(SMALL, ic=64))))
        ],
        "cct": [
            replace(ratio, layers=(Layer("1/2", replace(SMALL, oc=8)), Layer("2", replace(SMALL, ic=8, oc=4)))),
            replace(batching, layers=(Layer("1", SMALL), Layer("4", replace(SMALL, mb=4)))),
        ],
        "cudnn": [replace(cudnn[0], layers=(Layer("1", replace(SMALL, mb=4)),))],
        "fft": [
            replace(kernels, layers=(Layer("3x3", SMALL),)),
            replace(strides, layers=(Layer("3x3 stride 1", SMALL), Layer("3x3 stride 2", STRIDED))),
        ],
    }


@pytest.fixture
def script(monkeypatch):
    path = Path(__file__).parent.parent / "scripts" / "studies.py"
    spec = importlib.util.spec_from_file_location("studies_script", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    small = stand_ins()
    monkeypatch.setattr(studies, "STUDIES", {name: lambda name=name: small[name] for name in small})
    return module


@pytest.fixture
def quick(monkeypatch):
    """No bursts: two calls each."""

    def burst(functions, *_, **__):
        for function in functions.values():
            function()
        return {name: Sample((2e-3, 1e-3), 9.0) for name in functions}

    monkeypatch.setattr(studies, "burst", burst)


# ------------------------------------------------------------------------------------------------------- the studies


def test_layers_are_those_of_the_papers():
    anderson, cct, cudnn, fft = (make() for make in studies.STUDIES.values())
    assert [(group.name, len(group.layers)) for group in anderson] == [("AlexNet", 5), ("VGG-16", 9), ("GoogLeNet", 19)]
    assert all(layer.problem.kh > 1 and layer.problem.g == 1 for group in anderson for layer in group.layers)
    assert anderson[1].layers[-1].label == "features.24 (x3)"
    ratios = [layer.problem for layer in cct[0].layers]
    assert [eval(layer.label) for layer in cct[0].layers] == [p.ic / p.oc for p in ratios]
    assert max(p.flops for p in ratios) < 1.2 * min(p.flops for p in ratios)
    assert [(p.kh, p.oh, p.ow) for p in (layer.problem for layer in fft[0].layers)] == [
        (k, 56, 56) for k in range(3, 32, 2)
    ]
    assert {layer.problem.sh for layer in fft[1].layers} == {1, 2, 4}
    # Caffe con Troll's conv2, 256 x 2400 x 729 for each image; cuDNN's second layer would have 12 GB of patches
    assert [(p.oc, p.K, p.oh * p.ow) for p in [cct[1].layers[0].problem]] == [(256, 2400, 729)]
    second = replace(cudnn[0].layers[1].problem, mb=128)
    assert studies.patch_bytes(second, "im2col:batching=whole") == 128 * 56 * 56 * 96 * 81 * 4


def test_who_is_wrong_is_not_timed(quick, monkeypatch):
    group = Group("g", ("im2col", "conv1x1"), (Layer("a", SMALL),))
    (row,) = studies.measure(group, [1], 0.1)
    assert list(row.figures) == [("im2col", 1)]
    assert row.figures["im2col", 1].lowering_bytes == 4 * 9 * 49 * 4
    assert row.gflops("im2col", 1) == SMALL.flops / 1e-3 / 1e9
    assert "1x1" in row.absent["conv1x1", 1]
    run = studies.Handle.__call__

    def spoilt(self, x, out):
        run(self, x, out=out)
        out[0, -1, -1, -1] += 0.01

    monkeypatch.setattr(studies.Handle, "__call__", spoilt)
    (row,) = studies.measure(group, [1], 0.1)
    assert not row.figures
    assert "error" in row.wrong["im2col", 1]
    assert math.isnan(row.gflops("im2col", 1))


def test_who_writes_nothing_is_wrong(quick, monkeypatch):
    run = studies.Handle.__call__

    def idle(self, x, out):
        if self.algorithm == "im2col":
            run(self, x, out=out)
        self.stage_times = {"multiply": 1.0}

    monkeypatch.setattr(studies.Handle, "__call__", idle)
    (row,) = studies.measure(Group("g", ("im2col", "im2row"), (Layer("a", SMALL),)), [1], 0.1)
    assert (list(row.figures), list(row.wrong)) == ([("im2col", 1)], [("im2row", 1)])


def test_images_in_the_middle_are_judged_too():
    problem = replace(SMALL, mb=3)
    x, w = normal(problem.input_shape, "float32", 0), normal(problem.weight_shape, "float32", 1)
    right = conv_reference(problem, x, w, np.zeros(problem.oc, "float32")).value
    judge = studies._Judge(problem, x, w)
    assert judge.error("first", right) < 1e-6
    spoilt = right.copy()
    spoilt[1, 0, 0, 0] += 0.01
    with pytest.raises(WrongResult, match="second is wrong"):
        judge.error("second", spoilt)


# -------------------------------------------------------------------------------------------------------- the tables


def found(groups, seconds):
    """Made-up times: the best call's by `seconds`; the median is twice that for im2..., four times for others."""
    return {
        (group.name, layer.label): Measured(
            layer,
            {
                (spec, threads): Figures(time, (2 if spec.startswith("im2") else 4) * time, time / 2, 5, 0, 0, 0.0)
                for spec in group.specs for threads in (1, 2) for time in [seconds(layer, spec, threads)]
            },
        )
        for group in groups for layer in group.layers
    }  # fmt: skip


def said(study, seconds):
    """What the tables say, on one line."""
    groups = stand_ins()[study]
    return " ".join(studies_tables.tables(study, groups, [1, 2], found(groups, seconds)).split())


def test_gains_are_computed():
    # only who comes nearer to the best patch builder counts: as by half, aa not at all
    slower = {"im2col": 2.0, "im2row": 1.0, "kn2row-as": 3.0, "kn2row-aa": 1.1}

    def seconds(layer, spec, threads):
        gain = {"a": 1.98, "c": 2.02}.get(layer.label, 9.0) if spec == "kn2row-as" and threads == 2 else 1.0
        return slower[spec] / threads / gain

    text = said("anderson", seconds)
    assert "over the 2 layers of stride 1: kn2row-as: yes, it gains 50.0% ± 2.0% (times: 3.00 → 1.50); " in text
    assert "kn2row-aa: no difference beyond the scatter (0.0% ± 0.0%) (times: 1.10 → 1.10)" in text
    assert "Over the 1 of them from 64 channels: kn2row-as: too few layers to tell (times: 3.00 → 1.49)" in text
    assert "By the median call, all 2: kn2row-as: yes, it gains 50.0% ± 2.0% (times: 6.00 → 3.00)" in text
    assert "| im2row / im2row |" in text
    assert studies_tables.verdict([1.0, 1.0], [2.0, 2.1]).startswith("no, it loses 104")
    assert studies_tables.verdict([1.0, 1.0], [0.5, 2.0]).startswith("no difference")
    assert studies_tables.verdict([1.0], [0.5]) == "too few layers to tell"


def test_cross_over_is_computed():
    def seconds(layer, spec, threads):
        ratio = layer.problem.ic / layer.problem.oc
        return {"im2col": 1.0, "cct-type2": 1.5, "kn2row": ratio**-0.5 if threads == 1 else 0.9}.get(spec, 1.0)

    text = said("cct", seconds)
    assert (
        "with 1 thread at ic/oc = 1 (the fastest of the three: type 1 at 1, type 2 at 0, type 3 at 1 of 2 ratios)"
        in text
    )
    assert (
        "with 2 threads nowhere in this range (the fastest of the three: type 1 at 0, type 2 at 0, type 3 at 2 of"
        in text
    )
    assert "| 1.41 / 0.90 |" in text


def test_implicit_is_compared_with_both():
    times = dict(zip([*studies.EXPLICIT, studies.IMPLICIT], (4.0, 3.0, 5.0, 2.0), strict=True))
    text = said("cudnn", lambda layer, spec, threads: times[spec] / threads)
    assert "with 1 thread 1.50 times as fast as the best of the three, 2.50 times as im2col one by one" in text


def test_transforms_are_compared_with_the_best_that_goes_tap_by_tap():
    specs = [*studies.FOURIER, *studies.TAP_BY_TAP, *studies.WINOGRAD]
    times = dict(zip(specs, (4.0, 3.0, 5.0, 6.0, 1.0, 2.0), strict=True))

    def seconds(layer, spec, threads):
        return times[spec] * (layer.problem.sh**2 if spec in studies.FOURIER else 1) / threads

    text = said("fft", seconds)
    row = "3x3 | 4000.00 / 2000.00 | 3000.00 / 1500.00 | 5000.00 / 2500.00 | 6000.00 / 3000.00 | 1000.00 / 500.00"
    assert f"| {row} | 1.67 / 1.67 |" in text
    assert "| 0.42 / 0.42 |" in text
    assert "with 1 thread they win at 3x3 stride 1; with 2 threads they win at 3x3 stride 1." in text


# -------------------------------------------------------------------------------------------------------- the script


def test_written_tables_pass_the_check_until_something_is_changed(script, quick, tmp_path, capsys):
    readme, figures = tmp_path / "README.md", tmp_path / "figures.json"
    readme.write_text(README, encoding="utf-8")
    assert script.main(["--write", str(readme), "--json", str(figures)]) == 0
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- study:anderson -->\n**Anderson")
    assert "old" not in text
    assert "WRONG" not in capsys.readouterr().err
    rows = json.loads(figures.read_text(encoding="utf-8"))["rows"]
    assert len(rows) == 2 * (3 * 4 + 2 * 3 + 2 * 3 + 4 + 6 + 2 * 4)
    assert {row["best"] for row in rows if "absent" not in row} == {1e-3}
    assert {row["median"] for row in rows if "absent" not in row} == {1.5e-3}
    assert script.main(["--check", str(readme)]) == 0

    for good, bad in (
        ("| 6.9 |", "| 6.8 |"),  # 9 · 4 · 49 elements of patches
        ("(6.0)", "(6.1)"),  # the memory ratio
        ("4 → 6, 3x3, 7x7 |", "4 → 6, 3x3, 7x8 |"),
        ("| b | 3 → 4,", "| c | 3 → 4,"),
        (" / ", " "),
        ("below 1 is faster", "above 1 is faster"),
        ("\nMeasured", "\nAnd\n\nMeasured"),
        ("\n<!-- /study:cct", "\n\nAnd\n<!-- /study:cct"),
        (" KiB implicit |", " KiB implicit | more |"),
        ("<!-- /study:cct -->", ""),
    ):
        assert good in text
        readme.write_text(text.replace(good, bad), encoding="utf-8")
        assert script.main(["--check", str(readme)]) == 1, good
    readme.write_text("\n".join(line for line in text.splitlines() if not line.startswith("| 2 |")), encoding="utf-8")
    assert script.main(["--check", str(readme), "--study", "cct"]) == 1
    assert script.main(["--check", str(readme), "--study", "cudnn"]) == 0
    assert script.main(["--check", str(readme), "--study", "cudnn", "--num-threads", "2"]) == 1


def test_script_wants_the_marks_first(script, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(studies, "measure", lambda *_: pytest.fail("measured before the marks were looked for"))
    readme = tmp_path / "README.md"
    readme.write_text(README.replace("<!-- study:cct -->", ""), encoding="utf-8")
    assert script.main(["--study", "cct", "--write", str(readme)]) == 2
    assert "cct: expected <!-- study:cct -->" in capsys.readouterr().err
    assert script.main(["--study", "cct", "--write", str(tmp_path / "missing")]) == 2


def test_a_line_may_be_broken_anywhere():
    wanted = f"A sentence of {studies_page.FIGURE} words.\n\n| {studies_page.NAME} | 2 |"
    marks = studies_page.marks("x")
    assert not studies_page.differences(
        f"{marks[0]}\nA sentence\nof 12.5 words.\n\n| im2col | 2 |\n{marks[1]}", "x", wanted
    )
    assert studies_page.differences(f"{marks[0]}\nA sentence of many words.\n\n| im2col | 2 |\n{marks[1]}", "x", wanted)


def test_the_tables_in_the_readme_are_of_this_package(python):
    root = Path(__file__).resolve().parent.parent
    code = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    assert "0 differences" in python(code, root / "scripts" / "studies.py", "--check", root / "README.md")
