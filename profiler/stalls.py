"""What a device's trace windows do not show of the loader: stalls that come every so many steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..collectors.records import Window
from .alike import MIN_CALM, UNLIKE, inside_of
from .shares import STALLS, Float
from .timeline import Timeline

RARE_PHASES = frozenset({"profiler", "storage", "evaluation"})
"""What is no part of every step, and no reason to call two steps unlike."""


def beside_windows(
    phases: dict[str, Float], line: Timeline, windows: Sequence[Window]
) -> dict[str, Float]:
    """The phases of the steady steps, ns, with the stalls that no window shows apart.

    A stall is what a step waits for its batch beyond the mean of the windows' steps, as far as it
    makes that step longer than the median one: what the device's queue hides costs nothing. All of
    them add up to no more than the run's mean wait is above the windows' one, so waits that merely
    vary are none.
    """
    seen, calm = _seen(line, windows), ~line.profiled[line.steady]
    if line.source == "trace" or not seen.any() or calm.sum() < MIN_CALM:
        return phases
    waits = phases["loader"]
    shown = float(line.phase_ns["loader"][seen].mean())
    more = float((waits[calm] - shown).sum())
    if more <= 0:
        return phases
    beyond = np.where(calm, np.maximum(0.0, waits - shown), 0.0)
    whole = np.sum([times for phase, times in phases.items() if phase not in RARE_PHASES], axis=0)
    longer = np.maximum(0.0, whole - np.median(whole[calm]))
    stalls = np.minimum(beyond, longer) * (more / float(beyond.sum()))
    return {**phases, "loader": waits - stalls, STALLS: stalls}


def unlike_on_device(
    line: Timeline, windows: Sequence[Window], profiler_share: float
) -> tuple[float, float] | None:
    """Mean step of the windows and the run's median one, ns, where they are not of one kind.

    Checkpoints and validation are left out of both, `profiler_share` of the window's steps at most
    is the profiler's own cost. None where they are alike, or where too little was left unprofiled.
    """
    seen = _seen(line, windows)
    if line.source == "trace" or not seen.any() or line.calm.sum() < MIN_CALM:
        return None
    phases = [times for phase, times in line.phase_ns.items() if phase not in RARE_PHASES]
    steps = np.sum(phases, axis=0)
    work, usual = float(steps[seen].mean()), float(np.median(steps[line.calm]))
    if usual <= 0 or usual / UNLIKE <= work <= usual * UNLIKE + work * profiler_share:
        return None
    return work, usual


def _seen(line: Timeline, windows: Sequence[Window]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Steps that lie inside a window."""
    seen = np.zeros(len(line), np.bool_)
    for window in windows:
        seen |= inside_of(line, window)
    return seen
