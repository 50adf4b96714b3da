"""From a trace file to the full diagnosis: how fast, in how little memory, against whom.

    python benchmarks/ingest.py [--corpus FOLDER] [--sizes-mb 200 1000] [--repeats 3]
                                [--hta PYTHON] [--tb PYTHON] [--peer-repeats 1]
                                [--linear-mb 1000 2000 4000]

Large traces are made of real ones: their events again and again, with shifted times and ids; one
without Python stacks, one with. "Full diagnosis" is what `boundscope diagnose --json` does, with
the cache of traces off; "again" is the same from the cache. `--hta` and `--tb` name the Python of
an environment with HolisticTraceAnalysis 0.5 and torch-tb-profiler 0.4.3: each loads and breaks
down the same plain file `--peer-repeats` times, at the largest size, each time between two runs of
our own: a machine's pace changes within minutes. Figures are medians, wall time with start and
imports. CPU seconds are those of all processes; they tell more where other programs run. Memory is
the most that all processes held at one time, their resident sets added up.
The exit code is 1 where a limit is missed. Limits that a run did not measure, for want of a peer, a
size or an option, are named at its end.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

MB = 1_000_000
SOURCES = {
    "no stacks": "hta/nccl_parser_config/nccl_data.json.gz",
    "Python stacks": "tracelens/mi300/resnet_act_checkpoint.json.gz",
}
"""Real traces of the corpus: 14 times as many ops as kernels; 61 % Python functions."""

MEMORY_LIMITS = {200: 0.5, 1000: 0.25}  # of the file, by its size in MB
PEER_MB = 1000  # the size at which the next two hold
HTA_LIMIT = 20.0  # times as fast as HolisticTraceAnalysis
TB_LIMIT = 10.0  # and as torch-tb-profiler
GZIP_LIMIT = 1.1  # of the CPU time of the plain file and the decompression
LINEAR_LIMIT = 1.2  # seconds a byte at the largest size, against the smallest
SAMPLE_S = 0.02
CHILDREN_EVERY = 10  # looks
_NO_CACHE = {"BOUNDSCOPE_TRACE_CACHE": "off"}

_TIME = re.compile(rb'("ts"\s*:\s*)(\d+)')
_IDS = re.compile(rb'("(?:correlation|[Ee]xternal id|id)"\s*:\s*)(\d+)')
_NUMBER = re.compile(rb'"ts"\s*:\s*(\d+)')

_HTA = """
import sys
from hta.trace_analysis import TraceAnalysis
analysis = TraceAnalysis(trace_files={0: sys.argv[1]}, trace_dir="/")
analysis.get_temporal_breakdown(visualize=False)
"""
_TB = """
import sys, tempfile
from torch_tb_profiler.profiler.data import RunProfileData
with tempfile.TemporaryDirectory() as folder:
    RunProfileData.parse("worker0", None, sys.argv[1], folder)
"""


# As an installed package is: modules compiled by an earlier start.
_COMPILED = {name: v for name, v in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


@dataclass(frozen=True)
class Cost:
    """What a command took: wall and CPU seconds, and the most bytes held at one time."""

    wall_s: float
    cpu_s: float
    peak_bytes: int


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


def cost_of(command: Sequence[str], **environment: str) -> Cost:
    """Run a command to its end; raises SystemExit where it fails."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=_COMPILED | environment,
        )
        watched = _Memory(psutil.Process(child.pid))
        while (ended := os.wait4(child.pid, os.WNOHANG))[0] == 0:
            watched.sample()
            time.sleep(SAMPLE_S)
        wall_s = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(ended[1])
        if child.returncode != 0:
            errors.seek(0)
            raise SystemExit(errors.read()[-2000:].decode("utf-8", "replace"))
    usage = ended[2]
    return Cost(wall_s, usage.ru_utime + usage.ru_stime, watched.peak_bytes)


class _Memory:
    """The most that a process and its children held at one time, by looking again and again.

    Resident sets added up, so that what processes share counts for each. Between two looks one
    process may have held more: its own record of its peak counts.
    """

    def __init__(self, root: psutil.Process) -> None:
        self.peak_bytes = 0
        self._root = root
        self._pids = [root.pid]
        self._looks = 0

    def sample(self) -> None:
        """Look once."""
        if self._looks % CHILDREN_EVERY == 0:  # finding them reads every process of the machine
            with contextlib.suppress(psutil.Error):
                children = self._root.children(recursive=True)
                self._pids = [self._root.pid, *(child.pid for child in children)]
        self._looks += 1
        held = [_resident_bytes(pid) for pid in self._pids]
        now, peak = sum(now for now, _ in held), max(peak for _, peak in held)
        self.peak_bytes = max(self.peak_bytes, now, peak)


