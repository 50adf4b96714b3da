"""How much of the machine others use, so that a figure taken among others says so.

Others are processes on this machine, which /proc/stat shows, and neighbours on the same hardware,
which only the pace of a fixed piece of work shows.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
BUSY_CORES = 0.15
"""Cores that others may use in a moment that counts as quiet."""
QUIET_TIMEOUT_S = 60.0
PACE_BLOCK = bytes(1_000_000)
PACE_ROUNDS = 60
Result = TypeVar("Result")


def busy_core_s() -> float:
    """Core-seconds that the whole machine has worked since it started (Linux, /proc/stat)."""
    user, nice, system, _idle, _iowait, irq, softirq, *_ = (
        int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + irq + softirq) / TICKS_PER_S


def own_core_s() -> float:
    """Core-seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class Others:
    """Cores that other processes used, on average, since this was made."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.busy = busy_core_s()
        self.own = own_core_s()

    def cores(self) -> float:
        """Never below 0: the kernel's two counts differ by some ticks."""
        elapsed_s = max(time.monotonic() - self.started, 1e-3)
        foreign = (busy_core_s() - self.busy) - (own_core_s() - self.own)
        return max(0.0, foreign / elapsed_s)


def wait_until_quiet(timeout_s: float) -> bool:
    """Wait until others leave the machine alone for a second; False when they did not in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        others = Others()
        time.sleep(1.0)
        if others.cores() < BUSY_CORES:
            return True
        if time.monotonic() > deadline:
            return False


class Pace:
    """A fixed piece of work on every core, against the fastest that it was ever done here."""

    def __init__(self) -> None:
        self.best_s = float("inf")
        self.cores = len(os.sched_getaffinity(0))

    def slowed(self) -> float:
        """Do the work once, about 0.1 s, and return its time over the best one, 1 or more."""
        started = time.monotonic()
        with ThreadPoolExecutor(self.cores) as pool:
            list(pool.map(lambda _: _hash_blocks(), range(self.cores)))
        took_s = time.monotonic() - started
        self.best_s = min(self.best_s, took_s)
        return took_s / self.best_s


def _hash_blocks() -> None:
    digest = hashlib.blake2b()
    for _ in range(PACE_ROUNDS):
        digest.update(PACE_BLOCK)


@dataclass
class Taken(Generic[Result]):
    """A result, and how much others disturbed it."""

    result: Result
    cores: float
    """Cores that other processes used meanwhile."""
    slowed: float
    """How much longer the fixed work took around it than at best, a factor."""


def quietest(measure: Callable[[], Result], tries: int, pace: Pace) -> Taken[Result]:
    """Measure until other processes left it alone, at most `tries` times; return the quietest.

    A machine that neighbours slow is only told: it may stay so for longer than one can wait.
    """
    best: Taken[Result] | None = None
    for _ in range(tries):
        wait_until_quiet(QUIET_TIMEOUT_S)
        before = pace.slowed()
        others = Others()
        result = measure()
        taken = Taken(result, others.cores(), max(before, pace.slowed()))
        if best is None or taken.cores < best.cores:
            best = taken
        if taken.cores < BUSY_CORES:
            break
    assert best is not None
    return best
