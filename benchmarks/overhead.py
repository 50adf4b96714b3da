"""What wrapping a training in `boundscope run` costs it: each figure against its limit.

Every figure is the median over interleaved pairs (plain, wrapped), in turns which comes first, with
its 95 % interval (bootstrap over the pairs). It passes when the whole interval is within the limit,
fails when the whole interval is beyond it, and is open otherwise: take more pairs.
The steps are timed by the training itself. A run that other programs disturbed is taken again;
`others` is how many cores they still used in the worse run of a pair, `slowed` how much longer a
fixed piece of work took around it than at best.

Two trainings differ by several percent for as long as they live, whatever wraps them, more than is
to be told: pairs of trainings come first in the table, and the figures that count after them. Those
of the steps are medians over pairs of turns within one training of each size (`overhead_turns.py`;
what differs from one training to the next is not in their intervals); that of a whole run is the
sum of its start, end and trace windows, from pairs, and of what turns say of its steps. Each part
is resampled by itself.

    python benchmarks/overhead.py [--quick] [--pairs 10] [--step-pairs 5] [--turns 250]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from overhead_figures import (
    STEP_ADDED_LIMIT_MS,
    STEP_RATIO_LIMIT,
    Figure,
    Window,
    added,
    added_to_1_ms,
    medians_drawn,
    ratio,
    sums_drawn,
    trimmed_mean,
    windows_of,
)
from overhead_turns import SIZES, TURN_S, Turning, turn_figures
from quiet import QUIET_TIMEOUT_S, Pace, quietest, wait_until_quiet

TRAINING = Path(__file__).with_name("overhead_training.py")
RUN_S = 30.0
RUN_ADDED_LIMIT_S = 2.0
"""Of a run that takes `RUN_S` unwrapped."""
MEMORY_ADDED_LIMIT_MB = 60.0
CHILD_ADDED_LIMIT_MS = 1.0
"""A bare interpreter's start varies by more than this from one to the next."""
START_UP_STEPS = 20
"""Left out: the first optimizer, the first kernels and the allocator settle there."""
TRIES = 3
MB = 1e6


@dataclass
class Run:
    """One run of the training: its own steps, outside windows and in them, ms.

    `start_s` is from its command's start to the end of the start-up steps, `end_s` from its last
    step to the command's end.
    """

    wall_s: float
    start_s: float
    end_s: float
    peak_mb: float
    steps_ms: list[float]
    window_steps_ms: list[float]
    windows: list[Window] = field(default_factory=list)

    def median_ms(self) -> float:
        return statistics.median(self.steps_ms)

    def mean_ms(self) -> float:
        return trimmed_mean(self.steps_ms)

    def edges_s(self) -> float:
        return self.start_s + self.end_s

    def around_s(self) -> float:
        """All but the steady steps: what comes once in a run."""
        return self.edges_s() + self.windows_s()

    def windows_s(self) -> float:
        """What the trace windows add: standing still, and the slower steps in them."""
        return sum(step_ms - self.mean_ms() for step_ms in self.window_steps_ms) / 1000


def train(size: str, steps: int, wrapped: bool, scratch: Path) -> Run:
    """Run the training once, plain or wrapped."""
    log, run_folder = scratch / "log.json", scratch / f"run-{time.monotonic_ns()}"
    command = [sys.executable, str(TRAINING), size, "--steps", str(steps), "--log", str(log)]
    if wrapped:
        command = [sys.executable, "-m", "boundscope", "run", "-o", str(run_folder), *command]
    log.unlink(missing_ok=True)
    began_ns = time.time_ns()
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=scratch)
    ended_ns = time.time_ns()
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    logged = json.loads(log.read_text())
    windows = windows_of(run_folder) if wrapped else []
    if wrapped and not windows:
        print(f"  no trace window in {run_folder.name}: {size}, {steps} steps", flush=True)
    outside: list[float] = []
    inside: list[float] = []
    ends = logged["ends_ns"][START_UP_STEPS:]
    for start, end in itertools.pairwise(ends):
        touched = any(start < window.end_ns and end > window.start_ns for window in windows)
        (inside if touched else outside).append((end - start) / 1e6)
    return Run(
        wall_s=(ended_ns - began_ns) / 1e9,
        start_s=(ends[0] - began_ns) / 1e9,
        end_s=(ended_ns - ends[-1]) / 1e9,
        peak_mb=logged["peak_bytes"] / MB,
        steps_ms=outside,
        window_steps_ms=inside,
        windows=windows,
    )


