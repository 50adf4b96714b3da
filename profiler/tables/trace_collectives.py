"""Collectives of traces by operation, process group and size: bandwidth, exposure, the link."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..machine.catalogue import lookup
from ..trace.collectives import (
    Collective,
    clock_offsets,
    device_collectives,
    host_collectives,
    is_complete,
    operation_of,
    paired,
)
from ..trace.device import device_work
from ..trace.host import training_thread
from ..trace.intervals import Union, intersect, total, union
from ..trace.table import Trace
from ..trace.unhidden import unhidden_time

LINKS = ("nvlink", "xgmi", "c2c", "pcie")
"""Links of the catalogue, the one that collectives of one host take first."""


@dataclass(frozen=True)
class CollectiveUse:
    """Collectives of one operation, group and size over all ranks given; times in ms.

    `bytes` is the size as NCCL's tests define it (for all-gather the output, for reduce-scatter
    the input), None where not recorded. `calls` is per rank. `moving_ms` is the median time from
    the last rank's arrival to the end, over the calls that every rank of the group recorded; where
    there are none (`waits_included`), the median whole duration, waits for late ranks included, so
    that bandwidths are lower bounds. `exposed_ms` is the time that no computing hides, per rank.
    `waiting_ms` is what the mean rank waited for the last one, a call. `algbw` is bytes/time,
    `busbw` that times the operation's factor, `best_busbw` the fastest call's, all bytes/s
    (nccl-tests, PERFORMANCE.md). `link` is the fastest link of the device in the catalogue and
    `link_share` busbw's share of its figure; ranks of several hosts have slower ones between them.
    `dtype` is the elements' type as recorded, `members` the group's ranks, else its name.
    """

    operation: str
    group: str
    group_size: int
    bytes: int | None
    calls: int
    ranks: int
    total_ms: float
    moving_ms: float
    waits_included: bool
    exposed_ms: float
    algbw: float | None
    busbw: float | None
    best_busbw: float | None
    link: str
    link_bytes_per_s: float | None
    link_share: float | None
    waiting_ms: float = 0.0
    dtype: str = ""
    members: str = ""


_FACTORS: dict[str, Callable[[int], float]] = {
    "all_reduce": lambda n: 2 * (n - 1) / n,
    "reduce_scatter": lambda n: (n - 1) / n,
    "all_gather": lambda n: (n - 1) / n,
    "all_to_all": lambda n: (n - 1) / n,
    "gather": lambda n: (n - 1) / n,
    "scatter": lambda n: (n - 1) / n,
    "broadcast": lambda _: 1.0,
    "reduce": lambda _: 1.0,
    "send": lambda _: 1.0,
    "recv": lambda _: 1.0,
    "send_recv": lambda _: 1.0,
}
"""busbw over algbw (nccl-tests, PERFORMANCE.md)."""


def bus_factor(operation: str, ranks: int) -> float | None:
    """busbw over algbw as nccl-tests define them; None for an operation that moves no message."""
    factor = _FACTORS.get(operation_of(operation.rpartition(":")[2]))
    return factor(ranks) if factor is not None and ranks > 1 else None


def collective_uses(traces: Mapping[int, Trace], world_size: int = 0) -> list[CollectiveUse]:
    """Collectives of the traces of some ranks, most exposed first.

    `world_size` stands in where a collective does not say how large its group is.
    """
    by_rank = {rank: _collectives(trace) for rank, trace in traces.items()}
    exchange = Exchange(
        by_rank=by_rank,
        ahead=clock_offsets(by_rank) if len(by_rank) > 1 else dict.fromkeys(by_rank, 0),
        unhidden={rank: unhidden_time(trace) for rank, trace in traces.items()},
        world=world_size or len(traces),
        link=link_of(next(filter(None, map(_device_name, traces.values())), "")),
    )
    return uses_of(exchange)


@dataclass(frozen=True)
class Exchange:
    """What several ranks recorded of their collectives.

    `ahead` is what each rank's clock is ahead, ns; `unhidden` the time in which a rank computes
    nothing, in its own clock; `world` how many ranks there are; `link` a name and bytes/s.
    """

    by_rank: Mapping[int, Sequence[Collective]]
    ahead: Mapping[int, int]
    unhidden: Mapping[int, Union]
    world: int
    link: tuple[str, float | None] = ("", None)


def uses_of(exchange: Exchange) -> list[CollectiveUse]:
    """The collectives by operation, group and size, most exposed first."""
    groups: dict[tuple[str, str, int], list[dict[int, Collective]]] = defaultdict(list)
    for together in paired(exchange.by_rank):
        first = next(iter(together.values()))
        size = max(c.message_bytes(c.group_size or exchange.world) for c in together.values())
        groups[first.name, first.members, size].append(together)
    uses = [_use(key, members, exchange) for key, members in groups.items()]
    return sorted(uses, key=lambda use: -use.exposed_ms)


def _collectives(trace: Trace) -> list[Collective]:
    if device_work(trace).any():
        return device_collectives(trace)
    return host_collectives(trace, training_thread(trace))


def link_of(device_name: str) -> tuple[str, float | None]:
    """The fastest link of a device in the catalogue and its bytes/s; ("", None) without one."""
    device = lookup(device_name) if device_name else None
    for link in LINKS if device is not None else ():
        if device is not None and link in device.link_gb_per_s:
            return link, device.link_gb_per_s[link] * 1e9
    return "", None


def _device_name(trace: Trace) -> str:
    properties = trace.metadata.get("deviceProperties")
    first = properties[0] if isinstance(properties, list) and properties else None
    name = first.get("name") if isinstance(first, dict) else None
    return name if isinstance(name, str) else ""


def _use(
    key: tuple[str, str, int], members: list[dict[int, Collective]], exchange: Exchange
) -> CollectiveUse:
    name, who, size = key
    complete = [group for group in members if is_complete(group, exchange.by_rank)]
    times = [_moving_ns(group, exchange.ahead) for group in complete] or [
        float(c.end_ns - c.start_ns) for group in members for c in group.values()
    ]
    known = [c for group in members for c in group.values()]
    ranks = len({rank for group in members for rank in group})
    ranks_of_group = known[0].group_size or exchange.world
    link, rate = exchange.link
    moving = float(np.median(times))
    algbw = size / moving * 1e9 if size > 0 and moving > 0 else None
    factor = bus_factor(name, ranks_of_group)
    busbw = algbw * factor if algbw is not None and factor is not None else None
    best = busbw * moving / min(times) if busbw is not None and min(times) > 0 else None
    return CollectiveUse(
        operation=name,
        group=known[0].group,
        group_size=ranks_of_group,
        bytes=size if size > 0 else None,
        calls=len(known) // ranks,
        ranks=ranks,
        total_ms=sum(c.end_ns - c.start_ns for c in known) / ranks * 1e-6,
        moving_ms=moving * 1e-6,
        waits_included=not complete,
        exposed_ms=_exposed_ns(members, exchange.unhidden) / ranks * 1e-6,
        algbw=algbw,
        busbw=busbw,
        best_busbw=best,
        link=link,
        link_bytes_per_s=rate,
        link_share=busbw / rate if busbw is not None and rate else None,
        waiting_ms=_waited_ns(complete, exchange.ahead) * 1e-6,
        dtype=next((c.dtype for c in known if c.dtype), ""),
        members=who,
    )


def _moving_ns(group: Mapping[int, Collective], ahead: Mapping[int, int]) -> float:
    """From the last rank's arrival to the median rank's end."""
    arrived = max(c.start_ns - ahead[rank] for rank, c in group.items())
    ended = float(np.median([c.end_ns - ahead[rank] for rank, c in group.items()]))
    return max(0.0, ended - arrived)


def _waited_ns(groups: Sequence[Mapping[int, Collective]], ahead: Mapping[int, int]) -> float:
    """What the mean rank waited for the last one's arrival, a call."""
    waits = []
    for group in groups:
        arrived = max(c.start_ns - ahead[rank] for rank, c in group.items())
        waits += [
            max(0, min(arrived + ahead[rank], c.end_ns) - c.start_ns) for rank, c in group.items()
        ]
    return float(np.mean(waits)) if waits else 0.0


def _exposed_ns(members: list[dict[int, Collective]], unhidden: Mapping[int, Union]) -> int:
    spans: dict[int, list[Collective]] = defaultdict(list)
    for group in members:
        for rank, collective in group.items():
            spans[rank].append(collective)
    exposed = 0
    for rank, found in spans.items():
        starts = np.asarray([c.start_ns for c in found], np.int64)
        ends = np.asarray([c.end_ns for c in found], np.int64)
        exposed += total(intersect(union(starts, ends), unhidden[rank]))
    return exposed
