"""Network-bound: bytes move between ranks and no computation hides it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from ..diagnosis import Evidence, Finding, Fix, Place, Saving
from ..features import RankFeatures
from ..hot_lines import hot_lines
from ..links import Link, busiest_link
from ..metrics import within
from ..text import milliseconds, percent, scaled
from ..trace.collectives import Collective, to_intervals
from ..trace.intervals import total
from .base import MIN_SHARE, Evidenced, place

SMALL_MESSAGE_BYTES = 256 * 1024
"""Below about this size latency, not bandwidth, sets an all-reduce's time over TCP (one round trip
of 0.1 to 1 ms moves as much at 1 to 10 Gbit/s)."""


FINDINGS = (
    "exposed-all-reduce",
    "exposed-all-gather",
    "exposed-reduce-scatter",
    "exposed-all-to-all",
    "exposed-broadcast",
    "exposed-reduce",
    "exposed-send-recv",
    "exposed-communication",
    "peer-copies",
    "retransmits",
)

LITTLE_HIDDEN = 0.2
"""With less of the communication hidden, backward and exchange run one after the other: DDP hides
all but its last bucket where the link keeps up (Li et al., VLDB 2020)."""

SATURATED = 0.7
"""Share of a link's nominal speed that TCP payload reaches when the link is full: 0.88 to 0.94 were
measured over shaped links, less with many small frames."""

RETRANSMITTED = 0.01
"""Share of TCP segments sent again; from 1 % on the throughput of a loss-based TCP drops (Mathis et
al., 1997: it falls with the root of the loss)."""


@dataclass(frozen=True)
class CollectiveTotal:
    """One kind of collective of one rank: name, calls and bytes, its wall time, group's size."""

    name: str
    calls: int
    bytes: int
    seconds: float
    group_size: int = 0

    @property
    def message_bytes(self) -> float:
        """Mean bytes of one call."""
        return self.bytes / self.calls if self.calls else 0.0

    def bus_bandwidth(self, world: int) -> float:
        """Bytes/s per link as NCCL's tests define it for all-reduce: 2 (n-1)/n of the data."""
        factor = 2 * (world - 1) / world if "all_reduce" in self.name else (world - 1) / world
        return self.bytes * factor / self.seconds if self.seconds else 0.0


def find(case: Evidenced) -> list[Finding]:
    """One finding for the collective that is exposed longest; peer copies; retransmits."""
    share = case.scores["network"]
    if share < MIN_SHARE or not case.features.ranks:
        return []
    rank = case.worst_rank("network")
    findings = _peer_copies(case, rank)
    totals = collective_totals(rank)
    if not totals:
        return findings
    main = totals[0]
    operation = main.name.split(":")[-1]
    link = busiest_link(case.features.run)
    hidden = _hidden_share(rank)
    lines = hot_lines(case.features.run, rank.data.pid, "backward", limit=1)
    where = [Place(rank=rank.rank, collective=main.name)]
    where += [place(line, rank.rank) for line in lines]
    findings.append(
        case.finding(
            id=_id(operation),
            bound="network",
            title=f"{operation} runs while nothing computes",
            evidence=[*_evidence(case, rank, main, hidden), *_link_evidence(link)],
            where=where,
            fixes=_fixes(main, link, hidden),
        )
    )
    return [*findings, *_retransmits(case, rank)]


def _id(operation: str) -> str:
    id_ = f"exposed-{operation.replace('_', '-')}"
    return id_ if id_ in FINDINGS else "exposed-communication"


