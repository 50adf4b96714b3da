"""What the host's own time costs beside a device: at most the time that the device waits for it."""

from __future__ import annotations

import numpy as np

from ..diagnosis import Saving
from ..features import RankFeatures

FORWARD_SHARE = 0.25
"""Share of a step's arithmetic that checkpointing every activation takes: one more forward beside a
forward and a backward of twice its cost (Chen et al., Training Deep Nets with Sublinear Memory
Cost, 2016)."""


def exposed_host(rank: RankFeatures) -> float:
    """Share of the time in which the device waits for the host: in the trace windows, and in steps
    that are longer than the usual one, which a window of a few steps does not see. What these
    wait for the loader is no part of it."""
    times = rank.step_ms
    mean = float(np.mean(times)) if len(times) else 0.0
    stalls = 1 - float(np.median(times)) / mean - rank.stalled if mean else 0.0
    return min(1.0, rank.shares["host"] + max(0.0, stalls))


def beside_device(rank: RankFeatures, saving: Saving) -> Saving:
    """The saving of a share of the host's time; unchanged where the host itself calculates.

    With a share s of the host's time and the device waiting a share e, no more than e can go, and
    at least s + e - 1 of the two is the same time.
    """
    if not rank.device:
        return saving
    exposed = exposed_host(rank)
    low = max(0.0, saving.low + exposed - 1)
    mid, high = min(saving.mid, exposed), min(saving.high, exposed)
    return Saving(round(min(low, mid), 4), round(mid, 4), round(high, 4))


def recomputed(rank: RankFeatures, saving: Saving) -> Saving:
    """The saving of recomputing activations, by the host's share of it.

    Beside a device the host only launches: how long the device takes for it is not told, so that it
    is anything up to what one more forward pass costs.
    """
    if not rank.device:
        return saving
    most = FORWARD_SHARE * (rank.shares["compute"] + rank.shares["memory"])
    return Saving(0.0, round(min(saving.mid, most), 4), round(most, 4))
