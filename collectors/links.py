"""How fast a network interface can be: its nominal speed, lowered by traffic shaping.

Sources: Documentation/ABI/testing/sysfs-class-net of Linux; tc(8), tc-tbf(8), tc-htb(8),
tc-cake(8), tc-netem(8).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .procfs import read_int, read_text

TOOL_TIMEOUT_S = 2.0
_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_CLASS = re.compile(r"^class htb \S+ root .*?\bceil ([\d.]+)([KMGT]?)bit", re.MULTILINE)


@dataclass(frozen=True)
class Link:
    """One interface: `speed` from sysfs, `shaped` from tc, in bits per second; None if unknown.

    A virtual interface's nominal speed (a veth says 10 Gbit/s) limits nothing, so it is not kept.
    """

    speed_bits_per_s: float | None = None
    shaped_bits_per_s: float | None = None
    is_virtual: bool | None = None

    @property
    def bits_per_s(self) -> float | None:
        """The smaller of speed and shaping; None where neither is known."""
        known = [x for x in (self.speed_bits_per_s, self.shaped_bits_per_s) if x is not None]
        return min(known, default=None)


def read_links(interfaces: list[str], pid: int | None) -> dict[str, Link]:
    """The links of a network namespace: the caller's own, or that of process `pid`."""
    sys_net = _sys_net(interfaces, pid)
    shaped = shaped_bits_per_s(pid)
    return {name: _link(name, sys_net, shaped.get(name)) for name in interfaces}


def _link(name: str, sys_net: Path | None, shaped: float | None) -> Link:
    if sys_net is None:
        return Link(shaped_bits_per_s=shaped)
    folder = sys_net / name
    try:
        is_virtual = "/virtual/" in str(folder.readlink())
    except OSError:
        is_virtual = None
    speed = None if is_virtual else read_int(folder / "speed")
    return Link(
        speed_bits_per_s=speed * 1e6 if speed is not None and speed > 0 else None,
        shaped_bits_per_s=shaped,
        is_virtual=is_virtual,
    )


def _sys_net(interfaces: list[str], pid: int | None) -> Path | None:
    """The sysfs folder that shows the namespace of `pid`, if that process has one mounted.

    A sysfs shows the namespace in which it was mounted: `ip netns exec` and containers mount
    their own, `nsenter --net` alone does not. The same interface names with other counters would
    be another namespace's, so the traffic so far must agree as well.
    """
    if pid is None:
        return Path("/sys/class/net")
    folder = Path(f"/proc/{pid}/root/sys/class/net")
    before = interface_counters(pid)
    try:
        shown = {entry.name for entry in folder.iterdir() if entry.is_symlink()}
    except OSError:
        return None
    received = {name: read_int(folder / name / "statistics/rx_bytes") for name in shown}
    after = interface_counters(pid)
    if shown != set(interfaces) or set(before) != shown or set(after) != shown:
        return None
    for name, count in received.items():
        if count is None or not before[name][0] <= count <= after[name][0]:
            return None
    return folder


def interface_counters(pid: int | str) -> dict[str, list[int]]:
    """Interface to its 16 columns of /proc/PID/net/dev: 8 received, 8 sent (proc(5))."""
    found: dict[str, list[int]] = {}
    for line in (read_text(f"/proc/{pid}/net/dev") or "").splitlines()[2:]:
        name, _, columns = line.partition(":")
        counts = [int(column) for column in columns.split()]
        if len(counts) >= 16:
            found[name.strip()] = counts
    return found


def shaped_bits_per_s(pid: int | None) -> dict[str, float]:
    """Interface to the rate that its queueing discipline allows, in the namespace of `pid`.

    Empty where tc is not installed or the namespace may not be entered.
    """
    text = _tool(["tc", "-j", "qdisc", "show"], pid)
    try:
        disciplines = json.loads(text or "[]")
    except ValueError:
        return {}
    found: dict[str, float] = {}
    for discipline in disciplines:
        name = discipline.get("dev")
        rate = _rate(discipline)
        if rate is None and discipline.get("kind") == "htb" and name:
            rate = htb_ceil_bits_per_s(_tool(["tc", "class", "show", "dev", name], pid) or "")
        if name and rate is not None and _holds_all(discipline, disciplines):
            found[name] = min(rate, found.get(name, rate))
    return found


def _rate(discipline: dict[str, Any]) -> float | None:
    """The rate of one discipline, bits per second; `tc -j` gives bytes per second."""
    options = discipline.get("options") or {}
    kind = discipline.get("kind")
    value = {
        "tbf": options.get("rate"),
        "cake": options.get("bandwidth"),
        "netem": (options.get("rate") or {}).get("rate")
        if isinstance(options.get("rate"), dict)
        else options.get("rate"),
    }.get(str(kind))
    return float(value) * 8 if isinstance(value, int | float) and value > 0 else None


def _holds_all(discipline: dict[str, Any], disciplines: list[dict[str, Any]]) -> bool:
    """Whether all traffic passes this discipline: the root, or the only one below a netem root."""
    if discipline.get("root"):
        return True
    same = [other for other in disciplines if other.get("dev") == discipline.get("dev")]
    roots = [other for other in same if other.get("root")]
    return len(same) == 2 and len(roots) == 1 and roots[0].get("kind") in ("netem", "tbf")


def htb_ceil_bits_per_s(classes: str) -> float | None:
    """The sum of the ceilings of an htb's root classes, from `tc class show` (it has no JSON)."""
    ceilings = [float(number) * _UNITS[unit] for number, unit in _CLASS.findall(classes)]
    return sum(ceilings) if ceilings else None


def _tool(command: list[str], pid: int | None) -> str | None:
    if pid is not None:
        command = ["nsenter", "-t", str(pid), "-n", *command]
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TOOL_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
