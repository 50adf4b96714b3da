"""The result of a diagnosis: plain, frozen data; its JSON is a public contract (additions only)."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

SCHEMA = 1

SLOTS = (
    "compute",
    "memory",
    "network",
    "imbalance",
    "input",
    "host",
    "storage",
    "evaluation",
    "other",
)
"""The slots that divide steady-state time: exclusive, exhaustive, summing to 1."""

Slot: TypeAlias = Literal[
    "compute", "memory", "network", "imbalance", "input", "host", "storage", "evaluation", "other"
]
Bound: TypeAlias = Literal[
    "compute",
    "memory",
    "network",
    "imbalance",
    "input",
    "host",
    "storage",
    "evaluation",
    "balanced",
    "unknown",
]
Source: TypeAlias = Literal["trace", "metrics", "stacks", "steps", "manifest"]


class StepTime(msgspec.Struct, frozen=True):
    """Steady-state step time, ms."""

    median: float
    p90: float


class RunSummary(msgspec.Struct, frozen=True):
    """What was diagnosed."""

    id: str
    status: Literal["finished", "failed", "killed", "running"]
    exit_code: int | None
    world_size: int
    steps: int
    step_ms: StepTime | None
    devices: list[str]
    startup_s: float | None
    name: str = ""
    steady_steps: int = 0


class Verdict(msgspec.Struct, frozen=True):
    """What the run is bound by, how sure that is, and the sentence a user reads first."""

    bound: Bound
    confidence: float
    runner_up: Bound | None
    headline: str


class Evidence(msgspec.Struct, frozen=True):
    """One measured quantity that supports a finding."""

    text: str
    quantity: str
    value: float
    unit: str
    source: Source


class Place(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a finding is: any of rank, file and line, op, kernel, collective."""

    rank: int | None = None
    file: str | None = None
    line: int | None = None
    function: str | None = None
    op: str | None = None
    kernel: str | None = None
    collective: str | None = None


class Fix(msgspec.Struct, frozen=True, omit_defaults=True):
    """What to do about a finding, best first: gain for effort.

    `saving` is the share of step time that this fix alone is expected to save, by replay; 0 where
    that cannot be told.
    """

    title: str
    detail: str = ""
    snippet: str = ""
    saving: float = 0.0


class Saving(msgspec.Struct, frozen=True):
    """Share of step time that would go if the cause vanished."""

    low: float
    mid: float
    high: float


class Finding(msgspec.Struct, frozen=True):
    """One cause: its bound, saving, evidence, places and fixes."""

    id: str
    bound: Slot
    saving: Saving
    speedup: float
    evidence: list[Evidence]
    where: list[Place]
    fixes: list[Fix]
    title: str = ""


class RankBreakdown(msgspec.Struct, frozen=True):
    """Slot shares of one rank, summing to 1."""

    rank: int
    breakdown: dict[str, float]


class Missing(msgspec.Struct, frozen=True):
    """A collector that has no data, why, and what that costs."""

    collector: str
    reason: str
    effect: str
    detail: str = ""


class Warning_(msgspec.Struct, frozen=True):
    """Something about the data that lowers the confidence; `slug` has a page section."""

    slug: str
    text: str


class Diagnosis(msgspec.Struct, frozen=True):
    """The whole answer for one run."""

    schema: int
    run: RunSummary
    verdict: Verdict
    breakdown: dict[str, float]
    ranks: list[RankBreakdown]
    findings: list[Finding]
    missing: list[Missing]
    warnings: list[Warning_] = []
