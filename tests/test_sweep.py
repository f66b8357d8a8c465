"""Sweeps: what is checked, timed, kept and marked; by clocks and configurations made for the purpose, then by ours."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
from cases import in_memory, oracle, problem, whole
from click.testing import CliRunner
from numpy.testing import assert_array_equal

from numbaconv.api import plan
from numbaconv.bench.contender import Contender, Reference
from numbaconv.commands.group import numbaconv
from numbaconv.ladder.orders import ORDERS, ordered
from numbaconv.lowerings.direct import Direct, pixels_beside
from numbaconv.lowerings.direct_jit import DirectJit
from numbaconv.machine import detect
from numbaconv.problem import ConvProblem
from numbaconv.teach import sweep as sweeping
from numbaconv.teach.sweep import convolutions, measuring, products
from numbaconv.teach.sweep.grid import Axis, Grid, Job, Place
from numbaconv.teach.sweep.store import Store, Times
from numbaconv.timing import HostTimer

FLOPS = 10**9
RIGHT = Reference(np.ones(2), 1.0, 0.5)
XS, YS = (1, 2, 4, 8), ("a", "b", "c")


class World:
    """A clock that only its own calls move, and a grid of calls whose time is the product of both axes' numbers."""

    def __init__(self, monkeypatch, wrong=(), none=()):
        self.now, self.slower, self.made = 0.0, 1.0, []
        self.wrong, self.none = wrong, none
        monkeypatch.setattr(measuring, "PAUSE", 0.0)
        across, down = Axis("across", XS), Axis("down", YS)
        self.grid = Grid(
            "made-up", "A sweep", across, down, {"of": 1}, self.configure, lambda place: FLOPS, lambda: self.work(2.0),
            Place(2, "b"), HostTimer(lambda: self.now),
        )  # fmt: skip

    def seconds(self, place: Place) -> float:
        return 1.0 + abs(place.x - 4) + YS.index(place.y)

    def work(self, seconds):
        def call():
            self.now += seconds * self.slower

        return call

    def configure(self, place: Place) -> Job:
        self.made.append(place)
        if place in self.none:
            raise ValueError(f"no tile of {place.x}")
        result = np.full(2, 1.0 + (place in self.wrong))
        return Job(Contender(str(place), self.work(self.seconds(place)), lambda: result), RIGHT)

    def sweep(self, store=None, seconds=1.0, ticks=None):
        return measuring.sweep(self.grid, seconds, store, (ticks if ticks is not None else []).append)


@pytest.fixture
def world(monkeypatch):
    return World(monkeypatch)


def test_each_configuration_has_its_own_speed_and_the_best_is_marked(world):
    ticks = []
    found = world.sweep(ticks=ticks)
    assert [cell.place for cell in found.cells] == [Place(x, y) for y in YS for x in XS]
    for cell in found.cells:
        assert cell.gflops == pytest.approx(1 / world.seconds(cell.place))
        assert cell.reason is None
    assert found.best.place == Place(4, "a")
    assert found.model_share == pytest.approx(world.seconds(Place(4, "a")) / world.seconds(Place(2, "b")))
    assert len(ticks) == len(world.grid) == 12


def test_what_is_no_configuration_stays_with_its_reason_and_is_never_timed(monkeypatch):
    world = World(monkeypatch, none=[Place(8, "a")])
    found = world.sweep()
    assert found[Place(8, "a")].reason == "no tile of 8"
    assert found[Place(8, "a")].gflops is None
    assert not found.wrong


def test_a_wrong_result_is_said_and_neither_timed_nor_kept(monkeypatch, tmp_path):
    world = World(monkeypatch, wrong=[Place(4, "a")])
    store = Store(tmp_path / "lines")
    found = world.sweep(store)
    (cell,) = found.wrong
    assert cell.place == Place(4, "a")
    assert cell.gflops is None
    assert cell.reason.startswith("WRONG: ")
    assert found.best.place != Place(4, "a")
    assert store.find(world.grid, Place(4, "a"), 1.0) is None
    assert len((tmp_path / "lines").read_text().splitlines()) == 11


def test_a_machine_that_slows_down_changes_nothing(world):
    """Between two handfuls everything becomes three times as slow, the reference too."""
    steady = world.sweep()
    configure = world.grid.configure

    def slowing(place):
        world.slower = 3.0 if len(world.made) > measuring.HANDFUL + 12 else 1.0
        return configure(place)

    object.__setattr__(world.grid, "configure", slowing)
    drifting = world.sweep()
    shares = [b.gflops / a.gflops for a, b in zip(steady.cells, drifting.cells, strict=True)]
    assert shares == pytest.approx([shares[0]] * 12)


