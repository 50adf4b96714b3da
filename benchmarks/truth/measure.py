"""Runs a case's script plain, with a limit removed, or under boundscope, and times its steps."""

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

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = Path("benchmarks/truth/families")
"""Relative to the root, where every run starts: no path of this machine is recorded."""
PLAIN_STEPS = 65
START_UP_STEPS = 5
"""Steps left out at the beginning: the first optimizer and the first kernels are set up there."""
BLOCK_STEPS = 20
"""A multiple of every period of the cases (checkpoints and validation each 5, 10 or 20 steps)."""
TIMEOUT_S = 180.0
ENDING_S = 25.0
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
    `others` is how many cores other processes used meanwhile; `run` the run folder's name;
    `error` the end of the script's own words where it failed.
    """

    case: str
    variant: str
    repeat: int
    step_ms: float = 0.0
    others: float = 0.0
    run: str = ""
    error: str = ""


def step_ms(ends_s: list[float]) -> float:
    """The median over blocks of steps of the mean step, ms; 0 where there are too few steps.

    A block holds each periodic cost as often as every other block, so that a checkpoint counts
    with its share, while a disturbance of a few steps does not.
    """
    ends = ends_s[START_UP_STEPS:]
    blocks = [
        1000 * (ends[i + BLOCK_STEPS] - ends[i]) / BLOCK_STEPS
        for i in range(0, len(ends) - BLOCK_STEPS, BLOCK_STEPS)
    ]
    return statistics.median(blocks) if blocks else 0.0


def script_of(case: Case, steps: int, times: Path) -> list[str]:
    # What grows from step to step must be measured over the steps that are recorded.
    grows = case.kind == "growth" or "drift" in case.cause
    steps = case.steps + 1 if grows else min(steps, case.steps) + 1
    script = str(FAMILIES / case.script)
    return [script, *case.arguments, "--steps", str(steps), "--times", str(times)]


@dataclass(frozen=True)
class Patience:
    """How often a disturbed run is taken again, and how long to wait for quiet before."""

    tries: int
    wait_s: float


def measure(case: Case, variant: str, repeat: int, runs: Path, patience: Patience) -> Timing:
    """Run one variant until others left the machine alone, or patience ends."""
    best: Timing | None = None
    for attempt in range(patience.tries):
        if attempt and patience.wait_s > 0:
            wait_until_quiet(patience.wait_s)
        timing = run_once(case, variant, repeat, runs)
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


def run_once(case: Case, variant: str, repeat: int, runs: Path) -> Timing:
    with tempfile.TemporaryDirectory() as folder:
        times = Path(folder) / "times.json"
        command, run = [sys.executable], ""
        if variant == WRAPPED:
            run = "taken"
            shutil.rmtree(runs / run, ignore_errors=True)
            wrap = ["-m", "boundscope", "run", "-o", str(runs / run), "--name", case.name, "--"]
            command += [*wrap, *script_of(case, case.steps, times)]
        else:
            command += script_of(case, PLAIN_STEPS, times)
            if variant == ONLY_HOST:
                command += CALLS_OF_RANKS_ALONE if "network" in case.removals else CALLS_ALONE
            elif variant != PLAIN:
                command += ["--remove", variant]
        with beside(case):
            others = Others()
            error = end_of(command)
            cores = round(others.cores(), 3)
        timed = step_ms(json.loads(times.read_text())) if times.exists() else 0.0
    if not timed and not error and case.kind != "bad-input":
        error = "the script wrote no step times"
    run = run if run and (runs / run / "manifest.json").exists() else ""
    return Timing(case.name, variant, repeat, round(timed, 3), cores, run, error)


def end_of(command: list[str]) -> str:
    """Run the command; "" when it ended well, else its last words.

    One that takes too long is asked to end before it is killed: it has ranks and a link to remove.
    """
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as started:
        try:
            _, words = started.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            started.terminate()
            try:
                started.communicate(timeout=ENDING_S)
            except subprocess.TimeoutExpired:
                started.kill()
            return f"took more than {TIMEOUT_S:.0f} s"
    return "" if started.returncode == 0 else words[-600:] or f"exit code {started.returncode}"


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
