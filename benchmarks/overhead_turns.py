"""What a steady step costs more under `boundscope run`, told within one training.

Two trainings on one machine differ by several percent for as long as they live, so that pairs of
them (`overhead.py`) need hundreds to show a percent. Here one wrapped training goes through turns:
with everything of boundscope's, and with its wrappers taken out and every process beside it (the
launcher with its collectors, py-spy) stopped. Neighbouring turns are compared. Turns that a trace
window touches are left out, as in `overhead.py`. The thread that writes the training's records is
not stopped, but has nothing to write in the turns without wrappers: each turn begins with steps
that are not timed, until those of the turn before are written.

    python benchmarks/overhead_turns.py [--turns 100] [--turn-s 0.5] [--part inside]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overhead_figures import (
    RESAMPLES,
    STEP_ADDED_LIMIT_MS,
    STEP_RATIO_LIMIT,
    Figure,
    added_to_1_ms,
    medians_drawn,
    ratio,
    windows_of,
)
from quiet import QUIET_TIMEOUT_S, wait_until_quiet

SIZES = ("20ms", "1ms")
TURN_S = 0.5
"""Short against the minutes in which a shared machine changes its pace, long against a step."""
WARM_UP_S = 6.0
"""The windows after the warm-up are over by then."""
SETTLE_S = 0.6
"""The records of the turn before are written by then (recorder.FLUSH_PERIOD_S), and what Python
keeps of a function's callers is made anew."""


def processes_beside() -> list[int]:
    """The launcher and all that it started, but not this training and what that started."""
    mine, parents = os.getpid(), {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                parents[int(folder.name)] = int(fields[1])
    found = [os.getppid()]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid and child != mine]
    return found


@contextlib.contextmanager
def left_alone(torch: Any, part: str) -> Iterator[None]:
    """Take everything of boundscope's away for a while, or one part of it."""
    from guest import without_wrappers

    stopped = [] if part == "inside" else processes_beside()
    for pid in stopped:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        with contextlib.nullcontext() if part == "beside" else without_wrappers(torch):
            yield
    finally:
        for pid in reversed(stopped):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