def test_a_sweep_goes_on_where_it_was_interrupted(world, tmp_path):
    configure = world.grid.configure

    def interrupted(place):
        if len(world.made) == 8:
            raise KeyboardInterrupt
        return configure(place)

    object.__setattr__(world.grid, "configure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        world.sweep(Store(tmp_path / "lines"))
    kept = len((tmp_path / "lines").read_text().splitlines())
    assert kept == measuring.HANDFUL
    world.made.clear()
    object.__setattr__(world.grid, "configure", configure)
    ticks = []
    found = world.sweep(Store(tmp_path / "lines"), ticks=ticks)
    assert world.made == list(world.grid.places)[kept:]
    assert len(ticks) == 12
    assert all(cell.gflops == pytest.approx(1 / world.seconds(cell.place)) for cell in found.cells)
    world.made.clear()
    again = world.sweep(Store(tmp_path / "lines"))
    assert not world.made
    assert again.cells == found.cells


def test_another_budget_other_settings_another_build_or_a_fresh_start_are_measured_anew(world, tmp_path, monkeypatch):
    path = tmp_path / "lines"
    place = Place(1, "a")
    Store(path).add(world.grid, place, 1.0, Times(1.0, 2.0))
    assert Store(path).find(world.grid, place, 1.0) == (1.0, 2.0)
    assert Store(path).find(world.grid, place, 2.0) is None
    assert Store(path).find(world.grid, Place(2, "a"), 1.0) is None
    object.__setattr__(world.grid, "settings", {"of": 2})
    assert Store(path).find(world.grid, place, 1.0) is None
    object.__setattr__(world.grid, "settings", {"of": 1})
    with monkeypatch.context() as other:
        other.setattr("numbaconv.teach.sweep.store.build_key", lambda: "another")
        assert Store(path).find(world.grid, place, 1.0) is None
    assert Store(path, fresh=True).find(world.grid, place, 1.0) is None
    assert not path.exists()


def test_what_cannot_be_timed_is_checked_all_the_same(monkeypatch):
    world = World(monkeypatch, wrong=[Place(1, "c")])
    object.__setattr__(world.grid, "timer", None)
    found = world.sweep()
    assert [cell.place for cell in found.wrong] == [Place(1, "c")]
    assert {cell.reason for cell in found.cells if not cell.wrong} == {measuring.NOT_TIMED}
    assert world.now == 0.0


# ------------------------------------------------------------------------------------------------- on the page


def test_the_json_has_what_the_page_takes(monkeypatch):
    world = World(monkeypatch, wrong=[Place(1, "a")], none=[Place(8, "c")])
    found = json.loads(json.dumps(world.sweep().as_json()))
    assert found["x"] == {"name": "across", "values": list(XS)}
    assert found["y"] == {"name": "down", "values": list(YS)}
    assert found["model"] == {"x": 2, "y": "b"}
    assert found["best"] == {"x": 4, "y": "a"}
    reasons = {(cell["x"], cell["y"]): cell["reason"] for cell in found["cells"] if cell["gflops"] is None}
    assert reasons.keys() == {(1, "a"), (8, "c")}


def test_measure_ticks_as_often_as_units_says(monkeypatch):
    world = World(monkeypatch)
    monkeypatch.setattr(sweeping, "GRIDS", {"tile": lambda o: [world.grid], "order": lambda o: [world.grid]})
    monkeypatch.setattr(sweeping, "here", lambda: ("tile", "order"))
    ticks = []
    assert [found["name"] for found in sweeping.measure(True, ticks.append)] == ["made-up", "made-up"]
    assert len(ticks) == sweeping.units(True) == 24


def frames(figure) -> dict[str, tuple[float, float]]:
    """Words of the legend -> the middle of the frame, in cells."""
    found = {}
    for patch in figure.axes[0].patches:
        box = patch.get_bbox()
        found[patch.get_label()] = ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2)
    return found


