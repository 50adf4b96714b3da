"""Reasons of arithmetic and of memory traffic, on ops whose figures were worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boundscope.collectors.records import Manifest
from boundscope.profiler.device_facts import DeviceFacts
from boundscope.profiler.diagnose import diagnose_features
from boundscope.profiler.diagnosis import SLOTS, Diagnosis
from boundscope.profiler.features import Features, RankFeatures
from boundscope.profiler.machine.roofs import Roofs
from boundscope.profiler.rules.memory import kept_share
from boundscope.profiler.run.load import RankData, Run, SpanTable
from boundscope.profiler.timeline import PHASES, Timeline
from boundscope.profiler.trace.collectives import Collective
from boundscope.profiler.trace.device import DeviceTime
from boundscope.profiler.trace.device_division import DeviceWindow
from boundscope.profiler.trace.host import OpTime
from boundscope.profiler.trace.intervals import EMPTY

NONE = np.empty(0, np.int64)
MS = 1_000_000
PIXELS = 16 * 1024 * 1024
TENSOR = 4.0 * PIXELS
GPU = Roofs(
    flops={"fp32": 20e12, "tf32": 150e12, "bf16": 300e12},
    bandwidth={"dram": 2e12},
    source="catalogue",
)


def rank_of(ops: list[OpTime], slot: str, *, device: bool = False, **more: Any) -> RankFeatures:
    steps, step_ns = 60, 100 * MS
    start = np.arange(steps, dtype=np.int64) * step_ns
    shares = {name: float(name == slot) for name in SLOTS}
    phases = {phase: np.zeros(steps) for phase in PHASES}
    line = Timeline(
        rank=0,
        source="optimizer",
        start_ns=start,
        end_ns=start + step_ns,
        phase_ns={**phases, "forward": np.full(steps, float(step_ns))},
        phase_intervals=dict.fromkeys(PHASES, (NONE, NONE)),
        steady=np.ones(steps, np.bool_),
        profiled=np.zeros(steps, np.bool_),
        first_ns=0,
    )
    window = DeviceWindow(0, 1, {}, {}, DeviceTime((0, 1), 1, EMPTY, EMPTY, EMPTY), [], [])
    spans = SpanTable(np.empty(0, np.uint8), NONE, NONE, NONE)
    return RankFeatures(
        data=RankData(0, 1, "h", Path("r"), spans, [], [], None, [], []),
        timeline=line,
        shares=shares,
        block_shares=np.array([[shares[name] for name in SLOTS]] * 10),
        phase_ms={phase: float(v.mean()) * 1e-6 for phase, v in line.phase_ns.items()},
        ops=ops,
        window_ms=100.0,
        event_overhead_ns=0.0,
        device=[window] if device else [],
        **{"collectives": [], "roofs": GPU if device else None, **more},
    )


def diagnosed(rank: RankFeatures) -> Diagnosis:
    manifest = Manifest(1, "i", "n", [], "", 0, "finished", 0, 0, "h", "")
    run = Run(Path("r"), manifest, "finished")
    run.__dict__.update(ranks=[rank.data], metrics=[], stacks={}, processes=[], gaps=[])
    run.__dict__["_node_files"] = []
    return diagnose_features(Features(run, [rank], rank.shares, {}))


def product(dims: str, achieved: float, kernel: str = "") -> OpTime:
    """A matrix product of 90 ms at so much of its roof."""
    return OpTime(
        "aten::mm", "gemm", "compute", 10, 90 * MS, 90 * MS, 1e12, 1e9, 90 * MS * achieved, 0.0,
        dims, kernel,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("op", "device", "facts", "id_"),
    [
        (product("[512, 512], [512, 512]", 0.8), False, {}, "at-the-roof"),
        (product("[512, 512], [512, 512]", 0.3), False, {}, "arithmetic"),
        (product("[16, 512], [512, 512]", 0.3), False, {}, "small-batch"),
        (product("[512, 512], [512, 512]", 0.1, "ampere_sgemm_128x64_tn"), True, {},
         "tensor-cores-unused"),
        (product("[512, 512], [512, 512]", 0.3, "ampere_s16816gemm_bf16"), True, {}, "arithmetic"),
        (product("[512, 50257], [50257, 512]", 0.3, "s16816gemm"), True, {}, "odd-shapes"),
        (product("[512, 512], [512, 512]", 0.3, "s16816gemm"), True, {"occupancy": 0.1},
         "low-occupancy"),
        (product("[512, 50257], [50257, 512]", 0.9, "s16816gemm"), True, {"occupancy": 0.1},
         "at-the-roof"),
    ],
)  # fmt: skip
def test_arithmetic_is_named_by_why_it_is_below_its_roof(
    op: OpTime, device: bool, facts: dict[str, float], id_: str
) -> None:
    rank = rank_of([op], "compute", device=device, facts=DeviceFacts(**facts))

    found = [f for f in diagnosed(rank).findings if f.bound == "compute"]

    assert [finding.id for finding in found] == [id_]


def test_nothing_about_cuda_is_advised_on_a_cpu() -> None:
    rank = rank_of([product("[16, 512], [512, 512]", 0.3)], "compute")

    text = str(diagnosed(rank).findings)

    assert "cuda" not in text.lower()
    assert "tensor core" not in text.lower()


def test_at_the_roof_the_only_advice_is_less_work_or_faster_hardware() -> None:
    rank = rank_of([product("[512, 512], [512, 512]", 0.8)], "compute")

    fixes = diagnosed(rank).findings[0].fixes

    assert [fix.title for fix in fixes] == ["Less work or faster hardware"]


def test_a_run_in_balance_says_so_and_advises_nothing() -> None:
    ops = [product("[512, 512], [512, 512]", 0.5), elementwise("aten::add", 3, calls=10)]
    rank = rank_of(ops, "compute")
    shares = dict.fromkeys(SLOTS, 0.0) | {"compute": 0.49, "memory": 0.46, "host": 0.05}
    blocks = np.array([[shares[name] for name in SLOTS]] * 10)

    diagnosis = diagnosed(replace(rank, shares=shares, block_shares=blocks))

    assert diagnosis.verdict.bound == "balanced"
    assert "healthy" in diagnosis.verdict.headline
    assert {finding.bound for finding in diagnosis.findings} >= {"compute"}
    assert not any(finding.fixes for finding in diagnosis.findings)


def elementwise(name: str, passes: int, calls: int = 1, family: str = "elementwise") -> OpTime:
    """An op on 64 MB tensors whose every pass over one takes a millisecond."""
    time = float(passes * calls * MS)
    return OpTime(
        name, family, "memory", calls, time, time, 1.0, passes * calls * TENSOR, time, 0.0,
        f"[{PIXELS}]",
    )  # fmt: skip


def test_a_fused_chain_still_reads_what_comes_from_outside_and_writes_its_end() -> None:
    # y = ((a * b) + c) * d, relu: four ops of 3, 3, 3 and 2 passes. What one op writes and the next
    # reads goes: two passes an op; one read and one write at the ends of three chains stay.
    chain = [elementwise("aten::mul", 3), elementwise("aten::add", 3)]
    chain += [elementwise("aten::mul", 3), elementwise("aten::relu", 2)]

    assert kept_share(chain) == pytest.approx((1 + 1 + 1 + 0 + 6) / 11)


def test_a_longer_chain_keeps_less() -> None:
    chain = [elementwise("aten::mul", 3, calls=20), elementwise("aten::relu", 2, calls=20)]
    longer = [*chain, elementwise("aten::add", 3, calls=20), elementwise("aten::tanh", 2, calls=20)]

    assert kept_share(longer) < kept_share(chain) <= 1.0


def test_a_reduction_keeps_what_fusion_cannot_take() -> None:
    assert kept_share([]) == 0.0
    assert kept_share([elementwise("aten::add", 3, family="norm")]) == 0.0


@pytest.mark.parametrize(
    ("operation", "id_"),
    [
        ("gloo:all_reduce", "exposed-all-reduce"),
        ("nccl:reduce_scatter", "exposed-reduce-scatter"),
        ("nccl:all_to_all", "exposed-all-to-all"),
        ("nccl:something_new", "exposed-communication"),
    ],
)
def test_exposed_collectives_are_named_by_their_operation(operation: str, id_: str) -> None:
    exchange = [Collective(operation, 0, i, 4_000, i * MS, i * MS + MS, 8) for i in range(50)]
    rank = rank_of([], "network", collectives=exchange)

    found = diagnosed(rank).findings[0]

    assert found.id == id_
    busbw = next(e for e in found.evidence if e.quantity == "network.busbw")
    assert "among 8 ranks" in busbw.text
    assert "latency" in busbw.text  # 4 kB a call
    assert found.fixes[0].title.startswith("Send fewer, larger messages")
