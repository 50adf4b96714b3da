"""Imbalance: ranks wait for a slower one, be the cause of its lateness known or not."""

from __future__ import annotations

import numpy as np

from ..diagnosis import Evidence, Finding, Fix, Place
from ..hot_lines import StackPhase, hot_lines
from ..text import milliseconds, percent
from .base import FOLLOW_MIN, FOLLOWED_SLOTS, MIN_SHARE, Evidenced, place

FINDINGS = ("late-rank",)

PHASES_OF: dict[str, StackPhase] = {"input": "input", "host": "rest", "storage": "storage"}
"""The part of the stack samples in which a slot's lines show."""


def find(case: Evidenced) -> list[Finding]:
    """One finding for the waits for late ranks, whether their cause is known or not.

    Where it is, the verdict names that cause; what even work alone would save is still worth
    knowing.
    """
    if case.features.shares["imbalance"] < MIN_SHARE:
        return []
    waiting = case.worst_rank("imbalance")
    late = _late_rank(case)
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
    if late is not None:
        where = _places(case, late)
        evidence += [*_how_often_last(case, late), *_what_it_does_more(case, late)]
    known = bool(case.blame.charged)
    return [
        case.finding(
            id="late-rank",
            bound="imbalance",
            title=f"The other ranks wait for rank {late}" if known else "Ranks wait for each other",
            evidence=evidence,
            where=where,
            fixes=_fixes(case, known=known),
        )
    ]


def _late_rank(case: Evidenced) -> int | None:
    """The rank that made the others wait: by its excess, else the one that is last most often, else
    the one that waits far less than the others."""
    blamed, late = case.blame.rank, case.features.late
    if case.blame.charged:
        return blamed
    if any(late.values()):
        return max(late, key=lambda rank: late[rank])
    waits = {rank.rank: rank.shares["imbalance"] for rank in case.features.ranks}
    others = [wait for number, wait in waits.items() if number != blamed]
    if blamed is None or not others or waits[blamed] > FOLLOW_MIN * float(np.mean(others)):
        return None
    return blamed


def _places(case: Evidenced, late: int) -> list[Place]:
    """The late rank, with the lines or the op of what it does more than the others."""
    excess = _excess(case, late)
    ranks = {rank.rank: rank for rank in case.features.ranks}
    slot = max(excess, key=lambda name: excess[name]) if excess else ""
    if late not in ranks or not slot or excess[slot] < MIN_SHARE:
        return [Place(rank=late)]
    found: list[Place] = []
    if slot in ("compute", "memory"):
        ops = [op for op in ranks[late].ops if op.slot == slot]
        found = [Place(rank=late, op=ops[0].name, kernel=ops[0].kernel or None)] if ops else []
    elif slot in PHASES_OF:
        lines = hot_lines(case.features.run, ranks[late].data.pid, PHASES_OF[slot])
        found = [place(line, late) for line in lines]
    return found or [Place(rank=late)]


def _how_often_last(case: Evidenced, late: int) -> list[Evidence]:
    total = sum(case.features.late.values())
    fraction = case.features.late.get(late, 0) / total if total else 0.0
    if not fraction:
        return []
    text = f"rank {late} is last at {percent(fraction)} of {total:,} collectives"
    return [Evidence(text, "imbalance.last_share", round(fraction, 4), "share", "trace")]


def _fixes(case: Evidenced, *, known: bool) -> list[Fix]:
    even = Fix(
        "Give every rank the same work",
        "Batches of like length (bucketing), even shards, the same hardware for all ranks.",
    )
    alone = Fix(
        "Keep other work off the machine",
        "Ranks that are late in turn are often disturbed from outside: compare the host's CPU "
        "with the job's, and pin ranks to cores.",
    )
    if not known:
        return [even, alone]
    slot = max(case.blame.charged, key=lambda name: case.blame.charged[name])
    if slot in ("compute", "memory"):
        return [even]
    return [Fix(f"Take away what makes that rank late: see its findings of {slot}"), even]


def _excess(case: Evidenced, late: int) -> dict[str, float]:
    """By how much of a step the late rank's slots exceed the mean of the others'."""
    ranks = {rank.rank: rank for rank in case.features.ranks}
    others = [rank for number, rank in ranks.items() if number != late]
    if late not in ranks or not others:
        return {}
    return {
        slot: ranks[late].shares[slot] - float(np.mean([rank.shares[slot] for rank in others]))
        for slot in FOLLOWED_SLOTS
    }


def _what_it_does_more(case: Evidenced, late: int) -> list[Evidence]:
    """In which slot the rank that is last spends more than the others."""
    excess = _excess(case, late)
    slot = max(excess, key=lambda name: excess[name], default="")
    if not slot or excess[slot] < MIN_SHARE / 2:
        return []
    text = f"rank {late} spends {percent(excess[slot])} of a step more on {slot} than the others"
    return [Evidence(text, f"imbalance.excess_{slot}", round(excess[slot], 4), "share", "steps")]
