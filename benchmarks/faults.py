"""The long forms of the fault suite: kills at random moments, and many starts in a row.

    python benchmarks/faults.py kills --count 100
    python benchmarks/faults.py starts --count 200

`kills` wraps a training in `boundscope run` and ends one of the two with SIGKILL at a random
moment: every other time the training, every other time the launcher, and the training a moment
later. It prints how much the run folder lacks: of the training, the time from the last recorded
step to the last one that it noted itself; of the host's metrics, the time from when the next sample
was due to the kill. `starts` wraps a command again and again and looks for what is left behind:
processes (and so their threads and descriptors), temporary files, half-written and hidden files.
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
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from boundscope.collectors.beside.host import HostCollector
from boundscope.collectors.records import Sample, SpanKind
from boundscope.profiler.run.files import read_records
from boundscope.profiler.run.load import load_run

TRAINING = Path(__file__).resolve().parents[1] / "tests" / "faults" / "scripts" / "training.py"
BOUNDSCOPE = str(Path(sys.executable).parent / "boundscope")
LATEST_S = 5.0
"""Kills come up to so long after the first step: two trace windows and their exports included."""
PROMISE_S = 1.0
ALONE_S = 0.7
"""The training goes on for so long without its launcher: some flushes of its own."""
ENDING_S = 5.0


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


def kill_once(folder: Path, seed: int, whom: str) -> dict[str, float | str]:
    """One training, ended at a random moment: what was lost, and how the run loads."""
    folder.mkdir()
    launcher = started(folder, [str(TRAINING), "--notes", "--steps", "5000", "--wait-ms", "4"])
    notes = folder / "notes"
    while not (notes.exists() and notes.stat().st_size):
        if launcher.poll() is not None:
            raise SystemExit(f"the training did not start: {launcher.returncode}")
        time.sleep(0.01)
    time.sleep(random.Random(seed).uniform(0.0, LATEST_S))
    training = int(str(manifest_of(folder)["child_pid"]))
    killed_ns = time.monotonic_ns()
    if whom == "launcher":
        launcher.kill()
        time.sleep(ALONE_S)
    os.kill(training, signal.SIGKILL)
    code = launcher.wait(60)
    run = load_run(folder / "run")
    return {
        "steps": lost_s(folder),
        "host": unsampled_s(folder, killed_ns),
        "code": code,
        "status": run.status,
        "left": len(ended(launcher.pid)),
    }


def ended(leader: int) -> list[int]:
    """The processes of a session that are still there after a moment: py-spy writes its file."""
    deadline = time.monotonic() + ENDING_S
    while session(leader) and time.monotonic() < deadline:
        time.sleep(0.05)
    return session(leader)


def unsampled_s(folder: Path, killed_ns: int) -> float:
    """From when the host's next sample was due, or the first one was, to the kill, in seconds."""
    (path,) = folder.glob("run/node-*/host.jsonl")
    file = read_records(path)
    assert file.header is not None
    taken = [record.time_ns for record in file.records if isinstance(record, Sample)]
    last_ns = max(taken, default=file.header.wall_ns) - file.header.wall_ns + file.header.mono_ns
    return max(0.0, (killed_ns - last_ns) * 1e-9 - HostCollector.period_s)


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
        whom = [("training", "launcher")[index % 2] for index in range(count)]
        results = list(pool.map(kill_once, folders, range(seed, seed + count), whom))
    good = True
    for name in ("training", "launcher"):
        chosen = [result for result, one in zip(results, whom, strict=True) if one == name]
        print(f"{len(chosen)} kills of the {name} at random moments")
        for what in ("steps", "host"):
            good &= told(what, chosen)
        for what, expected in (("code", -signal.SIGKILL), ("status", "killed"), ("left", 0)):
            wrong = sum(result[what] != expected for result in chosen)
            good &= not wrong
            print(f"  {what} other than {expected}: {wrong}")
    return 0 if good else 1


def told(what: str, results: list[dict[str, float | str]]) -> bool:
    """Print what was lost of steps or samples; whether the promise was kept."""
    lost = np.array([result[what] for result in results], float)
    quantiles = ", ".join(f"p{q} {np.quantile(lost, q / 100):.3f} s" for q in (50, 90, 99))
    over = int((lost > PROMISE_S).sum())
    print(f"  {what}: lost {quantiles}, most {lost.max():.3f} s; over {PROMISE_S:g} s: {over}")
    return not over


def starts(count: int, words: list[str]) -> int:
    """Start again and again, and count what stays."""
    left: list[str] = []
    seconds = []
    for index in range(count):
        with tempfile.TemporaryDirectory() as base:
            begin = time.monotonic()
            launcher = started(Path(base), words)
            code = launcher.wait(120)
            seconds.append(time.monotonic() - begin)
            left += leftovers(Path(base), launcher.pid, code, index)
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
