"""Steps that are not alike: a slow-down over the run, and single steps far above the others."""

from __future__ import annotations

from ..diagnosis import Evidence, Finding, Fix, Place, Saving, Slot
from ..features import RankFeatures
from ..shares import MEASURED
from ..stability import find_drift, find_outliers
from ..text import milliseconds, percent
from .base import MIN_SHARE, Evidenced

FINDINGS = ("drift", "step-outliers")

DISTURBED = frozenset({"overloaded-host", "stolen-cpu"})

SPREAD = 0.3
"""Relative width of the interval of what a trend or single steps cost: with other noise another
step would count."""


def find(case: Evidenced) -> list[Finding]:
    """A finding for drift and one for outliers, each on the rank where it costs most.

    Where others held much of the machine both would be theirs, and nothing is said.
    """
    if {warning.slug for warning in case.features.warnings} & DISTURBED:
        return []
    drifts, outliers = [], []
    for rank in case.features.ranks:
        drift, single = _drift(case, rank), _outliers(case, rank)
        drifts += [drift] if drift else []
        outliers += [single] if single else []
    return [max(found, key=lambda f: f.saving.mid) for found in (drifts, outliers) if found]


def slot_of(rank: RankFeatures, phase: str) -> Slot:
    """The slot that a phase's time belongs to; of the work phases the rank's largest work slot."""
    known = MEASURED.get(phase)
    if known is not None:
        return known  # type: ignore[return-value]  # the slots of SLOTS
    work: tuple[Slot, ...] = ("compute", "memory", "host", "network", "imbalance")
    return max(work, key=lambda slot: rank.shares[slot])


def _saving(share: float) -> Saving:
    low, high = share * (1 - SPREAD), min(0.99, share * (1 + SPREAD))
    return Saving(round(low, 4), round(share, 4), round(high, 4))


def _drift(case: Evidenced, rank: RankFeatures) -> Finding | None:
    found = find_drift(rank.timeline)
    if found is None or found.share < MIN_SHARE:
        return None
    slot = slot_of(rank, found.phase)
    since = "from the start" if found.gradual else f"since step {found.since:,}"
    return case.held_back(
        id="drift",
        bound=slot,
        title=f"Steps get slower {since}, in {found.phase} ({slot})",
        saving=_saving(found.share),
        evidence=[
            Evidence(
                f"a step took {milliseconds(found.before_ms)} before and takes "
                f"{milliseconds(found.after_ms)} in the last third",
                "drift.after_ms",
                round(found.after_ms, 4),
                "ms",
                "steps",
            ),
            Evidence(
                "steps get slower little by little"
                if found.gradual
                else f"the change comes at step {found.since:,}",
                "drift.since_step",
                found.since,
                "step",
                "steps",
            ),
        ],
        where=[Place(rank=rank.rank)],
        fixes=[
            Fix(
                "Look for what grows with the steps",
                "A list or cache that is walked in every step, a graph that is kept alive, a file "
                "that is written anew; a change at one step: a clock held down by heat, another "
                "job on the machine.",
            )
        ],
    )


def _outliers(case: Evidenced, rank: RankFeatures) -> Finding | None:
    found = find_outliers(rank.timeline)
    if found is None or found.share < MIN_SHARE:
        return None
    slot = slot_of(rank, found.phase)
    often = f"one in every {found.period}" if found.period else f"{len(found.steps)} of them"
    return case.held_back(
        id="step-outliers",
        bound=slot,
        title=f"Single steps take far longer than the others, in {found.phase} ({slot})",
        saving=_saving(found.share),
        evidence=[
            Evidence(
                f"{often}, up to {milliseconds(found.worst_ms)} where the median is "
                f"{milliseconds(found.median_ms)}",
                "outliers.worst_ms",
                round(found.worst_ms, 4),
                "ms",
                "steps",
            ),
            Evidence(
                f"what they take beyond the median is {percent(found.share)} of the steady time",
                "outliers.share",
                round(found.share, 4),
                "share",
                "steps",
            ),
        ],
        where=[Place(rank=rank.rank)],
        fixes=[
            Fix(
                "Look at one of these steps in a trace",
                f"The first is step {found.steps[0]:,}.",
            )
        ],
    )
