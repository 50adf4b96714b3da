"""Two plain ways to name a bound from the same recordings, to compare the verdicts with."""

from __future__ import annotations

import numpy as np

from boundscope.profiler.features import Features, RankFeatures
from boundscope.profiler.links import busiest_link
from boundscope.profiler.run.load import Run

WARN = 0.10
"""TraceML warns of input and of the residual from a tenth of the step, critical from a fifth."""
STRAGGLER = 0.10
"""TraceML names a straggler whose step is a tenth above the median rank's."""


def largest_utilisation(run: Run) -> str:
    """The busiest of CPU, disk and network, by its mean utilisation during the run."""
    cpu = np.mean([_mean(run, "host.cpu_percent") / 100])
    disk = max((_mean(run, name) / 100 for name in _disks(run)), default=0.0)
    link = busiest_link(run)
    network = 0.0
    if link is not None and link.speed_bits_per_s:
        network = link.mean_bits_per_s / link.speed_bits_per_s
    shares = {"compute": float(cpu), "storage": float(disk), "network": float(network)}
    return max(shares, key=lambda bound: shares[bound])


def phase_shares(features: Features) -> str:
    """TraceML's way: phases of the step on the host, the largest excess over its threshold.

    Loader wait is input, what no phase covers is a host residual, a rank whose own phases take
    longer is a straggler; else forward, backward and optimizer together are compute.
    """
    if not features.ranks:
        return "unknown"
    step = [sum(rank.phase_ms.values()) or 1.0 for rank in features.ranks]
    pairs = list(zip(features.ranks, step, strict=True))
    loader = max(rank.phase_ms.get("loader", 0.0) / whole for rank, whole in pairs)
    residual = max(_residual(rank) / whole for rank, whole in pairs)
    own = [_forward(rank) + rank.phase_ms.get("loader", 0.0) for rank in features.ranks]
    late = (max(own) - float(np.median(own))) / max(step)
    named = {"input": loader, "host": residual, "imbalance": late if len(own) > 1 else 0.0}
    limits = {"input": WARN, "host": WARN, "imbalance": STRAGGLER}
    over = {bound: share for bound, share in named.items() if share >= limits[bound]}
    work = 1.0 - loader - residual
    top = max(over, key=lambda bound: over[bound], default="compute")
    return top if over and over[top] >= min(work, 2 * WARN) else "compute"


def _forward(rank: RankFeatures) -> float:
    return rank.phase_ms.get("forward", 0.0)


def _residual(rank: RankFeatures) -> float:
    known = ("loader", "forward", "backward", "optimizer", "profiler")
    return sum(value for phase, value in rank.phase_ms.items() if phase not in known)


def _disks(run: Run) -> list[str]:
    names = {name for table in run.metrics for name in table.series}
    return [name for name in names if name.startswith("disk.") and name.endswith("busy_percent")]


def _mean(run: Run, metric: str) -> float:
    values = [table.series[metric][1] for table in run.metrics if metric in table.series]
    return float(np.mean(np.concatenate(values))) if values else 0.0
