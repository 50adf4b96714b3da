"""Steps that are not alike: outliers, and drift over the run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .run.load import Float, Int64
from .timeline import Timeline

MIN_STEPS = 40
"""Fewer steps show a chance as easily as a trend."""

DRIFT = 0.10
"""The last third is at least so much slower than the first: twice what is claimed elsewhere, since
clocks and neighbours also change within minutes."""

ORDERED = 0.7
"""Rank correlation of the blocks' medians with time, or a clear change (`SEPARATED`)."""

BLOCKS = 12

SEPARATED = 3.0
"""A change of level is clear when it is three times the spread within the two parts."""

OUTLIER_FACTOR = 2.0
OUTLIER_SIGMAS = 5.0
"""An outlier is twice the median and five robust standard deviations above it; SageMaker's three
flag one in 370 of any run's steps."""


@dataclass(frozen=True)
class Drift:
    """Steps got slower: from `before_ms` to `after_ms`, since step `since`, in `phase`.

    `share` of the run's steady time would go if all steps were as fast as before.
    """

    before_ms: float
    after_ms: float
    since: int
    phase: str
    gradual: bool
    share: float


@dataclass(frozen=True)
class Outliers:
    """Steps far above the median: indices, the share of steady time above it, and the phase."""

    steps: list[int]
    share: float
    phase: str
    median_ms: float
    worst_ms: float

    @property
    def period(self) -> int:
        """Steps from one outlier to the next where they are regular; 0 where they are not."""
        if len(self.steps) < 4:
            return 0
        gaps = np.diff(self.steps)
        middle = float(np.median(gaps))
        regular = middle >= 3 and np.mean(np.abs(gaps - middle) <= 1) >= 0.8
        return int(middle) if regular else 0


def find_drift(line: Timeline) -> Drift | None:
    """A slow-down over the steady state; None where there is none that is clear."""
    steps = np.flatnonzero(line.calm)
    if len(steps) < MIN_STEPS:
        return None
    times = line.duration_ns[steps].astype(np.float64) * 1e-6
    third = len(times) // 3
    before, after = float(np.median(times[:third])), float(np.median(times[-third:]))
    if before <= 0 or after < before * (1 + DRIFT):
        return None
    medians = np.array([np.median(block) for block in np.array_split(times, BLOCKS)])
    change = _change(times)
    level = abs(float(np.median(times[change:]) - np.median(times[:change])))
    # Half of normal noise's differences are within 0.95 sigma (1.41 x 0.67).
    within = float(np.median(np.abs(np.diff(times)))) / 0.95
    ordered = _rank_correlation(medians) >= ORDERED
    if not ordered or (level < SEPARATED * within and level < DRIFT * before * 2):
        return None
    gradual = _line_fits_better(medians, change / len(times))
    since = 0 if gradual else change
    reference = before if gradual else float(np.median(times[:change]))
    return Drift(
        before_ms=reference,
        after_ms=after,
        since=int(steps[since]),
        phase=_grown_phase(line, steps, third),
        gradual=gradual,
        share=float(np.clip(1 - reference / times.mean(), 0.0, 0.99)),
    )


def _change(times: Float) -> int:
    """Index of the best single change of level (least squares on values clipped at the tails)."""
    low, high = np.quantile(times, [0.02, 0.98])
    values = np.clip(times, low, high)
    count = len(values)
    sums, squares = np.cumsum(values), np.cumsum(values**2)
    at = np.arange(3, count - 3)
    left = squares[at - 1] - sums[at - 1] ** 2 / at
    right_sum, right_square = sums[-1] - sums[at - 1], squares[-1] - squares[at - 1]
    right = right_square - right_sum**2 / (count - at)
    return int(at[np.argmin(left + right)])


def _line_fits_better(medians: Float, change: float) -> bool:
    """Whether a straight line explains the blocks better than one change of level."""
    x = np.arange(len(medians))
    slope, offset = np.polyfit(x, medians, 1)
    line = float(((medians - slope * x - offset) ** 2).sum())
    at = int(np.clip(round(change * len(medians)), 1, len(medians) - 1))
    parts = (medians[:at], medians[at:])
    level = sum(float(((part - part.mean()) ** 2).sum()) for part in parts)
    return line < level


def _rank_correlation(values: Float) -> float:
    """Spearman's, of the values with their order."""
    ranks = np.argsort(np.argsort(values))
    return float(np.corrcoef(ranks, np.arange(len(values)))[0, 1])


def _grown_phase(line: Timeline, steps: Int64, third: int) -> str:
    grown = {
        phase: float(np.mean(times[steps[-third:]]) - np.mean(times[steps[:third]]))
        for phase, times in line.phase_ns.items()
        if phase != "profiler"
    }
    return max(grown, key=lambda phase: grown[phase])


def find_outliers(line: Timeline) -> Outliers | None:
    """Steps far above the median whose excess is not a checkpoint's or a validation's."""
    steps = np.flatnonzero(line.calm)
    if len(steps) < MIN_STEPS:
        return None
    phases = {
        phase: times[steps]
        for phase, times in line.phase_ns.items()
        if phase not in ("profiler", "storage", "evaluation")
    }
    times = np.sum(list(phases.values()), axis=0)
    median = float(np.median(times))
    spread = 1.4826 * float(np.median(np.abs(times - median)))
    chosen = (times > OUTLIER_FACTOR * median) & (times > median + OUTLIER_SIGMAS * spread)
    if not chosen.any() or chosen.mean() > 0.25:
        return None
    excess = {
        phase: float((values[chosen] - np.median(values)).sum()) for phase, values in phases.items()
    }
    whole = float(line.duration_ns[steps].sum())
    return Outliers(
        steps=[int(step) for step in steps[chosen]],
        share=float((times[chosen] - median).sum()) / whole,
        phase=max(excess, key=lambda phase: excess[phase]),
        median_ms=median * 1e-6,
        worst_ms=float(times.max()) * 1e-6,
    )
