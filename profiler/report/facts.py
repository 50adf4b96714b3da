"""The line of facts under a verdict, the same in the terminal and on the page."""

from __future__ import annotations

from ..diagnosis import Diagnosis
from ..text import duration, milliseconds, plural


def run_facts(diagnosis: Diagnosis) -> list[str]:
    """What is known of the verdict and its run: confidence, steps, ranks, start-up, a bad end."""
    run, verdict = diagnosis.run, diagnosis.verdict
    facts = [f"confidence {verdict.confidence:.2f}"] if verdict.bound != "unknown" else []
    if run.step_ms is not None:
        facts.append(
            f"{plural(run.steps, 'step')}, median {milliseconds(run.step_ms.median)}, "
            f"p90 {milliseconds(run.step_ms.p90)}"
        )
    if run.world_size > 1:
        facts.append(plural(run.world_size, "rank"))
    if run.startup_s is not None:
        facts.append(f"start-up {duration(run.startup_s)}")
    if run.status != "finished":
        code = "" if run.exit_code is None else f" (exit code {run.exit_code})"
        facts.append(f"{run.status}{code}")
    return facts
