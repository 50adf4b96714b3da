"""Which machine this is, as far as its roofs depend on it: CPU, cores, memory, caches."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from ...collectors.cgroups import ControlGroups

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True)
class Machine:
    """What measured roofs hold for; `cores` is what affinity and quota allow this process."""

    cpu: str
    cores: float
    memory_bytes: int

    @property
    def key(self) -> str:
        """A short name for files: the same machine gives the same one."""
        text = f"{self.cpu}|{self.cores:g}|{self.memory_bytes >> 28}"
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def this_machine(root: Path = Path("/")) -> Machine:
    """Describe the machine that this process runs on; `root` is for recorded machines."""
    allowed = float(len(_allowed_cpus()))
    quota = ControlGroups("self", root).cpu_limit_cores()
    return Machine(
        cpu=cpu_model(root),
        cores=min(allowed, quota) if quota else allowed,
        memory_bytes=_memory_bytes(root),
    )


def cpu_model(root: Path = Path("/")) -> str:
    """The CPU's model as the kernel gives it, with family and stepping; empty if unknown."""
    wanted = ("model name", "cpu family", "model", "stepping", "CPU implementer", "CPU part")
    found: dict[str, str] = {}
    for line in _text(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in wanted:
            found.setdefault(name.strip(), value.strip())
        if not line.strip() and found:
            break
    return " ".join(found[name] for name in wanted if name in found)


def cache_bytes(threads: int, root: Path = Path("/")) -> dict[str, int]:
    """Bytes of each cache level ("l1", "l2", "l3") that `threads` threads reach together.

    Counts the separate caches that the allowed CPUs see, at most one a thread.
    """
    found: dict[str, dict[str, int]] = {}
    for cpu in sorted(_allowed_cpus()):
        folder = root / f"sys/devices/system/cpu/cpu{cpu}/cache"
        for index in sorted(folder.glob("index*")):
            if _text(index / "type").strip() == "Instruction":
                continue
            level = "l" + _text(index / "level").strip()
            shared = _text(index / "shared_cpu_list").strip() or f"{cpu}"
            size = _size(_text(index / "size").strip())
            if size:
                found.setdefault(level, {}).setdefault(shared, size)
    reached = {level: sorted(sizes.values(), reverse=True) for level, sizes in found.items()}
    return {level: sum(sizes[: max(threads, 1)]) for level, sizes in sorted(reached.items())}


def _size(text: str) -> int:
    number, unit = text.rstrip("KMG"), text[-1:]
    return int(number) * _UNITS.get(unit, 1) if number.isdigit() else 0


def _allowed_cpus() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _memory_bytes(root: Path) -> int:
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:") and line.split()[1].isdigit():
            return int(line.split()[1]) * 1024
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
