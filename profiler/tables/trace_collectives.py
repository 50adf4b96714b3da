"""Collectives of traces by operation, process group and size: bandwidth, exposure, the link."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..machine.catalogue import lookup
from ..trace.arguments import tensor_bytes
from ..trace.collectives import (
    Collective,
    clock_offsets,
    device_collectives,
    host_collectives,
    is_complete,
    paired,
)
from ..trace.device import device_time, device_work
from ..trace.host import training_thread
from ..trace.intervals import EMPTY, Union, intersect, subtract, total, union
from ..trace.kernels import enclosing_events, innermost_ops
from ..trace.table import Category, Signature, Trace

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
    `algbw` is bytes/time, `busbw` that times the operation's factor, `best_busbw` the fastest
    call's, all bytes/s (nccl-tests, PERFORMANCE.md). `link` is the fastest link of the device in
    the catalogue and `link_share` busbw's share of its figure; ranks of several hosts have slower
    ones between them.
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


_FACTORS: tuple[tuple[re.Pattern[str], Callable[[int], float]], ...] = (
    (re.compile("allreduce"), lambda n: 2 * (n - 1) / n),
    (re.compile("reducescatter|allgather|alltoall"), lambda n: (n - 1) / n),
    (re.compile("broadcast|reduce|send|recv"), lambda _: 1.0),
)
"""First match wins, on the name without "_" (nccl-tests, PERFORMANCE.md)."""


def bus_factor(operation: str, ranks: int) -> float | None:
    """busbw over algbw as nccl-tests define them; None for an operation that moves no message."""
    plain = operation.rpartition(":")[2].replace("_", "").lower()
    if ranks < 2:
        return None
    return next((factor(ranks) for pattern, factor in _FACTORS if pattern.search(plain)), None)


def collective_uses(traces: Mapping[int, Trace], world_size: int = 0) -> list[CollectiveUse]:
    """Collectives of the traces of some ranks, most exposed first.

    `world_size` stands in where a collective does not say how large its group is.
    """
    by_rank = {rank: _collectives(trace) for rank, trace in traces.items()}
    ahead = clock_offsets(by_rank) if len(by_rank) > 1 else dict.fromkeys(by_rank, 0)
    sizes = {rank: _sizes(trace, by_rank[rank]) for rank, trace in traces.items()}
    groups: dict[tuple[str, str, int], list[dict[int, Collective]]] = defaultdict(list)
    for together in paired(by_rank):
        rank, first = next(iter(together.items()))
        size = sizes[rank].get(first.row, -1)
        groups[first.name, first.key[2], size].append(together)
    shared = _Shared(
        by_rank=by_rank,
        ahead=ahead,
        unhidden={rank: _unhidden(trace) for rank, trace in traces.items()},
        world=world_size or len(traces),
        link=_link(traces),
    )
    uses = [_use(key, members, shared) for key, members in groups.items()]
    return sorted(uses, key=lambda use: -use.exposed_ms)


def _collectives(trace: Trace) -> list[Collective]:
    if device_work(trace).any():
        return device_collectives(trace)
    return host_collectives(trace, training_thread(trace))


def _sizes(trace: Trace, collectives: list[Collective]) -> dict[int, int]:
    """Bytes by event as NCCL's tests define them; none for those whose size is not recorded.

    From the kernel's own arguments, else from the first tensor of the op that launched it, which
    is what one rank puts in: an all-gather's output has that from each rank.
    """
    events = trace.events
    sizes = {c.row: int(events.bytes[c.row]) for c in collectives if events.bytes[c.row] > 0}
    open_ = [c for c in collectives if c.row not in sizes]
    rows = np.array([c.row for c in open_], np.int64)
    if not len(rows) or not device_work(trace).any():
        return sizes
    ops = innermost_ops(trace, rows, enclosing_events(trace))
    for collective, op in zip(open_, ops.tolist(), strict=True):
        signature = int(events.signature[op]) if op >= 0 else -1
        if signature < 0:
            continue
        recorded = trace.signatures[signature]
        put_in = tensor_bytes(Signature(recorded.dims[:1], recorded.types[:1]))
        gathers = "allgather" in collective.name.replace("_", "")
        if put_in > 0 and (collective.group_size or not gathers):
            sizes[collective.row] = put_in * (collective.group_size if gathers else 1)
    return sizes


def _unhidden(trace: Trace) -> Union:
    """The time in which nothing computes: on the device, else in the training thread."""
    device = device_time(trace)
    events = trace.events
    if device is not None:
        return device.exposed_communication
    start = events.start_ns
    end = start + events.duration_ns
    if not len(start):
        return EMPTY
    mine = (events.thread == training_thread(trace)) & (events.category == Category.CPU_OP)
    whole = (np.array([start.min()]), np.array([end.max()]))
    return subtract(whole, union(start[mine], end[mine]))


def _link(traces: Mapping[int, Trace]) -> tuple[str, float | None]:
    for trace in traces.values():
        properties = trace.metadata.get("deviceProperties")
        first = properties[0] if isinstance(properties, list) and properties else None
        name = first.get("name") if isinstance(first, dict) else None
        device = lookup(name) if isinstance(name, str) else None
        for link in LINKS if device is not None else ():
            if device is not None and link in device.link_gb_per_s:
                return link, device.link_gb_per_s[link] * 1e9
    return "", None


@dataclass(frozen=True)
class _Shared:
    """What all rows need: collectives, clocks and unhidden time by rank, and the link."""

    by_rank: Mapping[int, list[Collective]]
    ahead: Mapping[int, int]
    unhidden: Mapping[int, Union]
    world: int
    link: tuple[str, float | None]


def _use(
    key: tuple[str, str, int], members: list[dict[int, Collective]], shared: _Shared
) -> CollectiveUse:
    name, _, size = key
    complete = [group for group in members if is_complete(group, shared.by_rank)]
    times = [_moving_ns(group, shared.ahead) for group in complete] or [
        float(c.end_ns - c.start_ns) for group in members for c in group.values()
    ]
    known = [c for group in members for c in group.values()]
    ranks = len({rank for group in members for rank in group})
    ranks_of_group = known[0].group_size or shared.world
    link, rate = shared.link
    moving = float(np.median(times))
    algbw = size / moving * 1e9 if size > 0 and moving > 0 else None
    factor = bus_factor(name, ranks_of_group)
    busbw = algbw * factor if algbw is not None and factor is not None else None
    best = busbw * moving / min(times) if busbw is not None and min(times) > 0 else None
    return CollectiveUse(
        operation=name,
        group=known[0].group,
        group_size=ranks_of_group,
        bytes=size if size >= 0 else None,
        calls=len(known) // ranks,
        ranks=ranks,
        total_ms=sum(c.end_ns - c.start_ns for c in known) / ranks * 1e-6,
        moving_ms=moving * 1e-6,
        waits_included=not complete,
        exposed_ms=_exposed_ns(members, shared.unhidden) / ranks * 1e-6,
        algbw=algbw,
        busbw=busbw,
        best_busbw=best,
        link=link,
        link_bytes_per_s=rate,
        link_share=busbw / rate if busbw is not None and rate else None,
    )


def _moving_ns(group: Mapping[int, Collective], ahead: Mapping[int, int]) -> float:
    """From the last rank's arrival to the median rank's end."""
    arrived = max(c.start_ns - ahead[rank] for rank, c in group.items())
    ended = float(np.median([c.end_ns - ahead[rank] for rank, c in group.items()]))
    return max(0.0, ended - arrived)


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
