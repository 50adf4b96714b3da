"""What the trace windows of a device say of the step: its idle time by cause, exposed copies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from ..diagnosis import Finding
from ..features import RankFeatures
from ..trace.device_division import DeviceWindow
from .base import MIN_SHARE

Part = tuple[float, Callable[[float], Finding]]
"""A share of the step, and what makes a finding of it."""


def idle_shares(rank: RankFeatures) -> dict[str, float]:
    """Share of the step in which the device idles, by cause (`trace.idle.IDLE_CAUSES`).

    What every step measures beside the windows (checkpoints, validation, stalls that they do not
    show) is no part of them, so their shares are of the rest of the step.
    """
    return _shares(rank, lambda window: window.idle_ns)


def copy_shares(rank: RankFeatures) -> dict[str, float]:
    """Share of the step in which a copy runs and nothing else, by direction."""
    return _shares(rank, lambda window: window.copies_ns)


def _shares(
    rank: RankFeatures, of: Callable[[DeviceWindow], Mapping[str, float]]
) -> dict[str, float]:
    whole = sum(window.wall_ns for window in rank.device)
    if not whole:
        return {}
    beside = rank.shares["storage"] + rank.shares["evaluation"] + rank.stalled
    found: dict[str, float] = defaultdict(float)
    for window in rank.device:
        for name, value in of(window).items():
            found[name] += value / whole * (1 - min(1.0, beside))
    return dict(found)


def told(parts: Sequence[Part], *, always: bool = True) -> list[Finding]:
    """A finding for each part that is worth a claim; where none is, for the largest one.

    So a slot that holds enough to be named gets its finding, however it is cut up. Without
    `always` small parts are left out.
    """
    large = [part for part in parts if part[0] >= MIN_SHARE]
    if not large and always:
        large = [max(parts, key=lambda part: part[0])]
    return [make(share) for share, make in large if share > 0]
