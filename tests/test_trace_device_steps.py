"""A device works off later what the host launched: its work counts in the step that launched it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from boundscope.profiler.device_facts import host_path
from boundscope.profiler.diagnose import diagnose_path
from boundscope.profiler.tables.trace_steps import step_parts
from boundscope.profiler.trace.collectives import device_collectives
from boundscope.profiler.trace.device import device_time, device_work
from boundscope.profiler.trace.device_steps import device_steps, device_window, launch_ns
from boundscope.profiler.trace.reader import read_trace
from boundscope.profiler.trace.steps import Steps, find_steps
from boundscope.profiler.trace.table import Trace

CORPUS = os.environ.get("BOUNDSCOPE_CORPUS", "")
corpus = pytest.mark.skipif(not CORPUS, reason="BOUNDSCOPE_CORPUS is not set")


def mark(number: int, start: float, end: float) -> dict[str, Any]:
    return {"ph": "X", "cat": "user_annotation", "name": f"ProfilerStep#{number}"} | {
        "pid": 1,
        "tid": 1,
        "ts": start,
        "dur": end - start,
    }


def call(number: int, start: float, end: float) -> dict[str, Any]:
    return {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "pid": 1, "tid": 1} | {
        "ts": start,
        "dur": end - start,
        "args": {"correlation": number},
    }


def work(number: int | None, start: float, end: float, name: str = "gemm") -> dict[str, Any]:
    linked = {} if number is None else {"correlation": number}
    return {"ph": "X", "cat": "kernel", "name": name, "pid": 0, "tid": 7} | {
        "ts": start,
        "dur": end - start,
        "args": {"device": 0, "stream": 7} | linked,
    }


LAGGING = [
    mark(0, 0, 100),
    call(1, 10, 12),
    work(1, 20, 320),
    mark(1, 100, 200),
    call(2, 110, 112),
    work(2, 320, 620),
    mark(2, 200, 300),
    call(3, 210, 212),
    work(3, 620, 920),
]
"""Three steps in which the host is done after 100 us each; the device takes 300 us for each."""


def written(folder: Path, events: list[dict[str, Any]]) -> Path:
    path = folder / "t.json"
    path.write_bytes(msgspec.json.encode({"traceEvents": events}))
    return path


def trace_of(folder: Path, events: list[dict[str, Any]]) -> Trace:
    return read_trace(written(folder, events))


def spans(steps: Steps) -> list[tuple[float, float]]:
    return [(s / 1000, e / 1000) for s, e in zip(steps.start_ns, steps.end_ns, strict=True)]


def found(folder: Path, events: list[dict[str, Any]]) -> list[tuple[float, float]]:
    trace = trace_of(folder, events)
    return spans(device_steps(trace, find_steps(trace)))


def test_each_step_lasts_until_the_device_has_worked_off_what_it_launched(tmp_path: Path) -> None:
    assert found(tmp_path, LAGGING) == [(0, 320), (320, 620), (620, 920)]


def test_a_device_that_keeps_up_leaves_the_hosts_steps(tmp_path: Path) -> None:
    events = [mark(0, 0, 100), call(1, 10, 12), work(1, 13, 90), mark(1, 105, 200)]

    assert found(tmp_path, events) == [(0, 100), (105, 200)]


def test_what_was_launched_before_the_first_mark_is_not_in_its_step(tmp_path: Path) -> None:
    events = [call(9, -50, -48), work(9, -40, 20), *LAGGING]

    assert found(tmp_path, events)[0] == (20, 320)


def test_what_is_launched_behind_the_last_mark_is_in_no_step(tmp_path: Path) -> None:
    events = [*LAGGING, call(4, 310, 312), work(4, 920, 1500)]

    assert found(tmp_path, events)[-1] == (620, 920)


def test_a_device_that_was_busy_before_the_recording_is_not_idle_at_its_start(
    tmp_path: Path,
) -> None:
    # The first work waits 2.9 ms for nothing that is recorded.
    events = [mark(0, 0, 1000), call(1, 10, 100), work(1, 3000, 4000)]

    assert found(tmp_path, events) == [(3000, 4000)]


def test_a_call_that_takes_long_itself_is_no_sign_of_earlier_work(tmp_path: Path) -> None:
    events = [mark(0, 0, 4000), call(1, 10, 2990), work(1, 3000, 4500)]

    assert found(tmp_path, events) == [(0, 4500)]


def test_work_without_a_link_was_launched_by_the_last_call_before_it_or_its_op(
    tmp_path: Path,
) -> None:
    op = {"ph": "X", "cat": "cpu_op", "name": "aten::mm", "pid": 1, "tid": 1, "ts": 5, "dur": 9}
    events = [
        op | {"args": {"External id": 7}},
        call(1, 10, 12),
        work(None, 20, 30),
        work(None, 30, 90, "by id") | {"args": {"device": 0, "External id": 7}},
        work(None, 2, 4, "before any call"),
    ]

    trace = trace_of(tmp_path, events)

    rows = np.flatnonzero(device_work(trace))
    launched = launch_ns(trace, rows).tolist()
    names = [trace.names[i] for i in trace.events.name[rows]]
    assert dict(zip(names, launched, strict=True)) == {
        "before any call": 2_000,
        "gemm": 10_000,
        "by id": 5_000,
    }


def test_steps_found_on_the_device_stay_as_they_are(tmp_path: Path) -> None:
    names = [f"k{i % 9}" for i in range(90)]
    events = [work(None, 10.0 * i, 10.0 * i + 5, name) for i, name in enumerate(names)]
    trace = trace_of(tmp_path, events)
    steps = find_steps(trace)

    assert (steps.source, steps.on_device, len(steps)) == ("pattern", True, 10)
    assert device_steps(trace, steps) is steps


def test_a_recorded_window_is_moved_to_the_devices_time(tmp_path: Path) -> None:
    # From 100 to 200 us the host launches what runs from 320 to 620.
    assert device_window(trace_of(tmp_path, LAGGING), 100_000, 200_000) == (320_000, 620_000)


def test_a_diagnosis_counts_all_work_of_the_steps(tmp_path: Path) -> None:
    diagnosis = diagnose_path(written(tmp_path, LAGGING))

    # 900 of 920 us; the device idles from 0 to 20 us alone.
    assert diagnosis.breakdown["compute"] == pytest.approx(900 / 920)
    assert diagnosis.run.step_ms is not None
    assert diagnosis.run.step_ms.median == pytest.approx(0.3)
    assert "work-outside-steps" not in {warning.slug for warning in diagnosis.warnings}


def test_work_outside_of_all_steps_is_said(tmp_path: Path) -> None:
    behind = [call(4, 310, 312), work(4, 920, 1220)]

    diagnosis = diagnose_path(written(tmp_path, [*LAGGING, *behind]))

    texts = {warning.slug: warning.text for warning in diagnosis.warnings}
    assert texts["work-outside-steps"].startswith("25% of the device's time")  # 300 of 1200 us


def test_the_hosts_way_ends_with_its_last_event(tmp_path: Path) -> None:
    # Launches from 10 to 212 us; then it is done, however long the device goes on.
    trace = trace_of(tmp_path, LAGGING)

    assert host_path(trace, (0, 920_000)) == pytest.approx(300 / 920)


def test_the_parts_of_lagging_steps_are_those_of_their_own_work(tmp_path: Path) -> None:
    parts = step_parts(trace_of(tmp_path, LAGGING))

    assert parts is not None
    assert parts.duration_ms.tolist() == pytest.approx([0.32, 0.3, 0.3])
    assert parts.parts_ms["computing kernels"].tolist() == pytest.approx([0.3, 0.3, 0.3])


def test_a_collective_is_of_the_step_that_launched_it(tmp_path: Path) -> None:
    events = [event for event in LAGGING if event["cat"] != "kernel"]
    events += [work(i, 300.0 * i, 300.0 * i + 9, "ncclDevKernel_AllReduce") for i in (1, 2, 3)]

    steps = [one.step for one in device_collectives(trace_of(tmp_path, events))]

    assert steps == [0, 1, 2]


@corpus
def test_steps_last_as_long_as_in_the_source_projects_own_table() -> None:
    # torch-tb-profiler's totals, us: of each step, and the mean of the other file's.
    published = [187948, 175153, 179733, 174564, 182172, 165983]
    lengths = []
    for workers in (0, 4):
        folder = Path(CORPUS) / f"kineto_tb/resnet50_num_workers_{workers}"
        trace = read_trace(next(folder.glob("*.gz")))
        steps = device_steps(trace, find_steps(trace))
        lengths.append((steps.end_ns - steps.start_ns) / 1000)

    assert lengths[0].tolist() == pytest.approx(published, abs=1)
    assert lengths[1].mean() == pytest.approx(141068, abs=1)


@corpus
@pytest.mark.parametrize(
    "name",
    [
        "tracelens/mi300/resnet_act_checkpoint.json.gz",
        "tracelens/mi300/Qwen_Qwen1.5-0.5B-Chat__1016005.json.gz",
        "hta/trace_diff/control/control.json.gz",
        "kineto_tb/resnet50_num_workers_0/worker0.1623143089861.pt.trace.json.gz",
        "derived_corrupt/no_correlation.json.gz",
    ],
)
def test_the_marked_steps_of_real_traces_hold_the_devices_work(name: str) -> None:
    trace = read_trace(Path(CORPUS) / name)
    steps = device_steps(trace, find_steps(trace))
    whole = device_time(trace)
    inside = device_time(trace, (int(steps.start_ns[0]), int(steps.end_ns[-1])))

    assert steps.source == "profiler"
    assert whole is not None
    assert inside is not None
    assert inside.busy_ns >= 0.98 * whole.busy_ns


@corpus
def test_a_lagging_device_gives_the_published_figures() -> None:
    # expected.csv: busy 84.00 of 86.57 ms, NCCL 71.52 ms, of which 22.2 % under computation.
    diagnosis = diagnose_path(Path(CORPUS) / "tracelens/mi300/resnet_act_checkpoint.json.gz")

    exposed = diagnosis.breakdown["network"] + diagnosis.breakdown["imbalance"]
    assert exposed == pytest.approx(71.52 * (1 - 0.222) / 86.57, abs=0.01)
    evidence = {e.quantity: e.value for f in diagnosis.findings for e in f.evidence}
    assert evidence["network.hidden_share"] == pytest.approx(0.222, abs=0.002)
