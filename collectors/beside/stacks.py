"""Python stacks of each rank and of its loader workers, sampled from outside by py-spy."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from .. import pyspy
from ..base import Availability, Job, Metric
from ..procfs import TICKS_PER_S, ProcessStat, process_stat, read_text
from ..pyspy import Ended, Recording, StackTable, Target
from ..records import Gap, Reason, Record

MARKER = "want-stacks"
"""A file of this name in a rank's folder asks the rank to sample itself from inside."""

START_RATE_HZ, LOWEST_RATE_HZ = 20, 4
ATTACH_CPU_S = (
    0.015  # measured: user and system time of a recording of one second, less its samples
)
SAMPLE_CPU_S = 0.0005  # measured on a training 12 frames deep; corrected by what is really used
WORKER_TURN = 4
"""When ranks fill every place, each fourth recording is of a loader worker."""
STOP_WAIT_S = 0.7
DETAIL_CHARS = 400
"""As much as of py-spy's own words."""
EARLY_RECORDINGS = 2
"""So many recordings of each rank are dense: a run of seconds has to be explained by them."""
_FAILURES_ALLOWED = 2
_PROBE_TIMEOUT_S = 3.0
_NOT_WORKERS = ("resource_tracker", "semaphore_tracker", "compile_worker")


@dataclass(frozen=True)
class Pace:
    """How long a recording is, and the share of the machine's cores that all may use together.

    The training loses about twice that share: where its threads wait for each other, a core taken
    from one may be lost to two.
    """

    chunk_s: int
    machine_share: float

    @property
    def attach_cores(self) -> float:
        """Cores that starting one recording after the other takes."""
        return ATTACH_CPU_S / self.chunk_s

    @property
    def lowest_cores(self) -> float:
        """Cores of recordings at the lowest rate."""
        return LOWEST_RATE_HZ * SAMPLE_CPU_S + self.attach_cores

    @property
    def cores(self) -> float:
        """Cores that all recordings may use."""
        return self.machine_share * len(os.sched_getaffinity(0))

    @property
    def places(self) -> int:
        """How many recordings may run at once at the lowest rate."""
        return max(1, int(self.cores / self.lowest_cores))


EARLY, LATER = Pace(chunk_s=6, machine_share=0.005), Pace(chunk_s=15, machine_share=0.002)
"""A long run has samples enough at a lower rate, and pays for them for longer."""


