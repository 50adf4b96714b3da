"""Values and layouts that some builds and exporters, or damage, give: none is lost silently."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boundscope.profiler.trace.device import device_time, device_work
from boundscope.profiler.trace.health import check
from boundscope.profiler.trace.reader import read_trace
from boundscope.profiler.trace.table import Trace

EPOCH_US = 1_712_195_495_519_689
"""Of 2024, as Kineto wrote it then: with decimals it has more digits than a double."""


def kernel(ts: Any, dur: Any = 5.0, **more: Any) -> dict[str, Any]:
    event = {"ph": "X", "cat": "kernel", "name": "k", "pid": 0, "tid": 7, "ts": ts, "dur": dur}
    return event | more


def trace_of(folder: Path, events: list[Any] | str, **head: Any) -> Trace:
    path = folder / "t.json"
    if not isinstance(events, str):
        events = json.dumps(head | {"traceEvents": events})
    path.write_text(events)
    return read_trace(path)


def slugs(trace: Trace) -> dict[str, int]:
    return {warning.slug: warning.count for warning in check(trace).warnings}


@pytest.mark.parametrize("odd", [f'"{EPOCH_US + 1},5"', "[1,2]", '"noon"', "null", '{"a":[1,2]}'])
def test_an_odd_time_among_exact_ones_costs_its_own_event_alone(tmp_path: Path, odd: str) -> None:
    stamps = [f"{EPOCH_US}.047", odd, f"{EPOCH_US + 2}.5", f"{EPOCH_US + 3}"]
    events = ",".join(
        f'{{"ph":"X","cat":"kernel","name":"k","ts":{ts},"dur":1,"pid":0,"tid":7}}' for ts in stamps
    )

    trace = trace_of(tmp_path, f'{{"traceEvents": [{events}]}}')

    base = EPOCH_US * 1000
    assert trace.events.start_ns.tolist() == [base + 47, base + 2500, base + 3000]
    assert sum(slugs(trace).get(s, 0) for s in ("unreadable-times", "absurd-time-stamps")) == 1


@pytest.mark.parametrize("start", [10.5, float(f"{EPOCH_US}.5")])
def test_a_missing_duration_is_counted_and_never_made_up(tmp_path: Path, start: float) -> None:
    events = [kernel(start + 10 * i) for i in range(100)]
    for event in events[:3]:
        del event["dur"]

    trace = trace_of(tmp_path, events)

    found = device_time(trace)
    assert found is not None
    assert found.busy_ns == 97 * 5_000
    assert slugs(trace)["unreadable-durations"] == 3


def test_arguments_of_other_builds_stay_those_of_their_own_event(tmp_path: Path) -> None:
    # Kineto's XPU plugin: no grid, block or registers.
    own = [{"sycl queue": 3, "l0 call": "zeAppend"}, {"sycl queue": 4}, {}]
    events = [
        kernel(10.0 * i, args={"correlation": i, "appended": 10 * i, "kernel_id": i} | args)
        for i, args in enumerate(own)
    ]

    trace = trace_of(tmp_path, events)

    places = trace.events.args.tolist()
    assert [trace.args[place] if place >= 0 else {} for place in places] == own


@pytest.mark.parametrize("odd", [None, [1]])  # arguments that the fast and the slow way read
def test_graph_work_that_is_drawn_in_one_row_keeps_its_own_streams(
    tmp_path: Path, odd: Any
) -> None:
    """The lanes of the streaming exporter: the row is the lane, the stream stands beside it."""
    events = [
        kernel(10 * i + 0.125, 8.0, args={"stream": 7, "original_stream": stream, "grid": odd})
        for i in range(200)
        for stream in (13, 14)
    ]
    for event in events:
        event["args"] |= {"device": 0, "correlation": "5" if odd else 5, "graph node id": 3}

    trace = trace_of(tmp_path, events)

    assert sorted(set(trace.events.stream.tolist())) == [13, 14]
    assert "overlapping-work" not in slugs(trace)


@dataclass(frozen=True)
class Activity:
    """What the streaming exporter asks of each of Kineto's activities."""

    kind: str
    label: str
    start_ns: int
    length_ns: int
    device: int
    row: int
    correlation: int = 0
    linked: int = 0
    metadata: str = ""
    flow: int = 0

    def __getattr__(self, name: str) -> Callable[[], Any]:
        values = {
            "type": self.kind,
            "name": self.label,
            "timestamp": self.start_ns,
            "duration": self.length_ns,
            "device_id": self.device,
            "resource_id": self.row,
            "correlation_id": self.correlation,
            "linked_correlation_id": self.linked,
            "metadata_json": self.metadata,
            "linked_activity": None,
            "flow_id": self.flow,
            "flow_type": 2,
            "flow_start": self.kind != "kernel",
        }
        if name not in values:
            raise AttributeError(name)
        return lambda: values[name]