def pairs(count: int, size: str, steps: int, scratch: Path, pace: Pace) -> list[tuple[Run, Run]]:
    """Run `count` pairs (plain, wrapped), in turns which of them comes first."""
    done = []
    for index in range(count):
        runs: dict[bool, Run] = {}
        cores, slowed = 0.0, 1.0
        for wrapped in (False, True) if index % 2 == 0 else (True, False):
            taken = quietest(partial(train, size, steps, wrapped, scratch), TRIES, pace)
            runs[wrapped] = taken.result
            cores, slowed = max(cores, taken.cores), max(slowed, taken.slowed)
        pair = (runs[False], runs[True])
        print(
            f"  {size} pair {index + 1}: step {pair[0].median_ms():.3f} / {pair[1].median_ms():.3f}"
            f" ms, whole {pair[0].wall_s:.1f} / {pair[1].wall_s:.1f} s, others {cores:.2f} cores,"
            f" slowed {slowed:.2f}x",
            flush=True,
        )
        done.append(pair)
    return done


@dataclass
class Measure:
    """One figure of a pair: what is read off each run, and how the two are compared."""

    what: str
    read: Callable[[Run], float]
    compare: Callable[[float, float], float]
    unit: str
    limit: float

    def over(self, runs: list[tuple[Run, Run]]) -> Figure:
        """Take the medians of both kinds, and the median of the pairs' comparisons."""
        plain = [self.read(pair[0]) for pair in runs]
        wrapped = [self.read(pair[1]) for pair in runs]
        compared = [self.compare(*both) for both in zip(plain, wrapped, strict=True)]
        before, after, value = map(statistics.median, (plain, wrapped, compared))
        draws = medians_drawn(compared)
        return Figure(self.what, before, after, value, draws, self.unit, self.limit)


SHORT_STEPS = (
    Measure("1 ms step, median", Run.median_ms, added_to_1_ms, "ms", STEP_ADDED_LIMIT_MS),
    Measure("1 ms step, mean", Run.mean_ms, added_to_1_ms, "ms", STEP_ADDED_LIMIT_MS),
)
LONG_STEPS = (
    Measure("20 ms step, median", Run.median_ms, ratio, "x", STEP_RATIO_LIMIT),
    Measure("20 ms step, mean", Run.mean_ms, ratio, "x", STEP_RATIO_LIMIT),
)
WHOLE_RUN = (
    Measure("whole run, s", lambda run: run.wall_s, added, "s", RUN_ADDED_LIMIT_S),
    Measure("its start and end, s", Run.edges_s, added, "s", RUN_ADDED_LIMIT_S),
    Measure("its trace windows, s", Run.windows_s, added, "s", RUN_ADDED_LIMIT_S),
    Measure("its start, end and windows, s", Run.around_s, added, "s", RUN_ADDED_LIMIT_S),
    Measure("peak memory, MB", lambda run: run.peak_mb, added, "MB", MEMORY_ADDED_LIMIT_MB),
)


def window_rows(runs: list[tuple[Run, Run]]) -> list[str]:
    """What the trace windows of a run cost: standing still, and the slower steps in them."""
    wrapped = [pair[1] for pair in runs if pair[1].windows]
    if not wrapped:
        return ["no trace window was recorded"]
    single = [window.stood_still_ms for run in wrapped for window in run.windows if window.steps]
    extra = [1000 * run.windows_s() for run in wrapped]
    count = statistics.median(len(run.windows) for run in wrapped)
    return [
        f"a trace window holds the loop up for {statistics.median(single or [0.0]):.0f} ms"
        f" (start, stop, export); longest {max(single or [0.0]):.0f} ms",
        f"all windows of a run ({count:g}) add {statistics.median(extra):.0f} ms to it,"
        " their slower steps included",
    ]


