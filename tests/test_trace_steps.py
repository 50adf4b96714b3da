"""Steps are found by marks, optimizers or repetition, and it is said by which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from boundscope.profiler.trace.reader import read_trace
from boundscope.profiler.trace.steps import Steps, find_steps


def event(name: str, ts: float, dur: float, cat: str = "cpu_op", tid: int = 1) -> dict[str, Any]:
    return {"ph": "X", "cat": cat, "name": name, "pid": 1, "tid": tid, "ts": ts, "dur": dur}


def steps(tmp_path: Path, events: list[dict[str, Any]]) -> Steps:
    path = tmp_path / "t.json"
    path.write_bytes(msgspec.json.encode({"traceEvents": events, "deviceProperties": [1]}))
    return find_steps(read_trace(path))


def test_profiler_steps_are_taken_with_their_numbers_and_none_is_dropped(tmp_path: Path) -> None:
    marks = [event(f"ProfilerStep#{n}", 100.0 * n, 90.0, "user_annotation") for n in (7, 8, 9, 10)]
    on_device = [event("ProfilerStep#8", 820.0, 300.0, "gpu_user_annotation", tid=7)]
    on_other_thread = [event("ProfilerStep#9", 901.0, 5.0, "user_annotation", tid=2)]

    found = steps(tmp_path, marks + on_device + on_other_thread)

    assert found.source == "profiler"
    assert found.number.tolist() == [7, 8, 9, 10]
    assert (found.end_ns - found.start_ns).tolist() == [90_000] * 4


def test_steps_of_a_second_trace_in_the_file_are_not_dropped(tmp_path: Path) -> None:
    marks = [
        event(f"ProfilerStep#{n}", start + 100.0 * n, 90.0, "user_annotation")
        for start in (0.0, 5_000.0)
        for n in (0, 1)
    ]

    found = steps(tmp_path, marks)

    assert found.number.tolist() == [0, 1, 0, 1]
    assert found.start_ns.tolist() == [0, 100_000, 5_000_000, 5_100_000]


@pytest.mark.parametrize("cat", ["user_annotation", "Operator"])
def test_optimizer_steps_bound_steps_from_end_to_end(tmp_path: Path, cat: str) -> None:
    events = []
    for n in range(4):
        events.append(event("autograd::engine::evaluate_function: X", 100.0 * n + 10, 20.0))
        events.append(event("Optimizer.step#SGD.step", 100.0 * n + 50, 10.0 + n, cat))

    found = steps(tmp_path, events)

    assert found.source == "optimizer"
    assert found.start_ns.tolist() == [60_000, 161_000, 262_000]
    assert found.end_ns.tolist() == [161_000, 262_000, 363_000]


@pytest.mark.parametrize("digits", [19, 25, 5000])
def test_a_step_number_that_no_counter_has_is_no_mark(tmp_path: Path, digits: int) -> None:
    damaged = event("ProfilerStep#" + "9" * digits, 50.0, 40.0, "user_annotation")
    sound = event("ProfilerStep#3", 100.0, 90.0, "user_annotation")

    assert steps(tmp_path, [damaged]).source == "window"
    assert steps(tmp_path, [damaged, sound]).number.tolist() == [3]


def test_two_optimizers_after_one_backward_make_one_step(tmp_path: Path) -> None:
    events = []
    for n in range(3):
        events.append(event("autograd::engine::evaluate_function: X", 100.0 * n + 10, 20.0))
        events.append(event("Optimizer.step#Adam.step", 100.0 * n + 50, 10.0))
        events.append(event("Optimizer.step#SGD.step", 100.0 * n + 70, 10.0))

    found = steps(tmp_path, events)

    assert found.start_ns.tolist() == [80_000, 180_000]


def repeated(cat: str, repeats: int, warm_up: int = 3) -> list[dict[str, Any]]:
    names = [f"op{i % 7}" for i in range(9)] + ["mark"]
    rows = [event(f"warm{i}", float(i), 0.5, cat) for i in range(warm_up)]
    for n in range(repeats):
        rows += [event(name, 10.0 + 50.0 * n + i, 0.5, cat) for i, name in enumerate(names)]
    return rows


@pytest.mark.parametrize("cat", ["cpu_op", "kernel"])
def test_without_marks_a_repeating_sequence_gives_the_steps(tmp_path: Path, cat: str) -> None:
    found = steps(tmp_path, repeated(cat, 5))

    assert found.source == "pattern"
    assert len(found) == 5
    assert found.start_ns.tolist() == [10_000, 60_000, 110_000, 160_000, 210_000]
    assert found.end_ns[-1] == 219_500


def test_a_pattern_is_followed_to_the_end_of_a_long_trace(tmp_path: Path) -> None:
    count = 6_000  # 60,000 ops; the pattern is found in the first 50,000

    found = steps(tmp_path, repeated("cpu_op", count, warm_up=0))

    assert len(found) == count
    assert found.end_ns[-1] == 1000 * (10 + 50 * (count - 1) + 9.5)


def test_what_interrupts_a_pattern_is_no_step_and_does_not_end_it(tmp_path: Path) -> None:
    names = [f"op{i}" for i in range(10)]
    other = [f"validation{i}" for i in range(10)]
    # 100 repetitions, 3 of something else, 5 repetitions of which one logs; each takes 20 us
    kinds = [names] * 100 + [other] * 3 + [names, [*names[:9], "log"], names, names, names]
    ops = [(n, i, name) for n, kind in enumerate(kinds) for i, name in enumerate(kind)]
    rows = [event(name, 20.0 * n + i, 0.5) for n, i, name in ops]

    found = steps(tmp_path, rows)

    assert len(found) == 105
    lengths = (found.end_ns - found.start_ns) / 1000
    assert lengths[99] == 9.5  # nothing follows: it ends with its last op
    assert found.start_ns[100] == 103 * 20_000
    assert set(lengths[:99].tolist() + lengths[100:-1].tolist()) == {20.0}


@pytest.mark.parametrize(
    "events",
    [
        [event(f"op{i}", float(i), 0.5) for i in range(60)],  # nothing repeats
        [event("aten::add", float(i), 0.5) for i in range(60)],  # a loop over a tensor
        repeated("cpu_op", 2),
        [event("Optimizer.step#SGD.step", 5.0, 2.0, "user_annotation")],
    ],
)
def test_without_any_of_these_the_whole_window_is_one_step(
    tmp_path: Path, events: list[dict[str, Any]]
) -> None:
    found = steps(tmp_path, events)

    assert found.source == "window"
    assert found.start_ns.tolist() == [int(events[0]["ts"] * 1000)]
    last = events[-1]
    assert found.end_ns.tolist() == [int((last["ts"] + last["dur"]) * 1000)]


def test_a_trace_without_events_has_one_empty_step(tmp_path: Path) -> None:
    found = steps(tmp_path, [])

    assert (found.source, len(found)) == ("window", 1)
