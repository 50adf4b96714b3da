"""Host-bound: Python and dispatch, not the arithmetic, set the pace."""

from __future__ import annotations

import numpy as np

from ..diagnosis import Evidence, Finding, Fix
from ..features import RankFeatures
from ..hot_lines import hot_lines
from ..text import duration, milliseconds, percent
from .base import MIN_SHARE, Evidenced, place

MANY_OPS = 200
"""Ops per step from which dispatch is worth naming: 200 of 1 to 5 us are a millisecond."""


def find(case: Evidenced) -> list[Finding]:
    """Garbage collection where it is long, and dispatch or Python for the rest."""
    share = case.scores["host"]
    if share < MIN_SHARE:
        return []
    rank = case.worst_rank("host")
    step = float(np.mean(rank.step_ms))
    garbage = rank.phase_ms["garbage"] / step if step else 0.0
    findings = []
    if garbage >= MIN_SHARE:
        findings.append(_garbage(case, rank, garbage))
    rest = share - (garbage if garbage >= MIN_SHARE else 0.0)
    if rest >= MIN_SHARE:
        findings.append(_dispatch(case, rank, rest))
    return findings


def _garbage(case: Evidenced, rank: RankFeatures, share: float) -> Finding:
    return case.finding(
        id="garbage-collection",
        bound="host",
        title="Python's garbage collector stops the loop",
        share=share,
        evidence=[
            Evidence(
                f"collections take {milliseconds(rank.phase_ms['garbage'])} of every step",
                "host.gc_ms",
                round(rank.phase_ms["garbage"], 4),
                "ms",
                "steps",
            )
        ],
        where=[],
        fixes=[
            Fix(
                "Freeze what lives for the whole run and collect less often",
                snippet="gc.collect(); gc.freeze(); gc.set_threshold(50_000, 50, 50)",
            )
        ],
    )


def _dispatch(case: Evidenced, rank: RankFeatures, share: float) -> Finding:
    small = [op for op in rank.ops if op.slot == "host"]
    calls = rank.per_step(sum(op.calls for op in small))
    each = sum(op.self_ns for op in small) / max(1, sum(op.calls for op in small)) * 1e-9
    step = float(np.mean(rank.step_ms))
    tiny = calls >= MANY_OPS
    evidence = [
        Evidence(
            f"{milliseconds(share * step)} of every step is dispatch and Python, "
            f"{percent(share)} of it all",
            "host.dispatch_ms",
            round(share * step, 4),
            "ms",
            "trace",
        )
    ]
    if calls:
        text = f"{calls:,.0f} ops a step are too small to be worth a call, {duration(each)} each"
        evidence.append(Evidence(text, "host.tiny_ops_per_step", round(calls, 1), "ops", "trace"))
    lines = hot_lines(case.features.run, rank.data.pid, "rest")
    fixes = [
        Fix(
            "Replace the Python loop by one op over the whole sequence or batch",
            "E.g. a built-in nn.LSTM or GRU, a batched matmul, or foreach ops: one call does the "
            "work of hundreds.",
        ),
        Fix(
            "Let torch.compile fuse the loop",
            "It needs a C++ compiler on the CPU; the first steps get slower.",
            "step = torch.compile(step)",
        ),
        Fix("Do more per call: a larger batch costs the same dispatch"),
    ]
    return case.finding(
        id="tiny-ops" if tiny else "python-in-loop",
        bound="host",
        title="Many tiny ops: calling them costs more than their arithmetic"
        if tiny
        else "Python between the ops takes the time",
        share=share,
        evidence=evidence,
        where=[place(line, rank.rank) for line in lines],
        fixes=fixes,
    )
