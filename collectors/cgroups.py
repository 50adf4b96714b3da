"""What a process's control groups allow and how often they held it back, for cgroup v1 and v2.

Sources: cgroups(7), Documentation/admin-guide/cgroup-v2.rst and scheduler/sched-bwc.rst of Linux.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .procfs import key_values, read_int, read_text

UNLIMITED_BYTES = 1 << 60
"""cgroup v1 writes "no limit" as the largest page-aligned 64-bit number; nothing is this large."""


@dataclass(frozen=True)
class Throttling:
    """Counters of the CPU quota: periods so far, periods held back, time held back."""

    periods: int
    throttled_periods: int
    throttled_us: float


@dataclass(frozen=True)
class Group:
    """One hierarchy's folders for a process: its own group first, then those above it."""

    version: int
    folders: tuple[Path, ...]


class ControlGroups:
    """The control groups of one process; `root` is another root folder, for recorded machines.

    A limit may stand at any level above the process, so all that can be seen are looked at. In a
    container the path in /proc/PID/cgroup may be the host's: the mount point stands for it then.
    """

    def __init__(self, pid: int | str, root: Path = Path("/")) -> None:
        self._root = root
        self._paths = _paths(read_text(root / f"proc/{pid}/cgroup") or "")
        self._mounts = _mounts(read_text(root / "proc/self/mountinfo") or "")
        self.cpu = self._group("cpu", "cpu.stat")
        self.memory = self._group("memory", "memory.stat")

    def cpu_limit_cores(self) -> float | None:
        """The smallest CPU quota on the way up, in cores; None where there is none."""
        return min((cores for _, cores in self._quotas()), default=None)

    def throttling(self) -> Throttling | None:
        """The counters of the group with the smallest quota; None where no quota stands."""
        quotas = self._quotas()
        if self.cpu is None or not quotas:
            return None
        folder = min(quotas, key=lambda quota: quota[1])[0]
        counts = key_values(read_text(folder / "cpu.stat"))
        if "nr_periods" not in counts:
            return None
        us = counts.get("throttled_usec", counts.get("throttled_time", 0) / 1000)
        return Throttling(counts["nr_periods"], counts.get("nr_throttled", 0), us)

    def memory_limit_bytes(self) -> int | None:
        """The smallest memory limit on the way up, in bytes; None where there is none."""
        if self.memory is None:
            return None
        name = "memory.max" if self.memory.version == 2 else "memory.limit_in_bytes"
        limits = (read_int(folder / name) for folder in self.memory.folders)
        return min((x for x in limits if x is not None and x < UNLIMITED_BYTES), default=None)

    def memory_bytes(self) -> int | None:
        """Memory in use by the process's own group, page cache included, in bytes."""
        if self.memory is None:
            return None
        name = "memory.current" if self.memory.version == 2 else "memory.usage_in_bytes"
        return read_int(self.memory.folders[0] / name)

    def _quotas(self) -> list[tuple[Path, float]]:
        if self.cpu is None:
            return []
        read = _quota_v2 if self.cpu.version == 2 else _quota_v1
        found = ((folder, read(folder)) for folder in self.cpu.folders)
        return [(folder, cores) for folder, cores in found if cores is not None]

    def _group(self, controller: str, proof: str) -> Group | None:
        """The folders of `controller`: v1 where it is mounted by itself, else v2."""
        for version, key in ((1, controller), (2, "")):
            mount, path = self._mounts.get(key), self._paths.get(key)
            if mount is None or path is None:
                continue
            folders = self._folders(mount, path)
            if any((folder / proof).exists() for folder in folders):
                return Group(version, folders)
        return None

    def _folders(self, mount: tuple[str, str], path: str) -> tuple[Path, ...]:
        mount_root, mount_point = mount
        inside = path.startswith(mount_root)
        relative = path.removeprefix(mount_root.rstrip("/")) if inside else ""
        top = self._root / mount_point.lstrip("/")
        folder = top / relative.strip("/")
        if not folder.is_dir():
            folder = top
        above = [parent for parent in folder.parents if parent == top or top in parent.parents]
        return (folder, *above)


def _paths(text: str) -> dict[str, str]:
    """Controller name ("" for v2) to the path in its hierarchy."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            for controller in parts[1].split(","):
                found[controller] = parts[2]
    return found


def _mounts(text: str) -> dict[str, tuple[str, str]]:
    """Controller name ("" for v2) to the root and the mount point of its hierarchy."""
    found: dict[str, tuple[str, str]] = {}
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or not kind or kind[0] not in ("cgroup", "cgroup2"):
            continue
        names = [""] if kind[0] == "cgroup2" else (kind[-1].split(",") if kind[1:] else [])
        for name in names:
            found.setdefault(name, (fields[3], fields[4]))
    return found


def _quota_v2(folder: Path) -> float | None:
    words = (read_text(folder / "cpu.max") or "").split()
    if len(words) != 2 or words[0] == "max":
        return None
    return int(words[0]) / int(words[1])


def _quota_v1(folder: Path) -> float | None:
    quota = read_int(folder / "cpu.cfs_quota_us")
    period = read_int(folder / "cpu.cfs_period_us")
    return quota / period if quota is not None and quota > 0 and period else None
