"""The figures of `overhead.py`: their limits, how they are compared, and the rows of its table."""

from __future__ import annotations

import json
import math
import random
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STEP_RATIO_LIMIT = 1.02
STEP_ADDED_LIMIT_MS = 0.1
OUTLIER_SHARE = 0.01
"""The mean leaves out the slowest hundredth: another program's turn on the core, mostly."""
RESAMPLES = 2000


@dataclass
class Window:
    """A trace window: the time that it touched, and for how long the loop stood still."""

    start_ns: int
    end_ns: int
    steps: int
    stood_still_ms: float


@dataclass
class Figure:
    """A row of the table; `draws` are what resampling makes of its value, ascending."""

    what: str
    plain: float
    wrapped: float
    value: float
    draws: list[float]
    unit: str
    limit: float

    @property
    def low(self) -> float:
        """The lower end of the 95 % interval."""
        return self.draws[round(0.025 * len(self.draws))]

    @property
    def high(self) -> float:
        """The upper end of the 95 % interval."""
        return self.draws[round(0.975 * len(self.draws)) - 1]

    def verdict(self) -> str:
        if math.isinf(self.limit):
            return "-"
        if self.high <= self.limit:
            return "pass"
        return "FAIL" if self.low > self.limit else "open"

    def row(self) -> str:
        return (
            f"{self.what:40} {self.plain:9.3f} {self.wrapped:9.3f} {self.value:8.3f}"
            f" [{self.low:7.3f}, {self.high:7.3f}] {self.unit:3} {self.limit:6g} {self.verdict()}"
        )


def ratio(plain: float, wrapped: float) -> float:
    return wrapped / plain


def added(plain: float, wrapped: float) -> float:
    return wrapped - plain


def added_to_1_ms(plain: float, wrapped: float) -> float:
    """What a step that takes 1 ms by itself would get, ms.

    A shared machine's pace changes by half within minutes, for the step and for what is added
    alike: the training whose steps take 1 ms on an idle one then has steps of 1.5 ms.
    """
    return (wrapped - plain) / plain


def trimmed_mean(values: list[float]) -> float:
    """The mean without the largest hundredth."""
    kept = sorted(values)[: max(1, round(len(values) * (1 - OUTLIER_SHARE)))]
    return statistics.fmean(kept)


def medians_drawn(values: list[float]) -> list[float]:
    """Medians of resampled values (bootstrap with a fixed seed), ascending."""
    draws = random.Random(0)
    return sorted(statistics.median(draws.choices(values, k=len(values))) for _ in range(RESAMPLES))


def sums_drawn(*parts: list[float]) -> list[float]:
    """Sums of one draw of each part, parts that were measured apart, ascending."""
    draws = random.Random(0)
    return sorted(sum(draws.choice(part) for part in parts) for _ in range(RESAMPLES))


def windows_of(run_folder: Path) -> list[Window]:
    """Read the window records of every rank, as any other program could."""
    windows = []
    for path in sorted(run_folder.glob("rank-*/*.jsonl")):
        for line in path.read_text().splitlines():
            record: dict[str, Any] = json.loads(line)
            if record["t"] != "window":
                continue
            costs = [record.get(f"{part}_cost_ns", 0) for part in ("start", "stop", "export")]
            windows.append(
                Window(
                    start_ns=record["start_ns"] - costs[0],
                    end_ns=record["end_ns"] + costs[1] + costs[2],
                    steps=record["steps"],
                    stood_still_ms=sum(costs) / 1e6,
                )
            )
    return windows
