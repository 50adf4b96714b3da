"""Network-bound: bytes move between ranks and no computation hides it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..diagnosis import Evidence, Finding, Fix, Place, Saving
from ..features import RankFeatures
from ..hot_lines import hot_lines
from ..links import Link, busiest_link
from ..metrics import within
from ..text import milliseconds, percent, scaled
from ..trace.collectives import POINT_TO_POINT
from ..trace.intervals import total
from ._exchange import SATURATED, Exchange, evidence, exchanges, is_full
from ._exchange_fixes import fixes_of
from .base import MIN_SHARE, Evidenced, place

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

RETRANSMITTED = 0.01
"""Share of TCP segments sent again; from 1 % on the throughput of a loss-based TCP drops (Mathis et
al., 1997: it falls with the root of the loss)."""


def find(case: Evidenced) -> list[Finding]:
    """One finding for the collective that is exposed longest; peer copies; retransmits."""
    share = case.scores["network"]
    if share < MIN_SHARE or not case.features.ranks:
        return []
    rank = case.worst_rank("network")
    findings = _peer_copies(case, rank)
    found = exchanges(case.features)
    if not found:
        return [*(findings or [_unnamed(case, rank)]), *_retransmits(case, rank)]
    main = found[0]
    link = busiest_link(case.features.run)
    hidden = _hidden_share(rank)
    lines = hot_lines(case.features.run, rank.data.pid, "backward", limit=1)
    where = [Place(rank=rank.rank, collective=main.name)]
    where += [place(line, rank.rank) for line in lines]
    findings.append(
        case.finding(
            id=_id(main.operation),
            bound="network",
            title=f"{main.operation} runs while nothing computes",
            evidence=[*_evidence(rank, found, link, hidden), *_link_evidence(link)],
            where=where,
            fixes=_fixes(main, link, hidden),
            cold=rank,
        )
    )
    return [*findings, *_retransmits(case, rank)]


def _unnamed(case: Evidenced, rank: RankFeatures) -> Finding:
    """Exposed communication whose collectives the trace does not name."""
    exposed = rank.shares["network"] * float(np.mean(rank.step_ms))
    text = f"{milliseconds(exposed)} of every step only moves bytes; the trace names no collective"
    evidence = [Evidence(text, "network.exposed_ms", round(exposed, 4), "ms", "trace")]
    return case.finding(
        id="exposed-communication",
        bound="network",
        title="Communication runs while nothing computes",
        evidence=[*evidence, *_link_evidence(busiest_link(case.features.run))],
        where=[Place(rank=rank.rank)],
        fixes=[
            Fix(
                "Find out which exchange it is",
                "Traces of a newer torch name each collective, its group and its bytes.",
            )
        ],
    )


def _id(operation: str) -> str:
    id_ = "exposed-send-recv" if operation in POINT_TO_POINT else f"exposed-{operation}"
    id_ = id_.replace("_", "-")
    return id_ if id_ in FINDINGS else "exposed-communication"


def _evidence(
    rank: RankFeatures, found: Sequence[Exchange], link: Link | None, hidden: float
) -> list[Evidence]:
    exposed = rank.shares["network"] * float(np.mean(rank.step_ms))
    operation = found[0].operation if len(found) == 1 else "collectives run,"
    return [
        Evidence(
            f"{milliseconds(exposed)} of every step only moves bytes: "
            f"{operation} with nothing computing meanwhile",
            "network.exposed_ms",
            round(exposed, 4),
            "ms",
            "trace",
        ),
        *evidence(rank, found, link),
        Evidence(
            f"{percent(hidden)} of the communication runs under computation",
            "network.hidden_share",
            round(hidden, 4),
            "share",
            "trace",
        ),
    ]


def _hidden_share(rank: RankFeatures) -> float:
    """The share of the windows' time with communication in which the rank computes."""
    if rank.device:
        communication = sum(window.device.communication_ns for window in rank.device)
        hidden = sum(window.device.overlap_ns for window in rank.device)
        return hidden / communication if communication else 0.0
    whole = rank.per_step(total(rank.communicating) * 1e-6)
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


def _interface_variable(main: Exchange) -> str:
    backend = main.name.partition(":")[0].lower()
    return "NCCL_SOCKET_IFNAME" if "nccl" in backend else "GLOO_SOCKET_IFNAME"


def _fixes(main: Exchange, link: Link | None, hidden: float) -> list[Fix]:
    fixes = fixes_of(main, hidden, full=is_full(main, link))
    if link is not None and not link.is_loopback and not (main.is_small and link.share < SATURATED):
        fixes.append(
            Fix(
                "Use a faster link",
                f"{link.name} is what the ranks talk over; if the hosts have a faster interface, "
                f"name it ({_interface_variable(main)}).",
            )
        )
    return fixes
