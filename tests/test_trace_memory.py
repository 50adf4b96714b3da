"""The allocator's events: read whole, placed on the trace's clock, and added up."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from boundscope.profiler.tables.trace_memory import live_at_peak, memory_curves
from boundscope.profiler.tables.trace_ops import module_times
from boundscope.profiler.trace import memory_events
from boundscope.profiler.trace.memory_events import read_memory_events
from boundscope.profiler.trace.reader import read_trace
from boundscope.profiler.trace.table import Trace

CORPUS = os.environ.get("BOUNDSCOPE_CORPUS", "")
corpus = pytest.mark.skipif(not CORPUS, reason="BOUNDSCOPE_CORPUS is not set")

BASE_NS = 1_700_000_000_000_000_000


def block(at: float, size: int, total: int, address: int = 0) -> dict[str, Any]:
    args = {"Total Reserved": 4096, "Total Allocated": total, "Bytes": size, "Addr": address}
    return {"ph": "i", "cat": "cpu_instant_event", "s": "t", "name": "[memory]"} | {
        "pid": 1,
        "tid": 1,
        "ts": at,
        "args": args | {"Device Id": 0, "Device Type": 1},
    }


def op(name: str, start: float, end: float) -> dict[str, Any]:
    return {"ph": "X", "cat": "cpu_op", "name": name, "pid": 1, "tid": 1, "ts": start} | {
        "dur": end - start
    }


def trace_of(tmp_path: Path, events: list[dict[str, Any]]) -> Trace:
    path = tmp_path / "t.json"
    document = {"traceEvents": events, "baseTimeNanoseconds": BASE_NS}
    path.write_bytes(msgspec.json.encode(document))
    return read_trace(path)


STORY = [
    op("aten::linear", 0.0, 10.0),
    op("aten::addmm", 1.0, 8.0),
    block(2.0, 1000, 1500, 1),  # 500 bytes were there before
    op("aten::relu", 20.0, 30.0),
    block(21.0, 300, 1800, 2),
    block(22.0, -300, 1500, 2),
    block(23.0, 200, 1700, 3),
    block(24.0, 400, 2100, 2),  # the address is used again; the peak
    block(40.0, -1000, 1100, 1),
]


def test_the_curve_has_totals_peak_and_what_is_live_there(tmp_path: Path) -> None:
    trace = trace_of(tmp_path, STORY)

    events = read_memory_events(trace)
    (curve,) = memory_curves(trace, events)

    assert curve.device == "cuda:0"
    assert curve.absolute
    assert curve.allocated.tolist() == [1500, 1800, 1500, 1700, 2100, 1100]
    assert curve.reserved is not None
    assert (curve.peak_bytes, curve.peak_ns) == (2100, BASE_NS + 24_000)
    live = {item.op: (item.blocks, item.bytes) for item in live_at_peak(trace, events, curve)}
    assert live == {
        "aten::addmm": (1, 1000),
        "aten::relu": (2, 600),
        "(before the recording)": (0, 500),
    }


def test_traces_without_totals_count_from_the_start_of_the_recording(tmp_path: Path) -> None:
    story = [
        event | {"args": {"Device Type": 1, "Device Id": 0, "Bytes": event["args"]["Bytes"]}}
        for event in STORY
        if "args" in event
    ]
    trace = trace_of(tmp_path, [op("aten::mm", 0.0, 50.0), *story])

    events = read_memory_events(trace)
    (curve,) = memory_curves(trace, events)

    assert not curve.absolute
    assert curve.reserved is None
    assert curve.allocated.tolist() == [1000, 1300, 1000, 1200, 1600, 600]
    assert live_at_peak(trace, events, curve) == []


def test_growth_is_what_a_step_leaves_behind(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    held = 0
    for i in range(6):
        at = 100.0 * i
        kept = 5000 if i == 0 else 64  # the first step fills what stays
        events.append(
            {"ph": "X", "cat": "user_annotation", "name": f"ProfilerStep#{i}", "pid": 1, "tid": 1}
            | {"ts": at, "dur": 100.0}
        )
        events += [block(at + 10, 700, held + 700), block(at + 20, kept - 700, held + kept)]
        held += kept

    trace = trace_of(tmp_path, events)

    assert memory_curves(trace, read_memory_events(trace))[0].growth_per_step == 64


def test_damaged_events_are_left_out_and_the_rest_is_read(tmp_path: Path) -> None:
    odd = [
        block(3.0, 1, 1) | {"ts": "soon"},
        block(3.0, 1, 1) | {"args": {}},
        block(3.0, 1, 1) | {"args": {"Bytes": "many"}},
        block(3.0, 1, 1) | {"ts": 1e300},
        block(3.0, 1, 1) | {"name": "x [memory]"},
    ]

    trace = trace_of(tmp_path, [*STORY, *odd])

    assert len(read_memory_events(trace)) == 6


def test_no_event_is_lost_or_doubled_where_blocks_of_the_file_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [op("aten::mm", 0.0, 9e6)]
    events += [block(float(i), 8, 8 * i, i) for i in range(1, 3000)]
    trace = trace_of(tmp_path, events)
    whole = Path(trace.path).read_bytes()

    for size in (5_000, 8_191, 70_001):
        pieces = [whole[i : i + size] for i in range(0, len(whole), size)]
        monkeypatch.setattr(memory_events, "blocks", lambda *_, pieces=pieces: iter(pieces))
        found = read_memory_events(trace)
        assert found.address.tolist() == list(range(1, 3000))


@corpus
@pytest.mark.parametrize(
    "name",
    [
        "tracelens/h100/gaunernst_bert-small-uncased__1016001.json.gz",
        "tracelens/mi300/Qwen_Qwen1.5-0.5B-Chat__1016005.json.gz",
        "tracelens/perf_model/normalization/normalization_layer_test.json.gz",
        "kineto_tb/resnet50_num_workers_0/worker0.1623143089861.pt.trace.json.gz",
    ],
)
def test_all_events_of_real_traces_are_read_and_agree_with_the_allocators_totals(
    name: str,
) -> None:
    path = Path(CORPUS) / name
    trace = read_trace(path)

    events = read_memory_events(trace)

    assert len(events) == gzip.decompress(path.read_bytes()).count(b'"[memory]"')
    for curve in memory_curves(trace, events):
        steps = curve.allocated[1:] - curve.allocated[:-1]
        assert steps.tolist() == events.bytes[curve.rows][1:].tolist()
        live = live_at_peak(trace, events, curve)
        if curve.absolute:
            assert sum(item.bytes for item in live) == curve.peak_bytes


RECORD = """
import sys
import torch
from torch.profiler import ProfilerActivity, profile, schedule

