"""The steps that took longest, and what they spent their time on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .steps import StepSeries

PHASE_WORDS = {
    "profiler": "the profiler",
    "storage": "a checkpoint",
    "evaluation": "evaluation",
    "loader": "waiting for a batch",
    "garbage": "garbage collection",
    "backward": "backward",
    "optimizer": "optimizer",
    "forward": "forward",
    "preparation": "before the first module",
    "rest": "the rest of the loop",
}


@dataclass(frozen=True)
class LongStep:
    """A step far above the median: `cause` is the phase that grew most, by `grown_ms`."""

    step: int
    start_s: float
    duration_ms: float
    factor: float
    cause: str
    grown_ms: float


def longest_steps(series: StepSeries, limit: int = 10) -> list[LongStep]:
    """Return the longest steady steps, the longest first, each with the phase that grew most."""
    if not len(series) or not series.steady.any():
        return []
    calm = series.steady & ~series.profiled
    typical = calm if calm.any() else series.steady
    medians = {name: float(np.median(ms[typical])) for name, ms in series.phase_ms.items()}
    steady = np.flatnonzero(series.steady)
    order = steady[np.argsort(-series.duration_ms[steady])][:limit]
    found = []
    for index in order.tolist():
        grown = {name: float(ms[index]) - medians[name] for name, ms in series.phase_ms.items()}
        cause = max(grown, key=lambda name: grown[name])
        duration = float(series.duration_ms[index])
        found.append(
            LongStep(
                step=index + 1,
                start_s=float(series.start_s[index]),
                duration_ms=duration,
                factor=duration / series.median_ms if series.median_ms else 0.0,
                cause=PHASE_WORDS[cause],
                grown_ms=grown[cause],
            )
        )
    return found
