"""What limits a kernel: by recorded costs, by its op's cost, by its name, or unknown."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from boundscope.profiler.device_roofs import device_roofs
from boundscope.profiler.machine.roofs import Roofs
from boundscope.profiler.tables.trace_kernels import kernel_rows
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


A100 = Roofs(flops={"fp32": 19.5e12, "tf32": 156e12}, bandwidth={"dram": 2e12})
SQUARE = {"Input Dims": [[4096, 4096], [4096, 4096]], "Input type": ["float", "float"]}
SQUARE_FLOP = 2 * 4096**3


@pytest.mark.parametrize(
    ("kernel", "dtype"),
    [
        # names from public traces of A100 and H100
        ("void cutlass::Kernel<cutlass_80_tensorop_s1688gemm_256x64_16x4_nn_align4>", "tf32"),
        ("sm80_xmma_fprop_implicit_gemm_indexed_tf32f32_tf32f32_f32_nhwckrsc_nchw_x", "tf32"),
        ("sm90_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize128x128x32_cublas", "tf32"),
        ("ampere_sgemm_128x64_nn", "fp32"),
        ("sm80_xmma_gemm_f32f32_f32f32_f32_tn_n_tilesize32x32x8_stage3_ffma_aligna4", "fp32"),
        ("void cutlass::Kernel<cutlass_80_simt_sgemm_256x128_8x4_nn_align1>", "fp32"),
        ("Cijk_Ailk_Bljk_SB_MT128x128x16_MI32x32x2x1_SN", "fp32"),  # AMD's cores multiply FP32
    ],
)
def test_fp32_tensors_on_tensor_cores_are_held_against_the_tf32_roof(
    tmp_path: Path, kernel: str, dtype: str
) -> None:
    events = [op("aten::mm", 0.0, SQUARE), *launched(kernel, 0.0, 10_000.0, 1)]

    (found,) = kernels_of(tmp_path, events, A100)

    assert found.dtype == dtype
    assert found.attainable_ns == pytest.approx(SQUARE_FLOP / A100.flops[dtype] * 1e9)
    assert found.exact


def test_a_kernel_of_16_bits_keeps_its_type(tmp_path: Path) -> None:
    shapes = {"Input Dims": [[64, 64], [64, 64]], "Input type": ["c10::Half", "c10::Half"]}
    kernel = "cutlass_75_tensorop_f16_s1688gemm_f16_128x128_nn_align1"
    events = [op("aten::mm", 0.0, shapes), *launched(kernel, 0.0, 10.0, 1)]

    assert kernels_of(tmp_path, events, A100)[0].dtype == "fp16"


def test_a_kernel_that_beats_its_roof_is_not_exact_and_its_share_is_not_cut(
    tmp_path: Path,
) -> None:
    # 7 ms of work at the FP32 roof, done in 3.5 ms.
    half = SQUARE_FLOP / 19.5e12 * 1e6 / 2
    events = [op("aten::mm", 0.0, SQUARE), *launched("my_own_gemm", 0.0, half, 1)]

    (found,) = kernels_of(tmp_path, events, A100)
    (row,) = kernel_rows([found])

    assert not found.exact
    assert found.slot == "compute"
    assert row.roof_share == pytest.approx(2.0, rel=1e-3)
    assert not row.exact


def replay(graph: int, number: int, at: float, kernels: int) -> list[dict[str, Any]]:
    """A graph's launch inside an op with shapes, and the kernels of the replay."""
    call = {"ph": "X", "cat": "cuda_runtime", "name": "cudaGraphLaunch", "pid": 1, "tid": 1}
    events = [op("CompiledStep", at, SQUARE), call | {"ts": at + 1, "dur": 3.0}]
    events[1]["args"] = {"correlation": number}
    for i in range(kernels):
        args = {"device": 0, "stream": 7, "correlation": number}
        args |= {"graph id": graph, "graph node id": 100 * graph + i, "grid": [1, 1, 1]}
        events.append(
            {"ph": "X", "cat": "kernel", "name": "ampere_sgemm_64x64_nn", "pid": 0, "tid": 7}
            | {"ts": at + 5 + 2 * i, "dur": 1.0, "args": args}
        )
    return events


def test_the_kernels_of_a_replay_belong_to_the_op_around_the_launch(tmp_path: Path) -> None:
    events = [e for i in range(3) for e in replay(5, i + 1, 100.0 * i, kernels=10)]

    (found,) = kernels_of(tmp_path, events, A100)

    # The captured ops' shapes are not in the trace: the name alone decides, and it says so.
    assert (found.op, found.calls) == ("CompiledStep", 30)
    assert (found.slot, found.exact, found.attainable_ns) == ("compute", False, 0.0)


@pytest.mark.parametrize(
    ("counts", "lost"),
    [
        ([10, 10, 10, 10], 0),
        ([10, 4, 10, 10], 6),
        ([10, 10, 10, 2], 0),  # the window closed over the last one
    ],
)
def test_work_that_is_missing_in_a_replay_is_told_by_the_other_replays(
    tmp_path: Path, counts: list[int], lost: int
) -> None:
    events = [e for i, n in enumerate(counts) for e in replay(5, i + 1, 100.0 * i, n)]
    events += replay(6, 99, 150.0, 3)  # another graph may be smaller
    path = tmp_path / "t.json"
    path.write_bytes(msgspec.json.encode({"traceEvents": events}))

    found = {w.slug: w.count for w in check(read_trace(path)).warnings}

    assert found.get("lost-device-records", 0) == lost


@corpus
def test_a_real_training_in_tf32_stays_below_the_tf32_roof() -> None:
    # Products on an A100 whose kernels carry "s1688" or "tf32" in their names.
    trace = read_trace(next((Path(CORPUS) / "hta/trace_diff/control").glob("*.json.gz")))
    roofs = device_roofs(trace)
    assert roofs is not None

    found = kernel_times(trace, (-(2**62), 2**62), roofs)

    named = [k for k in found if re.search("tf32|s1688", k.name) and k.flop > 0]
    assert len(named) > 50
    assert {kernel.dtype for kernel in named} == {"tf32"}
    assert max(kernel.attainable_ns / kernel.duration_ns for kernel in named) < 1
    # Some of them do more than the 19.5 TFLOP/s of the vector units.
    assert max(kernel.flop / kernel.duration_ns * 1e9 for kernel in named) > roofs.flops["fp32"]


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
