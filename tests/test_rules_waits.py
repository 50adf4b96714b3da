"""A host that keeps its device waiting: the finding names the op, the line, the launch queue."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from boundscope.profiler.device_waits import DeviceWaits
from boundscope.profiler.diagnose import diagnose_path
from boundscope.profiler.diagnosis import Place
from boundscope.profiler.rules._waits import with_spots
from boundscope.profiler.tables.trace_syncs import SyncSpot

from .rule_material import named, rank_of, value

CORPUS = os.environ.get("BOUNDSCOPE_CORPUS", "")
corpus = pytest.mark.skipif(not CORPUS, reason="BOUNDSCOPE_CORPUS is not set")
STEPS = 40


def host(cat: str, name: str, start: float, length: float, number: int = -1) -> dict[str, Any]:
    args = {"correlation": number} if number >= 0 else {}
    return {"ph": "X", "cat": cat, "name": name, "pid": 1, "tid": 1, "ts": start} | {
        "dur": length,
        "args": args,
    }


def kernel(start: float, length: float, number: int) -> dict[str, Any]:
    args = {"device": 0, "stream": 7, "correlation": number}
    return {"ph": "X", "cat": "kernel", "name": "gemm", "pid": 0, "tid": 7, "ts": start} | {
        "dur": length,
        "args": args,
    }


def written(tmp_path: Path, events: list[dict[str, Any]]) -> Path:
    path = tmp_path / "t.json"
    path.write_bytes(msgspec.json.encode({"traceEvents": events}))
    return path


def test_a_synchronisation_is_placed_at_its_op_and_at_the_line_that_asks_for_it(
    tmp_path: Path,
) -> None:
    # In each step of 1,000 us the host waits for 570 us, and the device works for 80 of them.
    events = []
    for i in range(STEPS):
        at = 1000.0 * i + 0.5
        events += [
            host("user_annotation", f"ProfilerStep#{i}", at, 1000),
            host("python_function", "train.py(31): step", at + 1, 900),
            host("cuda_runtime", "cudaLaunchKernel", at + 2, 5, i),
            host("cpu_op", "aten::item", at + 20, 590),
            host("cpu_op", "aten::_local_scalar_dense", at + 21, 588),
            host("cuda_runtime", "cudaStreamSynchronize", at + 30, 570, 1000 + i),
            kernel(at + 10, 100, i),
        ]

    finding = named(diagnose_path(written(tmp_path, events)), "synchronising-calls")

    place = finding.where[0]
    assert (place.file, place.line, place.function) == ("train.py", 31, "step")
    assert place.op == "aten::item"
    assert value(finding, "host.synchronisations") == STEPS
    assert value(finding, "host.sync_idle_ms") == pytest.approx(STEPS * 0.490, rel=0.01)
    assert any("cudaStreamSynchronize in aten::item" in e.text for e in finding.evidence)


def test_launches_that_find_the_queue_empty_are_told_with_their_delay(tmp_path: Path) -> None:
    # A kernel of 10 us each 40 us, launched 10 us before it begins: 20 of 40 us in the queue.
    events = []
    for i in range(STEPS):
        step = 1000.0 * i + 0.5
        events.append(host("user_annotation", f"ProfilerStep#{i}", step, 1000))
        for k in range(25):
            at, number = step + 40 * k, 25 * i + k
            events += [
                host("cuda_runtime", "cudaLaunchKernel", at, 5, number),
                kernel(at + 10, 10, number),
            ]

    finding = named(diagnose_path(written(tmp_path, events)), "launch-bound")

    assert value(finding, "host.queue_depth") == pytest.approx(0.5, abs=0.01)
    assert value(finding, "host.launch_delay_us") == pytest.approx(10)
    assert any("100 % are launched into an empty queue" in e.text for e in finding.evidence)


def spot(frame: str) -> SyncSpot:
    return SyncSpot("cudaStreamSynchronize", "aten::item", frame, (), 1, 1.0, 1.0)


@pytest.mark.parametrize(
    ("frame", "lines"),
    [
        ("a/b (c).py(7): f", ["a/b (c).py"]),
        ("", [None, "sampled.py"]),  # the trace has no stacks: the samples' lines stay
        ("<built-in method x>", [None, "sampled.py"]),
    ],
)
def test_lines_of_stack_samples_stand_in_where_the_trace_has_none(
    frame: str, lines: list[str | None]
) -> None:
    rank = rank_of([], "host", waits=DeviceWaits(spots=(spot(frame),)))

    places = with_spots(rank, [Place(rank=0, file="sampled.py", line=3)])

    assert [place.file for place in places] == lines
    assert places[0].op == "aten::item"


def test_a_rank_without_spots_keeps_its_lines() -> None:
    lines = [Place(rank=0)]

    assert with_spots(rank_of([], "host"), lines) == lines


@corpus
def test_the_published_case_names_the_line_that_reads_each_element() -> None:
    first = diagnose_path(Path(CORPUS) / "gpupuzzlers/d2h_sync/addition_first_sum.json.gz")
    second = diagnose_path(Path(CORPUS) / "gpupuzzlers/d2h_sync/addition_second_sum.json.gz")

    place = named(first, "synchronising-calls").where[0]
    launched = named(second, "launch-bound")

    assert (place.file, place.line) == ("first_sum.py", 4)
    # 4,097 tiny kernels, none of which finds another one in the queue
    assert value(launched, "host.queue_depth") < 1
    assert any("100 % are launched into an empty queue" in e.text for e in launched.evidence)
