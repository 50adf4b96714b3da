"""What the report says of runs that show no pattern: real ones, each for a reason of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ONE_STEP = """
import torch
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(torch.ones(1, 2)).sum().backward()
optimizer.step()
"""

SOME_SECONDS = (
    ONE_STEP
    + """
import time
for _ in range(30):
    time.sleep(0.1)
    optimizer.step()
"""
)


@pytest.mark.parametrize(
    ("script", "headline"),
    [
        (
            "print('no torch')",
            "Unknown: the command never imported torch in a Python process that could be watched.",
        ),
        (
            "import torch",
            "Unknown: the command imported torch but took no optimizer step and read no batch.",
        ),
        (ONE_STEP, "Unknown: the run ended before its second step."),
        (
            "raise SystemExit(3)",
            "Unknown: the command never imported torch in a Python process that could be watched. "
            "It failed with exit code 3.",
        ),
    ],
    ids=["no torch", "no step", "one step", "failed"],
)
def test_a_run_without_steps_says_what_is_missing(
    tmp_path: Path, script: str, headline: str
) -> None:
    (tmp_path / "train.py").write_text(script)

    done = subprocess.run(
        [sys.executable, "-m", "boundscope", "run", "-o", "run", "train.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    stored = json.loads((tmp_path / "run" / "diagnosis.json").read_text())
    assert done.returncode == (3 if "SystemExit(3)" in script else 0), done.stderr
    assert stored["verdict"]["bound"] == "unknown"
    assert stored["verdict"]["headline"] == headline
    assert headline in done.stderr


def test_a_run_whose_rank_folders_are_gone_is_not_said_to_have_taken_no_step(
    tmp_path: Path,
) -> None:
    (tmp_path / "train.py").write_text(SOME_SECONDS)
    subprocess.run(
        [sys.executable, "-m", "boundscope", "run", "-o", "run", "train.py"],
        cwd=tmp_path, capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    for folder in (tmp_path / "run").glob("rank-*"):
        shutil.rmtree(folder)

    done = subprocess.run(
        [sys.executable, "-m", "boundscope", "diagnose", "run"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip

    assert "the run's folders rank-… are missing" in done.stdout
    assert "took no optimizer step" not in done.stdout