@pytest.mark.teach
def test_the_picture_marks_the_cells_of_the_best_and_of_the_choice(monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    from numbaconv.teach.sweep.plot import figure_of, heat_map

    world = World(monkeypatch, wrong=[Place(1, "a")], none=[Place(8, "c")])
    found = world.sweep()
    (best, best_at), (own, own_at) = frames(figure_of(found)).items()
    assert best == "the best: 1.0 GFLOP/s"
    assert best_at == pytest.approx((XS.index(4), YS.index("a")))
    assert own == f"the library's own choice: {1 / world.seconds(Place(2, 'b')):.0%} of the best"
    assert own_at == pytest.approx((XS.index(2), YS.index("b")))
    texts = {text.get_position(): text.get_text() for text in figure_of(found).axes[0].texts}
    assert texts[0, 0] == "WRONG"
    assert texts[3, 2] == "–"
    assert texts[2, 0] == "1.0"
    heat_map(tmp_path / "picture.png", found)
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG\r\n")


# ---------------------------------------------------------------------------------------------- the command


def call(*arguments):
    return CliRunner().invoke(numbaconv, ["teach", "sweep", *map(str, arguments)])


@pytest.mark.teach
def test_the_command_writes_pictures_and_figures_and_goes_on(monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    world = World(monkeypatch, none=[Place(8, "c")])
    monkeypatch.setitem(sweeping.GRIDS, "tile", lambda options: [world.grid])
    result = call("--what", "tile", "--out", tmp_path / "new", "--seconds", 1)
    assert result.exit_code == 0, result.output
    assert "the library's own choice: b x 2, 25% of the best" in result.output
    assert "best: a x 4, 1.0 GFLOP/s" in result.output
    assert "c x 8: no tile of 8" in result.output
    assert (tmp_path / "new" / "sweep-made-up.png").read_bytes().startswith(b"\x89PNG\r\n")
    rows = json.loads((tmp_path / "new" / "sweep-made-up.json").read_text())["rows"]
    assert rows[0]["best"] == {"x": 4, "y": "a"}
    world.made.clear()
    assert call("--what", "tile", "--out", tmp_path / "new", "--seconds", 1).exit_code == 0
    assert world.made == [Place(8, "c")]
    assert call("--what", "tile", "--out", tmp_path / "new", "--seconds", 1, "--fresh").exit_code == 0
    assert len(world.made) == 13


def test_a_wrong_result_ends_the_command_with_1(monkeypatch):
    """Our GEMM with a blocking that it computes wrongly."""
    true = products.gemm

    def wrong_in_places(*arrays, out, blocking, **more):
        true(*arrays, out=out, blocking=blocking, **more)
        if blocking is not None and blocking.mr == 2:
            out[-1, -1] += 1.0

    monkeypatch.setattr(products, "gemm", wrong_in_places)
    monkeypatch.setattr(sweeping, "GRIDS", sweeping.GRIDS | {"tile": lambda o: [_few_tiles((24, 32, 9))]})
    result = call("--what", "tile", "--seconds", 0.05)
    assert result.exit_code == 1, result.output
    assert "WRONG" in result.output
    assert "2 x " in result.output


def _few_tiles(sizes) -> Grid:
    """The grid of tiles, with one column of them."""
    (grid,) = products.tile_grids(sizes, 1, True)
    object.__setattr__(grid, "y", Axis(grid.y.name, tuple(y for y in grid.y.values if y < 8)))
    object.__setattr__(grid, "x", Axis(grid.x.name, grid.x.values[:1]))
    object.__setattr__(grid, "model", None)
    return grid


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--what", "colours"], "'colours' is not one of"),
        (["--m", 3], "--m, --n and --k go together"),
        (["--fresh"], "--fresh forgets what --out DIR keeps"),
        (["--seconds", 0], "seconds"),
        (["--out", "nowhere/at/all"], "there is no directory"),
        (["--what", "conv-tile", "mb0ic1ih4oc1kh3"], "no multiply-adds"),
    ],
)
def test_what_cannot_be_swept_is_refused_in_words(arguments, said):
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert said in result.output


def test_an_unknown_sweep_is_refused_with_close_matches():
    with pytest.raises(sweeping.UnknownSweep, match="did you mean 'tile'"):
        sweeping.grids("tiles")


# -------------------------------------------------------------------------------------------------- our grids


def checked(grid: Grid, place: Place) -> None:
    job = grid.configure(place)
    job.reference.check(job.contender)
    grid.reference()()


def test_tiles_are_right_or_spill_and_the_model_is_on_the_grid():
    (grid,) = products.tile_grids((23, 57, 31), 1, quick=False)
    assert grid.model.x in grid.x.values
    assert grid.model.y in grid.y.values
    checked(grid, grid.model)
    checked(grid, Place(min(grid.x.values), 1))
    with pytest.raises(ValueError, match="spills; the largest that fit are"):
        grid.configure(Place(max(grid.x.values), max(grid.y.values)))


def test_blocks_are_right_at_both_ends():
    for grid in products.block_grids((70, 130, 67), 1, quick=False):
        assert grid.model.x in grid.x.values
        assert grid.model.y in grid.y.values
        for choose in (min, max):
            checked(grid, Place(choose(grid.x.values), choose(grid.y.values)))


def test_a_grid_of_blocks_varies_what_it_says():
    """The schedule of each configuration has the blocks of its place."""
    for grid, fields in zip(
        products.block_grids((512, 512, 512), 1, quick=True), (("nc", "kc"), ("kc", "mc")), strict=True
    ):
        place = Place(grid.x.values[0], grid.y.values[0])
        blocking = grid.configure(place).contender.call.keywords["blocking"]
        assert tuple(getattr(blocking, field) for field in fields) == place


