"""Compute-bound: arithmetic limits the step."""

from __future__ import annotations

from ..diagnosis import Evidence, Finding, Fix, Place
from ..features import RankFeatures
from ..hot_lines import hot_lines
from ..text import percent, scaled
from .base import MIN_SHARE, Evidenced, place, removable

NEAR_ROOF = 0.6
"""From here on an op counts as running at its roof: large GEMMs reach 60 to 90 % of a measured peak
in practice, depending on their shape."""

KNOWN_SHARE = 0.5
"""The share of a roof is told where the cost of at least half of the arithmetic is known."""


def find(case: Evidenced) -> list[Finding]:
    """One finding for the op in which arithmetic takes longest."""
    share = case.scores["compute"]
    if share < MIN_SHARE:
        return []
    rank = case.worst_rank("compute")
    ops = [op for op in rank.ops if op.slot == "compute" and op.work_ns > 0]
    if not ops:
        return []
    work = sum(op.work_ns for op in ops)
    top = ops[0]
    flop = sum(op.flop for op in ops)
    known_work = sum(op.work_ns for op in ops if op.flop > 0)
    rate = flop / (known_work * 1e-9) if known_work else 0.0
    known = sum(op.work_ns for op in ops if op.attainable_ns > 0)
    achieved = sum(op.attainable_ns for op in ops) / known if known >= KNOWN_SHARE * work else 0.0
    evidence = [
        Evidence(
            f"{top.label} takes {percent(top.work_ns / work)} of the arithmetic",
            "compute.top_op_share",
            round(top.work_ns / work, 4),
            "share",
            "trace",
        ),
    ]
    if rate:
        text = f"the arithmetic ops reach {scaled(rate, 'FLOP/s')}"
        evidence.append(Evidence(text, "compute.flop_rate", round(rate, 1), "FLOP/s", "trace"))
    if achieved > 0:
        text = f"that is {percent(min(achieved, 1.0))} of what this machine's roofs allow"
        evidence.append(Evidence(text, "compute.roof_share", round(achieved, 4), "share", "trace"))
    where = [Place(rank=rank.rank, op=top.name, kernel=top.kernel or None)]
    where += [
        place(line, rank.rank) for line in hot_lines(case.features.run, rank.data.pid, "rest")
    ]
    return [
        case.finding(
            id="at-the-roof" if achieved >= NEAR_ROOF else "arithmetic",
            bound="compute",
            share=removable(ops, share),
            title="The arithmetic itself takes the time"
            + (", at the machine's roof" if achieved >= NEAR_ROOF else ""),
            evidence=evidence,
            where=where,
            fixes=_fixes(rank, achieved),
        )
    ]


def _fixes(rank: RankFeatures, achieved: float) -> list[Fix]:
    fixes = []
    roofs = rank.roofs
    source = "measured" if roofs and roofs.source == "measured" else "data sheet"
    device = "cuda" if rank.device else "cpu"
    bf16 = roofs.flops.get("bf16", 0.0) if roofs else 0.0
    fp32 = roofs.flops.get("fp32", 0.0) if roofs else 0.0
    in_fp32 = any(op.slot == "compute" and not op.kernel.count("bf16") for op in rank.ops[:3])
    if fp32 and bf16 > 1.5 * fp32 and in_fp32:
        fixes.append(
            Fix(
                "Compute in bfloat16",
                f"Matrix products can run {bf16 / fp32:.1f} times as fast in bfloat16 as in "
                f"float32 here ({source}).",
                f'with torch.autocast("{device}", dtype=torch.bfloat16):\n'
                "    loss = loss_of(model(x))",
            )
        )
    if achieved and achieved < NEAR_ROOF:
        fixes.append(
            Fix(
                "Give each op more to do",
                "The ops stay below the machine's roof: larger batches and sizes that are "
                "multiples of 16 use it better.",
            )
        )
    fixes.append(
        Fix(
            "Less work or faster hardware",
            "A smaller model, a shorter sequence, fewer recomputed activations; otherwise nothing "
            "but more arithmetic per second helps.",
        )
    )
    return fixes
