"""Bytes that the job reads and writes, how busy its disks are, and where its files live."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import ClassVar

from ..base import Availability, Job, Metric
from ..mounts import NETWORK_FILE_SYSTEMS, Mount, disk_of, mount_of
from ..procfs import Rates, key_values, read_text, rounded
from ..records import Record, Sample

SECTOR_BYTES = 512  # /proc/diskstats counts in these whatever the disk's own sector is
_JOB_FIELDS = ("read_bytes", "write_bytes", "rchar", "wchar")
_SELDOM_S = 10.0  # free space is asked this often: on a network file system it costs a round trip

Values = dict[str, float | None]


class StorageCollector:
    """Reads /proc/PID/io and /proc/diskstats once a second."""

    name: ClassVar[str] = "storage"
    period_s: ClassVar[float] = 1.0
    effect: ClassVar[str] = "no disk traffic of the job, no disk load, no file-system type"
    runs_degraded: ClassVar[bool] = False
    metrics: ClassVar[dict[str, Metric]] = {
        "storage.job.read_bytes_per_s": Metric("bytes/s", "fetched from storage by the job"),
        "storage.job.write_bytes_per_s": Metric("bytes/s", "sent to storage by the job"),
        "storage.job.rchar_bytes_per_s": Metric(
            "bytes/s", "asked for by read calls of the job: cache, pipes and sockets included"
        ),
        "storage.job.wchar_bytes_per_s": Metric(
            "bytes/s", "given to write calls of the job: cache, pipes and sockets included"
        ),
        "storage.iowait_percent": Metric("%", "CPU time of the host idle while a disk worked"),
        "disk.<disk>.busy_percent": Metric("%", "time in which the disk had requests"),
        "disk.<disk>.read_bytes_per_s": Metric("bytes/s", "read from the disk by everybody"),
        "disk.<disk>.write_bytes_per_s": Metric("bytes/s", "written to the disk by everybody"),
        "disk.<disk>.requests_per_s": Metric("1/s", "reads and writes that the disk completed"),
        "disk.<disk>.queue": Metric("1", "mean number of requests waiting or in work"),
        "storage.<folder>.on_disk.<disk>": Metric("1", "the disk that holds the folder"),
        "storage.<folder>.fs.<type>": Metric("1", "the folder's file-system type"),
        "storage.<folder>.network_fs": Metric("0/1", "1 if that file system is a network's"),
        "storage.<folder>.free_bytes": Metric("bytes", "free space where the folder is"),
    }

    def __init__(self) -> None:
        self._job: Job | None = None
        self._rates = Rates()
        self._lost = dict.fromkeys(_JOB_FIELDS, 0)
        self._last = dict.fromkeys(_JOB_FIELDS, 0)
        self._places: dict[str, tuple[Path, Mount | None, str | None]] = {}
        self._free: Values = {}
        self._free_read = 0.0
        self._samples = 0

    def probe(self) -> Availability:
        """It needs the kernel's accounting of input and output."""
        if read_text("/proc/self/io") is None:
            return Availability(
                False,
                "not-supported",
                "/proc/self/io is not there: the kernel was built without TASK_IO_ACCOUNTING",
            )
        return Availability(True)

    def start(self, job: Job) -> None:
        """Find the mounts of the working folder and the run folder, and take the first look."""
        self._job = job
        for label, folder in (("work", job.cwd), ("run", job.run_folder)):
            mount = mount_of(folder)
            self._places[label] = (folder, mount, disk_of(mount) if mount else None)
        self.sample()

    def sample(self) -> list[Record]:
        """One record of all that is known since the last look."""
        assert self._job is not None
        values: Values = {}
        values.update(self._of_job())
        values.update(self._of_disks())
        values.update(self._of_places())
        values["storage.iowait_percent"] = self._iowait_percent()
        self._samples += 1
        if self._samples == 1:
            return []
        return [Sample(self._job.clock.now_ns(), rounded(values))]

    def stop(self) -> list[Record]:
        """Nothing is held open."""
        return []

    def _of_job(self) -> Values:
        """The kernel adds a reaped child's counters to its parent's, so a sum loses only orphans.

        What falls out of the sum is put back from the look before.
        """
        assert self._job is not None
        now_ns = time.monotonic_ns()
        sums = dict.fromkeys(_JOB_FIELDS, 0)
        for pid in self._job.processes.snapshot().processes:
            counts = key_values(read_text(f"/proc/{pid}/io"))
            for name in _JOB_FIELDS:
                sums[name] += counts.get(name, 0)
        values: Values = {}
        for name, total in sums.items():
            self._lost[name] += max(0, self._last[name] - total)
            self._last[name] = total
            key = f"storage.job.{name.removesuffix('_bytes')}_bytes_per_s"
            values[key] = self._rates.per_s(key, total + self._lost[name], now_ns)
        return values

    def _of_disks(self) -> Values:
        """Columns of /proc/diskstats: Documentation/admin-guide/iostats.rst of Linux."""
        wanted = {disk for _, _, disk in self._places.values() if disk is not None}
        values: Values = {}
        now_ns = time.monotonic_ns()
        for line in (read_text("/proc/diskstats") or "").splitlines() if wanted else ():
            fields = line.split()
            if len(fields) < 14 or fields[2] not in wanted:
                continue
            counts = [int(field) for field in fields[3:14]]
            disk = f"disk.{fields[2]}"
            for name, count in (
                ("busy_percent", counts[9] / 10),  # ms a second, as a percentage
                ("read_bytes_per_s", counts[2] * SECTOR_BYTES),
                ("write_bytes_per_s", counts[6] * SECTOR_BYTES),
                ("requests_per_s", counts[0] + counts[4]),
                ("queue", counts[10] / 1000),
            ):
                key = f"{disk}.{name}"
                rate = self._rates.per_s(key, count, now_ns)
                values[key] = min(100.0, rate) if name == "busy_percent" and rate else rate
        return values

    def _of_places(self) -> Values:
        if time.monotonic() - self._free_read > _SELDOM_S or not self._free_read:
            self._free_read = time.monotonic()
            self._free = {
                f"storage.{label}.free_bytes": _free_bytes(folder)
                for label, (folder, _, _) in self._places.items()
            }
        values = dict(self._free)
        for label, (_, mount, disk) in self._places.items():
            if mount is not None:
                values[f"storage.{label}.fs.{mount.kind}"] = 1
                values[f"storage.{label}.network_fs"] = mount.kind in NETWORK_FILE_SYSTEMS
            if disk is not None:
                values[f"storage.{label}.on_disk.{disk}"] = 1
        return values

    def _iowait_percent(self) -> float | None:
        first = (read_text("/proc/stat") or "").partition("\n")[0].split()[1:9]
        if len(first) < 5:
            return None
        ticks = [int(field) for field in first]
        total, waited = float(sum(ticks)), float(ticks[4])
        share = self._rates.per_s("iowait", waited, int(total * 1e9))
        return 100 * share if share is not None else None


def _free_bytes(folder: Path) -> float | None:
    try:
        stat = os.statvfs(folder)
    except OSError:
        return None
    return float(stat.f_bavail * stat.f_frsize)