@pytest.mark.parametrize("sizes", [(5, 7, 3), (1, 1, 1), (4, 3, 0), (0, 2, 2), (17, 2, 19)])
def test_all_orders_are_exact(rng, sizes):
    m, n, k = sizes
    a, b = whole(rng, m, k), whole(rng, k, n)
    for order in ORDERS:
        out = np.full((m, n), np.nan, np.float32)
        assert ordered(order)(a, b, out=out) is out
        assert_array_equal(out, a.astype(np.float64) @ b.astype(np.float64), err_msg=order)


def test_threads_go_up_to_those_asked_for():
    (grid,) = products.thread_grids(3, quick=True)
    assert grid.y.values == (1, 2, 3)
    checked(grid, Place(64, 3))


@pytest.mark.parametrize("cls", [Direct, DirectJit])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_direct_is_exact_with_any_tile(rng, cls, layout):
    p = problem(ic=3, oc=37, ih=6, iw=13, pad_left=1, pad_right=1, layout=layout)
    x, w = whole(rng, *p.input_shape), whole(rng, *p.weight_shape)
    for tile in ((1, 1), (2, 5), (1, 14)):
        handle = plan(p, convolutions.tiled(cls, *tile), layout="nchw", num_threads=1).prepare(w)
        assert_array_equal(handle(in_memory(x, layout)), oracle(p, x, w), err_msg=str(tile))


def test_the_tile_asked_for_is_the_tile_that_runs():
    """By the kernels that the setup made: as many pixels as asked for, and not those of the choice."""
    from numbaconv.lowerings import direct

    p = ConvProblem.parse("mb1ic2ih8oc32oh6kh3ph0")
    strides = (p.ic * 256, 256, 32, 4), (p.oc * 144, 144, 24, 4)
    for pixels in (2, 3):
        kernels = direct._setup(p, 1, *strides, (1, pixels))[3]
        assert np.flatnonzero(kernels[0, 1:]) + 1 == [pixels]


def test_tiles_of_a_convolution_that_spill_or_are_too_wide_are_refused():
    p = ConvProblem.parse("mb1ic3ih12oc8oh12kh3ph1")
    (grid,) = convolutions.tile_grids(p, 1, quick=True)
    lanes = min(grid.y.values)
    checked(grid, grid.model)
    with pytest.raises(ValueError, match="the layer has 8 output channels a group"):
        grid.configure(Place(2, 2 * lanes))
    wide = convolutions.tile_grids(ConvProblem.parse("mb1ic1ih20oc256oh18kh3"), 1, quick=False)[0]
    vectors, most = 3, pixels_beside(3)
    assert vectors * most + vectors + 1 <= detect().vector_registers
    with pytest.raises(ValueError, match=f"spills; {most} pixels fit"):
        wide.configure(Place(most + 1, vectors * detect().lanes("float32")))


def test_rows_lowered_at_a_time_are_those_asked_for():
    p = ConvProblem.parse("mb2ic3ih11oc5oh11kh3ph1")
    (grid,) = convolutions.row_grids(p, 1, quick=False)
    assert grid.x.values == (11, 6, 3, 2, 1)
    assert grid.model.y in grid.y.values
    limits = dict(convolutions._limits(p, "im2col", 1))
    assert all(
        convolutions._rows(plan(p, "im2col", num_threads=1, max_workspace=limits[rows])) == rows for rows in limits
    )
    for rows, name in product((11, 2), ("im2col", "im2row")):
        checked(grid, Place(rows, name))


# ---------------------------------------------------------------------------------------------------- on a GPU


def test_without_a_gpu_its_tiles_are_refused_in_words(monkeypatch):
    monkeypatch.delenv("NUMBACONV_CUDA", raising=False)
    monkeypatch.setattr("numbaconv.devices.cuda.reason", lambda device: "there is none here")
    monkeypatch.setattr("numbaconv.teach.sweep.cuda.reason", lambda device: "there is none here")
    assert "gpu-tile" not in sweeping.here()
    result = call("--what", "gpu-tile")
    assert result.exit_code == 2, result.output
    assert "device 'cuda'" in result.output


def test_tiles_of_a_gpu_are_right_in_the_emulator_and_have_no_times(monkeypatch):
    monkeypatch.setenv("NUMBACONV_CUDA", "emulate")
    assert "gpu-tile" not in sweeping.here()
    block, thread = sweeping.grids("gpu-tile", sweeping.Options(sizes=(33, 30, 20)))
    object.__setattr__(block, "x", Axis("bn", (64,)))
    object.__setattr__(block, "y", Axis("bm", (64, 48)))
    found = measuring.sweep(block, 1.0)
    assert found[Place(64, 64)].reason == measuring.NOT_TIMED
    assert "warps" in found[Place(64, 48)].reason
    assert not found.wrong
    with pytest.raises(ValueError, match="threads cannot copy"):
        thread.configure(Place(4, 4))
