"""How much of the machine other processes use, so that a figure taken among others says so."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
BUSY_CORES = 0.15
"""Cores that others may use in a moment that counts as quiet."""
QUIET_TIMEOUT_S = 60.0
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


def quietest(measure: Callable[[], Result], tries: int) -> tuple[Result, float]:
    """Measure until others left the machine alone meanwhile, at most `tries` times.

    Returns the result that was taken in the most quiet, and the cores that others used then.
    """
    best: tuple[Result, float] | None = None
    for _ in range(tries):
        wait_until_quiet(QUIET_TIMEOUT_S)
        others = Others()
        result = measure()
        cores = others.cores()
        if best is None or cores < best[1]:
            best = (result, cores)
        if cores < BUSY_CORES:
            break
    assert best is not None
    return best
