"""Energy of CPU packages and memory from RAPL.

Source: Documentation/power/powercap/powercap.rst of Linux; AMD processors use the same files.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..base import Availability, Job, Metric
from ..procfs import read_int, read_text, rounded
from ..records import Record, Sample


@dataclass
class _Zone:
    label: str
    folder: Path
    range_uj: int
    last_uj: int | None = None
    last_ns: int = 0
    total_uj: int = 0


class PowerCollector:
    """Reads the energy counters once a second; they wrap around, which is undone."""

    name: ClassVar[str] = "power"
    period_s: ClassVar[float] = 1.0
    effect: ClassVar[str] = "no CPU power or energy"
    runs_degraded: ClassVar[bool] = False
    metrics: ClassVar[dict[str, Metric]] = {
        "power.<zone>.watts": Metric("W", "mean power of a RAPL zone since the last sample"),
        "power.<zone>.joules": Metric("J", "energy of a RAPL zone since the collector's start"),
    }

    def __init__(self, root: Path = Path("/sys/class/powercap")) -> None:
        self._root = root
        self._job: Job | None = None
        self._zones: list[_Zone] = []

    def probe(self) -> Availability:
        """It needs RAPL zones and leave to read them."""
        files = sorted(self._root.glob("intel-rapl:*/energy_uj"))
        if not files:
            return _no_zone(self._root)
        if all(read_int(file) is None for file in files):
            return Availability(
                False,
                "no-permission",
                "the energy counters may be read by root only",
                f"sudo chmod a+r {self._root}/intel-rapl:*/energy_uj",
            )
        return Availability(True)

    def start(self, job: Job) -> None:
        """Find the zones and take the first look."""
        self._job = job
        self._zones = [
            _Zone(_label(folder), folder, read_int(folder / "max_energy_range_uj") or 0)
            for folder in sorted(self._root.glob("intel-rapl:*"))
            if read_int(folder / "energy_uj") is not None
        ]
        self.sample()

    def sample(self) -> list[Record]:
        """Power and energy of each zone."""
        assert self._job is not None
        values: dict[str, float | None] = {}
        for zone in self._zones:
            now_ns, now_uj = time.monotonic_ns(), read_int(zone.folder / "energy_uj")
            if now_uj is None:
                continue
            if zone.last_uj is not None and now_ns > zone.last_ns:
                used_uj = energy_used_uj(zone.last_uj, now_uj, zone.range_uj)
                zone.total_uj += used_uj
                values[f"power.{zone.label}.watts"] = used_uj * 1e3 / (now_ns - zone.last_ns)
                values[f"power.{zone.label}.joules"] = zone.total_uj / 1e6
            zone.last_uj, zone.last_ns = now_uj, now_ns
        return [Sample(self._job.clock.now_ns(), rounded(values))] if values else []

    def stop(self) -> list[Record]:
        """Nothing is held open."""
        return []


def energy_used_uj(last_uj: int, now_uj: int, range_uj: int) -> int:
    """Energy between two readings of a counter that starts again at 0 after `range_uj`."""
    return now_uj - last_uj if now_uj >= last_uj else now_uj - last_uj + range_uj


def _no_zone(root: Path) -> Availability:
    if " hypervisor" in (read_text("/proc/cpuinfo") or ""):
        detail = "a virtual machine is not shown the processor's energy counters"
        return Availability(False, "not-supported", detail)
    detail = f"no RAPL zone under {root}"
    return Availability(False, "not-supported", detail, "sudo modprobe intel_rapl_msr")


def _label(folder: Path) -> str:
    """A zone's name; a part of a package bears the package's name before its own."""
    name = (read_text(folder / "name") or folder.name).strip()
    parts = folder.name.split(":")
    if len(parts) < 3:
        return name
    package = (read_text(folder.parent / ":".join(parts[:2]) / "name") or parts[1]).strip()
    return f"{package}.{name}"
