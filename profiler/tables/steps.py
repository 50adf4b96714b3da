"""The steps of one rank over the run: times, outliers, drift, and what else went on meanwhile."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..timeline import Timeline

Float = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

OUTLIER_SCORE = 3.5
"""Modified z-score above which a step is an outlier (Iglewicz and Hoaglin, 1993)."""

OUTLIER_MIN_EXCESS = 0.1
"""Very even steps have outliers of microseconds by that score: below a tenth none is marked."""

DRIFT_PART = 0.2
"""Drift compares the medians of the first and the last fifth of the calm steps."""

MIN_DRIFT_STEPS = 25

MAX_BANDS = 400
"""More shaded stretches than pixels tell nothing: the longest ones are kept."""


@dataclass(frozen=True)
class Band:
    """A stretch of the run that is no plain training: `what` is "start-up", "evaluation",
    "checkpoint" or "profiler". Seconds since the start of the run."""

    what: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class StepSeries:
    """Steps of a rank: one entry a step. `start_s` counts from the start of the run.

    `drift` is the change of the median from the first fifth of the calm steps to the last, None
    where there are too few.
    """

    rank: int
    start_s: Float
    duration_ms: Float
    steady: Mask
    profiled: Mask
    outlier: Mask
    median_ms: float
    drift: float | None
    bands: list[Band]
    phase_ms: dict[str, Float]

    def __len__(self) -> int:
        return len(self.start_s)


def step_series(line: Timeline, started_ns: int) -> StepSeries:
    """Return the steps of a timeline; `started_ns` is the start of the run, ns since the epoch."""
    origin = min(started_ns or line.first_ns, line.first_ns)
    duration = np.asarray(line.duration_ns, np.float64) * 1e-6
    calm = line.calm if line.calm.any() else line.steady
    typical = duration[calm] if calm.any() else duration
    return StepSeries(
        rank=line.rank,
        start_s=np.asarray((line.start_ns - origin) * 1e-9, np.float64),
        duration_ms=duration,
        steady=line.steady,
        profiled=line.profiled,
        outlier=outliers(duration, typical) & line.steady & ~_explained(line),
        median_ms=float(np.median(typical)),
        drift=drift(duration[calm]),
        bands=_bands(line, origin),
        phase_ms={phase: values * 1e-6 for phase, values in line.phase_ns.items()},
    )


def typical_step(line: Timeline) -> int:
    """Return a traced step of middling length, counted from 1; any steady one without a trace."""
    undisturbed = line.profiled & (line.phase_ns["profiler"] == 0)
    for mask in (line.steady & undisturbed, undisturbed, line.steady, np.ones(len(line), np.bool_)):
        found = np.flatnonzero(mask)
        if len(found):
            order = found[np.argsort(line.duration_ns[found])]
            return int(order[len(order) // 2]) + 1
    return 1


def outliers(duration: Float, typical: Float) -> Mask:
    """Mark the durations far above the typical ones, by the modified z-score."""
    median = float(np.median(typical))
    deviation = float(np.median(np.abs(typical - median)))
    score = 0.6745 * (duration - median) / deviation if deviation > 0 else duration - median
    return np.asarray((score > OUTLIER_SCORE) & (duration > median * (1 + OUTLIER_MIN_EXCESS)))


def drift(duration: Float) -> float | None:
    """Return the relative change of the median over the run; None below `MIN_DRIFT_STEPS`."""
    if len(duration) < MIN_DRIFT_STEPS:
        return None
    part = max(1, int(len(duration) * DRIFT_PART))
    first, last = np.median(duration[:part]), np.median(duration[-part:])
    return float(last / first - 1) if first > 0 else None


def _explained(line: Timeline) -> Mask:
    """Steps in which validation, a checkpoint or the profiler ran: long for a known reason."""
    known = line.profiled.copy()
    for phase in ("evaluation", "storage", "profiler"):
        known |= line.phase_ns[phase] > 0
    return np.asarray(known, np.bool_)


def _bands(line: Timeline, origin: int) -> list[Band]:
    bands = []
    if line.source != "trace" and line.steady.any():
        first = float(line.start_ns[line.steady][0] - origin) * 1e-9
        bands.append(Band("start-up", 0.0, first))
    names = {"evaluation": "evaluation", "storage": "checkpoint", "profiler": "profiler"}
    for phase, what in names.items():
        starts, ends = line.phase_intervals[phase]
        longest = np.sort(np.argsort(starts - ends)[:MAX_BANDS])
        bands += [
            Band(what, float(starts[i] - origin) * 1e-9, float(ends[i] - origin) * 1e-9)
            for i in longest
        ]
    return bands
