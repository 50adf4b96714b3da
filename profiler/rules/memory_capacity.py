"""Memory as a quantity: what grows until it is out, what is retried, scattered or swapped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...collectors.records import Memory
from ..diagnosis import Evidence, Finding, Fix, Place, Saving
from ..features import RankFeatures
from ..hot_lines import hot_lines
from ..metrics import growth_of, series_of, within
from ..run.load import Float, Int64, Run
from ..text import milliseconds, percent, scaled
from ._device import idle_shares
from .base import MIN_SHARE, Evidenced, place

FINDINGS = (
    "memory-growth",
    "device-memory-growth",
    "allocator-retries",
    "allocator-stalls",
    "fragmentation",
    "swapping",
)

MIN_READINGS = 6
"""One reading a second: with fewer, caches that fill at the start look like growth."""

MIN_GROWTH_BYTES = 32e6
MIN_GROWTH_SHARE = 0.02
"""Of the memory in use at the start. Allocators and caches move by less."""

STEADY_GROWTH = 0.35
"""In each half of the steady state at least so much of the growth: what levels off is a cache."""

RISING = 0.7
"""Share of the readings that are above the one before; noise gives a half."""

FRAGMENTED = 0.5
"""Share of the reserved device memory that no tensor uses, at the peak."""
MIN_RESERVED_BYTES = 512e6

SWAPPED_BYTES_PER_S = 1e6
"""256 pages a second: each is a wait for the disk of 0.1 ms or more."""

RISK = Saving(0.0, 0.0, 0.0)
"""Costs no time today."""


@dataclass(frozen=True)
class Growth:
    """A quantity that grows: bytes a step, bytes at the end, in how many steps so far."""

    bytes_per_step: float
    at_end_bytes: float
    steps: int

    def runs_out_at(self, limit_bytes: float, last_step: int) -> int | None:
        """The step at which `limit_bytes` is reached; None where the limit is not known."""
        if limit_bytes <= self.at_end_bytes or self.bytes_per_step <= 0:
            return None
        return last_step + int((limit_bytes - self.at_end_bytes) / self.bytes_per_step)


def find(case: Evidenced) -> list[Finding]:
    """Growth of host and device memory, retries, fragmentation, swapping."""
    found = [_swapping(case)]
    for rank in case.features.ranks:
        found += [_host_growth(case, rank), _device_growth(case, rank)]
        found += [_allocator(case, rank), _fragmentation(case, rank)]
    return _worst_of_each([finding for finding in found if finding is not None])


def _worst_of_each(findings: list[Finding]) -> list[Finding]:
    """Of the ranks that share a cause the one where it is largest."""
    best: dict[str, Finding] = {}
    for finding in findings:
        known = best.get(finding.id)
        if known is None or finding.evidence[0].value > known.evidence[0].value:
            best[finding.id] = finding
    return list(best.values())


def growth(times: Int64, values: Float, rank: RankFeatures) -> Growth | None:
    """The growth of readings over the steady state; None for what stands, falls or levels off."""
    line = rank.timeline
    if not line.steady.any():
        return None
    begin, end = int(line.start_ns[line.steady][0]), int(line.end_ns[-1])
    chosen = (times >= begin) & (times <= end)
    x, y = times[chosen], values[chosen]
    if len(y) < MIN_READINGS:
        return None
    total = float(y[-1] - y[0])
    if total < max(MIN_GROWTH_BYTES, MIN_GROWTH_SHARE * float(y[0])):
        return None
    # By steps, not by time: a run that slows down grows more slowly, too.
    at = np.searchsorted(line.end_ns, x)
    middle = int(np.clip(np.searchsorted(at, (at[0] + at[-1]) / 2), 1, len(y) - 2))
    first, second = float(y[middle] - y[0]), float(y[-1] - y[middle])
    if min(first, second) < STEADY_GROWTH * total or np.mean(np.diff(y) > 0) < RISING:
        return None
    steps = int(at[-1] - at[0])
    return Growth(total / steps, float(y[-1]), steps) if steps else None


def _host_growth(case: Evidenced, rank: RankFeatures) -> Finding | None:
    run = case.features.run
    found = growth(*series_of(run, f"rank.{rank.rank}.rss_bytes"), rank)
    if found is None:
        return None
    return _growing(
        case,
        rank,
        found,
        id="memory-growth",
        where="the rank's resident memory",
        limit=_host_limit(run, found),
        snippet="losses.append(loss.item())  # a tensor would keep its whole graph",
    )


def _host_limit(run: Run, found: Growth) -> float:
    """What the process can reach: the group's limit, else what the host has left."""
    limit, used = series_of(run, "cgroup.memory_limit_bytes")[1], series_of(run, "job.rss_bytes")[1]
    available = series_of(run, "host.memory_available_bytes")[1]
    left = []
    if len(limit) and len(used):
        left.append(float(limit[-1] - used[-1]))
    if len(available):
        left.append(float(available[-1]))
    return found.at_end_bytes + min(left) if left else 0.0


