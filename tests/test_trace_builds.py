"""Traces of XPU, MTIA and of CUDA with expandable segments: their names mean what CUDA's do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from boundscope.profiler.device_facts import host_path, pageable_share
from boundscope.profiler.diagnose import diagnose_path
from boundscope.profiler.trace.copies import copy_kind, copy_kinds, is_pageable
from boundscope.profiler.trace.device_division import divide_device
from boundscope.profiler.trace.health import check
from boundscope.profiler.trace.idle import ALLOCATOR, COPY, SYNCHRONISE, is_wait
from boundscope.profiler.trace.launches import LAUNCH
from boundscope.profiler.trace.reader import read_trace
from boundscope.profiler.trace.table import Category

CORPUS = os.environ.get("BOUNDSCOPE_CORPUS", "")
corpus = pytest.mark.skipif(not CORPUS, reason="BOUNDSCOPE_CORPUS is not set")
STEPS = 50


def event(cat: str, name: str, start: float, duration: float, **args: Any) -> dict[str, Any]:
    on_device = cat in ("kernel", "gpu_memcpy", "gpu_memset")
    place = {"pid": 0, "tid": 7} if on_device else {"pid": 1, "tid": 1}
    return {"ph": "X", "cat": cat, "name": name, "ts": start, "dur": duration, "args": args} | place


def written(tmp_path: Path, events: list[dict[str, Any]], name: str = "t.json") -> Path:
    path = tmp_path / name
    path.write_bytes(msgspec.json.encode({"traceEvents": events}))
    return path


def copying(runtime: str, call: str, copy: str) -> list[dict[str, Any]]:
    """Steps of 1,000 us: the device copies for 700 us in each and computes for 150."""
    events = []
    for i in range(STEPS):
        begin = 1000 * i + 0.5
        link = {"correlation": i + 1, "External id": i + 1}
        events += [
            event("user_annotation", f"ProfilerStep#{i}", begin, 999),
            event("cpu_op", "aten::copy_", begin + 1, 100, **{"External id": i + 1}),
            event(runtime, call, begin + 2, 90, **link),
            event("gpu_memcpy", copy, begin + 60, 700, device=0, bytes=1_000_000, **link),
            event("kernel", "gemm_kernel", begin + 780, 150, device=0, **{"External id": i + 1}),
        ]
    return events


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        # ptiViewMemcpyTypeToString and ptiViewMemoryTypeToString of Intel's PTI, joined by Kineto
        ("Memcpy M2D (MEMORY(Unknown) -> DEVICE)", "host-to-device"),
        ("Memcpy H2D (HOST -> DEVICE)", "host-to-device"),
        ("Memcpy D2M (DEVICE -> MEMORY)", "device-to-host"),
        ("Memcpy D2H (DEVICE -> HOST)", "device-to-host"),
        ("Memcpy D2D (DEVICE -> DEVICE)", "device-to-device"),
        ("Memcpy D2S (DEVICE -> SHARED)", "device-to-device"),
        ("Memcpy S2D (SHARED -> DEVICE)", "device-to-device"),
        ("Memcpy M2M (MEMORY -> MEMORY)", "unknown"),
        ("Memset (DEVICE)", "memset"),
        ("Memcpy HtoD (Pageable -> Device)", "host-to-device"),
        ("Memcpy PtoP (Device -> Device)", "peer-to-peer"),
        ("CopyDeviceToHost", "device-to-host"),
        ("dma_request", "unknown"),
    ],
)
def test_a_copys_direction_is_in_its_name_whatever_the_build(name: str, kind: str) -> None:
    assert copy_kind(name) == kind


@pytest.mark.parametrize(
    ("name", "pageable"),
    [
        ("Memcpy M2D (MEMORY(Unknown) -> DEVICE)", True),
        ("Memcpy H2D (HOST -> DEVICE)", False),
        ("Memcpy D2M (DEVICE -> MEMORY)", False),
        ("Memcpy HtoD (Pageable -> Device)", True),
        ("Memcpy HtoD (Pinned -> Device)", False),
        ("Memcpy DtoH (Device -> Pageable)", False),
    ],
)
def test_memory_that_the_driver_does_not_know_is_not_pinned(name: str, pageable: bool) -> None:
    assert is_pageable(name) is pageable


@pytest.mark.parametrize(
    "call",
    [
        "urEnqueueKernelLaunch",
        "urEnqueueKernelLaunchWithArgsExp",
        "urEnqueueCooperativeKernelLaunchExp",
        "urEnqueueUSMMemcpy",
        "urEnqueueMemBufferRead",
        "piEnqueueKernelLaunch",
        "piextEnqueueKernelLaunchCustom",
        "piextUSMEnqueueMemcpy",
        "runFunction - job_prep_and_submit_for_execution",
        "enqueueCommand memcpyHtoDAsync",
    ],
)
def test_calls_that_launch_are_known_by_name(call: str) -> None:
    assert LAUNCH.match(call)


@pytest.mark.parametrize(
    "call",
    ["urEnqueueEventsWait", "urKernelSetArgValue", "urEventWait", "urQueueFinish", "recordEvent"],
)
def test_calls_that_launch_nothing_are_no_launches(call: str) -> None:
    assert not LAUNCH.match(call)


@pytest.mark.parametrize(
    "call",
    [
        "cudaStreamSynchronize",
        "urEventWait",
        "urQueueFinish",
        "piEventsWait",
        "piQueueFinish",
        "zeEventHostSynchronize",
        "zeCommandListHostSynchronize",
        "synchronizeStream",
        "synchronize",
    ],
)
def test_calls_that_wait_are_known_by_name(call: str) -> None:
    assert SYNCHRONISE.search(call)
    assert is_wait(call)


@pytest.mark.parametrize("call", ["urEnqueueEventsWait", "cudaStreamWaitEvent", "cudaEventQuery"])
def test_what_only_the_queue_waits_for_is_no_wait_of_the_host(call: str) -> None:
    assert not is_wait(call)


@pytest.mark.parametrize(
    ("call", "pattern"),
    [
        ("cuMemCreate", ALLOCATOR),  # expandable segments
        ("cuMemMap", ALLOCATOR),
        ("cuMemUnmap", ALLOCATOR),
        ("cuMemSetAccess", ALLOCATOR),
        ("cuMemAlloc_v2", ALLOCATOR),
        ("hipMemAddressReserve", ALLOCATOR),
        ("hipHostMalloc", ALLOCATOR),
        ("cudaMallocAsync", ALLOCATOR),
        ("urUSMDeviceAlloc", ALLOCATOR),
        ("urUSMFree", ALLOCATOR),
        ("piextUSMHostAlloc", ALLOCATOR),
        ("zeMemAllocDevice", ALLOCATOR),
        ("cuMemcpyHtoDAsync_v2", COPY),
        ("cudaMemsetAsync", COPY),
        ("urEnqueueUSMMemcpy", COPY),
        ("urEnqueueUSMFill", COPY),
        ("piextUSMEnqueueMemcpy2D", COPY),
        ("enqueueCommand memcpyDtoHAsync", COPY),
    ],
)
def test_calls_of_the_allocator_and_of_copies_are_told_apart(call: str, pattern: Any) -> None:
    other = COPY if pattern is ALLOCATOR else ALLOCATOR

    assert pattern.search(call)
    assert not other.search(call)
    assert not LAUNCH.match(call) or pattern is COPY


def test_the_same_training_gets_the_same_verdict_on_xpu_and_on_cuda(tmp_path: Path) -> None:
    xpu = copying("xpu_runtime", "urEnqueueUSMMemcpy", "Memcpy M2D (MEMORY -> DEVICE)")
    cuda = copying("cuda_runtime", "cudaMemcpyAsync", "Memcpy HtoD (Pageable -> Device)")

    first = diagnose_path(written(tmp_path, xpu, "xpu.json"))
    second = diagnose_path(written(tmp_path, cuda, "cuda.json"))

    assert first.verdict.bound == second.verdict.bound == "input"
    assert first.breakdown == second.breakdown
    assert {f.id for f in first.findings} == {f.id for f in second.findings}
    assert "pageable-copies" in {f.id for f in first.findings}
    trace = read_trace(tmp_path / "xpu.json")
    assert pageable_share(trace) == 1.0


def test_copies_of_no_known_direction_are_charged_to_nobody(tmp_path: Path) -> None:
    path = written(tmp_path, copying("xpu_runtime", "urEnqueueUSMMemcpy", "Memcpy (odd)"))

    trace = read_trace(path)
    divided = divide_device(trace, (500, 500 + 1_000_000 * STEPS), None)

    assert divided is not None
    # and the microsecond after the last step's mark, in which nothing is seen
    assert divided.slots_ns["other"] == pytest.approx(STEPS * 700_000 + 1_000)
    assert divided.copies_ns == {"unknown": pytest.approx(STEPS * 700_000)}


def test_records_that_an_xpu_trace_lost_are_missed(tmp_path: Path) -> None:
    events = []
    for i in range(300):
        link = {"correlation": i + 1, "External id": i + 1}
        at = 10 * i + 0.5
        events += [
            event("cpu_op", "aten::mm", at, 6, **{"External id": i + 1}),
            event("xpu_runtime", "urEnqueueKernelLaunch", at + 1, 2, **link),
        ]
        if i < 100:
            events.append(event("kernel", "gemm_kernel", at + 4, 3, device=0, **link))

    found = {w.slug: w.count for w in check(read_trace(written(tmp_path, events))).warnings}

    assert found["lost-device-records"] == 200


def test_waits_and_allocations_of_other_builds_have_their_cause(tmp_path: Path) -> None:
    # 10 us of allocation, 20 us of waiting, 5 us of launching while the device idles.
    link = {"correlation": 1}
    events = [
        event("xpu_runtime", "urUSMDeviceAlloc", 0, 10),
        event("xpu_runtime", "urEventWait", 10, 20),
        event("xpu_runtime", "urEnqueueKernelLaunch", 30, 5, **link),
        event("kernel", "gemm_kernel", 35, 65, device=0, **link),
    ]

    divided = divide_device(read_trace(written(tmp_path, events)), (0, 100_000), None)

    assert divided is not None
    assert divided.idle_ns == {
        "allocator": 10_000,
        "synchronisation": 20_000,
        "launch": 5_000,
    }


def test_a_host_that_waits_in_an_xpu_call_is_not_on_its_own_way(tmp_path: Path) -> None:
    events = [
        event("xpu_runtime", "urEnqueueKernelLaunch", 0, 20, correlation=1),
        event("xpu_runtime", "urQueueFinish", 20, 60, correlation=2),
        event("kernel", "gemm_kernel", 10, 70, device=0, correlation=1),
    ]

    share = host_path(read_trace(written(tmp_path, events)), (0, 80_000))

    assert share == pytest.approx(20 / 80)


def test_mtia_notes_the_direction_of_a_copy_beside_its_name(tmp_path: Path) -> None:
    directions = ("HOST_TO_DEVICE", "DEVICE_TO_HOST", "")
    events = [
        event("mtia_ccp_events", "dma_request", 10.0 * i, 5.0, direction=direction, stream=1)
        for i, direction in enumerate(directions)
    ]
    trace = read_trace(written(tmp_path, events))

    rows = np.flatnonzero(trace.events.category == Category.MEMCPY)

    assert copy_kinds(trace, rows) == ["host-to-device", "device-to-host", "unknown"]
    assert copy_kinds(trace, rows[:0]) == []


@corpus
def test_the_copies_of_a_real_mtia_trace_have_their_directions() -> None:
    # Counted in the file itself: 427 requests to the device, 450 to the host.
    path = Path(CORPUS) / "hta/mtia_inference_trace/mtia_inference_rank_0.json.gz"
    trace = read_trace(path)

    kinds = copy_kinds(trace, np.flatnonzero(trace.events.category == Category.MEMCPY))

    assert kinds.count("host-to-device") == 333 + 94
    assert kinds.count("device-to-host") == 324 + 126
    assert "lost-device-records" not in {w.slug for w in check(trace).warnings}
    assert set(kinds) == {"device-to-host", "host-to-device"}
