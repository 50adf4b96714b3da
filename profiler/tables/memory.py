"""Memory over the run: the device's allocator, and what the processes hold on the host."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..run.load import RankData, Run

Float = npt.NDArray[np.float64]

GROWTH_PART = 0.25
"""Growth compares the medians of the second and the last quarter: start-up is in the first."""

MIN_GROWTH_SAMPLES = 16


@dataclass(frozen=True)
class MemorySeries:
    """Bytes over the time of the run, seconds since its start.

    `growth` is the change in bytes from the second to the last quarter, None with few samples.
    """

    label: str
    time_s: Float
    bytes: Float
    growth: float | None

    @property
    def peak(self) -> float:
        """The most that was seen, bytes."""
        return float(np.max(self.bytes))


@dataclass(frozen=True)
class DeviceMemory:
    """The allocator of one device of one rank. `retries` and `ooms` count over the run.

    `peak_allocated` is the allocator's own peak, which samples may miss.
    """

    rank: int
    device: int
    allocated: MemorySeries
    reserved: MemorySeries
    peak_allocated: int
    retries: int
    ooms: int


def host_memory(run: Run) -> list[MemorySeries]:
    """Return resident memory of the job and of each rank with its loader workers."""
    found = []
    for table in run.metrics:
        for name, (time_ns, value) in sorted(table.series.items()):
            if not name.endswith(".rss_bytes") or not len(value):
                continue
            label = name[: -len(".rss_bytes")].replace(".", " ")
            found.append(_series(label, time_ns, value, run.manifest.started_ns))
    return found


def host_limit(run: Run) -> tuple[str, float] | None:
    """Return what the job may use, bytes: the control group's limit, else the host's memory."""
    for metric, words in (
        ("cgroup.memory_limit_bytes", "limit of the control group"),
        ("host.memory_total_bytes", "memory of the host"),
    ):
        for table in run.metrics:
            if metric in table.series and len(table.series[metric][1]):
                return words, float(table.series[metric][1][-1])
    return None


def device_memory(run: Run) -> list[DeviceMemory]:
    """Return the allocators of all ranks; empty where no device was used."""
    return [
        memory
        for rank in run.ranks
        for device in sorted({record.device for record in rank.memory})
        for memory in (_device(rank, device, run.manifest.started_ns),)
    ]


def _device(rank: RankData, device: int, origin_ns: int) -> DeviceMemory:
    records = [record for record in rank.memory if record.device == device]
    time_ns = np.asarray([record.time_ns for record in records], np.int64)
    allocated = np.asarray([record.allocated for record in records], np.float64)
    reserved = np.asarray([record.reserved for record in records], np.float64)
    return DeviceMemory(
        rank=rank.rank,
        device=device,
        allocated=_series("allocated", time_ns, allocated, origin_ns),
        reserved=_series("reserved", time_ns, reserved, origin_ns),
        peak_allocated=max(record.peak_allocated for record in records),
        retries=max(record.retries for record in records),
        ooms=max(record.ooms for record in records),
    )


def _series(
    label: str, time_ns: npt.NDArray[np.int64], value: Float, origin_ns: int
) -> MemorySeries:
    seconds = np.asarray((time_ns - origin_ns) * 1e-9, np.float64)
    return MemorySeries(label, seconds, value, growth(value))


def growth(value: Float) -> float | None:
    """Return the change of the median from the second to the last quarter; None with few."""
    if len(value) < MIN_GROWTH_SAMPLES:
        return None
    part = int(len(value) * GROWTH_PART)
    return float(np.median(value[-part:]) - np.median(value[part : 2 * part]))
