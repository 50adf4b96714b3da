"""What a run is not bound by, and on what grounds."""

from __future__ import annotations

from dataclasses import dataclass

from ..diagnosis import SLOTS, Diagnosis
from ..text import percent

CLAIMED_FROM = 0.05
"""The share of step time below which the rules claim nothing (`rules.base.MIN_SHARE`)."""


@dataclass(frozen=True)
class RuledOut:
    """A slot that is not a cause, its share of step time, and why it is not."""

    slot: str
    share: float
    reason: str


def ruled_out(diagnosis: Diagnosis) -> list[RuledOut]:
    """Return the slots that no finding names, largest first; none when nothing was measured."""
    if diagnosis.verdict.bound == "unknown":
        return []
    named = {finding.bound for finding in diagnosis.findings}
    found = []
    for slot in SLOTS:
        share = diagnosis.breakdown.get(slot, 0.0)
        if slot not in named and slot != "other":
            found.append(RuledOut(slot, share, _reason(diagnosis, slot, share)))
    return sorted(found, key=lambda item: -item.share)


def _reason(diagnosis: Diagnosis, slot: str, share: float) -> str:
    if slot in ("network", "imbalance") and diagnosis.run.world_size == 1:
        return "one rank: it waits for no other"
    if share == 0:
        return "no time of it was seen"
    if share < CLAIMED_FROM:
        return f"{percent(share)} of step time, less than the {percent(CLAIMED_FROM)} that counts"
    if slot == "imbalance":
        return f"{percent(share)} of step time, charged to what makes the other rank late"
    return f"{percent(share)} of step time, but no cause that could be removed by itself"
