"""The long forms of the fault suite: kills at random moments, and many starts in a row.

    python benchmarks/faults.py kills --count 100
    python benchmarks/faults.py starts --count 200

`kills` wraps a training in `boundscope run`, ends the training with SIGKILL at a random moment and
prints how much of it the run folder lacks: the time from the last recorded step to the last step
that the training noted itself. `starts` wraps a command again and again and looks for what is left
behind: processes, temporary files, files other than the run's own, descriptors and threads.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from boundscope.collectors.records import SpanKind
from boundscope.profiler.run.files import read_records
from boundscope.profiler.run.load import load_run

TRAINING = Path(__file__).resolve().parents[1] / "tests" / "faults" / "scripts" / "training.py"
BOUNDSCOPE = str(Path(sys.executable).parent / "boundscope")
LATEST_S = 5.0
"""Kills come up to so long after the first step: two trace windows and their exports included."""
PROMISE_S = 1.0


def started(folder: Path, words: list[str]) -> subprocess.Popen[bytes]:
    command = [BOUNDSCOPE, "run", "--no-report", "-o", "run", *words]
    environment = {**os.environ, "TMPDIR": str(folder / "tmp"), "OMP_NUM_THREADS": "1"}
    (folder / "tmp").mkdir()
    return subprocess.Popen(
        command, cwd=folder, env=environment, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def session(leader: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == leader and fields[0] not in "ZX":
                found.append(int(entry.name))
    return found


def kill_once(folder: Path, seed: int) -> dict[str, float | str]:
    """One training, ended at a random moment: what was lost, and how the run loads."""
    folder.mkdir()
    launcher = started(folder, [str(TRAINING), "--notes", "--steps", "5000", "--wait-ms", "4"])
    notes = folder / "notes"
    while not (notes.exists() and notes.stat().st_size):
        if launcher.poll() is not None:
            raise SystemExit(f"the training did not start: {launcher.returncode}")
        time.sleep(0.01)
    time.sleep(random.Random(seed).uniform(0.0, LATEST_S))
    os.kill(int(manifest_of(folder)["child_pid"]), signal.SIGKILL)
    code = launcher.wait(60)
    left = session(launcher.pid)
    run = load_run(folder / "run")
    return {"lost_s": lost_s(folder), "code": code, "status": run.status, "left": len(left)}


def manifest_of(folder: Path) -> dict[str, object]:
    """The manifest once it names the command's process."""
    while True:
        found: dict[str, object] = json.loads((folder / "run" / "manifest.json").read_text())
        if found.get("child_pid"):
            return found
        time.sleep(0.01)


def lost_s(folder: Path) -> float:
    """From the last batch that was recorded, or the first of all, to the last one, in seconds."""
    text = (folder / "notes").read_bytes()
    noted = np.frombuffer(text[: len(text) // 8 * 8], np.int64)
    last = noted[0]
    for steps in folder.glob("run/rank-*/steps.jsonl"):
        header = read_records(steps).header
        (rank,) = load_run(folder / "run").ranks
        ends = rank.spans.of(SpanKind.BACKWARD).end_ns
        if header is not None and len(ends):
            last = max(last, int(ends.max()) - header.wall_ns + header.mono_ns)
    return max(0.0, float(noted[-1] - last) * 1e-9)


def kills(count: int, at_once: int, seed: int) -> int:
    """Print the distribution of what was lost; 1 where a promise was broken."""
    with tempfile.TemporaryDirectory() as base, ThreadPoolExecutor(at_once) as pool:
        folders = [Path(base) / str(index) for index in range(count)]
        results = list(pool.map(kill_once, folders, range(seed, seed + count)))
    lost = np.array([result["lost_s"] for result in results], float)
    quantiles = ", ".join(f"p{q} {np.quantile(lost, q / 100):.3f} s" for q in (50, 90, 99))
    print(f"{count} kills at random moments: lost {quantiles}, most {lost.max():.3f} s")
    print(f"  over {PROMISE_S:g} s: {int((lost > PROMISE_S).sum())}")
    for name, expected in (("code", -signal.SIGKILL), ("status", "killed"), ("left", 0)):
        wrong = sum(result[name] != expected for result in results)
        print(f"  {name} other than {expected}: {wrong}")
    good = lost.max() <= PROMISE_S and all(
        (r["code"], r["status"], r["left"]) == (-signal.SIGKILL, "killed", 0) for r in results
    )
    return 0 if good else 1


def starts(count: int, words: list[str]) -> int:
    """Start again and again from one process, and count what stays."""
    descriptors, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    left: list[str] = []
    seconds = []
    for index in range(count):
        with tempfile.TemporaryDirectory() as base:
            begin = time.monotonic()
            launcher = started(Path(base), words)
            code = launcher.wait(120)
            seconds.append(time.monotonic() - begin)
            left += leftovers(Path(base), launcher.pid, code, index)
    left += [f"descriptor {n}" for n in range(len(os.listdir("/proc/self/fd")) - descriptors)]
    left += [f"thread {n}" for n in range(threading.active_count() - threads)]
    print(f"{count} starts, median {np.median(seconds):.2f} s: {len(left)} things left behind")
    for thing in left[:20]:
        print(f"  {thing}")
    return 1 if left else 0


def leftovers(base: Path, leader: int, code: int, index: int) -> list[str]:
    """Processes of the session, temporary files, and files of the run that are none of its own."""
    names = [f"start {index}: exit code {code}"] if code else []
    names += [f"start {index}: process {pid}" for pid in session(leader)]
    names += [f"start {index}: temporary {path.name}" for path in (base / "tmp").iterdir()]
    hidden = [path for path in (base / "run").rglob("*") if path.name.startswith(".")]
    parts = list((base / "run").rglob("*.part*"))
    return names + [f"start {index}: {path.name}" for path in hidden + parts]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("form", choices=["kills", "starts"])
    parser.add_argument("--count", type=int, default=0, help="100 kills, or 200 starts")
    parser.add_argument("--at-once", type=int, default=2, help="trainings at a time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--torch", action="store_true", help="starts: a training each, not `pass`")
    given = parser.parse_args()
    if given.form == "kills":
        return kills(given.count or 100, given.at_once, given.seed)
    training = [str(TRAINING), "--steps", "60", "--wait-ms", "4"]
    words = training if given.torch else [sys.executable, "-c", "print('started')"]
    return starts(given.count or 200, words)


if __name__ == "__main__":
    sys.exit(main())
