"""The rank that the others wait for, and the link that they wait at."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..features import Features
from ..links import busiest_link
from .trace_collectives import CollectiveUse, link_of

WAITS = ("network", "imbalance")
"""Slots in which a rank waits for others, or for bytes from them."""

NOTEWORTHY_SHARE = 0.05
"""The share of step time below which the rules claim nothing (`rules.base.MIN_SHARE`)."""

STANDARD_ERRORS = 3.0
"""A rank that is last more often than a fair draw among the ranks would have it, by so many
standard errors, is last for a reason: chance does that once in 700 times (normal distribution)."""


@dataclass(frozen=True)
class Straggler:
    """The rank that the others wait for, by the first ground that tells one.

    `by`: "arrivals", `share` of the common collectives at which it is last; "waits", by `share` of
    the step it waits less than the median other; "steps", its median step is longer by `share`.
    """

    rank: int
    by: Literal["arrivals", "waits", "steps"]
    share: float


@dataclass(frozen=True)
class LinkRow:
    """The link that the collectives take, bytes/s in one direction; None where not known.

    `busy_bytes_per_s` is what the host sends or receives over it in a busy second. `of_device`:
    between devices of one host, by the catalogue; ranks of several hosts have slower ones.
    """

    name: str
    bytes_per_s: float | None
    busy_bytes_per_s: float | None
    of_device: bool

    def share_of(self, use: CollectiveUse) -> float | None:
        """Return busbw as a share of the link's speed; None where either is not known."""
        if use.busbw is None or not self.bytes_per_s:
            return None
        return use.busbw / self.bytes_per_s


def link_row(features: Features) -> LinkRow | None:
    """Return the link between the ranks; None where nothing is known of it."""
    hosts = {rank.data.host for rank in features.ranks}
    devices = [rank.roofs.device for rank in features.ranks if rank.device and rank.roofs]
    name, rate = link_of(devices[0]) if devices and len(hosts) <= 1 else ("", None)
    if rate:
        return LinkRow(f"{name} of {devices[0]}", rate, None, True)
    link = busiest_link(features.run)
    if link is None:
        return None
    return LinkRow(link.name, link.speed_bits_per_s / 8 or None, link.peak_bits_per_s / 8, False)


def straggler(features: Features) -> Straggler | None:
    """Return the rank that the others wait for; None where no rank stands out."""
    if len(features.ranks) < 2:
        return None
    return _by_arrivals(features) or _by_waits(features) or _by_steps(features)


def _by_arrivals(features: Features) -> Straggler | None:
    whole = sum(features.late.values())
    if not whole:
        return None
    rank = max(features.late, key=lambda number: features.late[number])
    share, fair = features.late[rank] / whole, 1 / len(features.ranks)
    chance = STANDARD_ERRORS * math.sqrt(fair * (1 - fair) / whole)
    return Straggler(int(rank), "arrivals", share) if share > fair + chance else None


def _by_waits(features: Features) -> Straggler | None:
    waits = {rank.rank: sum(rank.shares[slot] for slot in WAITS) for rank in features.ranks}
    rank = min(waits, key=lambda number: waits[number])
    others = [wait for number, wait in waits.items() if number != rank]
    less = float(np.median(others)) - waits[rank]
    return Straggler(rank, "waits", less) if less >= NOTEWORTHY_SHARE else None


def _by_steps(features: Features) -> Straggler | None:
    steps = {
        rank.rank: float(np.median(rank.step_ms)) for rank in features.ranks if len(rank.step_ms)
    }
    if len(steps) < 2:
        return None
    rank = max(steps, key=lambda number: steps[number])
    typical = float(np.median([step for number, step in steps.items() if number != rank]))
    longer = steps[rank] / typical - 1 if typical > 0 else 0.0
    return Straggler(rank, "steps", longer) if longer >= NOTEWORTHY_SHARE else None