class Results:
    """What it asks of the profiler's results."""

    def __init__(self, activities: list[Activity]) -> None:
        self._activities = activities

    def trace_activities(self) -> list[Activity]:
        return self._activities


@pytest.mark.parametrize("name", ["t.json", "t.json.gz"])
def test_what_torchs_streaming_exporter_writes_is_read_to_the_nanosecond(
    tmp_path: Path, name: str
) -> None:
    exporter = pytest.importorskip("torch.profiler._chrome_trace_export")
    now, here = time.time_ns(), os.getpid()
    activities = [
        Activity("cpu_op", "aten::mm", now + 1, 20_001, here, 1, 3, 0, '"Input Dims": [[2, 3]]'),
        Activity("cuda_runtime", "cudaLaunchKernel", now + 1_003, 3_000, here, 1, 5, 3),
        Activity("kernel", "gemm", now + 9_007, 40_013, 0, 7, 5, 3, '"grid": [1, 2, 3]', 5),
        Activity("gpu_memcpy", "Memcpy HtoD", now + 60_001, 1, 0, 8, 6, 0, '"bytes": 4096'),
    ]

    exporter.export_chrome_trace(Results(activities), str(tmp_path / name), {"rank": "3"})
    trace = read_trace(tmp_path / name)

    # and one span over all of it, named "PyTorch Profiler (0)"
    events = trace.events
    assert trace.epoch
    starts = dict(zip([trace.names[i] for i in events.name], events.start_ns.tolist(), strict=True))
    assert starts.pop("PyTorch Profiler (0)") == now + 1
    assert starts == {one.label: one.start_ns for one in activities}
    work = device_work(trace)
    assert events.duration_ns[work].tolist() == [40_013, 1]
    assert (events.device[work].tolist(), events.stream[work].tolist()) == ([0, 0], [7, 8])
    assert events.external_id[work].tolist() == [3, -1]
    assert int(events.bytes[work][1]) == 4096
    assert trace.args[int(events.args[work][0])] == {"grid": [1, 2, 3]}
    assert trace.metadata["rank"] == 3
    assert trace.warnings == []
    named = {thread.name.strip() for thread in trace.threads}
    assert {"thread 1", "stream 7", "stream 8"} <= named


def test_a_real_recording_reads_the_same_from_both_of_torchs_exporters(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("torch.profiler._chrome_trace_export")
    with torch.profiler.profile(record_shapes=True) as profiler:
        for _ in range(3):
            torch.ones(8, 8).mm(torch.ones(8, 8)).sum()
            profiler.step()
    profiler.export_chrome_trace(str(tmp_path / "native.json"))
    profiler.export_chrome_trace(str(tmp_path / "streamed.json"), use_python_export=True)

    native, streamed = (read_trace(tmp_path / f"{name}.json") for name in ("native", "streamed"))

    def rows(trace: Trace) -> list[tuple[str, int, int]]:
        named = [trace.names[i] for i in trace.events.name]
        found = zip(
            named, trace.events.start_ns.tolist(), trace.events.duration_ns.tolist(), strict=True
        )
        return sorted(row for row in found if not row[0].startswith("PyTorch Profiler"))

    assert rows(streamed) == rows(native)
    assert streamed.warnings == []
    assert np.any(streamed.events.signature >= 0)