net = torch.nn.Sequential(torch.nn.Linear(256, 1024), torch.nn.ReLU())
held = []
with profile(
    activities=[ProfilerActivity.CPU],
    schedule=schedule(wait=0, warmup=0, active=6),
    profile_memory=True,
    with_stack=True,
    with_modules=True,
) as recorded:
    for _ in range(5):
        held.append(net(torch.ones(1024, 256)))
        recorded.step()
recorded.export_chrome_trace(sys.argv[1])
"""


def test_a_training_that_keeps_its_outputs_grows_by_them_each_step(tmp_path: Path) -> None:
    path = tmp_path / "recorded.json"
    subprocess.run([sys.executable, "-c", RECORD, str(path)], check=True, capture_output=True)
    trace = read_trace(path)

    events = read_memory_events(trace)
    (curve,) = memory_curves(trace, events)

    # Backward needs the output of the ReLU, 1024 x 1024 x 4 bytes, and the input of the linear
    # layer, 1024 x 256 x 4. The linear layer's output is freed: at the peak one is there.
    assert curve.device == "cpu"
    assert curve.growth_per_step == pytest.approx(4 * 2**20 + 2**20, rel=0.01)
    live = {item.op: item.bytes for item in live_at_peak(trace, events, curve)}
    assert live["aten::addmm"] == 4 * 2**20
    assert sum(live.values()) == pytest.approx(5 * 5 * 2**20 + 4 * 2**20, rel=0.01)
    modules = {row.path: row.calls for row in module_times(trace)}
    assert modules == {
        "Sequential_0": 5,
        "Sequential_0/Linear_0": 5,
        "Sequential_0/ReLU_0": 5,
    }
