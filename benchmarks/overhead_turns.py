"""What a steady step costs more under `boundscope run`, told within one training.

Two trainings on one machine differ by several percent for as long as they live, so that pairs of
them (`overhead.py`) need hundreds to show a percent. Here one wrapped training goes through turns:
with everything of boundscope's, and with its wrappers taken out and every process beside it (the
launcher with its collectors, py-spy) stopped. Neighbouring turns are compared. Turns that a trace
window touches are left out, as in `overhead.py`. The thread that writes the records of the training
is not stopped, but has nothing to write in the turns without wrappers.

    python benchmarks/overhead_turns.py [--turns 100] [--turn-s 0.5] [--part inside]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from overhead import (
    OUTLIER_SHARE,
    STEP_ADDED_LIMIT_MS,
    STEP_RATIO_LIMIT,
    Figure,
    added,
    median_interval,
    ratio,
    windows_of,
)

WARM_UP_S = 6.0
"""The windows after the warm-up are over by then."""


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
                    turn[alone] = self.steps_for(self.turn_s)
            found.append((turn[True], turn[False]))
        return found


def train_wrapped(size: str, args: argparse.Namespace, scratch: Path) -> list[tuple[Any, Any]]:
    """The pairs of turns of one training that no trace window touched."""
    log, run_folder = scratch / f"{size}.json", scratch / f"run-{size}"
    child = [sys.executable, __file__, "--child", size, "--log", str(log)]
    child += ["--turns", str(args.turns), "--turn-s", str(args.turn_s), "--part", args.part]
    command = [sys.executable, "-m", "boundscope", "run", "-o", str(run_folder), "--", *child]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=scratch)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    windows = windows_of(run_folder)

    def touched(turn: dict[str, Any]) -> bool:
        return any(turn["start_ns"] < w.end_ns and turn["end_ns"] > w.start_ns for w in windows)

    pairs = json.loads(log.read_text())
    return [pair for pair in pairs if not any(map(touched, pair))]


def trimmed_mean(steps_ms: list[float]) -> float:
    """The mean without the slowest hundredth."""
    return statistics.fmean(sorted(steps_ms)[: max(1, round(len(steps_ms) * (1 - OUTLIER_SHARE)))])


def figures(size: str, pairs: list[tuple[Any, Any]]) -> list[Figure]:
    """The median and the mean step, compared within pairs of neighbouring turns."""
    short = size == "1ms"
    compare, unit, limit = (
        (added, "ms", STEP_ADDED_LIMIT_MS) if short else (ratio, "x", STEP_RATIO_LIMIT)
    )
    found = []
    for what, read in (("median", statistics.median), ("mean", trimmed_mean)):
        alone, wrapped = ([read(pair[side]["steps_ms"]) for pair in pairs] for side in (0, 1))
        compared = [compare(*both) for both in zip(alone, wrapped, strict=True)]
        before, after, value = map(statistics.median, (alone, wrapped, compared))
        low, high = median_interval(compared)
        name = f"{size[:-2]} ms step, {what}"
        found.append(Figure(name, before, after, value, low, high, unit, limit))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=100, help="pairs of turns, for each size")
    parser.add_argument("--turn-s", type=float, default=0.5)
    parser.add_argument("--part", choices=("both", "inside", "beside"), default="both")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    parser.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        args.log.write_text(json.dumps(Turns(args.child, args.turn_s, args.part).run(args.turns)))
        return 0
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for size in ("20ms", "1ms"):
            pairs = train_wrapped(size, args, Path(scratch))
            print(f"{size}: {len(pairs)} of {args.turns} pairs without a trace window", flush=True)
            rows += figures(size, pairs)
    for one in rows:
        print(one.row())
    return 0 if all(one.verdict() == "pass" for one in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