def _resident_bytes(pid: int) -> tuple[int, int]:
    """(resident now, the most so far) of one process; zeros where it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0, 0
    found = dict(re.findall(r"Vm(RSS|HWM):\s*(\d+) kB", status))
    return int(found.get("RSS", 0)) * 1024, int(found.get("HWM", 0)) * 1024


def diagnosis(path: Path, repeats: int, **environment: str) -> Cost:
    """Return the medians of `boundscope diagnose --json` over `repeats` runs."""
    command = [sys.executable, "-m", "boundscope", "diagnose", "--json", str(path)]
    return median_cost([cost_of(command, **environment) for _ in range(repeats)])


def median_cost(costs: Sequence[Cost]) -> Cost:
    """Return the median of each figure."""
    return Cost(
        statistics.median(cost.wall_s for cost in costs),
        statistics.median(cost.cpu_s for cost in costs),
        int(statistics.median(cost.peak_bytes for cost in costs)),
    )


class Report:
    """Prints figures and verdicts; remembers which limits are missed, and which not measured."""

    def __init__(self) -> None:
        self.kept = 0
        self.failed = 0
        self.unmeasured: list[str] = []

    def line(self, what: str, cost: Cost, size: int) -> None:
        print(
            f"{what:46s} {cost.wall_s:7.2f} s  CPU {cost.cpu_s:7.2f} s  "
            f"{size / cost.wall_s / MB:5.0f} MB/s  "
            f"peak {cost.peak_bytes / MB:6.0f} MB = {cost.peak_bytes / size:.2f} x JSON",
            flush=True,
        )

    def limit(self, what: str, value: float, bound: float, at_most: bool) -> None:
        good = value <= bound if at_most else value >= bound
        self.kept += good
        self.failed += not good
        print(
            f"    {'pass' if good else 'FAIL'}  {what}: {value:.2f} "
            f"(limit: {'at most' if at_most else 'at least'} {bound:g})",
            flush=True,
        )

    def not_measured(self, what: str, why: str) -> None:
        """Note that a limit says nothing of this run."""
        print(f"    ----  {what}: not measured ({why})", flush=True)
        if what not in self.unmeasured:
            self.unmeasured.append(what)

    def summary(self) -> str:
        """Return what became of the limits, in a line."""
        if not self.failed and not self.unmeasured:
            return f"every limit is kept ({self.kept})"
        words = f"limits: {self.kept} kept, {self.failed} missed"
        if self.unmeasured:
            words += f", {len(self.unmeasured)} not measured ({'; '.join(self.unmeasured)})"
        return words


def one_size(
    report: Report, name: str, path: Path, megabytes: int, options: argparse.Namespace
) -> None:
    """Measure a plain file, the same as gzip, and from the cache."""
    size = path.stat().st_size
    zipped = path if options.no_gzip else packed(path)
    measures: list[Callable[[], Any]] = [partial(diagnosis, path, 1, **_NO_CACHE)]
    if not options.no_gzip:
        measures += [partial(diagnosis, zipped, 1, **_NO_CACHE), partial(_inflating_s, zipped)]
    costs = in_turns(measures, options.repeats)
    plain = median_cost(costs[0])
    report.line(f"{name}, {megabytes} MB, plain", plain, size)
    if megabytes in MEMORY_LIMITS:
        report.limit(
            "peak memory, share of the file",
            plain.peak_bytes / size,
            MEMORY_LIMITS[megabytes],
            True,
        )
    if options.no_gzip:
        report.not_measured("gzip", "--no-gzip")
    else:
        report.line(f"{name}, {megabytes} MB, gzip", median_cost(costs[1]), size)
        share = statistics.median(
            gzipped.cpu_s / (alone.cpu_s + inflating_s)
            for alone, gzipped, inflating_s in zip(*costs, strict=True)
        )
        report.limit("CPU time, against plain and decompression", share, GZIP_LIMIT, at_most=True)
        zipped.unlink()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        kept = {"BOUNDSCOPE_TRACE_CACHE": "on", "BOUNDSCOPE_CACHE": folder}
        report.line(f"{name}, {megabytes} MB, kept", diagnosis(path, 1, **kept), size)
        if any(Path(folder).glob("traces/*.parquet")):
            again = diagnosis(path, options.repeats, **kept)
            report.line(f"{name}, {megabytes} MB, again", again, size)


def in_turns(measures: Sequence[Callable[[], Any]], repeats: int) -> list[tuple[Any, ...]]:
    """Take each measure `repeats` times, one after the other each time: what each one gave.

    Where other programs run, a machine's pace changes within minutes: what is compared is measured
    side by side.
    """
    rounds = [[measure() for measure in measures] for _ in range(repeats)]
    return list(zip(*rounds, strict=True))


def packed(path: Path) -> Path:
    """Write the file's gzip beside it."""
    target = path.with_suffix(".json.gz")
    with path.open("rb") as source, gzip.open(target, "wb", 6) as out:
        while block := source.read(1 << 20):
            out.write(block)
    return target


