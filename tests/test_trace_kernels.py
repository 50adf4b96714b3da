"""What limits a kernel: by recorded costs, by its op's cost, by its name, or unknown."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from boundscope.profiler.machine.roofs import Roofs
from boundscope.profiler.trace.costs import with_recorded
from boundscope.profiler.trace.health import check
from boundscope.profiler.trace.host import unseen_device
from boundscope.profiler.trace.kernels import KernelTime, kernel_times
from boundscope.profiler.trace.reader import read_trace
from boundscope.profiler.trace.table import Signature, Trace

CORPUS = os.environ.get("BOUNDSCOPE_CORPUS", "")
corpus = pytest.mark.skipif(not CORPUS, reason="BOUNDSCOPE_CORPUS is not set")

ROOFS = Roofs(flops={"bf16": 1e15, "fp32": 1e14}, bandwidth={"dram": 1e12})


def op(name: str, start: float, args: dict[str, Any]) -> dict[str, Any]:
    return {"ph": "X", "cat": "cpu_op", "name": name, "pid": 1, "tid": 1, "ts": start} | {
        "dur": 8.0,
        "args": args,
    }


def launched(name: str, at: float, duration: float, number: int) -> list[dict[str, Any]]:
    return [
        {"ph": "X", "cat": "cuda_runtime", "name": "cuLaunchKernel", "pid": 1, "tid": 1}
        | {"ts": at + 1, "dur": 2.0, "args": {"correlation": number}},
        {"ph": "X", "cat": "kernel", "name": name, "pid": 0, "tid": 7, "ts": at + 5}
        | {"dur": duration, "args": {"device": 0, "stream": 7, "correlation": number}},
    ]


def kernels_of(
    tmp_path: Path, events: list[dict[str, Any]], roofs: Roofs | None
) -> list[KernelTime]:
    path = tmp_path / "t.json"
    path.write_bytes(msgspec.json.encode({"traceEvents": events}))
    return kernel_times(read_trace(path), (0, 10**9), roofs)


def test_the_flop_and_bytes_that_torch_compile_recorded_set_the_roof(tmp_path: Path) -> None:
    made = {"kernel_file": "/tmp/x.py", "kernel_backend": "triton", "stream": 0}
    shapes = {"Input Dims": [[1024, 1024]], "Input type": ["c10::BFloat16"]}
    events = [
        op("triton_tem_fused_mm_0", 0.0, made | shapes | {"kernel_flop": 2e9}),
        *launched("triton_tem_fused_mm_0", 0.0, 50.0, 1),
        op("triton_poi_fused_add_1", 100.0, made | shapes | {"kernel_num_gb": 0.02}),
        *launched("triton_poi_fused_add_1", 100.0, 40.0, 2),
        op("triton_poi_fused_add_1", 200.0, made | shapes | {"kernel_num_gb": 0.01}),
        *launched("triton_poi_fused_add_1", 200.0, 30.0, 3),
    ]

    found = kernels_of(tmp_path, events, ROOFS)

    # 2e9 FLOP at 1e15 FLOP/s are 2 us; 20 and 10 MB at 1e12 bytes/s 20 and 10 us.
    assert [(k.name, k.slot, k.attainable_ns) for k in found] == [
        ("triton_tem_fused_mm_0", "compute", pytest.approx(2_000)),
        ("triton_poi_fused_add_1", "memory", pytest.approx(20_000)),
        ("triton_poi_fused_add_1", "memory", pytest.approx(10_000)),
    ]
    assert found[0].family == "gemm"
    assert [k.bytes for k in found[1:]] == [20e6, 10e6]


@pytest.mark.parametrize("value", [None, 0, -1, "many", float("nan"), float("inf"), []])
def test_values_that_are_no_amounts_record_nothing(value: object) -> None:
    args = {"kernel_flop": value, "kernel_num_gb": value}

    assert with_recorded(None, "triton_poi_fused_add_0", Signature(), args) is None


def test_a_kernel_that_nothing_is_known_of_is_not_called_memory(tmp_path: Path) -> None:
    (found,) = kernels_of(tmp_path, launched("pe_exe", 0.0, 10.0, 1), ROOFS)

    assert (found.slot, found.limiter, found.exact) == ("other", "unknown", False)


@pytest.mark.parametrize(
    ("rows", "slot"),
    [(32, "memory"), (8192, "compute")],  # 16 and 2,700 FLOP/byte; ridges lie between 30 and 400
)
def test_far_from_every_ridge_the_limit_is_certain_without_the_device(
    tmp_path: Path, rows: int, slot: str
) -> None:
    shapes = {
        "Input Dims": [[131072 if rows == 32 else rows, rows], [rows, rows]],
        "Input type": ["c10::Half", "c10::Half"],
    }
    events = [op("aten::mm", 0.0, shapes), *launched("Cijk_NLL_x", 0.0, 10.0, 1)]

    (found,) = kernels_of(tmp_path, events, None)

    assert found.slot == slot
    assert not found.exact


def test_launches_without_any_device_record_leave_open_what_the_ops_did(tmp_path: Path) -> None:
    events = [op("aten::mm", 0.0, {}), launched("gemm", 0.0, 10.0, 1)[0]]
    path = tmp_path / "t.json"
    path.write_bytes(msgspec.json.encode({"traceEvents": events}))
    trace = read_trace(path)

    assert unseen_device(trace)
    assert "device-not-recorded" in {warning.slug for warning in check(trace).warnings}


@corpus
@pytest.mark.parametrize(
    ("name", "slot"),
    [
        # The file's name says what the op is: "memory_tall_skinny", a depthwise convolution with
        # 2 FLOP/byte, a product whose few tiles leave most of the device idle.
        ("gemm_04_memory_tall_skinny.json.gz", "memory"),
        ("conv_04_depthwise.json", "memory"),
        ("gemm_01_compute_few_tiles.json", "compute"),
        ("elem_01_add_poor_bw.json", "memory"),
    ],
)
def test_labelled_ops_are_limited_by_what_their_label_says(name: str, slot: str) -> None:
    trace: Trace = read_trace(Path(CORPUS) / "labelled_ops" / name)

    found = kernel_times(trace, (-(2**62), 2**62), None)

    assert found[0].slot == slot
