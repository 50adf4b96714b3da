"""CPU, memory, scheduling and pressure: of the job, of its ranks, and apart of the whole host."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import ClassVar

from ..base import Availability, Job, Metric
from ..cgroups import ControlGroups, Throttling
from ..procfs import (
    PAGE_BYTES,
    TICKS_PER_S,
    ProcessStat,
    Rates,
    Snapshot,
    TreeTotals,
    key_values,
    read_text,
    rounded,
)
from ..records import Record, Sample
from ..waits import wait_shares

PER_CORE_LIMIT = 32
"""With more cores than this each one's load is written only every `PER_CORE_EVERY` samples."""
PER_CORE_EVERY = 5
SWITCHES_COST_SHARE = 0.005
"""Context switches stand in one file a thread; reading them may cost this share of a core."""

_SELDOM_S = 10.0  # limits may change while a job runs, but not often

Values = dict[str, float | None]


class HostCollector:
    """Reads /proc and the control groups once a second."""

    name: ClassVar[str] = "host"
    period_s: ClassVar[float] = 1.0
    effect: ClassVar[str] = "no CPU, memory, swap, pressure or throttling figures"
    runs_degraded: ClassVar[bool] = False
    metrics: ClassVar[dict[str, Metric]] = {
        "job.cpu_cores": Metric("cores", "CPU used by the job's processes, ended ones included"),
        "job.rss_bytes": Metric("bytes", "resident memory of the processes, shared pages in each"),
        "job.processes": Metric("1", "processes of the job"),
        "job.threads": Metric("1", "threads of the job"),
        "job.minor_faults_per_s": Metric("1/s", "page faults served from memory"),
        "job.major_faults_per_s": Metric("1/s", "page faults that waited for a disk"),
        "job.voluntary_switches_per_s": Metric("1/s", "context switches because a thread waited"),
        "job.involuntary_switches_per_s": Metric("1/s", "context switches because it had to yield"),
        "rank.<rank>.cpu_cores": Metric("cores", "CPU used by one rank and its loader workers"),
        "rank.<rank>.rss_bytes": Metric("bytes", "resident memory of one rank and its workers"),
        "rank.<rank>.minor_faults_per_s": Metric(
            "1/s", "page faults of the rank's own process served from memory"
        ),
        "rank.<rank>.main_run_delay_share": Metric(
            "share", "time in which the rank's main thread was ready but had no core"
        ),
        "rank.<rank>.workers_cpu_cores": Metric("cores", "CPU used by the rank's loader workers"),
        "rank.<rank>.<main|workers>_wait.<kind>_share": Metric(
            "share", "share waiting in the kernel for a lock, network, storage or a sleep"
        ),
        "host.cpu_percent": Metric("%", "CPU of the whole host in use, all cores together"),
        "host.cpu.<core>.percent": Metric("%", "one core in use"),
        "host.steal_percent": Metric("%", "CPU time that a hypervisor gave to others"),
        "host.iowait_percent": Metric("%", "CPU time idle while a disk was waited for"),
        "host.memory_available_bytes": Metric("bytes", "memory that can be had without swapping"),
        "host.memory_total_bytes": Metric("bytes", "memory of the host"),
        "host.swap_in_bytes_per_s": Metric("bytes/s", "read back from swap"),
        "host.swap_out_bytes_per_s": Metric("bytes/s", "written to swap"),
        "psi.<resource>.<some|full>_avg10_percent": Metric(
            "%", "time stalled for cpu, memory or io, mean of 10 s: some or all tasks"
        ),
        "psi.<resource>.<some|full>_total_us": Metric("us", "time stalled since boot"),
        "cgroup.cpu_limit_cores": Metric("cores", "CPU quota of the job's control group"),
        "cgroup.cpu_periods": Metric("1", "quota periods so far"),
        "cgroup.cpu_throttled_periods": Metric("1", "periods in which the quota ran out, so far"),
        "cgroup.cpu_throttled_us": Metric("us", "time held back by the quota, so far"),
        "cgroup.cpu_throttled_share": Metric("share", "share of the last periods held back"),
        "cgroup.memory_limit_bytes": Metric("bytes", "memory limit of the job's control group"),
        "cgroup.memory_bytes": Metric("bytes", "memory in use by the control group, cache too"),
    }

    def __init__(self) -> None:
        self._job: Job | None = None
        self._rates = Rates()
        self._totals = TreeTotals()
        self._switches = _ContextSwitches()
        self._groups: ControlGroups | None = None
        self._throttling: Throttling | None = None
        self._cpu_lines: dict[str, list[int]] = {}
        self._limits: Values = {}
        self._limits_read = 0.0
        self._samples = 0

    def probe(self) -> Availability:
        """It works wherever /proc is mounted."""
        if read_text("/proc/self/stat") is None or read_text("/proc/stat") is None:
            return Availability(False, "not-supported", "/proc is not mounted: this needs Linux")
        return Availability(True)

    def start(self, job: Job) -> None:
        """Take the first look, which later rates are measured from."""
        self._job = job
        self.sample()

    def sample(self) -> list[Record]:
        """One record of all that is known since the last look."""
        assert self._job is not None
        snapshot = self._job.processes.snapshot()
        now_ns = time.monotonic_ns()
        values: Values = {}
        values.update(self._of_job(snapshot))
        values.update(self._of_ranks(snapshot, dict(self._job.ranks)))
        values.update(self._of_host_cpu())
        values.update(self._of_host_memory(now_ns))
        values.update(_of_pressure())
        values.update(self._of_groups(now_ns))
        self._samples += 1
        if self._samples == 1:
            return []
        return [Sample(self._job.clock.now_ns(), rounded(values))]

    def stop(self) -> list[Record]:
        """Nothing is held open."""
        return []

    def _of_job(self, snapshot: Snapshot) -> Values:
        totals = self._totals.update(snapshot)
        at = snapshot.mono_ns
        stats = snapshot.processes.values()
        voluntary, involuntary = self._switches.per_s(snapshot)
        return {
            "job.cpu_cores": self._rates.per_s("job.cpu", totals.cpu_ticks / TICKS_PER_S, at),
            "job.rss_bytes": sum(stat.rss_bytes for stat in stats),
            "job.processes": len(stats),
            "job.threads": sum(stat.threads for stat in stats),
            "job.minor_faults_per_s": self._rates.per_s("job.minor", totals.minor_faults, at),
            "job.major_faults_per_s": self._rates.per_s("job.major", totals.major_faults, at),
            "job.voluntary_switches_per_s": voluntary,
            "job.involuntary_switches_per_s": involuntary,
        }

    def _of_ranks(self, snapshot: Snapshot, ranks: dict[int, int]) -> Values:
        values: Values = {}
        for pid, rank in ranks.items():
            stats = snapshot.subtree(pid)
            if not stats:
                continue
            ticks = sum(stat.cpu_ticks + stat.children_cpu_ticks for stat in stats)
            prefix = f"rank.{rank}"
            values[f"{prefix}.cpu_cores"] = self._rates.per_s(
                f"{prefix}.{pid}", ticks / TICKS_PER_S, snapshot.mono_ns
            )
            values[f"{prefix}.rss_bytes"] = sum(stat.rss_bytes for stat in stats)
            values[f"{prefix}.minor_faults_per_s"] = self._rates.per_s(
                f"{prefix}.{pid}.minor", stats[0].minor_faults, snapshot.mono_ns
            )
            values[f"{prefix}.main_run_delay_share"] = self._run_delay(pid)
            values.update(self._of_waits(prefix, pid, stats, snapshot.mono_ns))
        return values

    def _of_waits(self, prefix: str, pid: int, stats: list[ProcessStat], at_ns: int) -> Values:
        """What the rank's own process waits for, and its loader workers: CPU used, and waits."""
        values: Values = {}
        for kind, share in wait_shares([pid]).items():
            values[f"{prefix}.main_wait.{kind}_share"] = share
        main, workers = stats[0], stats[1:]
        if not workers:
            return values
        ticks = main.children_cpu_ticks + sum(
            stat.cpu_ticks + stat.children_cpu_ticks for stat in workers
        )
        values[f"{prefix}.workers_cpu_cores"] = self._rates.per_s(
            f"{prefix}.{pid}.workers", ticks / TICKS_PER_S, at_ns
        )
        for kind, share in wait_shares(stat.pid for stat in workers).items():
            values[f"{prefix}.workers_wait.{kind}_share"] = share
        return values

    def _run_delay(self, pid: int) -> float | None:
        """Second field of /proc/PID/schedstat: ns on a run queue without running."""
        fields = (read_text(f"/proc/{pid}/schedstat") or "").split()
        if len(fields) < 2:
            return None
        return self._rates.per_s(f"delay.{pid}", int(fields[1]) / 1e9, time.monotonic_ns())

    def _of_host_cpu(self) -> Values:
        """Shares of the time between two looks at /proc/stat; guest time is part of user time."""
        values: Values = {}
        cores = (os.cpu_count() or 1) <= PER_CORE_LIMIT or self._samples % PER_CORE_EVERY == 0
        for name, times in _cpu_times():
            if name != "cpu" and not cores:
                break
            last, self._cpu_lines[name] = self._cpu_lines.get(name), times
            total = sum(times) - sum(last) if last else 0
            if last is None or total <= 0:
                continue
            share = [max(0, new - old) / total for new, old in zip(times, last, strict=True)]
            busy = 100 * (1 - share[3] - share[4])
            if name == "cpu":
                values["host.cpu_percent"] = busy
                values["host.iowait_percent"] = 100 * share[4]
                values["host.steal_percent"] = 100 * share[7]
            else:
                values[f"host.cpu.{name[3:]}.percent"] = busy
        return values

    def _of_host_memory(self, now_ns: int) -> Values:
        memory = key_values(read_text("/proc/meminfo"))
        paging = key_values(read_text("/proc/vmstat"))
        swapped_in, swapped_out = paging.get("pswpin"), paging.get("pswpout")
        available, total = memory.get("MemAvailable"), memory.get("MemTotal")
        return {
            "host.memory_available_bytes": available * 1024 if available is not None else None,
            "host.memory_total_bytes": total * 1024 if total is not None else None,
            "host.swap_in_bytes_per_s": self._pages_per_s("in", swapped_in, now_ns),
            "host.swap_out_bytes_per_s": self._pages_per_s("out", swapped_out, now_ns),
        }

    def _pages_per_s(self, name: str, pages: int | None, now_ns: int) -> float | None:
        if pages is None:
            return None
        return self._rates.per_s(f"swap.{name}", pages * PAGE_BYTES, now_ns)

    def _of_groups(self, now_ns: int) -> Values:
        assert self._job is not None
        if self._groups is None or now_ns / 1e9 - self._limits_read > _SELDOM_S:
            self._groups = ControlGroups(self._job.root_pid)
            self._limits_read = now_ns / 1e9
            self._limits = {
                "cgroup.cpu_limit_cores": self._groups.cpu_limit_cores(),
                "cgroup.memory_limit_bytes": self._groups.memory_limit_bytes(),
            }
        values: Values = dict(self._limits)
        values["cgroup.memory_bytes"] = self._groups.memory_bytes()
        throttling = self._groups.throttling()
        if throttling is not None:
            values["cgroup.cpu_periods"] = throttling.periods
            values["cgroup.cpu_throttled_periods"] = throttling.throttled_periods
            values["cgroup.cpu_throttled_us"] = throttling.throttled_us
            values["cgroup.cpu_throttled_share"] = _throttled_share(self._throttling, throttling)
        self._throttling = throttling
        return values