def _device_growth(case: Evidenced, rank: RankFeatures) -> Finding | None:
    readings = _readings(rank)
    if not readings:
        return None
    times = np.array([r.time_ns for r in readings], np.int64)
    used = np.array([r.allocated for r in readings], np.float64)
    found = growth(times, used, rank)
    if found is None:
        return None
    total = series_of(case.features.run, f"gpu.{readings[0].device}.memory_total_bytes")[1]
    return _growing(
        case,
        rank,
        found,
        id="device-memory-growth",
        where=f"memory allocated on device {readings[0].device}",
        limit=float(total[-1]) if len(total) else 0.0,
        snippet="total += loss.detach()  # a tensor with a graph keeps its activations",
    )


def _growing(  # noqa: PLR0913 - the parts of a finding, by keyword
    case: Evidenced,
    rank: RankFeatures,
    found: Growth,
    *,
    id: str,
    where: str,
    limit: float,
    snippet: str,
) -> Finding:
    last = rank.timeline.steps
    out = found.runs_out_at(limit, last)
    evidence = [
        Evidence(
            f"{where} grows by {scaled(found.bytes_per_step, 'B')} a step, "
            f"{scaled(found.bytes_per_step * found.steps, 'B')} in {found.steps:,} steps",
            "memory.growth_per_step",
            round(found.bytes_per_step, 1),
            "B/step",
            "metrics",
        )
    ]
    if out is not None:
        text = f"at that rate the {scaled(limit, 'B')} that there are run out at step {out:,}"
        evidence.append(Evidence(text, "memory.out_at_step", out, "steps", "metrics"))
    return case.held_back(
        id=id,
        bound="memory",
        title=f"Memory grows from step to step on rank {rank.rank}"
        + ("" if out is None else f" and runs out at about step {out:,}"),
        saving=RISK,
        evidence=evidence,
        where=[Place(rank=rank.rank)],
        fixes=[
            Fix(
                "Keep numbers, not tensors, from one step to the next",
                "A list of losses, outputs or hidden states keeps their graphs alive.",
                snippet,
            )
        ],
    )


def _readings(rank: RankFeatures) -> list[Memory]:
    """The allocator's readings of the device that holds most."""
    if not rank.data.memory:
        return []
    device = max(rank.data.memory, key=lambda r: r.peak_allocated).device
    return [r for r in rank.data.memory if r.device == device]


def _allocator(case: Evidenced, rank: RankFeatures) -> Finding | None:
    """Retries of the caching allocator, or the device's idle time in allocation calls."""
    readings = _readings(rank)
    number = readings[-1].retries - readings[0].retries if readings else 0
    share = idle_shares(rank).get("allocator", 0.0)
    if number > 0:
        return _retries(case, rank, number, share)
    return _stalls(case, rank, share) if share >= MIN_SHARE else None


