"""Collectives for the network's findings: by operation and group, against their links."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ..diagnosis import Evidence
from ..features import Features, RankFeatures
from ..links import Link
from ..tables.job import job_collectives
from ..tables.trace_collectives import CollectiveUse
from ..text import milliseconds, percent, plural, scaled

SMALL_MESSAGE_BYTES = 256 * 1024
"""Below about this size latency, not bandwidth, sets an all-reduce's time over TCP (one round trip
of 0.1 to 1 ms moves as much at 1 to 10 Gbit/s)."""

SATURATED = 0.7
"""Share of a link's nominal speed that payload reaches when the link is full: 0.88 to 0.94 were
measured over shaped TCP links, less with many small frames."""

WORTH_NAMING = 0.1
"""Of the longest exchange's exposed time: shorter ones are not named beside it."""

MAX_OTHERS = 2


@dataclass(frozen=True)
class Exchange:
    """The collectives of one operation and process group, one entry a size in `uses`."""

    uses: tuple[CollectiveUse, ...]

    @property
    def main(self) -> CollectiveUse:
        """Those of the size that takes longest."""
        return max(self.uses, key=lambda use: use.total_ms)

    @property
    def name(self) -> str:
        """Library and operation: "nccl:all_reduce"."""
        return self.main.operation

    @property
    def operation(self) -> str:
        """The operation alone: "all_reduce"."""
        return self.name.rpartition(":")[2]

    @property
    def is_small(self) -> bool:
        """Whether latency can set the time of a call."""
        size = self.main.bytes
        return size is not None and size < SMALL_MESSAGE_BYTES

    @property
    def exposed_ms(self) -> float:
        """The time in the windows of one rank that no computing hides."""
        return sum(use.exposed_ms for use in self.uses)

    @property
    def total_ms(self) -> float:
        """The time in the windows of one rank, waits for late ranks included."""
        return sum(use.total_ms for use in self.uses)


def exchanges(features: Features) -> list[Exchange]:
    """The job's collectives by operation and process group, the most exposed first."""
    groups: dict[tuple[str, str], list[CollectiveUse]] = defaultdict(list)
    for use in job_collectives(features):
        groups[use.operation, use.members].append(use)
    found = [Exchange(tuple(uses)) for uses in groups.values()]
    return sorted(found, key=lambda one: (-one.exposed_ms, -one.total_ms))


def evidence(rank: RankFeatures, found: Sequence[Exchange], link: Link | None) -> list[Evidence]:
    """What the first of the exchanges reaches, and what is exposed beside it."""
    first = found[0]
    texts = [_reached(first, link, several=len(found) > 1)]
    use = first.main
    if use.link_share is not None and use.link_bytes_per_s is not None:
        text = (
            f"that is {percent(use.link_share)} of what {use.link} carries, "
            f"{scaled(use.link_bytes_per_s, 'B/s')}"
        )
        texts.append(
            Evidence(text, "network.busbw_share", round(use.link_share, 4), "share", "trace")
        )
    worth = WORTH_NAMING * first.exposed_ms
    others = [one for one in found[1:] if one.exposed_ms > 0 and one.exposed_ms >= worth]
    return texts + [_beside(rank, one) for one in others[:MAX_OTHERS]]


def _reached(one: Exchange, link: Link | None, *, several: bool) -> Evidence:
    use = one.main
    who = _who(one, several=several)
    if use.bytes is None or use.busbw is None:
        text = f"{plural(use.calls, 'call')} of {who}; their size is not recorded"
        return Evidence(text, "network.calls", use.calls, "calls", "trace")
    text = f"{who} moves {scaled(use.bytes, 'B')} a call at a bus bandwidth of "
    text += scaled(use.busbw, "B/s")
    if use.waits_included:
        best = f" ({scaled(use.best_busbw, 'B/s')} in the fastest call)" if use.best_busbw else ""
        text += f" at least{best}, waits for late ranks included"
    text += f": {_limit(one, link)}"
    return Evidence(text, "network.busbw", round(use.busbw, 1), "B/s", "trace")


def _limit(one: Exchange, link: Link | None) -> str:
    if is_full(one, link):
        return "bandwidth sets its time"
    if one.is_small:
        return "latency, not bandwidth, sets its time"
    return "neither a full link nor latency is shown to set its time"


def is_full(one: Exchange, link: Link | None) -> bool:
    """Whether a link is seen to carry what it can: the hosts' interface, or the devices' own."""
    busy = link is not None and link.share >= SATURATED
    return busy or (one.main.link_share or 0.0) >= SATURATED


def _who(one: Exchange, *, several: bool) -> str:
    use = one.main
    group = f" of group {use.group}" if several and use.group else ""
    return f"{one.operation} among {use.group_size} ranks{group}"


def _beside(rank: RankFeatures, one: Exchange) -> Evidence:
    exposed = rank.per_step(one.exposed_ms)
    busbw = one.main.busbw
    at = f", at a bus bandwidth of {scaled(busbw, 'B/s')}" if busbw else ""
    text = f"{milliseconds(exposed)} more of every step is {_who(one, several=True)}{at}"
    return Evidence(text, "network.other_exposed_ms", round(exposed, 4), "ms", "trace")
