"""Planted causes in real trainings: each is named, and at its line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from .quiet_runs import run_and_diagnose

SCENARIO = Path(__file__).parent / "scenarios" / "causes.py"
FUNCTIONAL = SCENARIO.with_name("functional.py")


def line_with(text: str) -> int:
    lines = SCENARIO.read_text().splitlines()
    return next(number for number, line in enumerate(lines, start=1) if text in line)


def findings_of(folder: Path, cause: str, steps: int) -> dict[str, dict[str, Any]]:
    script = [str(SCENARIO), "--cause", cause, "--steps", str(steps)]
    diagnosis = run_and_diagnose(folder, *script)
    return {finding["id"]: finding for finding in diagnosis["findings"]}


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


def test_memory_that_is_handed_out_anew_is_named_and_the_advice_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = findings_of(tmp_path / "as-it-is", "fresh-pages", 150)
    advised = findings["fresh-pages"]["fixes"][0]["snippet"].split()
    for setting in advised:
        name, is_setting, value = setting.partition("=")
        if is_setting:
            monkeypatch.setenv(name, value)
    after = findings_of(tmp_path / "advised", "fresh-pages", 150)

    assert findings["fresh-pages"]["saving"]["mid"] > 0.2
    assert "fresh-pages" not in after


def test_lines_are_named_in_a_project_that_is_called_as_a_library_or_as_we_are(
    tmp_path: Path,
) -> None:
    script = tmp_path / "work" / "boundscope" / "torch" / SCENARIO.name
    script.parent.mkdir(parents=True)
    shutil.copy(SCENARIO, script)

    diagnosis = run_and_diagnose(tmp_path / "run", str(script), "--cause", "slow-collate")

    found = next(each for each in diagnosis["findings"] if each["id"] == "slow-collate")
    named = [(place.get("file"), place.get("line")) for place in found["where"]]
    assert (str(script), line_with("batch.append(torch.tensor(")) in named


def test_a_training_without_a_cause_has_none_of_them(tmp_path: Path) -> None:
    planted = {"slow-collate", "workers-waiting", "garbage-collection", "memory-growth", "drift"}

    assert not planted & set(findings_of(tmp_path / "run", "", 200))


def test_a_forward_pass_in_plain_functions_is_not_called_preparation(tmp_path: Path) -> None:
    diagnosis = run_and_diagnose(tmp_path / "run", str(FUNCTIONAL))

    assert diagnosis["verdict"]["bound"] != "input", diagnosis
    assert diagnosis["breakdown"]["input"] < 0.05
    assert diagnosis["breakdown"]["compute"] + diagnosis["breakdown"]["memory"] > 0.5


def test_preparation_before_a_forward_pass_in_plain_functions_is_input(tmp_path: Path) -> None:
    slow = ["--prepare-ms", "150", "--steps", "60"]

    diagnosis = run_and_diagnose(tmp_path / "run", str(FUNCTIONAL), *slow)

    assert diagnosis["verdict"]["bound"] == "input", diagnosis
    assert "batch-prepared-in-loop" in {finding["id"] for finding in diagnosis["findings"]}
