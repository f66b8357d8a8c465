"""timing: bursts, budgets and statistics, on a clock that the tests turn."""

from __future__ import annotations

import gc

import pytest

from numbaconv import timing


class World:
    """A clock, and functions that cost time on it; writes down who was called and where pauses were made."""

    def __init__(self):
        self.now = 0.0
        self.log = []

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.log.append("pause")
        self.now += seconds

    def function(self, name, *costs):
        """Costs these seconds, call by call, the last of them for ever."""
        costs = list(costs)

        def call():
            self.log.append(name)
            self.now += costs.pop(0) if len(costs) > 1 else costs[0]

        return call

    def burst(self, functions, rounds=2, **options):
        return timing.burst(functions, rounds, clock=self.clock, sleep=self.sleep, **options)


def bursts(log):
    """[(name, calls), ...] between pauses."""
    groups = []
    for entry in log:
        if entry == "pause":
            groups.append([])
        else:
            groups[-1].append(entry)
    assert all(len(set(group)) == 1 for group in groups)
    return [(group[0], len(group)) for group in groups]


def test_rounds_are_bursts_that_take_turns():
    world = World()
    samples = world.burst({"a": world.function("a", 1.0), "b": world.function("b", 2.0)}, rounds=3, drop=2, calls=4)
    warm, rounds = bursts(world.log)[:2], bursts(world.log)[2:]
    assert warm == [("a", 2), ("b", 2)]  # the first call, and one to learn how long a call is
    assert rounds == [("a", 6), ("b", 6), ("b", 6), ("a", 6), ("a", 6), ("b", 6)]
    assert list(samples) == ["a", "b"]
    assert samples["a"].times == pytest.approx([1.0] * 12)
    assert samples["b"].times == pytest.approx([2.0] * 12)


def test_first_call_and_dropped_calls_do_not_count():
    world = World()
    # first call 5 s, calibration 1 s, then in the burst two calls of 3 s that are dropped, three of 1 s that count
    samples = world.burst({"f": world.function("f", 5.0, 1.0, 3.0, 3.0, 1.0)}, rounds=1, drop=2, calls=3)
    assert samples["f"].first == 5.0
    assert samples["f"].times == (1.0, 1.0, 1.0)


def test_nothing_dropped_when_asked():
    world = World()
    samples = world.burst({"f": world.function("f", 1.0, 1.0, 3.0, 1.0)}, rounds=1, drop=0, calls=2)
    assert samples["f"].times == (3.0, 1.0)


def test_short_functions_are_timed_in_a_loop():
    world = World()
    microsecond = 1e-6
    samples = world.burst({"f": world.function("f", microsecond)}, rounds=1, drop=1, calls=3)
    assert samples["f"].times == pytest.approx([microsecond] * 3)
    in_a_burst = bursts(world.log)[-1][1]
    assert in_a_burst / 4 * microsecond >= timing.LEAST_SECONDS


def test_calibration_ends_on_a_clock_that_stands_still(monkeypatch):
    monkeypatch.setattr(timing, "MOST_CALLS", 64)
    world = World()
    samples = world.burst({"f": world.function("f", 0.0)}, rounds=1, drop=0, calls=1)
    assert samples["f"].times == (0.0,)


@pytest.mark.parametrize(("budget", "counted"), [(1000, 4 * 9), (30, 4 * 6), (1, 1)])
def test_budget_shrinks_bursts_then_rounds(budget, counted):
    world = World()
    samples = world.burst({"f": world.function("f", 1.0)}, rounds=4, pause=0.0, drop=2, calls=9, budget_s=budget)
    assert len(samples["f"].times) == counted
    assert world.now <= max(budget, 4.0)  # first call, calibration, one dropped, one counted: never less