class StacksCollector:
    """Keeps short py-spy recordings going, as many at once and as fast as a budget allows.

    Writes `Frame`, `Stack` and `Stacks` records. A rank that py-spy may not look into gets the
    marker file and a gap; the others go on.
    """

    name: ClassVar[str] = "stacks"
    period_s: ClassVar[float] = 0.5
    effect: ClassVar[str] = (
        "no stacks of loader workers; the training thread is sampled from inside, more coarsely"
    )
    runs_degraded: ClassVar[bool] = True
    metrics: ClassVar[dict[str, Metric]] = {}

    def __init__(self, py_spy: str | None = None) -> None:
        self._py_spy = py_spy or pyspy.find_py_spy()
        self._works: bool | None = None
        self._job: Job | None = None
        self._table = StackTable()
        self._active: dict[int, Recording] = {}  # by target pid
        self._turns: dict[int, int] = {}  # target pid to the number of its last recording
        self._recordings: Counter[int] = Counter()  # of each target pid
        self._failures: dict[int, int] = {}
        self._given_up: set[int] = set()
        self._sample_cpu_s = SAMPLE_CPU_S
        self._thread_cpu = ThreadCpu()
        self._started = 0

    def probe(self) -> Availability:
        """Let py-spy look at this very process: no descendant of py-spy's, as a rank is none."""
        availability = self._probe()
        self._works = availability.works
        return availability

    def _probe(self) -> Availability:
        if self._py_spy is None:
            return Availability(
                False, "not-installed", "py-spy is not on PATH", "pip install py-spy"
            )
        command = [self._py_spy, "dump", "--nonblocking", "--pid", str(os.getpid())]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return Availability(False, "not-supported", f"py-spy does not run here: {error}")
        if done.returncode == 0:
            return Availability(True)
        reason, detail = pyspy.failure(done.stderr)
        return Availability(False, reason, detail, _mend(reason))

    def start(self, job: Job) -> None:
        """Nothing runs until a rank appears."""
        self._job = job
        if self._works is None:
            self.probe()

    def sample(self) -> list[Record]:
        """Collect the recordings that ended and start the next ones."""
        assert self._job is not None
        ranks = dict(self._job.ranks)
        records: list[Record] = []
        for recording in list(self._active.values()):
            ended = pyspy.poll(recording)
            if ended is not None:
                records += self._collect(recording, ended)
        for pid in ranks:
            if not self._works and pid not in self._given_up:
                self._ask_inside(pid)
        if self._works:
            self._start_recordings(ranks)
        return records

    def stop(self) -> list[Record]:
        """End all recordings early and keep what they saw."""
        for recording in self._active.values():
            pyspy.interrupt(recording)
        records: list[Record] = []
        deadline = time.monotonic() + STOP_WAIT_S
        while self._active:
            late = time.monotonic() > deadline
            for recording in list(self._active.values()):
                if late:
                    pyspy.interrupt(recording, kill=True)
                ended = pyspy.poll(recording, block=late)
                if ended is not None:
                    records += self._collect(recording, ended)
            time.sleep(0.01)
        return records

    def _collect(self, recording: Recording, ended: Ended) -> list[Record]:
        assert self._job is not None
        target = recording.target
        del self._active[target.pid]
        records, problem = self._read(recording)
        seconds = (time.monotonic_ns() - recording.started_mono_ns) / 1e9
        samples = seconds * 1e9 / recording.interval_ns
        if records and samples > 10:
            cost = max(0.0, ended.cpu_s - ATTACH_CPU_S) / samples
            self._sample_cpu_s = 0.5 * self._sample_cpu_s + 0.5 * max(1e-4, cost)
        if ended.good and not problem:
            self._failures.pop(target.pid, None)
            return records
        return records or self._failed(target, ended, problem)

    def _read(self, recording: Recording) -> tuple[list[Record], str]:
        """The samples of a recording's file, which is then removed, and what is wrong with it."""
        assert self._job is not None
        records: list[Record] = []
        problem = ""
        shift_ns = self._job.clock.now_ns() - time.time_ns()
        try:
            data = recording.path.read_bytes()
            written_ns = recording.path.stat().st_mtime_ns + shift_ns
            pid = recording.target.pid
            records = pyspy.records_of(
                data,
                recording.target,
                recording.interval_ns,
                written_ns,
                self._table,
                cpu_share=lambda thread: self._thread_cpu.share(pid, thread),
            )
        except OSError as error:
            problem = f"py-spy left no recording: {error.strerror}"
        except (ValueError, RecursionError) as error:
            problem = f"what py-spy wrote cannot be read: {error}"[:DETAIL_CHARS]
        with contextlib.suppress(OSError):
            recording.path.unlink()
        return records, problem

    def _failed(self, target: Target, ended: Ended, problem: str) -> list[Record]:
        """A rank that still lives but can't be looked into is asked to sample itself."""
        if not _alive(target.pid):
            return []
        reason, detail = pyspy.failure(ended.message)
        if ended.good:
            reason, detail = "not-supported", problem
        self._failures[target.pid] = self._failures.get(target.pid, 0) + 1
        if reason != "no-permission" and self._failures[target.pid] < _FAILURES_ALLOWED:
            return []
        if target.role == "worker":
            self._given_up.add(target.pid)
            return []
        assert self._job is not None
        self._ask_inside(target.pid)
        detail = f"rank {target.rank}: {detail}"
        return [Gap(self._job.clock.now_ns(), self.name, reason, detail, self.effect)]

    def _ask_inside(self, pid: int) -> None:
        """Whatever rank its folder is called by: it may have learnt its own later."""
        assert self._job is not None
        self._given_up.add(pid)
        for pattern in (f"rank-*-{pid}", f"rank-*-{pid}-*"):
            for folder in self._job.run_folder.glob(pattern):
                with contextlib.suppress(OSError):
                    (folder / MARKER).touch()

    def _start_recordings(self, ranks: dict[int, int]) -> None:
        assert self._job is not None
        assert self._py_spy is not None
        pace = self._pace(ranks)
        places = pace.places - len(self._active)
        if places <= 0:
            return
        coming = self._next_targets(ranks, places)[:places]
        for target in coming:
            rate_hz = self._rate_hz(target, coming, pace)
            try:
                recording = pyspy.record(
                    self._py_spy, target, self._job.folder, rate_hz, pace.chunk_s
                )
            except OSError:
                self._given_up.add(target.pid)
                continue
            self._started += 1
            self._recordings[target.pid] += 1
            self._turns[target.pid] = self._started
            self._active[target.pid] = recording

    def _pace(self, ranks: dict[int, int]) -> Pace:
        """Dense until each rank that can be looked into has its first recordings."""
        seen = [self._recordings[pid] for pid in ranks if pid not in self._given_up]
        return EARLY if min(seen, default=EARLY_RECORDINGS) < EARLY_RECORDINGS else LATER

    def _next_targets(self, ranks: dict[int, int], places: int) -> list[Target]:
        """Whose turn it is, of so many that start now: longest unseen first, ranks before workers
        but for each fourth turn."""
        assert self._job is not None
        snapshot = self._job.processes.snapshot(max_age_s=1.0)
        rank_targets = [Target(pid, rank, "rank") for pid, rank in ranks.items()]
        workers = [
            Target(stat.pid, rank, "worker")
            for pid, rank in ranks.items()
            for stat in snapshot.subtree(pid)
            if stat.pid not in ranks and _is_worker(stat, pid)
        ]
        rank_targets, workers = self._in_turn(rank_targets), self._in_turn(workers)
        if self._is_workers_turn(places):
            return workers[:1] + rank_targets + workers[1:]
        return rank_targets + workers

    def _is_workers_turn(self, places: int) -> bool:
        """Whether one of the next `places` recordings is a fourth one."""
        return self._started % WORKER_TURN + places >= WORKER_TURN

    def _in_turn(self, targets: list[Target]) -> list[Target]:
        free = [t for t in targets if t.pid not in self._active and t.pid not in self._given_up]
        return sorted(free, key=lambda target: self._turns.get(target.pid, 0))

    def _rate_hz(self, target: Target, coming: list[Target], pace: Pace) -> int:
        """Workers are sampled at the lowest rate; the ranks share what the budget leaves."""
        if target.role == "worker":
            return LOWEST_RATE_HZ
        targets = coming + [recording.target for recording in self._active.values()]
        ranks = {one.pid for one in targets if one.role == "rank"}
        workers = len({one.pid for one in targets} - ranks)
        cores = (pace.cores - workers * pace.lowest_cores) / max(1, len(ranks))
        rate = (cores - pace.attach_cores) / self._sample_cpu_s
        return int(min(START_RATE_HZ, max(LOWEST_RATE_HZ, rate)))


