"""The ops and kernels of a rank's trace windows, with what they reach of the machine's roofs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..features import RankFeatures
from ..machine.roofs import Roofs
from ..trace.costs import delegates
from ..trace.host import OpTime

FASTER_THAN_ROOF = 1.1
"""A host op that would beat its roof by more than a tenth handed its work to ops below it: what
is left of it is dispatch, and its rate would be invented."""


@dataclass(frozen=True)
class OpRow:
    """One op with one signature. `per_step_ms` is its own time a step, `share` of all ops' time.

    `intensity` (FLOP/byte), `flop_per_s`, `bytes_per_s` and `roof_share` (share of the rate that
    the limiting roof allows) are None where the trace has no shapes or the roofs are not known.
    A share above 1 says that the op did other work than its shapes tell, or in another type.
    """

    name: str
    family: str
    slot: str
    dims: str
    kernel: str
    calls: int
    self_ms: float
    per_step_ms: float
    share: float
    intensity: float | None
    flop_per_s: float | None
    bytes_per_s: float | None
    roof_share: float | None

    @property
    def label(self) -> str:
        """The op and its shapes."""
        return f"{self.name} {self.dims}".strip()


@dataclass(frozen=True)
class Roof:
    """One roof of the roofline plot: `rate` is bytes/s for a bandwidth, FLOP/s for arithmetic."""

    name: str
    rate: float
    is_bandwidth: bool


def op_rows(rank: RankFeatures) -> list[OpRow]:
    """Return the ops of a rank by their own time, longest first; empty without trace windows."""
    total = sum(op.self_ns for op in rank.ops)
    return [_row(op, rank, total) for op in rank.ops if op.self_ns > 0]


def _row(op: OpTime, rank: RankFeatures, total_ns: float) -> OpRow:
    seconds = op.work_ns * 1e-9
    known = seconds > 0 and not _handed_on(op)
    self_ms = op.self_ns * 1e-6
    return OpRow(
        name=op.name,
        family=op.family,
        slot=op.slot,
        dims=op.dims,
        kernel=op.kernel,
        calls=op.calls,
        self_ms=self_ms,
        per_step_ms=rank.per_step(self_ms),
        share=op.self_ns / total_ns if total_ns else 0.0,
        intensity=op.flop / op.bytes if op.flop and op.bytes and known else None,
        flop_per_s=op.flop / seconds if op.flop and known else None,
        bytes_per_s=op.bytes / seconds if op.bytes and known else None,
        roof_share=op.attainable_ns / op.work_ns if op.attainable_ns and known else None,
    )


def _handed_on(op: OpTime) -> bool:
    if op.kernel:
        return False
    return delegates(op.name) or op.attainable_ns > FASTER_THAN_ROOF * op.work_ns


def slot_shares(rows: Sequence[OpRow]) -> dict[str, float]:
    """Return each slot's share of the ops' time."""
    shares: dict[str, float] = {}
    for row in rows:
        shares[row.slot] = shares.get(row.slot, 0.0) + row.share
    return shares


def roof_lines(roofs: Roofs | None) -> list[Roof]:
    """Return the roofs to draw: main memory, the fastest cache, arithmetic by number format."""
    if roofs is None:
        return []
    lines = []
    if roofs.memory_bandwidth:
        lines.append(Roof("memory", roofs.memory_bandwidth, is_bandwidth=True))
    cache = max(roofs.bandwidth.get(level, 0.0) for level in ("l2", "l3"))
    if cache > roofs.memory_bandwidth:
        lines.append(Roof("cache", cache, is_bandwidth=True))
    for name, rate in sorted(roofs.flops.items(), key=lambda item: item[1]):
        if name not in ("special", "int8"):
            lines.append(Roof(name.replace("_", " "), rate, is_bandwidth=False))
    return lines
