"""Real trainings under boundscope whose verdict counts: repeated where others held the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

ATTEMPTS = 3
"""A run beside which other programs took much of the CPU says so and is repeated: its slots are as
much theirs as its own."""

QUIET_PERCENT = 10.0
"""Of the host's CPU: from there on boundscope itself calls a host busy."""
QUIET_LIMIT_S = 300.0
LOOK_S = 2.0


def run_and_diagnose(folder: Path, *command: str) -> dict[str, Any]:
    """Run `command` under boundscope on a quiet host; return what `diagnose --json` says of it.

    Between two attempts it waits until the host has come to rest.
    """
    diagnosis: dict[str, Any] = {}
    for attempt in range(ATTEMPTS):
        if attempt:
            await_quiet()
        diagnosis = run_once(folder.with_name(f"{folder.name}-{attempt}"), *command)
        slugs = {warning["slug"] for warning in diagnosis["warnings"]}
        if not slugs & {"busy-host", "overloaded-host"}:
            break
    return diagnosis


def await_quiet() -> None:
    """Wait until others leave the CPU alone, at most `QUIET_LIMIT_S`."""
    deadline = time.monotonic() + QUIET_LIMIT_S
    while time.monotonic() < deadline and psutil.cpu_percent(LOOK_S) > QUIET_PERCENT:
        pass


def run_once(folder: Path, *command: str) -> dict[str, Any]:
    """Run `command` under boundscope, which must end well and report what `diagnose` says."""
    boundscope = [sys.executable, "-m", "boundscope"]
    run = subprocess.run(
        [*boundscope, "run", "-o", str(folder), "--", *command],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=folder.parent,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    shown = subprocess.run(
        [*boundscope, "diagnose", "--json", str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    diagnosis: dict[str, Any] = json.loads(shown.stdout)
    assert diagnosis["verdict"]["headline"] in run.stderr
    return diagnosis
