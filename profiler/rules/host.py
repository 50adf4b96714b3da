"""Host-bound: Python and dispatch, not the arithmetic, set the pace."""

from __future__ import annotations

import numpy as np

from ..diagnosis import Evidence, Finding, Fix, Place
from ..features import RankFeatures
from ..hot_lines import hot_lines
from ..sampled import compiles, sampled_share, sure
from ..text import duration, milliseconds, percent
from .base import MIN_SHARE, Evidenced, place

FINDINGS = (
    "tiny-ops",
    "python-in-loop",
    "synchronising-calls",
    "launch-bound",
    "garbage-collection",
)

MANY_OPS = 200
"""Ops per step from which dispatch is worth naming: 200 of 1 to 5 us are a millisecond."""

SYNCHRONISING = "Synchronize"
SYNC_EVERY = 4
"""A synchronisation for every four pieces of device work or fewer leaves no queue to run ahead."""


def find(case: Evidenced) -> list[Finding]:
    """Garbage collection where it is long, and dispatch or Python for the rest.

    The time without a core is told by `host_cores`, compiling by `host_stacks`.
    """
    share = case.scores["host"]
    if share < MIN_SHARE:
        return []
    rank = case.worst_rank("host")
    if rank.device:
        return _beside_device(case, rank)
    step = float(np.mean(rank.step_ms))
    garbage = rank.phase_ms["garbage"] / step if step else 0.0
    findings = []
    if garbage >= MIN_SHARE:
        findings.append(_garbage(case, rank, garbage))
    rest = share - rank.held - (garbage if garbage >= MIN_SHARE else 0.0)
    compiling = sampled_share(case.features.run, rank, compiles)
    if compiling is not None and sure(compiling):
        rest -= compiling.share
    if rest >= MIN_SHARE:
        findings.append(_dispatch(case, rank, rest))
    return findings


def _beside_device(case: Evidenced, rank: RankFeatures) -> list[Finding]:
    """The device idles while the host synchronises, or launches too slowly."""
    whole = sum(window.wall_ns for window in rank.device)
    idle: dict[str, float] = {}
    for window in rank.device:
        for cause, value in window.idle_ns.items():
            idle[cause] = idle.get(cause, 0.0) + value / whole
    copies = sum(window.copies_ns.get("device-to-host", 0.0) for window in rank.device) / whole
    calls = [call for window in rank.device for call in window.synchronisations]
    number = sum(call.calls for call in calls if SYNCHRONISING in call.name)
    kernels = sum(window.device.events for window in rank.device)
    waiting = idle.get("synchronisation", 0.0) + idle.get("copy", 0.0) + copies
    launching = sum(idle.get(cause, 0.0) for cause in ("launch", "dispatch", "python"))
    if number * SYNC_EVERY >= kernels and number:
        # A stream that is drained for every few kernels leaves the next launch nothing to hide in.
        return [_synchronising(case, rank, waiting + launching, number, kernels)]
    findings = []
    if waiting >= MIN_SHARE:
        findings.append(_synchronising(case, rank, waiting, number, kernels))
    if launching >= MIN_SHARE:
        findings.append(_launching(case, rank, launching, kernels))
    return findings


def _synchronising(
    case: Evidenced, rank: RankFeatures, share: float, number: int, kernels: int
) -> Finding:
    return case.finding(
        id="synchronising-calls",
        bound="host",
        title="The host waits for the device, then the device for the host",
        share=share,
        evidence=[
            Evidence(
                f"{number:,} synchronising calls for {kernels:,} pieces of device work",
                "host.synchronisations",
                number,
                "calls",
                "trace",
            )
        ],
        where=[Place(rank=rank.rank)],
        fixes=[
            Fix(
                "Read values from the device rarely",
                "Every .item(), .cpu(), print of a tensor or nonzero() drains the queue; keep sums "
                "on the device and read them every hundred steps.",
                "total += loss.detach()  # and total.item() once at the end",
            )
        ],
    )


def _launching(case: Evidenced, rank: RankFeatures, share: float, kernels: int) -> Finding:
    step = float(np.mean(rank.step_ms))
    return case.finding(
        id="launch-bound",
        bound="host",
        title="The device idles because work is launched too slowly",
        share=share,
        evidence=[
            Evidence(
                f"{milliseconds(share * step)} of every step the device has nothing to do while "
                f"the host runs Python and launches ({kernels:,} pieces of device work recorded)",
                "host.idle_ms",
                round(share * step, 4),
                "ms",
                "trace",
            )
        ],
        where=[Place(rank=rank.rank)],
        fixes=[
            Fix(
                "Launch whole graphs",
                "CUDA graphs replay hundreds of kernels with one launch.",
                'model = torch.compile(model, mode="reduce-overhead")',
            ),
            Fix("Do more per launch: larger batches, fused optimizer (fused=True)"),
        ],
    )


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