def test_garbage_collector_is_off_while_timing_and_comes_back():
    seen = []
    timing.burst({"f": lambda: seen.append(gc.isenabled())}, 1, pause=0, drop=0, calls=1)
    assert seen
    assert not any(seen)
    assert gc.isenabled()

    def fail():
        raise KeyError("f")

    with pytest.raises(KeyError):
        timing.burst({"f": fail}, 1)
    assert gc.isenabled()
    gc.disable()
    try:
        timing.burst({"f": lambda: None}, 1, pause=0, drop=0, calls=1)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_statistics():
    sample = timing.Sample((5.0, 1.0, 2.0, 4.0), first=9.0)
    assert sample.min == 1.0
    assert sample.median == 3.0
    assert sample.lower_quartile == sample.quartile(1) == 1.75
    assert sample.quartile(4) == 5.0
    assert timing.Sample((7.0,), 7.0).median == 7.0
    with pytest.raises(ValueError, match="q must be 0 to 4"):
        sample.quartile(5)


def test_time_call_is_a_burst_of_one():
    world = World()
    sample = timing.time_call(world.function("f", 1.0), 2, calls=3, clock=world.clock, sleep=world.sleep)
    assert sample.times == (1.0,) * 6


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"calls": 0}, {"drop": -1}])
def test_wrong_counts_are_refused(wrong):
    with pytest.raises(ValueError, match="must be at least"):
        timing.burst({"f": lambda: None}, **wrong)


def test_real_clock():
    samples = timing.burst({"short": lambda: None, "long": lambda: sum(range(100_000))}, 2, pause=0, calls=3)
    for sample in samples.values():
        assert len(sample.times) == 6
        assert 0 < sample.min <= sample.median


# --------------------------------------------------------------------------------------------------- on a device


class Queue:
    """A device on which work is queued: events stand where the device will be, the host goes on."""

    def __init__(self, launch=0.0):
        self.host, self.busy, self.launch, self.log = 0.0, 0.0, launch, []

    def function(self, name, seconds):
        def call():
            self.log.append(name)
            self.host += self.launch
            self.busy = max(self.busy, self.host) + seconds

        return call

    def record(self, stream=None):
        self.log.append(f"event on {stream}")
        return Moment(self, max(self.busy, self.host))


class Moment:
    def __init__(self, queue, time):
        self.queue, self.time = queue, time

    def seconds_since(self, earlier):
        self.queue.host = max(self.queue.host, self.time)  # the host has waited
        return self.time - earlier.time


def test_a_device_is_timed_by_events_around_a_batch():
    queue = Queue()
    timer = timing.DeviceTimer(queue, stream=7)
    assert timer.seconds(queue.function("f", 0.5)) == 0.5
    assert queue.log == ["event on 7", "f", "event on 7"]
    queue.log.clear()
    assert timer.seconds(queue.function("f", 0.5), 3) == 1.5
    assert queue.log == ["f", "event on 7", "f", "f", "f", "event on 7"]


def test_short_calls_on_a_device_hide_the_launch_of_the_first():
    queue = Queue(launch=5e-6)
    functions = {"short": queue.function("short", 10e-6), "long": queue.function("long", 2e-3)}
    samples = timing.burst(functions, 2, pause=0, drop=1, calls=2, timer=timing.DeviceTimer(queue))
    assert samples["short"].times == pytest.approx([10e-6] * 4)
    assert samples["long"].times == pytest.approx([2e-3] * 4, rel=0.01)
    events = [number for number, name in enumerate(queue.log) if name.startswith("event")]
    batches = [queue.log[begin + 1 : end] for begin, end in zip(events[::2], events[1::2], strict=True)]
    counts = {name: [len(batch) for batch in batches if batch[0] == name][-1] for name in functions}
    assert counts["long"] == 1
    assert counts["short"] * 10e-6 >= timing.DEVICE_SECONDS


def test_a_host_that_queues_slowly_is_what_is_seen():
    queue = Queue(launch=50e-6)
    sample = timing.time_call(queue.function("f", 1e-6), 1, pause=0, timer=timing.DeviceTimer(queue))
    assert sample.median == pytest.approx(50e-6, rel=0.05)


def test_a_burst_of_nothing_is_nothing():
    assert timing.burst({}, 3) == {}
