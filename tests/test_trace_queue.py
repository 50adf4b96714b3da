"""Launch delays and queue depth: a hand-worked case, and real traces whose cause is published."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boundscope.profiler.trace.launch_queue import LaunchQueue, launch_queues, queue_depth
from boundscope.profiler.trace.reader import read_trace

CORPUS = os.environ.get("BOUNDSCOPE_CORPUS", "")
corpus = pytest.mark.skipif(not CORPUS, reason="BOUNDSCOPE_CORPUS is not set")

# (call, start, end) in us, on one device
WORK = [(0.0, 4.0, 10.0), (2.0, 10.0, 14.0), (6.0, 14.0, 20.0), (30.0, 33.0, 40.0)]


def queues(tmp_path: Path, work: list[tuple[float, float, float]]) -> list[LaunchQueue]:
    events: list[dict[str, Any]] = [
        {"ph": "X", "cat": "user_annotation", "name": f"ProfilerStep#{i}", "pid": 1, "tid": 1}
        | {"ts": 25.0 * i, "dur": 25.0}
        for i in range(2)
    ]
    for number, (call, start, end) in enumerate(work):
        events += [
            {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "pid": 1, "tid": 1}
            | {"ts": call, "dur": 1.0, "args": {"correlation": number}},
            {"ph": "X", "cat": "kernel", "name": "k", "pid": 0, "tid": 7, "ts": start}
            | {"dur": end - start}
            | {"args": {"device": 0, "stream": 7, "correlation": number}},
        ]
    path = tmp_path / "t.json"
    path.write_bytes(msgspec.json.encode({"traceEvents": events}))
    return launch_queues(read_trace(path))


def test_depth_delay_and_emptiness_are_those_worked_out_by_hand(tmp_path: Path) -> None:
    (found,) = queues(tmp_path, WORK)

    assert found.window == (0, 50_000)
    assert found.time_ns.tolist() == [0, 2_000, 6_000, 10_000, 14_000, 20_000, 30_000, 40_000]
    assert found.depth.tolist() == [1, 2, 3, 2, 1, 0, 1, 0]
    assert found.max_depth == 3
    assert found.delay_ns.tolist() == [4_000, 8_000, 8_000, 3_000]
    assert found.median_delay_ns == 6_000
    assert found.p90_delay_ns == pytest.approx(8_000)
    assert found.empty_share == pytest.approx(20 / 50)
    assert found.step_empty.tolist() == pytest.approx([5 / 25, 15 / 25])
    assert found.drained_steps == 1.0
    assert (found.starved, found.work) == (2, 4)


def test_work_without_a_launch_has_no_delay(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    kernel = {"ph": "X", "cat": "kernel", "name": "k", "pid": 0, "tid": 7, "ts": 1.0, "dur": 2.0}
    path.write_bytes(msgspec.json.encode({"traceEvents": [kernel | {"args": {"device": 0}}]}))

    (found,) = launch_queues(read_trace(path))

    assert found.median_delay_ns is None
    assert found.empty_share == 0.0


@given(
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 50)), max_size=30),
    st.integers(0, 50),
    st.integers(51, 150),
)
def test_the_depth_at_any_time_is_the_number_launched_and_not_finished(
    spans: list[tuple[int, int]], low: int, high: int
) -> None:
    entered = np.array([start for start, _ in spans], np.int64)
    ended = entered + np.array([length for _, length in spans], np.int64)

    times, depth = queue_depth(entered, ended, (low, high))

    assert times[0] == low
    assert (np.diff(times) > 0).all()
    for moment in range(low, high):
        index = int(np.searchsorted(times, moment, side="right")) - 1
        assert depth[index] == int(((entered <= moment) & (moment < ended)).sum())


@corpus
def test_tiny_kernels_find_the_queue_empty_and_a_long_queue_hides_the_host() -> None:
    root = Path(CORPUS)
    (tiny,) = launch_queues(read_trace(root / "gpupuzzlers/d2h_sync/addition_second_sum.json.gz"))
    (deep,) = launch_queues(
        read_trace(root / "hta/ns_resolution_trace/rank-0.Apr_03_18_51_38.1102.pt.trace.json.gz")
    )

    # 4,097 tiny kernels with 20 us gaps; and a run that is busy for 472 of 480 ms.
    assert (tiny.work, tiny.starved_share, tiny.max_depth) == (4097, 1.0, 1)
    assert deep.empty_share < 0.02
    assert deep.starved_share < 0.02
    assert deep.max_depth > 500


@corpus
def test_a_loader_that_holds_the_loop_up_empties_the_queue_in_every_step() -> None:
    root = Path(CORPUS) / "kineto_tb"
    without, with_four = (
        launch_queues(read_trace(next((root / f"resnet50_num_workers_{n}").glob("*.gz"))))[0]
        for n in (0, 4)
    )

    assert (without.step_empty > 0.3).all()
    assert with_four.empty_share < 0.5 * without.empty_share
