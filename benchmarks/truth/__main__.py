"""Measures what each planted cause costs, and holds the verdicts against it.

    python -m benchmarks.truth [--quick] [--repeats 1] [--families mlp,cnn] [--causes decode]
                               [--undecided 15] [--store] [--write] [--score-only]

Plain and every removal run by turns, a few steps each, and after them the wrapped run. Results go
to `--results` as they come, and what is there is not measured again: the command can be
interrupted and repeated. Verdicts are made anew from the recorded runs each time, so a change of
a rule is scored by `--score-only` within two minutes.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import FrameType

import msgspec

from boundscope import sample_traces

from ..quiet import BUSY_CORES
from .cases import UNTUNED_FAMILIES, Case, all_cases
from .judge import by_case, read_timings, score_case, score_stored, step_times
from .measure import PLAIN, ROOT, WRAPPED, Patience, Timing, can_link, measure, record
from .report import table, write
from .score import ONLY_HOST, Row, savings
from .store import store

PAGE = ROOT / "docs" / "accuracy.md"
UNDECIDED = (
    "measure only the cases whose two best removals, by what was measured so far, are so near each "
    "other that another run may turn their order; all are scored"
)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.truth", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="a few cases that cover every class")
    add("--families", type=_words, default=[], help="only these, separated by commas")
    add("--causes", type=_words, default=[], help="only these, separated by commas")
    add("--repeats", type=int, default=1, help="of every variant of every case")
    add("--undecided", type=float, default=0.0, metavar="POINTS", help=UNDECIDED)
    add("--tries", type=int, default=2, help="of a run that other programs disturbed")
    add("--wait", type=float, default=20.0, help="seconds for quiet, before a run is taken again")
    add("--results", type=Path, default=ROOT / ".cache" / "truth")
    add("--score-only", action="store_true", help="measure nothing")
    add("--stored", action="store_true", help="score sample_traces/ too where results lack a case")
    add("--store", action="store_true", help="keep the recorded runs in sample_traces/")
    add("--write", action="store_true", help="write the table to docs/accuracy.md")
    add("--list", action="store_true", help="list the cases and their commands")
    return parser.parse_args()


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def chosen(args: argparse.Namespace) -> list[Case]:
    return [
        case
        for case in all_cases()
        if (case.quick or not args.quick)
        and (not args.families or case.family in args.families)
        and (not args.causes or case.cause in args.causes)
    ]


def undecided(cases: list[Case], timings: list[Timing], points: float) -> list[Case]:
    """Cases whose two best removals lie within so many points, whatever the verdict on them is."""
    known = by_case(timings)

    def lead(case: Case) -> float:
        saved = savings(step_times(known.get(case.name, [])), case.within)
        found = sorted((each.mid for each in saved.values()), reverse=True)
        return 100 * (found[0] - found[1]) if len(found) > 1 else math.inf

    return [case for case in cases if lead(case) <= points]


def measure_all(cases: list[Case], args: argparse.Namespace) -> None:
    """Everything that is not measured yet, one repeat of all cases after the other."""
    runs, file = args.results / "runs", args.results / "results.jsonl"
    runs.mkdir(parents=True, exist_ok=True)
    done = {(t.case, t.variant, t.repeat) for t in read_timings(file) if not t.error}
    todo = [
        (case, names, repeat)
        for repeat in range(args.repeats)
        for case in cases
        for names in (beside_each_other(case), recorded_alone(case))
        if any((case.name, name, repeat) not in done for name in names)
    ]
    started, patience = time.monotonic(), Patience(args.tries, args.wait)
    with file.open("ab") as results:
        for count, (case, names, repeat) in enumerate(todo, start=1):
            if names == [WRAPPED]:
                timings = [record(case, repeat, runs, patience)]
            else:
                timings = measure(case, names, repeat, patience)
            left_min = (time.monotonic() - started) / count * (len(todo) - count) / 60
            for timing in timings:
                results.write(msgspec.json.encode(timing) + b"\n")
                print(f"{count:4}/{len(todo)}  {_line(timing)}  ({left_min:.0f} min left)")
            results.flush()
            sys.stdout.flush()


def beside_each_other(case: Case) -> list[str]:
    """The variants that take turns. Bad input is only recorded: there is nothing to remove."""
    if case.kind == "bad-input" or not possible(case):
        return []
    return [PLAIN, *case.removals, *([ONLY_HOST] if case.only_host else [])]


def recorded_alone(case: Case) -> list[str]:
    return [WRAPPED] if possible(case) else []


def possible(case: Case) -> bool:
    return case.needs != "link" or can_link()


def _line(timing: Timing) -> str:
    busy = f"  others {timing.others:.1f} cores" if timing.others >= BUSY_CORES else ""
    error = f"  FAILED: {timing.error.strip().splitlines()[-1][:120]}" if timing.error else ""
    return f"{timing.case:40} {timing.variant:10} {timing.step_ms:8.1f} ms{busy}{error}"


def score_all(cases: list[Case], args: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """A row a case, and the names of those that come from sample_traces/ (`--stored`)."""
    timings = by_case(read_timings(args.results / "results.jsonl"))
    stored = set(sample_traces.names()) if args.stored else set()
    rows, taken = [], []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            row = score_case(case, timings.get(case.name, []), args.results / "runs")
            if row is None and case.name in stored:
                row = score_stored(case.name, Path(folder))
                taken.append(case.name)
            if row is not None:
                rows.append(row)
    return rows, taken


def facts(
    rows: list[Row], timings: list[Timing], taken: list[str], args: argparse.Namespace
) -> list[str]:
    """What was run, where, and beside how much other work; `taken` were stored before."""
    import torch

    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    mine = [t for t in timings if t.case in {row.case for row in rows} - set(taken)]
    noisy = sum(t.others >= BUSY_CORES for t in mine) / max(1, len(mine))
    command = " ".join(["python -m benchmarks.truth", *selection(args)])
    return [
        f"`{command}` at commit {commit or 'unknown'}: {len(rows)} of {len(chosen(args))} cases, "
        f"{os.cpu_count()} cores "
        f"({_processor()}), torch {torch.__version__}, Python {platform.python_version()}. "
        f"Other programs used more than {BUSY_CORES} cores beside {100 * noisy:.0f} % of the runs. "
        f"{_repeated(mine)}",
        *_stored(taken),
        f"Held out while rules were tuned: {', '.join(sorted(UNTUNED_FAMILIES))}.",
    ]


def _repeated(timings: list[Timing]) -> str:
    """How many of the variants were measured how often."""
    often = Counter((t.case, t.variant) for t in timings if not t.error)
    counts = sorted(Counter(often.values()).items())
    told = (f"{number} variants {times} times" for times, number in counts)
    return f"Measured: {', '.join(told)}."


def _stored(names: list[str]) -> list[str]:
    """Where the runs that were stored before had been measured."""
    where = Counter(sample_traces.truth(name)["machine"].get("cpu", "unknown") for name in names)
    told = (f"{count} cases on {cpu}" for cpu, count in where.most_common())
    return [f"As stored in `sample_traces/`, measured before: {', '.join(told)}."] if names else []


def selection(args: argparse.Namespace) -> list[str]:
    """The options that choose what is measured, as they are written."""
    words = ["--quick"] if args.quick else []
    words += ["--families", ",".join(args.families)] if args.families else []
    words += ["--causes", ",".join(args.causes)] if args.causes else []
    words += ["--repeats", str(args.repeats)]
    words += ["--stored"] if args.stored else []
    return [*words, *(["--undecided", f"{args.undecided:g}"] if args.undecided else [])]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def leave(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main() -> int:
    args = arguments()
    # Trainings that wait for their turn must not be left behind, nor links of two ranks.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    cases = chosen(args)
    if args.list:
        for case in cases:
            print(f"{case.name:40} {case.script} {' '.join(case.arguments)}  [{case.removals}]")
        return 0
    if not args.score_only:
        some = cases
        if args.undecided:
            known = read_timings(args.results / "results.jsonl")
            some = undecided(cases, known, args.undecided)
        measure_all(some, args)
    rows, taken = score_all(cases, args)
    timings = read_timings(args.results / "results.jsonl")
    text = table(rows, facts(rows, timings, taken, args))
    print(text)
    if args.write:
        write(PAGE, text)
    if args.store:
        fresh = [row for row in rows if row.case not in taken]
        print(store(cases, fresh, by_case(timings), args.results / "runs"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
