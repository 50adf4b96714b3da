"""How fast and in how little memory a trace is read, against `json.load` with pandas.

    python benchmarks/ingest.py --source TRACE.json.gz [--size-mb 200] [--repeats 3] [--peer]

A large trace is made of a real one: its events again and again, with shifted times and ids. Each
measurement runs in a process of its own; the figures are medians. `--peer` measures the plain way
(`json.load`, then a pandas frame) on the same file, `--hta PYTHON` HolisticTraceAnalysis in that
interpreter. Memory is the peak resident set of the process, imports included.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

MB = 1_000_000
_TIME = re.compile(rb'("ts"\s*:\s*)(\d+)')
_IDS = re.compile(rb'("(?:correlation|[Ee]xternal id|id)"\s*:\s*)(\d+)')
_NUMBER = re.compile(rb'"ts"\s*:\s*(\d+)')

_READ = """
import time, sys
from pathlib import Path
begin = time.perf_counter()
from boundscope.profiler.trace.reader import read_trace
imported = time.perf_counter()
trace = read_trace(Path(sys.argv[1]))
done = time.perf_counter()
"""
_MEASURES = {
    "read": _READ + "count = len(trace.events)\n",
    "read, steps, health, device time": _READ
    + """
from boundscope.profiler.trace.device import device_time
from boundscope.profiler.trace.health import check
from boundscope.profiler.trace.steps import find_steps
check(trace); find_steps(trace); device_time(trace)
count = len(trace.events)
done = time.perf_counter()
""",
}
_PEER = """
import gzip, json, sys, time
begin = time.perf_counter()
import pandas
imported = time.perf_counter()
opened = gzip.open if sys.argv[1].endswith("gz") else open
with opened(sys.argv[1], "rt") as file:
    frame = pandas.DataFrame(json.load(file)["traceEvents"])
frame = frame[frame.ph == "X"].sort_values("ts")
count = len(frame)
done = time.perf_counter()
"""
_HTA = """
import sys, time
begin = time.perf_counter()
from hta.trace_analysis import TraceAnalysis
imported = time.perf_counter()
analysis = TraceAnalysis(trace_files={0: sys.argv[1]}, trace_dir="/")
analysis.get_temporal_breakdown(visualize=False)
count = len(analysis.t.get_trace(0))
done = time.perf_counter()
"""
_REPORT = """
import json
# not ru_maxrss: that remembers what the parent had before this program was loaded
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if "VmHWM" in line) * 1024
print("RESULT " + json.dumps([done - begin, imported - begin, peak, count, time.process_time()]))
"""


def enlarge(source: Path, target: Path, size_bytes: int) -> None:
    """Write the events of `source` again and again until the file has `size_bytes`."""
    data = gzip.decompress(source.read_bytes()) if source.suffix == ".gz" else source.read_bytes()
    opening = re.search(rb'"traceEvents"\s*:\s*\[', data)
    last = re.compile(rb"\}\s*(\])").search(data, data.rfind(b'"ph"'))
    if opening is None or last is None:
        raise SystemExit(f"{source} has no traceEvents")
    ending = last.start(1)
    head, body, tail = data[: opening.end()], data[opening.end() : ending], data[ending:]
    times = [int(t) for t in _NUMBER.findall(body) if int(t) > 0]
    span = max(times) - min(times) + 1
    ids = max([int(match.group(2)) for match in _IDS.finditer(body)], default=0) + 1
    with target.open("wb") as out:
        out.write(head)
        for copy in range(max(1, -(-(size_bytes - len(head)) // len(body)))):
            out.write(b"," if copy else b"")
            out.write(_IDS.sub(_adder(copy * ids), _TIME.sub(_adder(copy * span), body)))
        out.write(tail)


def _adder(amount: int) -> Callable[[re.Match[bytes]], bytes]:
    return lambda match: match.group(1) + b"%d" % (int(match.group(2)) + amount)


def measure(code: str, path: Path, repeats: int, python: str = sys.executable) -> list[float]:
    """Return medians: seconds in all, seconds of imports, peak bytes, events, CPU seconds."""
    results = []
    for _ in range(repeats):
        done = subprocess.run(
            [python, "-c", code + _REPORT, str(path)], capture_output=True, text=True, check=False
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        if not lines:
            raise SystemExit(done.stderr[-2000:])
        results.append(json.loads(lines[-1].removeprefix("RESULT ")))
    return [statistics.median(column) for column in zip(*results, strict=True)]


def show(what: str, result: list[float], size: int) -> float:
    seconds, imports, peak, count, cpu = result
    print(
        f"{what:34s} {seconds:8.2f} s (imports {imports:.2f}, CPU {cpu:.2f})  "
        f"{size / seconds / MB:6.0f} MB/s  "
        f"peak {peak / MB:6.0f} MB = {peak / size:.2f} x file  {count:.0f} events"
    )
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--size-mb", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--gzip", action="store_true", help="measure on a gzip file")
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--hta", metavar="PYTHON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        enlarge(options.source, path, options.size_mb * MB)
        size = path.stat().st_size
        if options.gzip:
            packed = path.with_suffix(".json.gz")
            packed.write_bytes(gzip.compress(path.read_bytes(), 6))
            path.unlink()
            path = packed
        print(f"{options.source.name} enlarged to {size / MB:.0f} MB of JSON")
        ours = [
            show(what, measure(code, path, options.repeats), size)
            for what, code in _MEASURES.items()
        ]
        if options.peer:
            peer = show("json.load and pandas", measure(_PEER, path, 1), size)
            print(f"  reading is {peer / ours[0]:.1f} times as fast")
        if options.hta:
            peer = show("HolisticTraceAnalysis", measure(_HTA, path, 1, options.hta), size)
            print(f"  read with figures is {peer / ours[1]:.1f} times as fast")


if __name__ == "__main__":
    main()