def _retries(case: Evidenced, rank: RankFeatures, number: int, share: float) -> Finding:
    return case.held_back(
        id="allocator-retries",
        bound="memory",
        title="The device's memory is full: the allocator gives blocks back and asks again",
        saving=Saving(round(share / 2, 4), round(share, 4), round(min(0.99, 2 * share), 4)),
        evidence=[
            Evidence(
                f"{number:,} retries of the caching allocator, each with a synchronisation",
                "memory.allocator_retries",
                number,
                "retries",
                "metrics",
            )
        ],
        where=[Place(rank=rank.rank)],
        fixes=[
            _GROW,
            Fix("Use a smaller batch, or checkpoint activations"),
        ],
    )


def _stalls(case: Evidenced, rank: RankFeatures, share: float) -> Finding:
    """The device idles while the host asks the driver for memory, and no retry is counted."""
    spent = share * float(rank.step_ms.mean())
    text = f"the device idles {milliseconds(spent)} of every step in calls that get or free memory"
    lines = hot_lines(case.features.run, rank.data.pid, "rest")
    return case.finding(
        id="allocator-stalls",
        bound="memory",
        share=share,
        title="The device waits while its memory is asked for and given back",
        evidence=[Evidence(text, "memory.allocator_ms", round(spent, 4), "ms", "trace")],
        where=[place(line, rank.rank) for line in lines] or [Place(rank=rank.rank)],
        fixes=[
            Fix(
                "Leave the allocator its blocks",
                "torch.cuda.empty_cache() in the loop, or a switched-off cache, gives every block "
                "back to the driver, and the next step asks for it again.",
            ),
            _GROW,
        ],
    )


_GROW = Fix(
    "Let segments grow instead of asking for new ones",
    "Batches of changing size leave pieces of all sizes behind.",
    "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True python train.py",
)


def _fragmentation(case: Evidenced, rank: RankFeatures) -> Finding | None:
    readings = _readings(rank)
    if not readings:
        return None
    most = max(readings, key=lambda r: r.reserved)
    unused = 1 - most.peak_allocated / most.reserved if most.reserved else 0.0
    if most.reserved < MIN_RESERVED_BYTES or unused < FRAGMENTED:
        return None
    return case.held_back(
        id="fragmentation",
        bound="memory",
        title="Most of the reserved device memory is in pieces that no tensor fits",
        saving=RISK,
        evidence=[
            Evidence(
                f"{percent(unused)} of {scaled(most.reserved, 'B')} reserved was never in use at "
                "one time",
                "memory.unused_share",
                round(unused, 4),
                "share",
                "metrics",
            )
        ],
        where=[Place(rank=rank.rank)],
        fixes=[
            _GROW,
        ],
    )


def _swapping(case: Evidenced) -> Finding | None:
    """Pages that come back from swap while the job itself has major faults."""
    rank = case.features.ranks[0]
    line, run = rank.timeline, case.features.run
    if not line.steady.any():
        return None
    span = int(line.start_ns[line.steady][0]), int(line.end_ns[-1])
    read = within(run, "host.swap_in_bytes_per_s", *span)
    faults = within(run, "job.major_faults_per_s", *span)
    if len(read) < 3 or float(read.mean()) < SWAPPED_BYTES_PER_S or not float(faults.sum()):
        return None
    stalled = growth_of(run, "psi.memory.some_total_us", *span)
    share = min(0.99, stalled[0] * 1e-6 / stalled[1]) if stalled and stalled[1] else 0.0
    return case.held_back(
        id="swapping",
        bound="memory",
        title="Memory is swapped in from disk while the training runs",
        saving=Saving(0.0, round(share, 4), round(min(0.99, 2 * share), 4)),
        evidence=[
            Evidence(
                f"{scaled(float(read.mean()), 'B/s')} come back from swap",
                "memory.swap_in",
                round(float(read.mean()), 1),
                "B/s",
                "metrics",
            ),
            Evidence(
                f"tasks stall for memory {percent(share)} of the time",
                "memory.stalled_share",
                round(share, 4),
                "share",
                "metrics",
            ),
        ],
        where=[Place(rank=rank.rank)],
        fixes=[
            Fix("Use less memory: fewer loader workers, a smaller batch, a memory-mapped dataset")
        ],
    )
