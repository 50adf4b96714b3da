"""Planted causes in real trainings: each is named, and at its line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCENARIO = Path(__file__).parent / "scenarios" / "causes.py"


def line_with(text: str) -> int:
    lines = SCENARIO.read_text().splitlines()
    return next(number for number, line in enumerate(lines, start=1) if text in line)


def findings_of(folder: Path, cause: str, steps: int) -> dict[str, dict[str, Any]]:
    command = [sys.executable, "-m", "boundscope"]
    script = [str(SCENARIO), "--cause", cause, "--steps", str(steps)]
    run = subprocess.run(
        [*command, "run", "--no-report", "-o", str(folder), *script],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    shown = subprocess.run(
        [*command, "diagnose", "--json", str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return {finding["id"]: finding for finding in json.loads(shown.stdout)["findings"]}


@pytest.mark.parametrize(
    ("cause", "steps", "line"),
    [
        ("slow-collate", 500, "batch.append(torch.tensor("),
        ("workers-waiting", 250, "time.sleep(self.sleep_s)"),
        ("garbage-collection", 60, ""),
        ("memory-growth", 260, ""),
    ],
)
def test_a_planted_cause_is_named_at_its_line(
    cause: str, steps: int, line: str, tmp_path: Path
) -> None:
    findings = findings_of(tmp_path / "run", cause, steps)

    assert cause in findings, sorted(findings)
    if line:
        named = [place.get("line") for place in findings[cause]["where"]]
        assert line_with(line) in named


def test_a_training_without_a_cause_has_none_of_them(tmp_path: Path) -> None:
    planted = {"slow-collate", "workers-waiting", "garbage-collection", "memory-growth", "drift"}

    assert not planted & set(findings_of(tmp_path / "run", "", 200))
