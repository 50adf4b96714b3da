"""Evaluation-bound: validation inside the training run takes the time."""

from __future__ import annotations

from ...collectors.records import SpanKind
from ..diagnosis import Evidence, Finding, Fix, Place
from ..features import RankFeatures
from ..text import duration, percent
from .base import MIN_SHARE, Evidenced, aftermath_evidence

FINDINGS = ("frequent-evaluation",)


def find(case: Evidenced) -> list[Finding]:
    """One finding when validation takes more than a twentieth of the steady time."""
    share = case.scores["evaluation"]
    if share < MIN_SHARE:
        return []
    rank = case.worst_rank("evaluation")
    starts, ends = rank.timeline.phase_intervals["evaluation"]
    seconds = float((ends - starts).sum()) * 1e-9
    steps = len(rank.timeline)
    site = rank.data.site("eval", 0)
    where = [] if site is None else [Place(rank=rank.rank, file=site.file, line=site.line)]
    if not where and len(rank.data.spans.of(SpanKind.EVAL_LOADER)):
        index = int(rank.data.spans.of(SpanKind.EVAL_LOADER).detail[0])
        loop = rank.data.site("loader", index)
        where = [] if loop is None else [Place(rank=rank.rank, file=loop.file, line=loop.line)]
    behind = case.aftermath("evaluation")
    evidence = [
        Evidence(
            f"validation ran for {duration(seconds)} in {steps:,} steps: "
            f"{percent(share - behind)} of the steady time",
            "evaluation.seconds",
            round(seconds, 4),
            "s",
            "steps",
        )
    ]
    times = _times(rank)
    if times:
        every = max(1, round(int(rank.timeline.steady.sum()) / times))
        text = f"it runs about every {every:,} steps"
        evidence.append(Evidence(text, "evaluation.every_steps", every, "steps", "steps"))
    evidence += aftermath_evidence(behind, "evaluation", "it")
    # At a share s now, half as often leaves s / 2 of the old time: the gain of one setting.
    fixes = [
        Fix(
            "Validate half as often, or on half of the validation set",
            "The share falls with the number of validation batches.",
            saving=round(share / 2, 4),
        ),
        Fix("Use larger batches: without gradients several times as many samples fit"),
    ]
    return [
        case.finding(
            id="frequent-evaluation",
            bound="evaluation",
            title="Validation takes a large part of the run",
            evidence=evidence,
            where=where,
            fixes=fixes,
        )
    ]


def _times(rank: RankFeatures) -> int:
    """In how many steady steps validation ran; a pass lies within one step."""
    line = rank.timeline
    return int((line.phase_ns["evaluation"][line.steady] > 0).sum())
