"""What is said and advised of collectives: by operation and group, against the link."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boundscope.collectors.records import Manifest
from boundscope.profiler.diagnose import diagnose_features, diagnose_path
from boundscope.profiler.diagnosis import Evidence, Finding
from boundscope.profiler.features import Features
from boundscope.profiler.machine.roofs import Roofs
from boundscope.profiler.run.load import MetricTable, Run
from boundscope.profiler.trace.collectives import Collective

from .rule_material import MS, rank_of

CORPUS = os.environ.get("BOUNDSCOPE_CORPUS", "")
corpus = pytest.mark.skipif(not CORPUS, reason="BOUNDSCOPE_CORPUS is not set")

MB = 1_000_000
A100 = Roofs(flops={"fp32": 19.5e12}, bandwidth={"dram": 2e12}, device="NVIDIA A100-SXM4-80GB")
WHOLE = (np.array([0]), np.array([10_000 * MS]))


def calls(
    name: str, size: int, duration_ms: float, begin_ms: int = 0, **more: Any
) -> list[Collective]:
    """Fifty calls, one each 10 ms, among 8 ranks unless `more` says otherwise."""
    more = {"group_size": 8, **more}
    starts = [(begin_ms + 10 * i) * MS for i in range(50)]
    length = int(duration_ms * MS)
    return [
        Collective(name, 0, i, size, start, start + length, **more)
        for i, start in enumerate(starts)
    ]


def found(*exchanged: list[Collective], metrics: MetricTable | None = None) -> Finding:
    """The network's finding of a rank whose windows of 500 ms, five steps, hold these."""
    rank = rank_of(
        [],
        "network",
        collectives=[one for part in exchanged for one in part],
        unhidden=WHOLE,
        roofs=A100,
    )
    rank = replace(rank, window_ms=500.0)
    manifest = Manifest(1, "i", "n", [], "", 0, "finished", 0, 0, "h", "")
    run = Run(Path("r"), manifest, "finished")
    known = {"stacks": {}, "processes": [], "gaps": [], "_node_files": []}
    run.__dict__.update(ranks=[rank.data], metrics=[metrics] if metrics else [], **known)
    return diagnose_features(Features(run, [rank], rank.shares, {})).findings[0]


def said(finding: Finding, quantity: str) -> Evidence:
    return next(e for e in finding.evidence if e.quantity == quantity)


def link(name: str, rate_bits: float, speed_bits: float) -> MetricTable:
    times = np.arange(5, dtype=np.int64) * 10**9
    return MetricTable(
        "network",
        "h",
        {
            f"net.{name}.tx_bytes_per_s": (times, np.full(5, rate_bits / 8)),
            f"net.{name}.link_bits_per_s": (times, np.full(5, speed_bits)),
        },
    )


@pytest.mark.parametrize(
    ("operation", "factor"),
    [
        # 8 ranks, nccl-tests: 2 (n - 1) / n; (n - 1) / n of what comes out; 1
        ("nccl:all_reduce", 2 * 7 / 8),
        ("nccl:all_gather", 8 * 7 / 8),
        ("nccl:reduce_scatter", 7 / 8),
        ("nccl:broadcast", 1.0),
        ("nccl:send", 1.0),
    ],
)
def test_bus_bandwidth_is_that_of_nccls_tests_by_operation(operation: str, factor: float) -> None:
    # 16 MB put in, 4 ms a call
    finding = found(calls(operation, 16 * MB, 4))

    assert said(finding, "network.busbw").value == pytest.approx(16 * MB / 4e-3 * factor)


def test_one_rank_alone_says_that_waits_are_included_and_what_the_fastest_call_reached() -> None:
    slow = calls("nccl:all_reduce", 16 * MB, 4)
    fast = [Collective("nccl:all_reduce", 0, 50, 16 * MB, 500 * MS, 502 * MS, 8)]

    busbw = said(found(slow + fast), "network.busbw")

    assert busbw.value == pytest.approx(16 * MB / 4e-3 * 2 * 7 / 8)
    assert "waits for late ranks included" in busbw.text
    assert "14 GB/s in the fastest call" in busbw.text


def test_the_link_between_the_devices_is_what_bandwidth_is_held_against() -> None:
    # 16 MB in 0.1 ms: 280 GB/s of NVLink's 300.
    full = found(calls("nccl:all_reduce", 16 * MB, 0.1))
    idle = found(calls("nccl:all_reduce", 16 * MB, 4))

    assert said(full, "network.busbw_share").value == pytest.approx(280 / 300, rel=1e-3)
    assert "bandwidth sets its time" in said(full, "network.busbw").text
    assert said(idle, "network.busbw_share").value == pytest.approx(7 / 300, abs=1e-4)
    assert "neither a full link nor latency" in said(idle, "network.busbw").text