def child_environment(scratch: Path) -> dict[str, str]:
    """The environment that a command below `boundscope run` sees."""
    show = "import json, os; print(json.dumps(dict(os.environ)))"
    command = [sys.executable, "-m", "boundscope", "run", "--no-report", "-o", "child"]
    done = subprocess.run(
        [*command, "--", sys.executable, "-c", show],
        check=True,
        capture_output=True,
        text=True,
        cwd=scratch,
    )
    environment: dict[str, str] = json.loads(done.stdout)
    assert "BOUNDSCOPE_RUN" in environment
    return environment


def with_bytecode(environment: Mapping[str, str]) -> dict[str, str]:
    """Let modules be compiled once and kept, as Python does unless it is told otherwise."""
    return {key: value for key, value in environment.items() if key != "PYTHONDONTWRITEBYTECODE"}


def children(count: int, scratch: Path) -> Figure:
    """Time bare Python children that never import torch."""
    wait_until_quiet(QUIET_TIMEOUT_S)
    environments = {
        False: with_bytecode(os.environ),
        True: with_bytecode(child_environment(scratch)),
    }
    for environment in environments.values():
        subprocess.run([sys.executable, "-c", ""], check=True, env=environment)
    times: dict[bool, list[float]] = {False: [], True: []}
    for index in range(count):
        for wrapped in (False, True) if index % 2 == 0 else (True, False):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", ""], check=True, env=environments[wrapped])
            times[wrapped].append((time.perf_counter() - started) * 1000)
    added_ms = [after - before for before, after in zip(times[False], times[True], strict=True)]
    return Figure(
        "bare Python child, ms",
        statistics.median(times[False]),
        statistics.median(times[True]),
        statistics.median(added_ms),
        medians_drawn(added_ms),
        "ms",
        CHILD_ADDED_LIMIT_MS,
    )


def in_parts(around: Figure, step: Figure) -> Figure:
    """What a run of 30 s takes longer: its start, end and windows, and each step's share."""
    in_steps_s = RUN_S - around.plain
    of_steps = [(draw - 1) * in_steps_s for draw in step.draws]
    value = around.value + (step.value - 1) * in_steps_s
    draws = sums_drawn(around.draws, of_steps)
    return Figure("30 s run in its parts, s", 0.0, value, value, draws, "s", RUN_ADDED_LIMIT_S)


def measure_all(args: argparse.Namespace, scratch: Path) -> bool:
    """Measure and print everything; True when every limit holds."""
    pace = Pace()
    child = children(args.children, scratch)
    turns = Turning(args.turns // 3 if args.quick else args.turns, TURN_S)
    by_turns = [figure for size in SIZES for figure in turn_figures(size, turns, scratch)]
    short = pairs(args.step_pairs, "1ms", 1500 if args.quick else 4000, scratch, pace)
    long = pairs(args.step_pairs, "20ms", 150 if args.quick else 300, scratch, pace)
    steps = 400 if args.quick else 1400
    whole = pairs(args.pairs, "20ms", steps, scratch, pace)
    run, edges, windows, around, memory = (measure.over(whole) for measure in WHOLE_RUN)
    between = [measure.over(long) for measure in LONG_STEPS]
    between += [measure.over(short) for measure in SHORT_STEPS]
    within = [*by_turns, in_parts(around, by_turns[2]), memory, child]
    header = f"{'plain':>9} {'wrapped':>9} {'value':>8} {'95 % interval':>18} {'':3} {'limit':>6}"
    print(f"\n{'pairs of trainings':40} {header}")
    for one in (*between, run, edges, windows, around):
        print(one.row())
    print(f"\n{'turns of one training, and the rest':40} {header}")
    for one in within:
        print(one.row())
    for row in window_rows(whole):
        print(row)
    return all(one.verdict() in ("pass", "-") for one in within)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="shorter runs; figures are rougher")
    parser.add_argument("--pairs", type=int, default=10, help="of whole runs, about 30 s each")
    parser.add_argument("--step-pairs", type=int, default=5, help="of short runs, for the steps")
    parser.add_argument("--turns", type=int, default=250, help="pairs of turns, for each size")
    parser.add_argument("--children", type=int, default=300)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        return 0 if measure_all(args, Path(scratch)) else 1


if __name__ == "__main__":
    sys.exit(main())
