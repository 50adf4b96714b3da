"""Imbalance: ranks wait for a slower one, and its lateness has no single cause that was seen."""

from __future__ import annotations

import numpy as np

from ..diagnosis import Evidence, Finding, Fix, Place
from ..text import milliseconds, percent
from .base import FOLLOWED_SLOTS, MIN_SHARE, Evidenced

FINDINGS = ("late-rank",)


def find(case: Evidenced) -> list[Finding]:
    """One finding when a wait for late ranks remains after their causes were followed."""
    share = case.scores["imbalance"]
    if share < MIN_SHARE:
        return []
    late = case.features.late
    often = max(late, key=lambda rank: late[rank]) if late else None
    total = sum(late.values())
    waiting = case.worst_rank("imbalance")
    step = float(np.mean(waiting.step_ms))
    evidence = [
        Evidence(
            f"rank {waiting.rank} waits {milliseconds(waiting.shares['imbalance'] * step)} of "
            "every step for others to arrive at a collective",
            "imbalance.wait_ms",
            round(waiting.shares["imbalance"] * step, 4),
            "ms",
            "trace",
        )
    ]
    where = []
    if often is not None and total:
        fraction = late[often] / total
        evidence.append(
            Evidence(
                f"rank {often} is last at {percent(fraction)} of {total:,} collectives",
                "imbalance.last_share",
                round(fraction, 4),
                "share",
                "trace",
            )
        )
        where = [Place(rank=often)]
        evidence += _what_it_does_more(case, often)
    fixes = [
        Fix(
            "Give every rank the same work",
            "Batches of like length (bucketing), even shards, the same hardware for all ranks.",
        ),
        Fix(
            "Keep other work off the machine",
            "Ranks that are late in turn are often disturbed from outside: compare the host's CPU "
            "with the job's, and pin ranks to cores.",
        ),
    ]
    return [
        case.finding(
            id="late-rank",
            bound="imbalance",
            title="Ranks wait for each other",
            evidence=evidence,
            where=where,
            fixes=fixes,
        )
    ]


def _what_it_does_more(case: Evidenced, late: int) -> list[Evidence]:
    """In which slot the rank that is last spends more than the others; it explains a part only."""
    ranks = {rank.rank: rank for rank in case.features.ranks}
    others = [rank for number, rank in ranks.items() if number != late]
    if late not in ranks or not others:
        return []
    excess = {
        slot: ranks[late].shares[slot] - float(np.mean([rank.shares[slot] for rank in others]))
        for slot in FOLLOWED_SLOTS
    }
    slot = max(excess, key=lambda name: excess[name])
    if excess[slot] < MIN_SHARE / 2:
        return []
    text = f"rank {late} spends {percent(excess[slot])} of a step more on {slot} than the others"
    return [Evidence(text, f"imbalance.excess_{slot}", round(excess[slot], 4), "share", "steps")]
