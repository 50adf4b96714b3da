"""Runs train.py plain and under boundscope, and compares.

python check.py BOUNDSCOPE
"""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main(boundscope: str) -> None:
    # As for a user who just installed it: nothing of the checkout on the path.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    train = [sys.executable, "train.py"]
    run = [boundscope, "run", "-o", "run", "--"]
    options = {"cwd": HERE, "env": environment, "capture_output": True, "text": True}
    plain = subprocess.run(train, check=False, **options)
    wrapped = subprocess.run([*run, *train], check=False, **options)
    report = wrapped.stderr
    sys.stdout.write(report)
    checks = {
        "the plain training ends with its exit code": plain.returncode == 7,
        "the wrapped training ends with the same": wrapped.returncode == plain.returncode,
        "the losses are the same, bit for bit": wrapped.stdout == plain.stdout,
        "the losses are there": len(plain.stdout.split()) == 40,
        "the run is complete": (HERE / "run" / "manifest.json").exists(),
        "its steps were seen": any(HERE.glob("run/rank-0-*/*.jsonl")),
        "a verdict was reached": (HERE / "run" / "diagnosis.json").exists(),
        "the next command is offered": "boundscope diagnose" in report,
        "no traceback": "Traceback" not in report,
    }
    for what, holds in checks.items():
        sys.stdout.write(f"{'ok    ' if holds else 'FAILED'} {what}\n")
    if not all(checks.values()):
        sys.exit(plain.stderr or 1)


if __name__ == "__main__":
    main(sys.argv[1])