class _ContextSwitches:
    """Context switches of all threads of a job, read as often as its cost allows."""

    def __init__(self) -> None:
        self._last: dict[tuple[int, int], tuple[int, int]] = {}
        self._last_ns = 0
        self._next_ns = 0

    def per_s(self, snapshot: Snapshot) -> tuple[float | None, float | None]:
        """Voluntary and involuntary ones per second since the last reading, or None twice."""
        began = time.monotonic_ns()
        if began < self._next_ns:
            return None, None
        now = dict(_thread_switches(snapshot))
        voluntary = involuntary = 0
        for key, counts in now.items():
            last = self._last.get(key, counts if not self._last_ns else (0, 0))
            voluntary += max(0, counts[0] - last[0])
            involuntary += max(0, counts[1] - last[1])
        elapsed_s = (began - self._last_ns) / 1e9 if self._last_ns else 0.0
        self._last, self._last_ns = now, began
        cost_ns = time.monotonic_ns() - began
        self._next_ns = began + int(cost_ns / SWITCHES_COST_SHARE) if cost_ns > 5_000_000 else 0
        if not elapsed_s:
            return None, None
        return voluntary / elapsed_s, involuntary / elapsed_s


def _thread_switches(snapshot: Snapshot) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    for pid in snapshot.processes:
        try:
            threads = os.listdir(f"/proc/{pid}/task")
        except OSError:
            continue
        for thread in threads:
            text = read_text(f"/proc/{pid}/task/{thread}/status") or ""
            _, found, end = text.partition("\nvoluntary_ctxt_switches:")
            words = end.split()
            if found and len(words) >= 3:
                yield (pid, int(thread)), (int(words[0]), int(words[2]))


def _cpu_times() -> Iterator[tuple[str, list[int]]]:
    """User, nice, system, idle, iowait, irq, softirq and steal ticks of "cpu" and each "cpuN"."""
    for line in (read_text("/proc/stat") or "").splitlines():
        if not line.startswith("cpu"):
            return
        name, *fields = line.split()
        yield name, [int(field) for field in fields[:8]]


def _of_pressure() -> Values:
    """PSI: Documentation/accounting/psi.rst of Linux."""
    values: Values = {}
    for resource in ("cpu", "memory", "io"):
        for line in (read_text(f"/proc/pressure/{resource}") or "").splitlines():
            kind, *pairs = line.split()
            found = dict(pair.split("=", 1) for pair in pairs)
            prefix = f"psi.{resource}.{kind}"
            values[f"{prefix}_avg10_percent"] = float(found["avg10"])
            values[f"{prefix}_total_us"] = float(found["total"])
    return values


def _throttled_share(last: Throttling | None, now: Throttling) -> float | None:
    if last is None or now.periods <= last.periods:
        return None
    return (now.throttled_periods - last.throttled_periods) / (now.periods - last.periods)
