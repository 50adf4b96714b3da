"""Runs a case's script plain, with a limit removed, or under boundscope, and times its steps.

Plain and every removal take turns, a few steps each: what is compared is measured within seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ..quiet import BUSY_CORES, Others, wait_until_quiet
from .cases import Case
from .score import ONLY_HOST
from .turns import by_turns

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = Path("benchmarks/truth/families")
"""Relative to the root, where every run starts: no path of this machine is recorded."""
PLAIN_STEPS = 85
START_UP_STEPS = 5
"""Steps left out at the beginning: the first optimizer and the first kernels are set up there."""
TURN_STEPS = 10
"""Steps that a variant takes before the next one goes on: enough that its caches are its own, few
enough that the machine's pace is the same for all."""
BLOCK_STEPS = 20
"""A multiple of every period of the cases (checkpoints and validation each 5, 10 or 20 steps)."""
TIMEOUT_S = 180.0
"""Of one run; of all variants by turns, for each of them."""
WRAPPED = "wrapped"
PLAIN = "plain"
CALLS_ALONE = ("--remove", "input", "--size", "0.02")
"""Layers a few numbers wide on resident batches: the same calls with little work. What does not go
by the layers' width (embeddings of few rows, a loss over its classes) stays, so that the host's
part is measured too large rather than too small."""
CALLS_OF_RANKS_ALONE = ("--remove", "network", "--size", "0.02")
"""Two ranks exchange nothing; their batches are loaded as they are, which makes it larger still."""


class Timing(msgspec.Struct, frozen=True, omit_defaults=True):
    """One run: which case, which variant, its step time.

    Variants are "plain", "wrapped", the removed bound, and "only-host": all but the host removed.
    `step_ms` is the median over `blocks_ms`, the mean steps of blocks, in their order. Variants
    that took turns are alike in their repeat, and a block was measured beside the same block of
    the others. `others` is how many cores other processes used meanwhile; `run` the run folder's
    name; `error` the end of the script's own words where it failed.
    """

    case: str
    variant: str
    repeat: int
    step_ms: float = 0.0
    blocks_ms: list[float] = []
    others: float = 0.0
    run: str = ""
    error: str = ""


def blocks_ms(ends_s: list[float]) -> list[float]:
    """The mean step of each block of steps, ms; empty where there are too few steps.

    A block holds each periodic cost as often as every other block, so that a checkpoint counts
    with its share.
    """
    ends = ends_s[START_UP_STEPS - 1 :]
    return [
        round(1000 * (ends[i + BLOCK_STEPS] - ends[i]) / BLOCK_STEPS, 3)
        for i in range(0, len(ends) - BLOCK_STEPS, BLOCK_STEPS)
    ]


def script_of(case: Case, steps: int, times: Path) -> list[str]:
    # What grows from step to step must be measured over the steps that are recorded.
    grows = case.kind == "growth" or "drift" in case.cause
    steps = case.steps if grows else min(steps, case.steps)
    script = str(FAMILIES / case.script)
    return [script, *case.arguments, "--steps", str(steps), "--times", str(times)]


@dataclass(frozen=True)
class Patience:
    """How often a disturbed run is taken again, and how long to wait for quiet before."""

    tries: int
    wait_s: float


def measure(case: Case, variants: list[str], repeat: int, patience: Patience) -> list[Timing]:
    """Time the variants by turns until others left the machine alone, or patience ends."""
    best: list[Timing] = []
    for attempt in range(patience.tries):
        if attempt and patience.wait_s > 0:
            wait_until_quiet(patience.wait_s)
        timings = measure_once(case, variants, repeat)
        if not best or timings[0].others < best[0].others:
            best = timings
        if timings[0].others < BUSY_CORES or any(timing.error for timing in timings):
            break
    return best


def measure_once(case: Case, variants: list[str], repeat: int) -> list[Timing]:
    with tempfile.TemporaryDirectory() as folder:
        times = {variant: Path(folder) / f"{variant}.json" for variant in variants}
        commands = {variant: command_of(case, variant, file) for variant, file in times.items()}
        others = Others()
        errors = by_turns(commands, ROOT, TIMEOUT_S * len(variants))
        cores = round(others.cores(), 3)
        return [
            timing_of(Timing(case.name, variant, repeat, others=cores, error=error), times[variant])
            for variant, error in errors.items()
        ]


def timing_of(timing: Timing, times: Path) -> Timing:
    """The same with the step times that the script wrote."""
    blocks = blocks_ms(json.loads(times.read_text())) if times.exists() else []
    error = timing.error or ("" if blocks else "the script wrote no step times")
    step_ms = round(statistics.median(blocks), 3) if blocks else 0.0
    return msgspec.structs.replace(timing, step_ms=step_ms, blocks_ms=blocks, error=error)


def command_of(case: Case, variant: str, times: Path) -> list[str]:
    command = [sys.executable, *script_of(case, PLAIN_STEPS, times)]
    command += ["--turn", str(TURN_STEPS), "--first-turn", str(START_UP_STEPS)]
    if variant == ONLY_HOST:
        return [*command, *(CALLS_OF_RANKS_ALONE if "network" in case.removals else CALLS_ALONE)]
    return command if variant == PLAIN else [*command, "--remove", variant]


def record(case: Case, repeat: int, runs: Path, patience: Patience) -> Timing:
    """Run it under boundscope until others left the machine alone, or patience ends."""
    best: Timing | None = None
    for attempt in range(patience.tries):
        if attempt and patience.wait_s > 0:
            wait_until_quiet(patience.wait_s)
        timing = record_once(case, repeat, runs)
        calmer = best is None or timing.others < best.others
        if calmer and timing.run:
            kept, taken = runs / run_name(case, repeat), runs / timing.run
            shutil.rmtree(kept, ignore_errors=True)
            taken.rename(kept)
            timing = msgspec.structs.replace(timing, run=kept.name)
        best = timing if calmer else best
        if timing.others < BUSY_CORES or timing.error:
            break
    assert best is not None
    return best


def run_name(case: Case, repeat: int) -> str:
    return f"{case.name}@{repeat}"


def record_once(case: Case, repeat: int, runs: Path) -> Timing:
    run = "taken"
    shutil.rmtree(runs / run, ignore_errors=True)
    wrap = ["-m", "boundscope", "run", "-o", str(runs / run), "--name", case.name, "--"]
    with tempfile.TemporaryDirectory() as folder:
        times = Path(folder) / "times.json"
        command = [sys.executable, *wrap, *script_of(case, case.steps, times)]
        with beside(case):
            others = Others()
            error = by_turns({WRAPPED: command}, ROOT, TIMEOUT_S)[WRAPPED]
            cores = round(others.cores(), 3)
        timing = Timing(case.name, WRAPPED, repeat, others=cores, error=error)
        if not error and case.kind != "bad-input":
            timing = timing_of(timing, times)
    run = run if (runs / run / "manifest.json").exists() else ""
    return msgspec.structs.replace(timing, run=run)


@contextlib.contextmanager
def beside(case: Case) -> Iterator[None]:
    """Somebody else's work on every core, where the case asks for it."""
    count = (os.cpu_count() or 1) if case.needs == "load" else 0
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def can_link() -> bool:
    """Whether this machine lets us make network namespaces and shape a link."""
    return os.geteuid() == 0 and bool(shutil.which("ip")) and bool(shutil.which("tc"))
