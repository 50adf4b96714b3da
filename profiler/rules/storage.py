"""Storage-bound: the loop waits for a checkpoint or a log being written."""

from __future__ import annotations

import math

import numpy as np

from ...collectors.records import SpanKind
from ..diagnosis import Evidence, Finding, Fix, Place
from ..run.load import Int64
from ..text import duration, percent
from .base import MIN_SHARE, Evidenced, aftermath_evidence

FINDINGS = ("checkpoint-in-loop",)

TARGET_SHARE = 0.02
"""A checkpoint interval is advised that makes saving cost 2 % of the time."""


def find(case: Evidenced) -> list[Finding]:
    """One finding for checkpoints written while the loop stands still."""
    rank = case.worst_rank("storage")
    # What logging libraries take is `host_stacks`' to tell.
    share = case.scores["storage"] - rank.logged
    if share < MIN_SHARE:
        return []
    saves = rank.data.spans.of(SpanKind.SAVE)
    line = rank.timeline
    steady = saves.end_ns > line.start_ns[line.steady][0]
    seconds = saves.duration_ns[steady] * 1e-9
    if not len(seconds):
        return []
    saves_per_step = _saved_steps(saves.start_ns[steady], line.start_ns) / max(
        1, int(line.steady.sum())
    )
    every = max(1, round(1 / saves_per_step)) if saves_per_step else 0
    rarer = math.ceil(every * share / (1 - share) / TARGET_SHARE) if every else 0
    indices, counts = np.unique(saves.detail[steady], return_counts=True)
    sites = [rank.data.site("save", int(i)) for i in indices[np.argsort(-counts)]]
    where = [
        Place(rank=rank.rank, file=site.file, line=site.line, function=site.function)
        for site in sites
        if site is not None
    ]
    behind = case.aftermath("storage")
    evidence = [
        Evidence(
            f"{len(seconds)} writes of a median {duration(float(np.median(seconds)))} took "
            f"{percent(share - behind)} of the steady time",
            "storage.save_s",
            round(float(np.median(seconds)), 6),
            "s",
            "steps",
        ),
        Evidence(
            f"one step in {every} waits for one",
            "storage.every_steps",
            every,
            "steps",
            "steps",
        ),
        *aftermath_evidence(behind, "storage", "a write"),
    ]
    fixes = [
        Fix(
            f"Save every {rarer:,} steps instead of every {every}",
            f"At today's cost of a checkpoint that takes about {percent(TARGET_SHARE)} of the "
            "time.",
        ),
        Fix(
            "Write in the background",
            "Copy the state in memory, then let a thread write it while the next steps run.",
            "state = {k: v.clone() for k, v in model.state_dict().items()}\n"
            "threading.Thread(target=torch.save, args=(state, path)).start()",
        ),
        Fix("Write to a faster place", "A local disk first; copy to shared storage afterwards."),
    ]
    return [
        case.finding(
            id="checkpoint-in-loop",
            bound="storage",
            share=share,
            cold=rank,
            title="The loop stands still while checkpoints are written",
            evidence=evidence,
            where=where,
            fixes=fixes,
        )
    ]


def _saved_steps(saves: Int64, starts: Int64) -> int:
    """In how many steps something was saved; writes and their fsync in one step count once."""
    return len(np.unique(np.searchsorted(starts, saves, side="right")))
