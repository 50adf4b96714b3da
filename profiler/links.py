"""Which network interface the job uses and how full it is, from the network collector's samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .run.load import MetricTable, Run

PREFIX = "net."
NAMESPACE_MARK = "@"
PEAK_QUANTILE = 0.9
"""The rate of a busy second: the samples are means over a second, and a job sends in bursts."""


@dataclass(frozen=True)
class Link:
    """One interface: its name, its busiest rate in one direction, its speed (0: not known)."""

    name: str
    peak_bits_per_s: float
    mean_bits_per_s: float
    speed_bits_per_s: float

    @property
    def is_loopback(self) -> bool:
        """Whether the bytes never leave the host."""
        return self.name.split("@")[0] == "lo"

    @property
    def share(self) -> float:
        """Share of the link's speed that the busiest seconds use; 0 where it is not known."""
        if not self.speed_bits_per_s:
            return 0.0
        return min(1.0, self.peak_bits_per_s / self.speed_bits_per_s)


def links(run: Run) -> list[Link]:
    """Interfaces that carried anything, busiest first."""
    found = [link for table in run.metrics for link in _links_of(table)]
    return sorted(found, key=lambda link: -link.mean_bits_per_s)


def busiest_link(run: Run) -> Link | None:
    """The interface that the ranks talk over; None when none is known to carry anything.

    The samples count what everybody on the host sends. Ranks of one host and one network
    namespace talk over loopback, whichever address they use; ranks in namespaces of their own
    over those namespaces' interfaces; ranks of several hosts over a host's busiest interface.
    """
    found = [link for link in links(run) if link.mean_bits_per_s > 0]
    if len({rank.host for rank in run.ranks}) > 1:
        candidates = [link for link in found if not link.is_loopback]
    else:
        apart = [link for link in found if NAMESPACE_MARK in link.name and not link.is_loopback]
        candidates = apart or [link for link in found if link.name == "lo"]
    return candidates[0] if candidates else None


def _links_of(table: MetricTable) -> list[Link]:
    result = []
    for metric in table.series:
        if not (metric.startswith(PREFIX) and metric.endswith(".tx_bytes_per_s")):
            continue
        name = metric[len(PREFIX) : -len(".tx_bytes_per_s")]
        rates = [
            table.series[f"{PREFIX}{name}.{way}_bytes_per_s"][1] * 8
            for way in ("tx", "rx")
            if f"{PREFIX}{name}.{way}_bytes_per_s" in table.series
        ]
        peak = max(float(np.quantile(rate, PEAK_QUANTILE)) for rate in rates if len(rate))
        mean = max(float(np.mean(rate)) for rate in rates if len(rate))
        speeds = table.series.get(f"{PREFIX}{name}.link_bits_per_s")
        speed = float(speeds[1][-1]) if speeds is not None and len(speeds[1]) else 0.0
        result.append(Link(name, peak, mean, speed))
    return result