def _inflating_s(packed: Path) -> float:
    """CPU seconds of the decompression alone."""
    began = time.process_time()
    inflater = zlib.decompressobj(31)
    with packed.open("rb") as file:
        while block := file.read(1 << 18):
            inflater.decompress(block)
    return time.process_time() - began


def peers(
    report: Report,
    path: Path,
    ours: Callable[[], Cost],
    megabytes: int,
    options: argparse.Namespace,
) -> None:
    """Measure the other tools on the same file, each time between two of our own runs."""
    size = path.stat().st_size
    for name, option, code, bound in (
        ("HolisticTraceAnalysis", "hta", _HTA, HTA_LIMIT),
        ("torch-tb-profiler", "tb", _TB, TB_LIMIT),
    ):
        python = getattr(options, option)
        what = f"times as fast as {name}"
        if not python:
            report.not_measured(what, f"no --{option}")
            continue
        command = [python, "-c", code, str(path)]
        mine, theirs = [ours()], []
        for _ in range(options.peer_repeats):
            theirs.append(cost_of(command))
            mine.append(ours())
        report.line(f"  {name}", median_cost(theirs), size)
        report.line("  boundscope, before and after", median_cost(mine), size)
        between = [(mine[n].wall_s + mine[n + 1].wall_s) / 2 for n in range(len(theirs))]
        times = statistics.median(c.wall_s / b for c, b in zip(theirs, between, strict=True))
        if megabytes < PEER_MB:
            report.not_measured(what, f"it holds at {PEER_MB} MB, here {megabytes}")
            print(f"          {what}: {times:.1f}", flush=True)
        else:
            report.limit(what, times, bound, at_most=False)


def linear(report: Report, source: Path, options: argparse.Namespace) -> None:
    """Measure growing sizes of one trace once each, and the first once more at the end."""
    rates = []
    for megabytes in [*options.linear_mb, *options.linear_mb[:1]]:
        path = options.folder / "trace.json"
        enlarge(source, path, megabytes * MB)
        cost = diagnosis(path, 1, **_NO_CACHE)
        size = path.stat().st_size
        report.line(f"linear, {megabytes} MB", cost, size)
        rates.append(cost.cpu_s / size)
        path.unlink()
    what = "CPU time a byte, largest against smallest"
    if len(options.linear_mb) > 1:
        smallest = (rates[0] + rates[-1]) / 2
        report.limit(what, rates[-2] / smallest, LINEAR_LIMIT, at_most=True)
    else:
        report.not_measured(what, "no two sizes in --linear-mb")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--corpus", type=Path, default=os.environ.get("BOUNDSCOPE_CORPUS"), help="real traces"
    )
    parser.add_argument("--sizes-mb", type=int, nargs="*", default=[200, 1000])
    parser.add_argument("--linear-mb", type=int, nargs="*", default=[])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-gzip", action="store_true")
    parser.add_argument("--hta", metavar="PYTHON")
    parser.add_argument("--tb", metavar="PYTHON")
    parser.add_argument("--peer-repeats", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the large files go")
    options = parser.parse_args()
    if options.corpus is None:
        parser.error("name the folder of real traces: --corpus, or BOUNDSCOPE_CORPUS")
    report = Report()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        options.folder = Path(folder)
        for name, file in SOURCES.items():
            for megabytes in options.sizes_mb:
                path = options.folder / "trace.json"
                enlarge(options.corpus / file, path, megabytes * MB)
                one_size(report, name, path, megabytes, options)
                if megabytes == max(options.sizes_mb):
                    ours = partial(diagnosis, path, 1, **_NO_CACHE)
                    peers(report, path, ours, megabytes, options)
                path.unlink()
        linear(report, options.corpus / SOURCES["no stacks"], options)
    for megabytes in sorted(set(MEMORY_LIMITS).difference(options.sizes_mb)):
        report.not_measured(f"peak memory at {megabytes} MB", "not among --sizes-mb")
    print(report.summary())
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
