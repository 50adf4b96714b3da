"""The report as it stands in a terminal: every line of it, for one diagnosis."""

from __future__ import annotations

import io

from rich.console import Console

from boundscope.profiler.diagnosis import (
    SLOTS,
    Diagnosis,
    Evidence,
    Finding,
    Fix,
    Missing,
    Place,
    RunSummary,
    Saving,
    StepTime,
    Verdict,
    Warning_,
)
from boundscope.profiler.report.terminal import render

STORE = Finding(
    id="slow-store",
    bound="input",
    saving=Saving(0.70, 0.75, 0.80),
    speedup=4.0,
    title="Rank 1 waits for samples to arrive",
    evidence=[Evidence("the loader has 0 workers", "input.workers", 0, "workers", "steps")],
    where=[Place(rank=1, file="/w/train.py", line=31, function="get")],
    fixes=[
        Fix("Read ahead", snippet="DataLoader(\n    num_workers=2)"),
        Fix("Fetch at once"),
        Fix("A third is not shown"),
    ],
)

SMALLER = [
    Finding(f"f{number}", "host", Saving(0, 0, 0), 1.0, [], [], [], f"No. {number}")
    for number in (2, 3, 4)
]

DIAGNOSIS = Diagnosis(
    schema=1,
    run=RunSummary("id", "failed", 3, 2, 120, StepTime(31.2, 35.0), [], 4.1),
    verdict=Verdict("input", 0.93, "compute", "Input-bound: 75 % of every step [bold]waits[/]."),
    breakdown={**dict.fromkeys(SLOTS, 0.0), "input": 0.75, "compute": 0.25},
    ranks=[],
    findings=[STORE, *SMALLER],
    missing=[Missing("gpu", "no-driver", "no GPU utilisation")],
    warnings=[Warning_("busy-host", "others took half")],
)

SHOWN = f"""
Input-bound: 75 % of every step [bold]waits[/].
  confidence 0.93 · 120 steps, median 31.2 ms, p90 35 ms · 2 ranks · start-up 4.1 s · failed (exit code 3)
  {"░" * 45}{"█" * 15}
  ░ input 75 %   █ compute 25 %

1. Rank 1 waits for samples to arrive  saves about 75 % of step time (70 % to 80 %), 4 times as fast
   at /w/train.py:31 in get (rank 1)
   - the loader has 0 workers
   → Read ahead
       DataLoader(
           num_workers=2)
   → Fetch at once

2. No. 2

3. No. 3
  and 1 smaller finding: boundscope diagnose --json

  missing gpu (no-driver): no GPU utilisation
  warning[busy-host]: others took half
"""  # noqa: E501 - lines as long as a terminal's


def shown(diagnosis: Diagnosis, **console: bool) -> str:
    out = io.StringIO()
    render(diagnosis, Console(file=out, width=200, **console))  # type: ignore[arg-type]
    return out.getvalue()


def test_every_part_of_a_diagnosis_is_told_in_its_place() -> None:
    text = shown(DIAGNOSIS)

    assert [line.rstrip() for line in text.splitlines()] == SHOWN.rstrip("\n").split("\n")


def test_colours_are_for_terminals_alone() -> None:
    assert "\x1b[" in shown(DIAGNOSIS, force_terminal=True)
    assert "\x1b[" not in shown(DIAGNOSIS)