class Turns:
    """One training in turns; a turn holds the times of its steps, ms."""

    def __init__(self, size: str, turn_s: float, part: str) -> None:
        import torch
        from overhead_training import Training

        torch.manual_seed(0)
        self.torch = torch
        self.turn_s = turn_s
        self.part = part
        self.training = Training(size, 10**9)
        self.batches = iter(self.training.loader)

    def steps_for(self, seconds: float) -> dict[str, Any]:
        """Train for a while, and until no profiler is on; when it was, and the times of steps."""
        started, last = time.time_ns(), time.monotonic_ns()
        end, times, profiled = last + int(seconds * 1e9), [], False
        while last < end or profiled:
            self.training.step(next(self.batches))
            now = time.monotonic_ns()
            times.append((now - last) / 1e6)
            last = now
            profiled = self.torch._C._autograd._profiler_enabled()
        return {"start_ns": started, "end_ns": time.time_ns(), "steps_ms": times[1:]}

    def run(self, count: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Pairs of turns (alone, wrapped), in turns which comes first."""
        self.steps_for(WARM_UP_S)
        found = []
        for index in range(count):
            turn: dict[bool, dict[str, Any]] = {}
            for alone in (True, False) if index % 2 == 0 else (False, True):
                with left_alone(self.torch, self.part) if alone else contextlib.nullcontext():
                    self.steps_for(SETTLE_S)
                    turn[alone] = self.steps_for(self.turn_s)
            found.append((turn[True], turn[False]))
        return found


@dataclass(frozen=True)
class Turning:
    """How many pairs of turns of what length, and what is taken away in one of each."""

    turns: int
    turn_s: float
    part: str = "both"

    def limit_s(self) -> float:
        """Several times as long as it takes."""
        return 60 + 10 * self.turns * (self.turn_s + SETTLE_S)


def train_wrapped(size: str, how: Turning, scratch: Path) -> list[tuple[Any, Any]]:
    """The pairs of turns of one training that no trace window touched."""
    log, run_folder = scratch / f"{size}.json", scratch / f"run-{size}"
    child = [sys.executable, __file__, "--child", size, "--log", str(log)]
    child += ["--turns", str(how.turns), "--turn-s", str(how.turn_s), "--part", how.part]
    command = [sys.executable, "-m", "boundscope", "run", "-o", str(run_folder), "--", *child]
    wait_until_quiet(QUIET_TIMEOUT_S)
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, cwd=scratch, timeout=how.limit_s()
        )
    except subprocess.TimeoutExpired:  # a training that died in its turn alone left us stopped
        sys.exit(f"{' '.join(command)} did not end")
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    windows = windows_of(run_folder)

    def touched(turn: dict[str, Any]) -> bool:
        return any(turn["start_ns"] < w.end_ns and turn["end_ns"] > w.start_ns for w in windows)

    pairs = json.loads(log.read_text())
    return [
        pair for pair in pairs if not any(touched(turn) or not turn["steps_ms"] for turn in pair)
    ]


def turn_figures(size: str, how: Turning, scratch: Path) -> list[Figure]:
    """The median and the mean step, compared within pairs of neighbouring turns."""
    pairs = train_wrapped(size, how, scratch)
    print(f"{size}: {len(pairs)} of {how.turns} pairs without a trace window", flush=True)
    short = size == "1ms"
    compare, unit, limit = (
        (added_to_1_ms, "ms", STEP_ADDED_LIMIT_MS) if short else (ratio, "x", STEP_RATIO_LIMIT)
    )
    found = []
    for what, read in (("median", statistics.median), ("mean", statistics.fmean)):
        alone, wrapped = ([read(pair[side]["steps_ms"]) for pair in pairs] for side in (0, 1))
        compared = [compare(*both) for both in zip(alone, wrapped, strict=True)]
        before, after, value = map(statistics.median, (alone, wrapped, compared))
        name = f"{size[:-2]} ms step, {what}"
        found.append(Figure(name, before, after, value, medians_drawn(compared), unit, limit))
    return [*found, _summed(size, pairs)]


def _summed(size: str, pairs: list[tuple[Any, Any]]) -> Figure:
    """All steps together, with whatever comes in few of the turns: a ratio of means."""

    def means(some: list[tuple[Any, Any]]) -> tuple[float, float]:
        alone, wrapped = (
            statistics.fmean(step for pair in some for step in pair[side]["steps_ms"])
            for side in (0, 1)
        )
        return alone, wrapped

    draws, chance = [], random.Random(0)
    for _ in range(RESAMPLES // 4):
        alone, wrapped = means(chance.choices(pairs, k=len(pairs)))
        draws.append(wrapped / alone)
    draws.sort()
    alone, wrapped = means(pairs)
    name = f"{size[:-2]} ms step, all together"
    return Figure(name, alone, wrapped, wrapped / alone, draws, "x", math.inf)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=100, help="pairs of turns, for each size")
    parser.add_argument("--turn-s", type=float, default=TURN_S)
    parser.add_argument("--size", choices=SIZES, help="one of them only")
    parser.add_argument("--part", choices=("both", "inside", "beside"), default="both")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    parser.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        args.log.write_text(json.dumps(Turns(args.child, args.turn_s, args.part).run(args.turns)))
        return 0
    how = Turning(args.turns, args.turn_s, args.part)
    with tempfile.TemporaryDirectory() as scratch:
        rows = [
            figure
            for size in ([args.size] if args.size else SIZES)
            for figure in turn_figures(size, how, Path(scratch))
        ]
    for one in rows:
        print(one.row())
    return 0 if all(one.verdict() in ("pass", "-") for one in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
