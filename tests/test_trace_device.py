"""Device time on a hand-worked case: busy, overlap, and what is exposed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from boundscope.profiler.trace.categories import is_communication
from boundscope.profiler.trace.device import device_time, devices
from boundscope.profiler.trace.intervals import total
from boundscope.profiler.trace.reader import read_trace
from boundscope.profiler.trace.table import Trace


def work(
    name: str, start: float, end: float, stream: int, cat: str = "kernel", *, device: int = 0
) -> dict[str, Any]:
    return {
        "ph": "X",
        "cat": cat,
        "name": name,
        "pid": device,
        "tid": stream,
        "ts": start,
        "dur": end - start,
        "args": {"device": device, "stream": stream},
    }


def trace(tmp_path: Path, events: list[dict[str, Any]]) -> Trace:
    path = tmp_path / "t.json"
    path.write_bytes(msgspec.json.encode({"traceEvents": events}))
    return read_trace(path)


TIMELINE = [
    work("gemm", 0.0, 40.0, 7),
    work("gemm", 60.0, 80.0, 7),
    work("ncclDevKernel_AllReduce_Sum_f32_RING_LL", 30.0, 70.0, 20),
    work("Memcpy HtoD (Pinned -> Device)", 35.0, 50.0, 21, "gpu_memcpy"),
    work("Memcpy HtoD (Pinned -> Device)", 90.0, 100.0, 21, "gpu_memcpy"),
    work("Memset (Device)", 100.0, 105.0, 7, "gpu_memset"),
    work("ProfilerStep#1", 0.0, 500.0, 7, "gpu_user_annotation"),
]


def test_busy_overlap_and_exposed_times_are_those_worked_out_by_hand(tmp_path: Path) -> None:
    found = device_time(trace(tmp_path, TIMELINE))

    assert found is not None
    assert found.window_ns == 105_000
    assert found.busy_ns == 95_000  # 0 to 80, 90 to 105
    assert found.idle_ns == 10_000
    assert found.compute_ns == 60_000
    assert found.communication_ns == 40_000
    assert found.copies_ns == 30_000
    assert found.overlap_ns == 20_000  # 30 to 40, 60 to 70
    assert total(found.exposed_communication) == 20_000  # 40 to 60
    assert total(found.exposed_copies) == 15_000  # 90 to 105


def test_a_window_clips_all_figures(tmp_path: Path) -> None:
    recorded = trace(tmp_path, TIMELINE)

    found = device_time(recorded, window=(35_000, 95_000))

    assert found is not None
    assert (found.window_ns, found.busy_ns, found.copies_ns) == (60_000, 50_000, 20_000)
    assert found.events == 5


def test_devices_are_told_apart_on_demand(tmp_path: Path) -> None:
    events = [work("gemm", 0.0, 10.0, 7), work("gemm", 5.0, 25.0, 7, device=1)]
    recorded = trace(tmp_path, events)

    both, second = device_time(recorded), device_time(recorded, device=1)

    assert devices(recorded) == [0, 1]
    assert both is not None
    assert second is not None
    assert (both.busy_ns, second.busy_ns) == (25_000, 20_000)


def test_without_device_work_there_are_no_device_figures(tmp_path: Path) -> None:
    recorded = trace(tmp_path, [work("aten::add", 0.0, 1.0, 7, "cpu_op")])

    assert device_time(recorded) is None
    assert devices(recorded) == []


@pytest.mark.parametrize(
    ("kernel", "communicates"),
    [
        ("ncclKernel_AllReduce_RING_LL_Sum_float(ncclWorkElem)", True),
        ("ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)", True),
        ("void vllm::cross_device_reduce_1stage<__nv_bfloat16, 8>(...)", True),
        ("one_shot_all_reduce_kernel", True),
        ("void deep_ep::internode::dispatch<...>", True),
        ("void cutlass::Kernel<cutlass_80_tensorop_s1688gemm>", False),
        ("softmaxKernel_warpAllReduce<float>", False),
        ("void blockAllReduceKernel<SumOp>", False),
        ("void at::native::reduce_kernel<512, 1, ...>", False),
    ],
)
def test_communication_is_told_by_the_kernels_name(kernel: str, communicates: bool) -> None:
    assert is_communication(kernel) is communicates
