"""Ranks with a device whose windows are written by hand: what it idled for, and what it copied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from boundscope.collectors.records import Frame, Manifest, Stacks
from boundscope.profiler.device_facts import DeviceFacts
from boundscope.profiler.diagnose import diagnose_features
from boundscope.profiler.diagnosis import SLOTS, Diagnosis
from boundscope.profiler.features import Features, RankFeatures
from boundscope.profiler.run.load import MetricTable, RankData, Run, SpanTable, StackTable
from boundscope.profiler.timeline import PHASES, Timeline
from boundscope.profiler.trace.device import DeviceTime
from boundscope.profiler.trace.device_division import (
    COPY_SLOTS,
    IDLE_SLOTS,
    DeviceWindow,
    SyncCall,
)
from boundscope.profiler.trace.host import OpTime
from boundscope.profiler.trace.intervals import EMPTY

MS = 1_000_000
STEP_MS = 100
STEPS = 60
PID = 1
NONE = np.empty(0, np.int64)


def op_of(slot: str, time_ms: float = 50.0, **more: Any) -> OpTime:
    """A kernel's op at its roof: a product for `compute`, an element-wise op for `memory`."""
    product = slot == "compute"
    return OpTime(
        **{
            "name": "aten::mm" if product else "aten::relu",
            "family": "gemm" if product else "elementwise",
            "slot": slot,
            "calls": 10,
            "self_ns": time_ms * MS,
            "work_ns": time_ms * MS,
            "flop": 1e12,
            "bytes": 1e9,
            "attainable_ns": time_ms * MS,
            "floor_ns": 0.0,
            "dims": "[512, 512], [512, 512]",
            "kernel": "s16816gemm" if product else "relu_kernel",
            **more,
        }
    )


def device_rank(
    idle: Mapping[str, float],
    copies: Mapping[str, float] | None = None,
    ops: list[OpTime] | None = None,
    *,
    synchronisations: int = 0,
    kernels: int = 1_000,
    exposed: Mapping[str, float] | None = None,
    **more: Any,
) -> RankFeatures:
    """A rank of steps of 100 ms, one window of ten of them: shares of it idle by cause, copying
    by direction, exchanging (`exposed`: by slot); the rest is arithmetic where no op says else."""
    copies, exposed = copies or {}, exposed or {}
    shares = dict.fromkeys(SLOTS, 0.0) | dict(exposed)
    for cause, share in idle.items():
        shares[IDLE_SLOTS[cause]] += share
    for kind, share in copies.items():
        shares[COPY_SLOTS[kind]] += share
    ops = [op_of("compute")] if ops is None else ops
    left, work = 1.0 - sum(shares.values()), sum(op.work_ns for op in ops)
    for op in ops:
        shares[op.slot] += left * op.work_ns / work
    shares["compute"] += left * (not ops)
    wall = 10 * STEP_MS * MS
    calls = [SyncCall("cudaStreamSynchronize", synchronisations, 0)] if synchronisations else []
    window = DeviceWindow(
        0,
        wall,
        {},
        {cause: share * wall for cause, share in idle.items()},
        DeviceTime((0, wall), kernels, EMPTY, EMPTY, EMPTY),
        [],
        calls,
        {kind: share * wall for kind, share in copies.items()},
    )
    start = np.arange(STEPS, dtype=np.int64) * STEP_MS * MS
    line = Timeline(
        rank=0,
        source="optimizer",
        start_ns=start,
        end_ns=start + STEP_MS * MS,
        phase_ns={phase: np.zeros(STEPS) for phase in PHASES}
        | {"forward": np.full(STEPS, float(STEP_MS * MS))},
        phase_intervals=dict.fromkeys(PHASES, (NONE, NONE)),
        steady=np.ones(STEPS, np.bool_),
        profiled=np.zeros(STEPS, np.bool_),
        first_ns=0,
    )
    spans = SpanTable(np.empty(0, np.uint8), NONE, NONE, NONE)
    made = RankFeatures(
        data=RankData(0, PID, "h", Path("r"), spans, [], [], None, [], []),
        timeline=line,
        shares=shares,
        block_shares=np.array([[shares[name] for name in SLOTS]] * 10),
        phase_ms={phase: float(v.mean()) * 1e-6 for phase, v in line.phase_ns.items()},
        ops=ops,
        window_ms=10.0 * STEP_MS,
        event_overhead_ns=0.0,
        collectives=[],
        device=[window],
        facts=DeviceFacts(),
    )
    return replace(made, **more)


def stacks_of(*lines: tuple[str, int, int]) -> StackTable:
    """The training thread's stacks over the run: file, line, and samples a second."""
    numbered = list(enumerate(lines))
    frames = {number: Frame(number, "main", file, line) for number, (file, line, _) in numbered}
    counts = [(number, count) for number, (_, _, count) in numbered]
    samples = [
        Stacks(
            second * 1000 * MS,
            (second + 1) * 1000 * MS,
            50 * MS,
            PID,
            PID,
            counts,
            thread_name="MainThread",
            rank=0,
        )
        for second in range(STEPS * STEP_MS // 1000)
    ]
    return StackTable(frames, {number: [number] for number in frames}, samples)


def diagnosed(
    *ranks: RankFeatures,
    stacks: StackTable | None = None,
    metrics: list[MetricTable] | None = None,
) -> Diagnosis:
    """The diagnosis of a run of these ranks."""
    manifest = Manifest(1, "i", "n", [], "", 0, "finished", 0, 0, "h", "")
    run = Run(Path("r"), manifest, "finished")
    known = {"ranks": [rank.data for rank in ranks], "processes": [], "gaps": []}
    found = {PID: stacks} if stacks is not None else {}
    run.__dict__.update(known, metrics=metrics or [], stacks=found, _node_files=[])
    shares = {slot: float(np.mean([rank.shares[slot] for rank in ranks])) for slot in SLOTS}
    return diagnose_features(Features(run, list(ranks), shares, {}))
