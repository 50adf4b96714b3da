"""Evidence that speaks against itself: windows unlike the run, a trace against the metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boundscope.collectors.records import Manifest, Window
from boundscope.profiler.contradictions import (
    LEFT,
    doubt,
    started_apart,
    still_starting,
    trace_against_metrics,
    unlike_windows,
)
from boundscope.profiler.diagnosis import Warning_
from boundscope.profiler.run.load import MetricTable, Run
from boundscope.profiler.timeline import WORK_PHASES, Timeline
from boundscope.profiler.trace.collectives import Collective, arrival_skews
from boundscope.profiler.trace.device import DeviceTime
from boundscope.profiler.trace.device_division import DeviceWindow
from boundscope.profiler.trace.host import HostWindow, PhaseTime
from boundscope.profiler.trace.intervals import EMPTY

from .line_material import line_of

MS = 1_000_000
S = 1_000_000_000
DOCS = Path(__file__).resolve().parents[1] / "docs" / "warnings.md"


def window_of(line: Timeline, first: int, last: int, events: int) -> tuple[Window, HostWindow]:
    begin, end = int(line.start_ns[first]), int(line.end_ns[last - 1])
    phases = {phase: PhaseTime() for phase in WORK_PHASES}
    phases["forward"] = PhaseTime(wall_ns=float(end - begin), events=events)
    return Window(0, begin, end, first, last - first), HostWindow(phases, [], [], begin, end)


@pytest.mark.parametrize(
    ("profiled_ms", "events_a_step", "unlike"),
    [
        (10.0, 0, False),
        (20.0, 0, True),  # twice as slow, and no events whose recording could be why
        (20.0, 2_000, False),  # 2,000 events a step at up to 3.5 us each are 7 ms
        (40.0, 2_000, True),
        (5.0, 0, True),
    ],
)
def test_a_window_is_held_against_the_steps_around_it(
    profiled_ms: float, events_a_step: int, unlike: bool
) -> None:
    line = line_of([10.0] * 20 + [profiled_ms] * 5 + [10.0] * 20, slice(20, 25))
    window = window_of(line, 20, 25, 5 * events_a_step)

    warnings = unlike_windows(line, [window], 0)

    assert [w.slug for w in warnings] == (["window-unlike-run"] if unlike else [])


def run_with(utilization_percent: list[float]) -> Run:
    facts: dict[str, Any] = {"command": [], "cwd": "", "started_ns": 0, "status": "finished"}
    ids = {"launcher_pid": 0, "launcher_start_ticks": 0, "host": "h", "version": ""}
    run = Run(Path("r"), Manifest(schema=1, id="i", name="n", **facts, **ids), "finished")
    times = np.arange(len(utilization_percent), dtype=np.int64) * S
    series = {"gpu.0.utilization_percent": (times, np.array(utilization_percent))}
    run.__dict__["metrics"] = [MetricTable("gpu", "h", series)]
    return run


def device_window(busy_share: float) -> DeviceWindow:
    busy = (np.array([2 * S]), np.array([2 * S + int(busy_share * S)]))
    device = DeviceTime((2 * S, 3 * S), 1, busy, EMPTY, EMPTY)
    return DeviceWindow(2 * S, 3 * S, {}, {}, device, [], [])


@pytest.mark.parametrize(
    ("busy", "readings", "against"),
    [
        (0.9, [95.0] * 6, False),
        (0.9, [0.0] * 6, True),
        (0.9, [0.0], False),  # a single reading may lie between two kernels
        (0.01, [80.0] * 6, True),
        (0.2, [0.0] * 6, False),
    ],
)
def test_a_busy_device_in_the_trace_is_held_against_the_drivers_metrics(
    busy: float, readings: list[float], against: bool
) -> None:
    warnings = trace_against_metrics(run_with(readings), [device_window(busy)], 0)

    assert [w.slug for w in warnings] == (["trace-against-metrics"] if against else [])


@pytest.mark.parametrize(
    ("step_ms", "starting"),
    [
        ([1000 * 0.85**step for step in range(20)], True),
        ([500.0] * 5 + [100.0] * 15, False),  # it has settled
        ([100.0] * 20, False),
        ([100.0 * 1.1**step for step in range(20)], False),  # slower is drift
        ([1000 * 0.98**step for step in range(100)], False),  # long enough to be a trend
    ],
)
def test_only_steps_that_get_faster_to_the_end_are_all_start_up(
    step_ms: list[float], starting: bool
) -> None:
    assert bool(still_starting(line_of(step_ms))) == starting


def test_doubts_multiply_and_each_has_its_section() -> None:
    sections = {text.partition("\n")[0] for text in DOCS.read_text().split("\n## ")[1:]}

    assert set(LEFT) <= sections
    assert doubt([]) == 1.0
    assert doubt([Warning_("too-few-steps", "")]) == 1.0
    both = [Warning_("busy-host", ""), Warning_("stolen-cpu", ""), Warning_("busy-host", "again")]
    assert doubt(both) == pytest.approx(LEFT["busy-host"] * LEFT["stolen-cpu"])


@pytest.mark.parametrize(
    ("skews_ms", "told"),
    [
        ([7.6, 1.1, 0.2, 0.1, 0.2], True),
        ([1.1, 7.6, 0.2, 0.1, 0.2], False),  # a later one: a rank was late
        ([3.0, 1.1, 1.2, 0.8, 0.2], False),  # more than any other, less than half
        ([0.4, 0.0, 0.0, 0.0, 0.0], False),  # 4 % of the window
        ([7.6, 0.1], False),
        ([], False),
    ],
)
def test_a_wait_at_the_first_collective_may_be_of_profilers_that_started_apart(
    skews_ms: list[float], told: bool
) -> None:
    warnings = started_apart([int(skew * MS) for skew in skews_ms], 10.0 * MS)

    assert [w.slug for w in warnings] == (["ranks-started-apart"] if told else [])
    if told:
        assert warnings[0].text.startswith("7.6 of the 9.2 ms")
        assert "profilers starting apart" in warnings[0].text


def test_skews_are_from_the_first_to_the_last_arrival_in_order_of_time() -> None:
    def one(ordinal: int, start: int, end: int) -> Collective:
        return Collective("nccl:all_reduce", 0, ordinal, 4, start, end)

    # The second rank's clock is 1,000 ns ahead; one collective is the first rank's alone.
    ranks = {
        0: [one(1, 500, 600), one(0, 100, 250), one(2, 900, 950)],
        1: [one(0, 1_200, 1_250), one(1, 1_530, 1_600)],
    }

    assert arrival_skews(ranks, {0: 0, 1: 1_000}) == [100, 30]