class ThreadCpu:
    """CPU time of single threads between two looks at them: who is at work, and who only waits.

    A thread that sleeps in a built-in function has the same stack as one that calculates there.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[int, int], tuple[float, int]] = {}

    def share(self, pid: int, thread: int) -> float | None:
        """Share of a core since the last look, at the first one since the thread's start; None
        where the kernel does not show the thread."""
        stat = process_stat(pid, thread)
        if stat is None:
            return None
        now_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        started = (stat.start_ticks / TICKS_PER_S, 0)
        since_s, before = self._last.get((pid, thread), started)
        if before > stat.cpu_ticks:  # another thread has got the number
            since_s, before = started
        self._last[pid, thread] = (now_s, stat.cpu_ticks)
        used_s = (stat.cpu_ticks - before) / TICKS_PER_S
        length_s = now_s - since_s
        return round(min(1.0, used_s / length_s), 4) if length_s > 0 else None


def _is_worker(stat: ProcessStat, rank_pid: int) -> bool:
    """A child that runs the rank's interpreter and is no helper of Python's or torch's."""
    if stat.pid == rank_pid or stat.state == "Z" or _executable(stat.pid) != _executable(rank_pid):
        return False
    command = read_text(f"/proc/{stat.pid}/cmdline") or ""
    return not any(word in command for word in _NOT_WORKERS)


def _executable(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return None


def _alive(pid: int) -> bool:
    state = (read_text(f"/proc/{pid}/stat") or "").rpartition(")")[2].split()
    return bool(state) and state[0] not in ("Z", "X")


def _mend(reason: Reason) -> str:
    if reason != "no-permission":
        return ""
    scope = (read_text(Path("/proc/sys/kernel/yama/ptrace_scope")) or "0").strip()
    if scope != "0":
        return "sudo sysctl kernel.yama.ptrace_scope=0"
    return "docker run --cap-add SYS_PTRACE IMAGE" if Path("/.dockerenv").exists() else ""
