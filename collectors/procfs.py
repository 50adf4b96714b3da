"""Cheap reading of /proc: one process's counters and the tree of processes of a job.

Formats: proc(5), `/proc/PID/stat` and `/proc/PID/io`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

RESCAN_S = 30.0
"""Processes known to be outside of the job are looked at again this often (pid reuse)."""


def read_bytes(path: str | Path) -> bytes:
    """The whole of a small kernel file, without the cost of a buffered text reader."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, 65536):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)


def read_text(path: str | Path) -> str | None:
    """The text of a small kernel file, or None where it is not there or not to be read."""
    try:
        return read_bytes(path).decode("utf-8", "replace")
    except OSError:
        return None


def read_int(path: str | Path) -> int | None:
    """The one number that a kernel file holds, or None."""
    text = read_text(path)
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None


class ProcessStat(NamedTuple):
    """Counters of one process since its start; the `children_` ones are of reaped children."""

    pid: int
    parent_pid: int
    start_ticks: int
    name: str
    state: str
    threads: int
    rss_bytes: int
    cpu_ticks: int
    children_cpu_ticks: int
    minor_faults: int
    children_minor_faults: int
    major_faults: int
    children_major_faults: int


def process_stat(pid: int, thread: int | None = None) -> ProcessStat | None:
    """The counters of process `pid`, or of one thread of it; None where it is gone or hidden."""
    part = "" if thread is None else f"task/{thread}/"
    try:
        data = read_bytes(f"/proc/{pid}/{part}stat")
    except OSError:
        return None
    opening, closing = data.find(b"("), data.rfind(b")")
    if opening < 0 or closing < 0:
        return None
    fields = data[closing + 2 :].split()
    return ProcessStat(
        pid=pid,
        parent_pid=int(fields[1]),
        start_ticks=int(fields[19]),
        name=data[opening + 1 : closing].decode("utf-8", "replace"),
        state=fields[0].decode(),
        threads=int(fields[17]),
        rss_bytes=int(fields[21]) * PAGE_BYTES,
        cpu_ticks=int(fields[11]) + int(fields[12]),
        children_cpu_ticks=int(fields[13]) + int(fields[14]),
        minor_faults=int(fields[7]),
        children_minor_faults=int(fields[8]),
        major_faults=int(fields[9]),
        children_major_faults=int(fields[10]),
    )


def process_pids() -> set[int]:
    """All processes that /proc shows."""
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


@dataclass(frozen=True)
class Snapshot:
    """The job's live processes at one moment of the monotonic clock."""

    mono_ns: int
    processes: dict[int, ProcessStat]

    def subtree(self, pid: int) -> list[ProcessStat]:
        """The process `pid` and its descendants that are alive."""
        children: dict[int, list[int]] = {}
        for stat in self.processes.values():
            children.setdefault(stat.parent_pid, []).append(stat.pid)
        found: list[ProcessStat] = []
        waiting = [pid]
        while waiting:
            current = waiting.pop()
            stat_or_none = self.processes.get(current)
            if stat_or_none is not None:
                found.append(stat_or_none)
                waiting.extend(children.get(current, ()))
        return found


