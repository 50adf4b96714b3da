"""Series of the collectors beside the training, as far as the rules need them."""

from __future__ import annotations

import numpy as np

from .run.load import Float, Int64, Run


def series_of(run: Run, name: str) -> tuple[Int64, Float]:
    """Times, ns, and values of a metric of the first host that has it; empty where none does."""
    for table in run.metrics:
        found = table.series.get(name)
        if found is not None:
            return found
    return np.empty(0, np.int64), np.empty(0)


def within(run: Run, name: str, begin_ns: int, end_ns: int) -> Float:
    """Values of a metric between two times, ns."""
    times, values = series_of(run, name)
    return values[(times >= begin_ns) & (times <= end_ns)]


def mean_of(run: Run, name: str, at_least: int = 1) -> float | None:
    """Mean of a metric over the run; None where it has fewer values."""
    values = series_of(run, name)[1]
    return float(np.mean(values)) if len(values) >= at_least else None


def growth_of(run: Run, name: str, begin_ns: int, end_ns: int) -> tuple[float, float] | None:
    """How much a counter grew between two times, and the seconds; None without two values."""
    times, values = series_of(run, name)
    chosen = (times >= begin_ns) & (times <= end_ns)
    if chosen.sum() < 2:
        return None
    inside, at = values[chosen], times[chosen]
    return float(inside[-1] - inside[0]), float(at[-1] - at[0]) * 1e-9
