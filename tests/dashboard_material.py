"""Runs that the tests of the dashboard look at: recorded once, each a real training."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from boundscope.collectors.records import Manifest
from boundscope.profiler.library import DIAGNOSIS_FILE
from boundscope.profiler.program import fingerprint
from boundscope.profiler.run.manifest import read_manifest, write_manifest

from .written_run import going_on, write_run

ROOT = Path(__file__).parents[1]
TRAINING = ROOT / "tests" / "scenarios" / "tiny_training.py"
HOSTILE = '<img src=x onerror="document.title=1">**bold** $x$ [l](http://a.invalid)'


@pytest.fixture(scope="module", name="runs")
def recorded_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recorded runs, one with a slow loader; a hostile copy; one that cannot be read; one of
    two ranks that was written down."""
    made = tmp_path_factory.getbasetemp() / "dashboard" / "runs"
    if made.exists():  # another file of tests has recorded them
        return made
    folder = made.with_name("recording")  # what a failed recording left is no run
    shutil.rmtree(folder, ignore_errors=True)
    for name, wait_ms in (("quick", "0.2"), ("slow", "2")):
        recorded = subprocess.run(
            [
                sys.executable,
                "-m",
                "boundscope",
                "run",
                "-o",
                str(folder / name),
                "--",
                str(TRAINING),
                "--wait-ms",
                wait_ms,
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert recorded.returncode == 0, recorded.stderr
    hostile = folder / "hostile"
    shutil.copytree(folder / "slow", hostile)
    manifest = read_manifest(hostile)
    write_manifest(hostile, msgspec.structs.replace(manifest, name=HOSTILE, command=[HOSTILE]))
    text = (hostile / DIAGNOSIS_FILE).read_text()
    diagnosis = json.loads(text)
    diagnosis["run"]["name"] = HOSTILE
    diagnosis["run"]["devices"] = [HOSTILE]
    diagnosis["verdict"]["headline"] = HOSTILE
    diagnosis["findings"].insert(0, hostile_finding())
    diagnosis["program"] = fingerprint()
    (hostile / DIAGNOSIS_FILE).write_text(json.dumps(diagnosis))
    (folder / "broken").mkdir()
    (folder / "broken" / "manifest.json").write_text("{")
    write_run(folder / "two-ranks", world=2)
    folder.rename(made)
    return made


def hostile_finding() -> dict[str, Any]:
    """A finding whose every text is hostile."""
    return {
        "id": HOSTILE,
        "title": HOSTILE,
        "bound": "input",
        "saving": {"low": 0.1, "mid": 0.2, "high": 0.3},
        "speedup": 1.25,
        "evidence": [
            {"text": HOSTILE, "quantity": HOSTILE, "value": 1.0, "unit": "ms", "source": "steps"}
        ],
        "where": [{"rank": 0, "file": HOSTILE, "line": 1, "op": HOSTILE}],
        "fixes": [{"title": HOSTILE, "detail": HOSTILE, "snippet": HOSTILE}],
    }


def diagnose_json(folder: Path) -> dict[str, Any]:
    shown = subprocess.run(
        [sys.executable, "-m", "boundscope", "diagnose", "--json", str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found: dict[str, Any] = json.loads(shown.stdout)
    return found


def running_copy(finished: Path, folder: Path) -> Manifest:
    """A copy of a recorded run whose launcher, this process, is still at work; returns its
    manifest as it will be at the end."""
    shutil.copytree(finished, folder)
    (folder / DIAGNOSIS_FILE).unlink()
    at_the_end = read_manifest(folder)
    write_manifest(folder, msgspec.structs.replace(at_the_end, **going_on()))
    return at_the_end