@pytest.mark.parametrize(
    ("rate", "size", "words"),
    [
        (0.9, 16 * MB, ": bandwidth sets its time"),
        (0.05, 16 * MB, "neither a full link nor latency"),
        (0.05, 4_000, "latency, not bandwidth"),
        (0.9, 4_000, ": bandwidth sets its time"),
    ],
)
def test_bandwidth_is_blamed_only_where_the_link_is_seen_to_be_full(
    rate: float, size: int, words: str
) -> None:
    metrics = link("lo", rate * 1e10, 1e10)

    finding = found(calls("gloo:all_reduce", size, 4), metrics=metrics)

    assert words in said(finding, "network.busbw").text


@pytest.mark.parametrize(
    ("operation", "size", "first"),
    [
        ("nccl:all_gather", 16 * MB, "backward_prefetch"),
        ("nccl:all_gather", 400, "auto_wrap_policy"),
        ("nccl:reduce_scatter", 16 * MB, "backward_prefetch"),
        ("nccl:broadcast", 16 * MB, "broadcast_buffers=False"),
        ("nccl:something_new", 16 * MB, "async_op=True"),
        ("nccl:all_reduce", 16 * MB, "bucket_cap_mb=5"),
        ("nccl:all_reduce", 4_000, "bucket_cap_mb=100"),
    ],
)
def test_each_operation_gets_the_advice_of_the_part_of_training_that_makes_it(
    operation: str, size: int, first: str
) -> None:
    finding = found(calls(operation, size, 4))

    assert first in finding.fixes[0].snippet
    snippets = " ".join(fix.snippet for fix in finding.fixes)
    of_ddp = "register_comm_hook" in snippets or "bucket_cap_mb" in snippets
    assert of_ddp == (operation == "nccl:all_reduce")


@pytest.mark.parametrize("operation", ["nccl:all_to_all", "nccl:send_recv", "nccl:recv"])
def test_experts_and_stages_are_not_told_to_change_their_gradients(operation: str) -> None:
    finding = found(calls(operation, 16 * MB, 4))

    assert finding.fixes
    assert not any("gradient" in fix.title + fix.detail for fix in finding.fixes)


@pytest.mark.parametrize(("dtype", "advised"), [("float", True), ("", True), ("bfloat16", False)])
def test_halving_the_bytes_is_not_advised_to_those_who_send_16_bits(
    dtype: str, advised: bool
) -> None:
    finding = found(calls("nccl:all_reduce", 16 * MB, 4, dtype=dtype))

    assert any("16 bits" in fix.title for fix in finding.fixes) == advised


def test_one_operation_of_two_groups_is_two_exchanges() -> None:
    # Data-parallel gradients of 4 ms, tensor-parallel activations of 2 ms a call beside them.
    gradients = calls("nccl:all_reduce", 16 * MB, 4, group="dp", group_ranks=tuple(range(8)))
    pair: dict[str, Any] = {"group": "tp", "group_ranks": (0, 1), "group_size": 2}
    layers = calls("nccl:all_reduce", MB, 2, begin_ms=5, **pair)

    finding = found(gradients, layers)

    assert finding.where[0].collective == "nccl:all_reduce"
    assert "among 8 ranks of group dp" in said(finding, "network.busbw").text
    beside = said(finding, "network.other_exposed_ms")
    assert "among 2 ranks of group tp" in beside.text
    # 50 calls of 2 ms in windows of 500 ms, which are five steps of 100 ms
    assert beside.value == pytest.approx(50 * 2 / 5)


def test_calls_without_a_recorded_size_claim_no_bandwidth() -> None:
    finding = found(calls("nccl:all_reduce", 0, 4))

    assert not [e for e in finding.evidence if e.quantity == "network.busbw"]
    assert said(finding, "network.calls").value == 50


@corpus
def test_the_published_case_reaches_what_another_program_reckons() -> None:
    # tracelens' coll_analysis.csv: 17.6 MB in 8.66 ms at best; the link carries 448 GB/s.
    diagnosis = diagnose_path(Path(CORPUS) / "tracelens/mi300/resnet_act_checkpoint.json.gz")

    (finding,) = [f for f in diagnosis.findings if f.bound == "network"]
    busbw = said(finding, "network.busbw")

    assert finding.id == "exposed-all-reduce"
    assert busbw.value <= 17_632_384 / 8656.708e-6 * 2 * 7 / 8
    assert busbw.value == pytest.approx(17_632_384 / 8.93e-3 * 2 * 7 / 8, rel=0.05)
    assert "17.6 MB a call" in busbw.text
    assert "waits for late ranks included" in busbw.text
    assert said(finding, "network.busbw_share").value < 0.01
    # Its gradients have 16 bits already.
    assert any("no_sync" in fix.snippet for fix in finding.fixes)
    assert not any("register_comm_hook" in fix.snippet for fix in finding.fixes)
