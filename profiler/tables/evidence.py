"""What can be drawn beside a finding: a share that its evidence states, and the steps it fills."""

from __future__ import annotations

from ..diagnosis import Diagnosis, Evidence, Finding

PHASES = {"input": "loader", "storage": "storage", "evaluation": "evaluation"}
"""The phase that is all of a slot's time in every step; other slots have no such phase."""


def share_of(item: Evidence, diagnosis: Diagnosis) -> float | None:
    """Return what a piece of evidence is a share of, 0 to 1: itself, or of the median step.

    None where it is neither a share nor a time within a step.
    """
    if item.unit == "share":
        return item.value if 0 <= item.value <= 1 else None
    step = diagnosis.run.step_ms
    if item.unit == "ms" and step is not None and 0 <= item.value <= step.median:
        return item.value / step.median
    return None


def rank_of(finding: Finding) -> int | None:
    """Return the rank that a finding names first."""
    return next((place.rank for place in finding.where if place.rank is not None), None)


def rank_shares(diagnosis: Diagnosis, slot: str) -> list[tuple[int, float]]:
    """Return (rank, share of its step time in the slot); empty for a job of one rank."""
    if len(diagnosis.ranks) < 2:
        return []
    return [(rank.rank, rank.breakdown.get(slot, 0.0)) for rank in diagnosis.ranks]
