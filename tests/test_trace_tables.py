"""Tables of a device trace: ops, modules, tensor cores, copies, synchronisation, steps."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from boundscope.profiler.device_roofs import device_roofs
from boundscope.profiler.tables.trace_kernels import (
    copy_rows,
    kernel_rows,
    tensor_core_use,
    uses_tensor_cores,
)
from boundscope.profiler.tables.trace_ops import module_times, op_times
from boundscope.profiler.tables.trace_steps import step_outliers, step_parts
from boundscope.profiler.tables.trace_syncs import sync_spots
from boundscope.profiler.trace.device_division import DeviceWindow, divide_device
from boundscope.profiler.trace.reader import read_trace
from boundscope.profiler.trace.steps import find_steps
from boundscope.profiler.trace.table import Category, Trace
from boundscope.profiler.trace_run import traces_by_rank

CORPUS = os.environ.get("BOUNDSCOPE_CORPUS", "")
corpus = pytest.mark.skipif(not CORPUS, reason="BOUNDSCOPE_CORPUS is not set")

NW0 = "kineto_tb/resnet50_num_workers_0/worker0.1623143089861.pt.trace.json.gz"
NW4 = "kineto_tb/resnet50_num_workers_4/worker0.1623212756351.pt.trace.json.gz"
BERT = "tracelens/h100/gaunernst_bert-small-uncased__1016001.json.gz"


def host(
    cat: str, name: str, start: float, end: float, args: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {"ph": "X", "cat": cat, "name": name, "pid": 1, "tid": 1, "ts": start} | {
        "dur": end - start,
        "args": args or {},
    }


def on_device(
    name: str, start: float, end: float, correlation: int, *, copied: int = -1
) -> dict[str, Any]:
    args = {"device": 0, "stream": 7, "correlation": correlation, "bytes": copied}
    cat = "gpu_memcpy" if "Memcpy" in name else "kernel"
    return {"ph": "X", "cat": cat, "name": name, "pid": 0, "tid": 7, "ts": start} | {
        "dur": end - start,
        "args": args,
    }


def call(name: str, start: float, end: float, correlation: int) -> dict[str, Any]:
    return host("cuda_runtime", name, start, end, {"correlation": correlation})


def trace_of(tmp_path: Path, events: list[dict[str, Any]]) -> Trace:
    path = tmp_path / "t.json"
    path.write_bytes(msgspec.json.encode({"traceEvents": events}))
    return read_trace(path)


def whole(trace: Trace) -> DeviceWindow:
    steps = find_steps(trace)
    window = (int(steps.start_ns[0]), int(steps.end_ns[-1]))
    divided = divide_device(trace, window, device_roofs(trace))
    assert divided is not None
    return divided


NESTED = [
    host("cpu_op", "aten::linear", 0.0, 20.0, {"Input Dims": [[4, 8]], "Input type": ["float"]}),
    host("cpu_op", "aten::addmm", 5.0, 15.0),
    call("cudaLaunchKernel", 10.0, 12.0, 1),
    on_device("gemm", 12.0, 40.0, 1),
    host("cpu_op", "aten::to", 50.0, 60.0),
    host("cpu_op", "aten::to", 51.0, 59.0),
    call("cudaLaunchKernel", 52.0, 53.0, 2),
    on_device("copy", 53.0, 55.0, 2),
]


def test_self_and_total_times_of_ops_are_those_worked_out_by_hand(tmp_path: Path) -> None:
    rows = {row.name: row for row in op_times(trace_of(tmp_path, NESTED))}

    linear, addmm, to = rows["aten::linear"], rows["aten::addmm"], rows["aten::to"]
    assert linear.dims == "[4, 8]"
    assert (linear.self_host_ms, linear.total_host_ms) == pytest.approx((0.010, 0.020))
    assert (linear.self_device_ms, linear.total_device_ms) == pytest.approx((0.0, 0.028))
    assert (addmm.self_host_ms, addmm.self_device_ms) == pytest.approx((0.010, 0.028))
    # An op inside one of its own name counts once in the totals.
    assert to.calls == 2
    assert (to.self_host_ms, to.total_host_ms) == pytest.approx((0.010, 0.010))
    assert (to.self_device_ms, to.total_device_ms) == pytest.approx((0.002, 0.002))


def test_modules_hold_the_device_work_launched_inside_of_them(tmp_path: Path) -> None:
    events = [
        host("python_function", "nn.Module: Net_0", 0.0, 100.0),
        host("python_function", "nn.Module: Linear_0", 10.0, 40.0),
        host("python_function", "torch/nn/modules/linear.py(1): forward", 11.0, 39.0),
        call("cudaLaunchKernel", 20.0, 21.0, 1),
        on_device("gemm", 21.0, 31.0, 1),
        call("cudaLaunchKernel", 50.0, 51.0, 2),
        on_device("relu", 51.0, 54.0, 2),
        call("cudaLaunchKernel", 120.0, 121.0, 3),
        on_device("sgd", 121.0, 122.0, 3),
    ]

    rows = {row.path: row for row in module_times(trace_of(tmp_path, events))}

    assert set(rows) == {"Net_0", "Net_0/Linear_0", ""}
    assert rows["Net_0"].self_device_ms == pytest.approx(0.003)
    assert rows["Net_0"].total_device_ms == pytest.approx(0.013)
    assert rows["Net_0"].self_host_ms == pytest.approx(0.070)
    assert rows["Net_0/Linear_0"].total_device_ms == pytest.approx(0.010)
    assert rows[""].total_device_ms == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("kernel", "used"),
    [
        ("volta_fp16_s884cudnn_fp16_256x128_ldg8_relu_exp_small_nhwc_tn_v1", True),
        ("ampere_bf16_s16816gemm_bf16_128x128_ldg8_f2f_stages_32x5_tn", True),
        ("sm80_xmma_fprop_implicit_gemm_indexed_tf32f32_tf32f32_f32_nhwckrsc_nchw", True),
        ("void cutlass::Kernel<cutlass_80_tensorop_s1688gemm_64x64_32x4_nn_align1>", True),
        ("nvjet_tst_128x256_64x4_1x2_h_bz_coopA_NNT", True),
        ("Cijk_Ailk_Bljk_BBS_BH_MT256x128x64_MI16x16x16x1_SN_1LDSB0", True),
        ("igemm_fwd_gtcx_nhwc_fp32_bx0_bt256x128x16", True),
        ("volta_sgemm_128x64_nt", False),
        ("volta_scudnn_128x64_relu_interior_nn_v1", False),
        ("void gemv2T_kernel_val<int, int, float>", False),
        ("kernel_unified_attention_2d", None),
    ],
)
def test_a_kernels_name_tells_whether_tensor_cores_work(kernel: str, used: bool | None) -> None:
    assert uses_tensor_cores(kernel) is used


def test_kernels_of_one_name_are_one_row_whatever_launches_them(tmp_path: Path) -> None:
    shapes = {"Input Dims": [[64, 64], [64, 64]], "Input type": ["float", "float"]}
    events: list[dict[str, Any]] = []
    for i, name in enumerate(["aten::mm", "aten::mm", "aten::bmm"]):
        at = 100.0 * i
        events += [
            host("cpu_op", name, at, at + 10, shapes),
            call("cudaLaunchKernel", at + 1, at + 2, i),
            on_device("ampere_sgemm_64x64_nn", at + 3, at + 23, i),
        ]
    events.append(on_device("void elementwise_kernel<Add>", 400.0, 440.0, 9))

    gemm, add = kernel_rows(whole(trace_of(tmp_path, events)).kernels)

    assert (gemm.calls, gemm.family, gemm.tensor_cores) == (3, "gemm", False)
    assert (gemm.total_ms, gemm.mean_us) == pytest.approx((0.060, 20.0))
    assert gemm.share == pytest.approx(0.6)
    assert set(gemm.ops) == {"aten::mm", "aten::bmm"}
    assert (add.limiter, add.roof_share, add.tensor_cores) == ("bandwidth", None, None)


def test_a_folder_of_traces_gives_one_trace_a_rank(tmp_path: Path) -> None:
    for rank, count in ((0, 1), (1, 1), (1, 3)):
        path = tmp_path / f"rank{rank}_{count}.json"
        events = [on_device("gemm", 10.0 * i, 10.0 * i + 1, i) for i in range(count)]
        path.write_bytes(msgspec.json.encode({"traceEvents": events}))

    found = traces_by_rank(tmp_path)

    assert {rank: len(trace.events) for rank, trace in found.items()} == {0: 1, 1: 3}


@pytest.mark.parametrize(
    ("name", "pageable"),
    [
        ("Memcpy HtoD (Pageable -> Device)", True),
        ("Memcpy HtoD (Pinned -> Device)", False),
    ],
)
def test_copies_know_direction_memory_and_rate(tmp_path: Path, name: str, pageable: bool) -> None:
    events = [
        on_device(name, 0.0, 10.0, 1, copied=100_000),
        on_device(name, 20.0, 30.0, 2, copied=100_000),
        on_device("gemm", 25.0, 40.0, 3),
    ]

    (row,) = copy_rows(trace := trace_of(tmp_path, events), whole(trace).device)

    assert (row.kind, row.pageable, row.calls, row.bytes) == (
        "host-to-device",
        pageable,
        2,
        200_000,
    )
    assert row.duration_ms == pytest.approx(0.020)
    assert row.exposed_ms == pytest.approx(0.015)
    assert row.bytes_per_s == pytest.approx(10e9)


def test_calls_that_wait_are_grouped_by_place_and_asynchronous_copies_are_none(
    tmp_path: Path,
) -> None:
    events: list[dict[str, Any]] = [host("python_function", "train.py(31): step", 0.0, 500.0)]
    for i in range(3):
        at = 100.0 * i
        events += [
            host("python_function", "<built-in method item of Tensor object>", at + 10, at + 60),
            host("cpu_op", "aten::item", at + 20, at + 50),
            host("cpu_op", "aten::_local_scalar_dense", at + 21, at + 49),
            call("cudaMemcpyAsync", at + 22, at + 40, i),
            on_device("Memcpy DtoH (Device -> Pageable)", at + 35, at + 36, i),
        ]
    events += [call("cudaMemcpyAsync", 400.0, 401.0, 9)]
    events += [on_device("Memcpy HtoD (Pinned -> Device)", 410.0, 420.0, 9)]

    (spot,) = sync_spots(trace := trace_of(tmp_path, events), whole(trace))

    assert (spot.call, spot.op, spot.calls) == ("cudaMemcpyAsync", "aten::item", 3)
    assert spot.frame == "train.py(31): step"
    assert spot.stack[0] == "<built-in method item of Tensor object>"
    assert spot.waited_ms == pytest.approx(0.054)
    assert spot.idle_ms == pytest.approx(0.051)


def test_a_long_step_says_what_was_longer_in_it(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    at = 0.0
    for i, wait in enumerate([10.0, 12.0, 11.0, 200.0, 10.0, 11.0]):
        end = at + 110.0 + wait
        events += [
            host("user_annotation", f"ProfilerStep#{i}", at, end),
            host("user_annotation", "enumerate(DataLoader)#_Iter.__next__", at, at + wait),
            call("cudaLaunchKernel", at + wait, at + wait + 1, i),
            on_device("gemm", at + wait + 1, end, i),
        ]
        at = end

    parts = step_parts(trace_of(tmp_path, events))

    assert parts is not None
    assert sum(parts.parts_ms.values()) == pytest.approx(parts.duration_ms)
    (slow,) = step_outliers(parts)
    assert slow.number == 3
    assert slow.differences == [("loader", pytest.approx(0.189))]


@corpus
def test_two_thirds_of_the_kernel_time_could_use_tensor_cores_and_none_does() -> None:
    # The source project's own figures: 68 % and 0 %.
    uses = tensor_core_use(whole(read_trace(Path(CORPUS) / NW0)).kernels)

    assert sum(use.share for use in uses) == pytest.approx(0.68, abs=0.01)
    assert sum(use.tensor_ms for use in uses) == 0


@corpus
def test_the_device_time_of_all_ops_is_that_of_all_linked_work() -> None:
    trace = read_trace(Path(CORPUS) / BERT)
    events = trace.events
    kernels = events.category == Category.KERNEL
    copies = events.category == Category.MEMCPY

    rows = op_times(trace)

    assert sum(row.self_device_ms for row in rows) == pytest.approx(
        float(events.duration_ns[kernels | copies].sum()) * 1e-6, rel=1e-9
    )
    top = [row for row in module_times(trace) if "/" not in row.path and row.path]
    assert sum(row.total_device_ms for row in top) == pytest.approx(0.3094, abs=1e-4)


@corpus
def test_each_element_is_copied_from_the_line_that_calls_cpu() -> None:
    trace = read_trace(Path(CORPUS) / "gpupuzzlers/d2h_sync/addition_first_sum.json.gz")

    spot = sync_spots(trace, whole(trace))[0]

    assert spot.calls >= 4_095
    assert spot.frame == "first_sum.py(4): first_sum"


@corpus
def test_the_published_loop_copies_from_pageable_memory() -> None:
    trace = read_trace(Path(CORPUS) / NW0)

    row = copy_rows(trace, whole(trace).device)[0]

    # 12 copies of a batch and its labels: 32 images of 3 x 224 x 224 floats in each of 6 steps.
    assert (row.kind, row.pageable, row.calls) == ("host-to-device", True, 12)
    assert row.bytes == 6 * (32 * 3 * 224 * 224 * 4 + 32 * 8)


@corpus
def test_the_steps_of_real_traces_divide_without_a_rest() -> None:
    parts = step_parts(read_trace(Path(CORPUS) / NW4))

    assert parts is not None
    assert sum(parts.parts_ms.values()) == pytest.approx(parts.duration_ms)
    assert [step.number for step in step_outliers(parts)] == [5, 9]
