"""From stored timings and run folders to scored rows: the verdict is made anew each time."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import msgspec

from boundscope import sample_traces
from boundscope.profiler.diagnose import diagnose_features, find_roofs
from boundscope.profiler.diagnosis import Diagnosis, Finding
from boundscope.profiler.errors import BoundscopeError
from boundscope.profiler.features import derive
from boundscope.profiler.run.load import load_run

from .baselines import largest_utilisation, phase_shares
from .cases import Case
from .measure import FAMILIES, ROOT, WRAPPED, Timing
from .score import Answer, Row, Saved, StepTimes, row_of, savings

MARK = re.compile(r"# planted: ([\w, -]+)")
SHARED_SCRIPTS = ("job.py", "samples.py")


def read_timings(file: Path) -> list[Timing]:
    """The stored lines; a torn last line is left out."""
    found = []
    for line in file.read_bytes().splitlines() if file.exists() else ():
        try:
            found.append(msgspec.json.decode(line, type=Timing))
        except msgspec.MsgspecError:
            continue
    return found


def by_case(timings: list[Timing]) -> dict[str, list[Timing]]:
    found: dict[str, list[Timing]] = defaultdict(list)
    for timing in timings:
        found[timing.case].append(timing)
    return found


def step_times(timings: list[Timing]) -> StepTimes:
    """Step times, ms, per variant and moment: the number of the repeat and of the block in it.

    A variant measured again in the same repeat replaces what was measured before.
    """
    last = {(t.variant, t.repeat): t for t in timings if t.blocks_ms and not t.error}
    found: StepTimes = defaultdict(dict)
    for (variant, repeat), timing in last.items():
        for block, block_ms in enumerate(timing.blocks_ms):
            found[variant][repeat, block] = block_ms
    return found


def recorded(timings: list[Timing]) -> Timing | None:
    """The wrapped run that others disturbed least."""
    wrapped = [t for t in timings if t.variant == WRAPPED and t.run]
    return min(wrapped, key=lambda timing: timing.others, default=None)


def answer_of(diagnosis: Diagnosis) -> Answer:
    bound = diagnosis.verdict.bound
    mine = [finding for finding in diagnosis.findings if finding.bound == bound]
    return Answer(
        bound=bound,
        confidence=diagnosis.verdict.confidence,
        warnings=sorted({warning.slug for warning in diagnosis.warnings}),
        findings=[
            (f.id, f.bound, f.saving.low, f.saving.mid, f.saving.high) for f in diagnosis.findings
        ],
        lines=_lines_of(mine),
        all_lines=_lines_of(diagnosis.findings),
    )


def _lines_of(findings: Iterable[Finding]) -> list[tuple[str, int]]:
    """File name and line of all their places."""
    places = [place for finding in findings for place in finding.where]
    return sorted({(Path(p.file).name, p.line) for p in places if p.file and p.line is not None})


def judge_folder(folder: Path) -> tuple[Answer, dict[str, str]]:
    """The verdict on a recorded run, and what the baselines name; unusable data is `unknown`."""
    try:
        run = load_run(folder)
        features = derive(run, find_roofs(run, measure=False))
        answer = answer_of(diagnose_features(features))
    except BoundscopeError as error:
        return Answer("unknown", 0.0, [error.slug]), {}
    named = {
        "largest utilisation": largest_utilisation(run),
        "phase shares": phase_shares(features),
    }
    return answer, named


def planted_lines(case: Case) -> dict[str, set[tuple[str, int]]]:
    """File name and line of every mark in the scripts that the case runs, per cause."""
    own = "ddp.py" if case.script == "two_ranks.py" else case.script
    found: dict[str, set[tuple[str, int]]] = defaultdict(set)
    for name in (own, *SHARED_SCRIPTS):
        text = (ROOT / FAMILIES / name).read_text()
        for number, line in enumerate(text.splitlines(), start=1):
            mark = MARK.search(line)
            for cause in mark[1].split(",") if mark else ():
                found[cause.strip()].add((name, number))
    return found


def score_case(case: Case, timings: list[Timing], runs: Path) -> Row | None:
    """The case's row; None where it has no recorded run."""
    wrapped = recorded(timings)
    if wrapped is None or not (runs / wrapped.run).exists():
        return None
    answer, named = judge_folder(runs / wrapped.run)
    return row_of(
        case, savings(step_times(timings), case.within), answer, named, planted_lines(case)
    )


def score_stored(name: str, folder: Path) -> Row:
    """The row of a run that lies in sample_traces/, by the truth that was stored with it.

    It is unpacked below `folder`. Raises KeyError where there is none of that name.
    """
    truth = sample_traces.truth(name)
    planted = truth["planted"]
    case = Case(
        family=truth["family"],
        cause=planted["cause"],
        strength=planted["strength"],
        bound=planted["bound"],
        arguments=(),
        removals=tuple(truth["savings"]),
        script="",
        kind=truth["kind"],
    )
    measured = {
        bound: Saved(s["mid"], s["low"], s["high"], s["moments"])
        for bound, s in truth["savings"].items()
    }
    answer, named = judge_folder(sample_traces.extract(name, folder))
    places = {(file, line) for file, line in truth["lines"]}
    lines = dict.fromkeys(planted["cause"].split("+"), places)
    return row_of(case, measured, answer, named, lines)
