"""Lanes of what ran when: only what can be seen is drawn, and nothing is lost on the way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from boundscope.profiler.tables.lanes import (
    KINDS,
    MAX_BOXES,
    NO_NAME,
    PIXELS,
    Lanes,
    lanes,
    shown_lanes,
    visible,
)
from boundscope.profiler.timeline import PHASES, Timeline
from boundscope.profiler.trace.reader import read_trace

STEP_US = 10_000


def event(name: str, ts: float, dur: float, tid: int = 1, cat: str = "cpu_op") -> dict[str, object]:
    return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "pid": 1, "tid": tid}


def of(tmp_path: Path, events: list[dict[str, object]]) -> tuple[Lanes, Timeline, tuple[int, int]]:
    """The lanes of a trace of one step of 10 ms that begins at 0."""
    file = tmp_path / "trace.json"
    step = event("ProfilerStep#1", 0, STEP_US, cat="user_annotation")
    file.write_text(json.dumps({"traceEvents": [step, *events]}))
    span = (0, STEP_US * 1000)
    none = (np.empty(0, np.int64), np.empty(0, np.int64))
    intervals = dict.fromkeys(PHASES, none)
    intervals["loader"] = (np.array([0]), np.array([2_000_000]))
    intervals["rest"] = (np.array([2_000_000]), np.array([span[1]]))
    line = Timeline(
        rank=0,
        source="trace",
        start_ns=np.array([span[0]]),
        end_ns=np.array([span[1]]),
        phase_ns={phase: np.zeros(1) for phase in PHASES},
        phase_intervals=intervals,
        steady=np.ones(1, np.bool_),
        profiled=np.ones(1, np.bool_),
        first_ns=0,
    )
    return lanes(line, read_trace(file)), line, span


def test_nested_ops_get_a_row_each_and_every_thread_a_lane(tmp_path: Path) -> None:
    # Given
    inner = event("aten::mm", 3_000, 1_000)
    outer = event("aten::linear", 2_500, 2_000)
    other = event("aten::add", 5_000, 500, tid=2)

    # When
    every, _, span = of(tmp_path, [outer, inner, other])
    shown = shown_lanes(every, *span)

    # Then
    by_label = {lane.label: lane for lane in shown}
    assert list(by_label) == ["phases of the step", "training thread 1", "thread 2"]
    rows = by_label["training thread 1"].rows
    names = [[every.names[name] for name in row.name.tolist()] for row in rows]
    assert names == [["ProfilerStep#1"], ["aten::linear"], ["aten::mm"]]


def test_boxes_are_coloured_by_what_their_names_speak_for(tmp_path: Path) -> None:
    every, _, span = of(tmp_path, [event("aten::mm", 10, 5_000), event("aten::view", 5_100, 900)])

    boxes = visible(every, shown_lanes(every, *span), *span)

    kinds = {
        every.names[name]: KINDS[kind]
        for name, kind in zip(boxes.name.tolist(), boxes.kind.tolist(), strict=True)
    }
    assert kinds["aten::mm"] == "compute"
    assert kinds["aten::view"] == "host"
    assert kinds["waiting for a batch"] == "input"
    assert kinds["ProfilerStep#1"] == "none"


def test_no_event_is_lost_when_narrow_ones_are_put_together(tmp_path: Path) -> None:
    # Given: far more events than pixels
    count = 20_000
    events = [event("aten::add", i * 0.5, 0.4) for i in range(count)]
    every, _, span = of(tmp_path, events)

    # When
    boxes = visible(every, shown_lanes(every, *span), *span)

    # Then: all of them, the step and its two phases
    assert boxes.count.sum() == count + 3
    assert len(boxes) <= PIXELS * 3
    merged = boxes.name == NO_NAME
    assert merged.any()
    assert (boxes.end_ns >= boxes.start_ns).all()


def test_a_zoom_shows_single_events_again(tmp_path: Path) -> None:
    # Given
    events = [event("aten::add", i * 0.5, 0.4) for i in range(20_000)]
    every, _, _ = of(tmp_path, events)
    part = (5_000_000, 5_050_000)

    # When
    boxes = visible(every, shown_lanes(every, *part), *part)

    # Then: a hundred half microseconds, each by its name; the step and a phase around them
    assert (boxes.count == 1).all()
    assert len(boxes) == pytest.approx(102, abs=1)


def test_there_are_never_more_boxes_than_a_browser_can_take(tmp_path: Path) -> None:
    # Given: many threads whose events alternate between two kinds, which can't be joined
    names = ("aten::mm", "aten::add")
    events = [
        event(names[i % 2], i * 2.0 + 0.1 * tid, 1.0, tid=tid)
        for tid in range(1, 16)
        for i in range(4_000)
    ]
    every, _, span = of(tmp_path, events)

    # When
    boxes = visible(every, shown_lanes(every, *span), *span)

    # Then
    assert len(boxes) <= MAX_BOXES


def test_rows_in_which_nothing_is_visible_are_not_shown(tmp_path: Path) -> None:
    every, _, _ = of(tmp_path, [event("aten::linear", 100, 50), event("aten::mm", 110, 20)])

    shown = shown_lanes(every, 5_000_000, 6_000_000)

    assert [len(lane.rows) for lane in shown] == [1, 1]  # the phases, and the step's own range


def test_without_a_trace_the_phases_of_the_steps_remain(tmp_path: Path) -> None:
    _, line, span = of(tmp_path, [])

    every = lanes(line, None)

    assert [lane.what for lane in shown_lanes(every, *span)] == ["phases"]