def _evidence(
    case: Evidenced, rank: RankFeatures, main: CollectiveTotal, hidden: float
) -> list[Evidence]:
    operation = main.name.split(":")[-1]
    exposed = rank.shares["network"] * float(np.mean(rank.step_ms))
    world = main.group_size or max(2, case.features.run.world_size)
    bandwidth = main.bus_bandwidth(world)
    small = main.message_bytes < SMALL_MESSAGE_BYTES
    limit = "latency, not bandwidth, sets its time" if small else "bandwidth sets its time"
    return [
        Evidence(
            f"{milliseconds(exposed)} of every step only moves bytes: "
            f"{operation} with nothing computing meanwhile",
            "network.exposed_ms",
            round(exposed, 4),
            "ms",
            "trace",
        ),
        Evidence(
            f"{operation} among {world} ranks moves {scaled(main.message_bytes, 'B')} a call at a "
            f"bus bandwidth of {scaled(bandwidth, 'B/s')}: {limit}",
            "network.busbw",
            round(bandwidth, 1),
            "B/s",
            "trace",
        ),
        Evidence(
            f"{percent(hidden)} of the communication runs under computation",
            "network.hidden_share",
            round(hidden, 4),
            "share",
            "trace",
        ),
    ]


def _hidden_share(rank: RankFeatures) -> float:
    """The share of the time with communication in which the rank computes."""
    spans = to_intervals([(c.start_ns, c.end_ns) for c in rank.collectives])
    whole = rank.per_step(total(spans) * 1e-6)
    exposed = (rank.shares["network"] + rank.shares["imbalance"]) * float(np.mean(rank.step_ms))
    return float(np.clip(1 - exposed / whole, 0.0, 1.0)) if whole else 0.0


def _retransmits(case: Evidenced, rank: RankFeatures) -> list[Finding]:
    """Segments that TCP sends again in the namespace where most are."""
    line = rank.timeline
    if not line.steady.any():
        return []
    span = int(line.start_ns[line.steady][0]), int(line.end_ns[-1])
    worst = 0.0
    for table in case.features.run.metrics:
        for name in table.series:
            if name.startswith("tcp") and name.endswith("retransmits_per_s"):
                sent = within(case.features.run, name.replace("retransmits", "segments_out"), *span)
                again = within(case.features.run, name, *span)
                if len(sent) >= 3 and sent.sum() > 0:
                    worst = max(worst, float(again.sum() / sent.sum()))
    if worst < RETRANSMITTED:
        return []
    held = case.saving("network")
    return [
        case.held_back(
            id="retransmits",
            bound="network",
            title="The network loses packets: TCP sends them again",
            # What a clean link would reach is not known from the data: at most all of the wait.
            saving=Saving(0.0, round(held.mid / 2, 4), held.high),
            evidence=[
                Evidence(
                    f"{percent(worst)} of the TCP segments are sent again",
                    "network.retransmit_share",
                    round(worst, 5),
                    "share",
                    "metrics",
                )
            ],
            where=[Place(rank=rank.rank)],
            fixes=[
                Fix(
                    "Find where packets are dropped",
                    "A full switch queue, a wrong MTU or a bad cable; `ethtool -S` counts drops.",
                )
            ],
        )
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
    grouped: dict[str, list[Collective]] = defaultdict(list)
    for c in rank.collectives:
        grouped[c.name].append(c)
    totals = [
        CollectiveTotal(
            name,
            len(mine),
            sum(c.bytes for c in mine),
            sum(c.end_ns - c.start_ns for c in mine) * 1e-9,
            max(c.group_size for c in mine),
        )
        for name, mine in grouped.items()
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


def _fixes(main: CollectiveTotal, link: Link | None, hidden: float) -> list[Fix]:
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
    if hidden < LITTLE_HIDDEN and "all_reduce" in main.name:
        overlap = Fix(
            "Exchange gradients while the backward pass goes on",
            "DistributedDataParallel sends a bucket as soon as its gradients are there; smaller "
            "buckets leave earlier. With the link full it hides what computing there is.",
            "model = DistributedDataParallel(model, bucket_cap_mb=5)",
        )
        full = link is not None and link.share >= SATURATED
        fixes.insert(len(fixes) if full else 0, overlap)
    if link is not None and not link.is_loopback:
        fixes.append(
            Fix(
                "Use a faster link",
                f"{link.name} is what the ranks talk over; if the hosts have a faster interface, "
                "name it (GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME).",
            )
        )
    return fixes