class ProcessTree:
    """The root process of a job and everything it started, kept up to date cheaply.

    Only processes that are new since the last look are read to learn whose child they are, so a
    look costs one listing of /proc and one read for each process of the job. A process stays in
    the job when its parent ends before it; one that is started and orphaned between two looks is
    missed. `others` are further roots: ranks that another launcher started. Safe to use from
    several threads: they share a snapshot younger than `max_age_s`.
    """

    def __init__(
        self, root_pid: Callable[[], int], others: Callable[[], Iterable[int]] = tuple
    ) -> None:
        self._root_pid = root_pid
        self._others = others
        self._members: dict[int, int] = {}  # pid to start_ticks
        self._outside: set[int] = set()
        self._next_rescan = 0.0
        self._lock = threading.Lock()
        self._snapshot = Snapshot(0, {})

    def snapshot(self, max_age_s: float = 0.4) -> Snapshot:
        """The job's processes, read at most `max_age_s` ago."""
        with self._lock:
            age_ns = time.monotonic_ns() - self._snapshot.mono_ns
            if age_ns > max_age_s * 1e9 or not self._snapshot.mono_ns:
                self._snapshot = self._look()
            return self._snapshot

    def _look(self) -> Snapshot:
        now = time.monotonic()
        if now >= self._next_rescan:
            self._outside.clear()
            self._next_rescan = now + RESCAN_S
        present = process_pids()
        processes = self._live_members(present)
        self._adopt(present - processes.keys() - self._outside, processes)
        self._outside = present - processes.keys()
        self._members = {stat.pid: stat.start_ticks for stat in processes.values()}
        return Snapshot(time.monotonic_ns(), processes)

    def _live_members(self, present: set[int]) -> dict[int, ProcessStat]:
        roots = {self._root_pid(), *self._others()}
        processes: dict[int, ProcessStat] = {}
        for pid in (self._members.keys() | roots) & present:
            stat = process_stat(pid)
            known = self._members.get(pid)
            if stat is not None and (known == stat.start_ticks or pid in roots):
                processes[pid] = stat
        return processes

    def _adopt(self, candidates: Iterable[int], processes: dict[int, ProcessStat]) -> None:
        """Add those of `candidates` that descend from a process of the job."""
        waiting = [stat for stat in map(process_stat, sorted(candidates)) if stat is not None]
        adopted = True
        while adopted:
            adopted = False
            rest = []
            for stat in waiting:
                if stat.parent_pid in processes:
                    processes[stat.pid] = stat
                    adopted = True
                else:
                    rest.append(stat)
            waiting = rest


class Totals(NamedTuple):
    """What a job has used so far, its ended processes included."""

    cpu_ticks: int
    minor_faults: int
    major_faults: int


class TreeTotals:
    """Adds up the counters of a process tree so that processes that end are not lost.

    When a child is reaped the kernel adds its counters to its parent's `children_` ones, so the
    sum over the live processes stays whole. What falls out of the sum because nobody in the job
    reaped it (an orphan, an ignored SIGCHLD) is kept from the last look at it.
    """

    def __init__(self) -> None:
        self._last: dict[int, ProcessStat] = {}
        self._lost = (0, 0, 0)

    def update(self, snapshot: Snapshot) -> Totals:
        """The totals at `snapshot`; never less than at an earlier one."""
        now = snapshot.processes
        gone = [
            stat
            for pid, stat in self._last.items()
            if pid not in now or now[pid].start_ticks != stat.start_ticks
        ]
        kept = [
            (self._last[pid], stat)
            for pid, stat in now.items()
            if pid in self._last and self._last[pid].start_ticks == stat.start_ticks
        ]
        lost = []
        sums = []
        for index in range(3):
            ended = sum(sum(_pairs(stat)[index]) for stat in gone)
            moved = sum(_pairs(new)[index][1] - _pairs(old)[index][1] for old, new in kept)
            lost.append(self._lost[index] + max(0, ended - moved))
            sums.append(sum(sum(_pairs(stat)[index]) for stat in now.values()))
        self._lost = (lost[0], lost[1], lost[2])
        self._last = dict(now)
        return Totals(sums[0] + lost[0], sums[1] + lost[1], sums[2] + lost[2])


def _pairs(stat: ProcessStat) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    return (
        (stat.cpu_ticks, stat.children_cpu_ticks),
        (stat.minor_faults, stat.children_minor_faults),
        (stat.major_faults, stat.children_major_faults),
    )


def key_values(text: str | None) -> dict[str, int]:
    """Lines of a name and a whole number (`name: 12` or `name 12`) as a dictionary."""
    found: dict[str, int] = {}
    for line in (text or "").splitlines():
        name, _, rest = line.replace(":", " ").partition(" ")
        word = rest.split()
        if name and word and word[0].lstrip("-").isdigit():
            found[name] = int(word[0])
    return found


class Rates:
    """Differences of counters over time, by name: per second, and None at the first look."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, float]] = {}

    def per_s(self, name: str, value: float, mono_ns: int) -> float | None:
        """The rate since the last look; None at the first look and when the counter fell."""
        last = self._last.get(name)
        self._last[name] = (mono_ns, value)
        if last is None or mono_ns <= last[0] or value < last[1]:
            return None
        return (value - last[1]) * 1e9 / (mono_ns - last[0])


def rounded(values: dict[str, float | None]) -> dict[str, float]:
    """The values that are known, with six significant digits: files stay small."""
    return {
        name: float(value) if float(value).is_integer() else float(f"{value:.6g}")
        for name, value in values.items()
        if value is not None
    }
