"""Network-bound: bytes move between ranks and no computation hides it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from ..diagnosis import Evidence, Finding, Fix, Place
from ..features import RankFeatures
from ..hot_lines import hot_lines
from ..links import Link, busiest_link
from ..text import milliseconds, percent, scaled
from .base import MIN_SHARE, Evidenced, place

SMALL_MESSAGE_BYTES = 256 * 1024
"""Below about this size latency, not bandwidth, sets an all-reduce's time over TCP (one round trip
of 0.1 to 1 ms moves as much at 1 to 10 Gbit/s)."""


@dataclass(frozen=True)
class CollectiveTotal:
    """One kind of collective of one rank: name, calls and bytes per step, and its wall time."""

    name: str
    calls: int
    bytes: int
    seconds: float

    @property
    def message_bytes(self) -> float:
        """Mean bytes of one call."""
        return self.bytes / self.calls if self.calls else 0.0

    def bus_bandwidth(self, world: int) -> float:
        """Bytes/s per link as NCCL's tests define it for all-reduce: 2 (n-1)/n of the data."""
        factor = 2 * (world - 1) / world if "all_reduce" in self.name else (world - 1) / world
        return self.bytes * factor / self.seconds if self.seconds else 0.0


def find(case: Evidenced) -> list[Finding]:
    """One finding for the collective that is exposed longest."""
    share = case.scores["network"]
    if share < MIN_SHARE or len(case.features.ranks) < 1:
        return []
    rank = case.worst_rank("network")
    findings = _peer_copies(case, rank)
    totals = collective_totals(rank)
    if not totals:
        return findings
    main = totals[0]
    operation = main.name.split(":")[-1]
    link = busiest_link(case.features.run)
    step = float(np.mean(rank.step_ms))
    world = max(2, case.features.run.world_size)
    evidence = [
        Evidence(
            f"{milliseconds(rank.shares['network'] * step)} of every step only moves bytes: "
            f"{operation} with nothing computing meanwhile",
            "network.exposed_ms",
            round(rank.shares["network"] * step, 4),
            "ms",
            "trace",
        ),
        Evidence(
            f"{operation} moves {scaled(main.message_bytes, 'B')} a call at a bus bandwidth of "
            f"{scaled(main.bus_bandwidth(world), 'B/s')}",
            "network.busbw",
            round(main.bus_bandwidth(world), 1),
            "B/s",
            "trace",
        ),
        *_link_evidence(link),
    ]
    lines = hot_lines(case.features.run, rank.data.pid, "backward", limit=1)
    where = [Place(rank=rank.rank, collective=main.name)]
    where += [place(line, rank.rank) for line in lines]
    return [
        *findings,
        case.finding(
            id=f"exposed-{operation.replace('_', '-')}",
            bound="network",
            title=f"{operation} runs while nothing computes",
            evidence=evidence,
            where=where,
            fixes=_fixes(main, link),
        ),
    ]


def _peer_copies(case: Evidenced, rank: RankFeatures) -> list[Finding]:
    """Copies between devices that nothing hides."""
    whole = sum(window.wall_ns for window in rank.device)
    exposed = sum(window.copies_ns.get("peer-to-peer", 0.0) for window in rank.device)
    if not whole or exposed < MIN_SHARE * whole:
        return []
    rates = [copy.bandwidth for window in rank.device for copy in window.peer_copies]
    slowest = min(rates, default=0.0)
    evidence = [
        Evidence(
            f"{len(rates)} copies between devices, the slowest at {scaled(slowest, 'B/s')}, the "
            f"fastest at {scaled(max(rates, default=0.0), 'B/s')}",
            "network.peer_bandwidth",
            round(slowest, 1),
            "B/s",
            "trace",
        )
    ]
    return [
        case.finding(
            id="peer-copies",
            bound="network",
            title="Copies from device to device run while nothing computes",
            share=exposed / whole,
            evidence=evidence,
            where=[Place(rank=rank.rank)],
            fixes=[
                Fix(
                    "Place what talks to each other on devices with a direct link",
                    "`nvidia-smi topo -m` shows which pairs have NVLink and which go through PCIe.",
                ),
                Fix("Copy on a stream of its own while the device computes"),
            ],
        )
    ]


def collective_totals(rank: RankFeatures) -> list[CollectiveTotal]:
    """Collectives of a rank's windows by name, longest first."""
    grouped: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for c in rank.collectives:
        grouped[c.name].append((c.bytes, (c.end_ns - c.start_ns) * 1e-9))
    totals = [
        CollectiveTotal(name, len(v), sum(b for b, _ in v), sum(s for _, s in v))
        for name, v in grouped.items()
    ]
    return sorted(totals, key=lambda total: -total.seconds)


def _link_evidence(link: Link | None) -> list[Evidence]:
    if link is None:
        return []
    if link.is_loopback:
        text = f"the ranks talk over loopback, at {scaled(link.peak_bits_per_s, 'bit/s')} at most"
        value = link.peak_bits_per_s
        return [Evidence(text, "network.rate", round(value), "bit/s", "metrics")]
    text = f"{link.name} carries {scaled(link.peak_bits_per_s, 'bit/s')}"
    if link.speed_bits_per_s:
        share = link.share
        text += f", {percent(share)} of its {scaled(link.speed_bits_per_s, 'bit/s')}"
        return [Evidence(text, "network.link_share", round(share, 4), "share", "metrics")]
    return [Evidence(text, "network.rate", round(link.peak_bits_per_s), "bit/s", "metrics")]


def _fixes(main: CollectiveTotal, link: Link | None) -> list[Fix]:
    accumulate = Fix(
        "Synchronise less often: accumulate gradients over several batches",
        "Halving the number of all-reduces halves their time. The learning rate may need to follow "
        "the larger batch.",
        "with model.no_sync():  # all but the last of the accumulated batches\n    loss.backward()",
    )
    compress = Fix(
        "Send half the bytes: compress gradients to 16 bits",
        "DDP's own communication hook; check the accuracy afterwards.",
        "from torch.distributed.algorithms.ddp_comm_hooks import default_hooks\n"
        "model.register_comm_hook(None, default_hooks.bf16_compress_hook)",
    )
    if main.message_bytes < SMALL_MESSAGE_BYTES:
        merge = Fix(
            "Send fewer, larger messages",
            "Each call moves little and pays the latency.",
            "DistributedDataParallel(model, bucket_cap_mb=100)",
        )
        return [merge, accumulate]
    fixes = [compress, accumulate]
    if link is not None and not link.is_loopback:
        fixes.append(
            Fix(
                "Use a faster link",
                f"{link.name} is what the ranks talk over; if the hosts have a faster interface, "
                "name it (GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME).",
            )
        )
    return fixes
