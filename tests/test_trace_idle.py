"""What the host did while the device idled: hand-worked causes, and real traces add up."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from boundscope.profiler.trace.device_division import divide_device
from boundscope.profiler.trace.idle import IDLE_CAUSES, IDLE_SLOTS
from boundscope.profiler.trace.reader import read_trace
from boundscope.profiler.trace.startup import startup_calls, warm_steps
from boundscope.profiler.trace.steps import find_steps

CORPUS = os.environ.get("BOUNDSCOPE_CORPUS", "")


def host(cat: str, name: str, start: float, end: float, tid: int = 1) -> dict[str, Any]:
    return {"ph": "X", "cat": cat, "name": name, "pid": 1, "tid": tid, "ts": start} | {
        "dur": end - start
    }


def launched(number: int, call: float, start: float, end: float) -> list[dict[str, Any]]:
    """A kernel and the call that launches it, 1 us long."""
    return [
        host("cuda_runtime", "cudaLaunchKernel", call, call + 1)
        | {"args": {"correlation": number}},
        {"ph": "X", "cat": "kernel", "name": "gemm", "pid": 0, "tid": 7, "ts": start}
        | {"dur": end - start}
        | {"args": {"device": 0, "stream": 7, "correlation": number}},
    ]


def causes(tmp_path: Path, events: list[dict[str, Any]], end: float) -> dict[str, float]:
    """Idle time by cause, us, in the window from 0 to `end`; it must add up."""
    path = tmp_path / "t.json"
    path.write_bytes(msgspec.json.encode({"traceEvents": events}))
    divided = divide_device(read_trace(path), (0, int(end * 1000)), None)
    assert divided is not None
    assert sum(divided.slots_ns.values()) == pytest.approx(divided.wall_ns)
    assert sum(divided.idle_ns.values()) == divided.wall_ns - divided.device.busy_ns
    return {cause: value / 1000 for cause, value in divided.idle_ns.items()}


def test_every_cause_has_a_slot() -> None:
    assert set(IDLE_CAUSES) == set(IDLE_SLOTS)


def test_idle_time_goes_to_what_the_launching_thread_did(tmp_path: Path) -> None:
    events = [
        *launched(1, 0.0, 2.0, 10.0),
        host("cuda_runtime", "cudaMalloc", 10.0, 25.0),
        host("cuda_runtime", "cudaStreamSynchronize", 25.0, 28.0),
        host("python_function", "Python GC", 30.0, 37.0),
        host("cpu_op", "aten::mm", 40.0, 44.0),
        *launched(2, 44.0, 45.0, 60.0),
    ]

    found = causes(tmp_path, events, 60.0)

    assert found == {
        "garbage": 7.0,
        "allocator": 15.0,
        "synchronisation": 3.0,
        "launch": 2.0,  # 0 to 1, 44 to 45
        "dispatch": 4.0,
        "python": 6.0,  # 1 to 2, 28 to 30, 37 to 40
    }


@pytest.mark.parametrize(
    ("copied", "cause"),
    [
        ("Memcpy HtoD (Pageable -> Device)", "copy-in"),
        ("Memcpy DtoH (Device -> Pageable)", "copy"),
    ],
)
def test_a_call_that_copies_counts_by_the_way_it_copies(
    tmp_path: Path, copied: str, cause: str
) -> None:
    call, copy = launched(1, 0.0, 30.0, 35.0)
    events = [
        call | {"name": "cudaMemcpyAsync", "dur": 40.0},
        copy | {"cat": "gpu_memcpy", "name": copied},
    ]

    assert causes(tmp_path, events, 40.0) == {cause: 35.0}


def test_a_script_called_gc_is_no_garbage_collection(tmp_path: Path) -> None:
    events = [*launched(1, 0.0, 1.0, 2.0), host("python_function", "gc.py(12): train", 0.0, 50.0)]

    assert "garbage" not in causes(tmp_path, events, 50.0)


def test_a_wait_that_the_queue_hides_is_not_charged(tmp_path: Path) -> None:
    events = [
        *launched(1, 0.0, 1.0, 90.0),
        host("cuda_runtime", "cudaDeviceSynchronize", 2.0, 90.0),
        host("cpu_op", "aten::mm", 90.0, 100.0),
    ]

    assert causes(tmp_path, events, 100.0) == {"launch": 1.0, "dispatch": 10.0}


@pytest.mark.parametrize(
    "wait",
    [
        "threading.py(331): wait",
        "queue.py(171): get",
        "concurrent/futures/_base.py(428): result",
        "<built-in method acquire of _thread.lock object at 0x7fb9cec78300>",
        "torch/autograd/graph.py(966): _engine_run_backward",
    ],
)
def test_waiting_counts_where_another_thread_runs_ops_meanwhile(tmp_path: Path, wait: str) -> None:
    events = [
        *launched(1, 0.0, 1.0, 10.0),
        host("python_function", wait, 10.0, 50.0),
        host("cpu_op", "aten::copy_", 15.0, 45.0, tid=2),
        host("cpu_op", "aten::mm", 50.0, 52.0),
    ]

    assert causes(tmp_path, events, 52.0) == {
        "launch": 1.0,
        "dispatch": 2.0,
        "another-thread": 30.0,
        "python": 10.0,  # it waits, and no other thread is seen to work
    }


def test_only_other_threads_of_the_same_process_are_waited_for(tmp_path: Path) -> None:
    # Threads 1 and 2 launch and wait; 3 is of their process, 4 of another one.
    wait = "threading.py(331): wait"
    events = [
        *launched(1, 0.0, 1.0, 10.0),
        *[e | ({"tid": 2} if e["cat"] != "kernel" else {}) for e in launched(2, 2.0, 10.0, 20.0)],
        host("python_function", wait, 20.0, 60.0),
        host("python_function", wait, 30.0, 70.0, tid=2),
        host("cpu_op", "aten::copy_", 25.0, 40.0, tid=3),
        host("cpu_op", "aten::copy_", 40.0, 70.0, tid=4) | {"pid": 5},
    ]

    found = causes(tmp_path, events, 70.0)

    assert found == {"launch": 1.0, "another-thread": 15.0, "python": 35.0}


def test_ops_that_run_inside_of_a_wait_are_dispatch(tmp_path: Path) -> None:
    # The autograd engine runs a CPU's backward on the thread that waits for it.
    events = [
        *launched(1, 0.0, 1.0, 10.0),
        host("python_function", "torch/autograd/graph.py(9): _engine_run_backward", 10.0, 50.0),
        host("cpu_op", "AddmmBackward0", 12.0, 40.0),
        host("cpu_op", "aten::mm", 15.0, 35.0),
        host("cpu_op", "aten::copy_", 10.0, 50.0, tid=2),
    ]

    found = causes(tmp_path, events, 50.0)

    assert found == {"launch": 1.0, "dispatch": 28.0, "another-thread": 12.0}


def test_an_op_that_waits_for_a_lock_is_waiting_and_not_dispatch(tmp_path: Path) -> None:
    events = [
        *launched(1, 0.0, 1.0, 10.0),
        host("cpu_op", "MyFunction", 10.0, 30.0),
        host("python_function", "threading.py(331): wait", 12.0, 28.0),
        host("cpu_op", "aten::copy_", 12.0, 28.0, tid=2),
    ]

    found = causes(tmp_path, events, 30.0)

    assert found == {"launch": 1.0, "dispatch": 4.0, "another-thread": 16.0}


def test_a_step_before_its_first_module_call_prepares_the_batch(tmp_path: Path) -> None:
    events = [
        host("user_annotation", "ProfilerStep#1", 0.0, 100.0),
        host("cpu_op", "aten::flip", 5.0, 40.0),
        host("python_function", "nn.Module: Net_0", 60.0, 90.0),
        host("cpu_op", "aten::mm", 61.0, 64.0),
        *launched(1, 64.0, 65.0, 100.0),
    ]

    found = causes(tmp_path, events, 100.0)

    assert found == {"preparation": 60.0, "launch": 1.0, "dispatch": 3.0, "python": 1.0}


def test_one_time_calls_end_the_start_up_and_waits_do_not(tmp_path: Path) -> None:
    events = [
        host("user_annotation", f"ProfilerStep#{i}", start, start + length)
        for i, (start, length) in enumerate([(0, 500_000), (500_000, 2_000), (502_000, 250_000)])
    ]
    events += [
        *launched(1, 10.0, 450_000.0, 450_010.0),
        host("cuda_runtime", "cudaLaunchKernel", 1_000.0, 401_000.0),  # loads a module
        *launched(2, 500_010.0, 500_020.0, 501_000.0),
        *launched(3, 502_010.0, 502_020.0, 740_000.0),
        host("cuda_runtime", "cudaDeviceSynchronize", 503_000.0, 740_000.0),
        host("cuda_runtime", "cudaLaunchKernel", 503_000.0, 739_000.0),  # waits: the queue is full
    ]
    path = tmp_path / "t.json"
    path.write_bytes(msgspec.json.encode({"traceEvents": events}))
    trace = read_trace(path)

    assert len(startup_calls(trace)) == 1
    assert warm_steps(trace, find_steps(trace)).number.tolist() == [1, 2]


@pytest.mark.skipif(not CORPUS, reason="BOUNDSCOPE_CORPUS is not set")
@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("kineto_tb/resnet50_num_workers_0/worker0.1623143089861.pt.trace.json.gz", "loader"),
        ("hta/critical_path/alexnet/benchmark_result_2869224_1695835535_trace.json.gz", "launch"),
        (
            "tracelens/h100/facebook_timesformer-base-finetuned-k400__1016002.json.gz",
            "preparation",
        ),
        ("tracelens/h100/gaunernst_bert-small-uncased__1016001.json.gz", "python"),
    ],
)
def test_real_idle_time_adds_up_and_its_largest_cause_is_known(name: str, cause: str) -> None:
    trace = read_trace(Path(CORPUS) / name)
    steps = find_steps(trace)

    divided = divide_device(trace, (int(steps.start_ns[0]), int(steps.end_ns[-1])), None)

    assert divided is not None
    assert sum(divided.idle_ns.values()) == divided.wall_ns - divided.device.busy_ns
    assert max(divided.idle_ns, key=lambda key: divided.idle_ns[key]) == cause
