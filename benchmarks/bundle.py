"""How long the bundle of a run takes whose trace is 1 GB, and in how much memory.

    python benchmarks/bundle.py [--size-mb 1000] [--keep FOLDER]

A run is recorded, and its longest trace window is made as large as asked: its events again and
again, with shifted times. Then `boundscope bundle` makes the bundle; the peak memory is that of
its whole process tree. Ends with 1 where a limit is passed.
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
TRAINING = ROOT / "tests" / "scenarios" / "tiny_training.py"
LIMIT_S = 30.0
LIMIT_MB = 500.0
MB = 1_000_000


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size-mb", type=int, default=1_000)
    parser.add_argument("--keep", type=Path, help="keep (or take) the large run in this folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        run = folder / "run"
        if not run.exists():
            make_run(run, options.size_mb)
        seconds, peak_mb, said = bundled(run, folder / "large.boundscope.zip")
        size = (folder / "large.boundscope.zip").stat().st_size / MB
    print(said)
    print(f"bundle of a trace of {options.size_mb} MB: {size:.1f} MB")
    good = verdict("time", seconds, LIMIT_S, "s")
    good &= verdict("peak memory of the process tree", peak_mb, LIMIT_MB, "MB")
    return 0 if good else 1


def verdict(what: str, value: float, limit: float, unit: str) -> bool:
    good = value < limit
    print(f"{'pass' if good else 'FAIL'}: {what} {value:.1f} {unit} (limit {limit:g} {unit})")
    return good


def make_run(run: Path, size_mb: int) -> None:
    command = [sys.executable, "-m", "boundscope", "run", "-o", str(run), "--", str(TRAINING)]
    subprocess.run(command, check=True, capture_output=True)
    traces = list(run.glob("rank-*/trace-*.json.gz"))
    largest = max(traces, key=lambda path: path.stat().st_size)
    enlarge(largest, size_mb * MB)


def enlarge(path: Path, size: int) -> None:
    """Write the trace's events again and again, each time later and with other ids and steps."""
    trace = json.loads(gzip.decompress(path.read_bytes()))
    events = trace.pop("traceEvents")
    head = [event for event in events if event["ph"] == "M"]
    spans = [event for event in events if event["ph"] == "X" and event["cat"] != "Trace"]
    begin = min(event["ts"] for event in spans)
    length = max(event["ts"] + event["dur"] for event in spans) - begin + 10
    steps = sum(event["name"].startswith("ProfilerStep#") for event in spans)
    pieces = [parted(event) for event in spans]
    written = again = 0
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.write(json.dumps(trace)[:-1] + ',"traceEvents":[\n')
        file.write(",\n".join(map(json.dumps, head)))
        while written < size:
            later = again * length
            lines = [
                f",\n{head}{number + again * steps if number >= 0 else ''}{middle}"
                f"{ts + later:.3f}{tail}"
                for head, number, middle, ts, tail in pieces
            ]
            written += file.write("".join(lines))
            again += 1
        file.write("\n]}\n")


def parted(event: dict[str, Any]) -> tuple[str, int, str, float, str]:
    """An event's JSON, taken apart around the step's number (-1: none) and the time."""
    text = json.dumps({**event, "ts": "@"}, indent=1)
    before, after = text.split('"@"')
    mark = "ProfilerStep#"
    if mark not in before:
        return before, -1, "", event["ts"], after
    head, rest = before.split(mark)
    digits = rest.split('"')[0]
    return head + mark, int(digits), rest[len(digits) :], event["ts"], after


def bundled(run: Path, target: Path) -> tuple[float, float, str]:
    """Return seconds, peak MB of the process tree, and the last line that was said."""
    command = [sys.executable, "-m", "boundscope", "bundle", str(run), "-o", str(target)]
    began = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    peak = [0.0]
    watcher = threading.Thread(target=watch, args=(child.pid, peak))
    watcher.start()
    _, said = child.communicate()
    seconds = time.monotonic() - began
    watcher.join()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"CPU time of it and of making the run: {usage.ru_utime + usage.ru_stime:.1f} s")
    if child.returncode:
        sys.exit(said)
    return seconds, peak[0], next(line for line in said.splitlines() if "trace" in line)


def watch(pid: int, peak: list[float]) -> None:
    while psutil.pid_exists(pid):
        total = 0
        try:
            root = psutil.Process(pid)
            for process in (root, *root.children(recursive=True)):
                total += process.memory_info().rss
        except psutil.Error:
            pass
        peak[0] = max(peak[0], total / MB)
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
