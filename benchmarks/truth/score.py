"""Holds verdicts against measured removals: top-1, regret, error of the saving, false alarms."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from .cases import LINELESS, Case

TIE = 0.03
"""Two measured savings closer than this are alike. An allowance for the noise of single runs, below
the 5 % that no verdict claims (rules.base.MIN_SHARE)."""
BALANCED_BELOW = 0.30
BALANCED_MARGIN = 0.05
"""What `balanced` means (docs/verdict.md): no removal saves more, or two are this close."""
AVOIDABLE = ("input", "host", "network", "imbalance", "storage", "evaluation")
ALARM = 0.10
"""A finding that promises at least so much of a healthy run, of which less is there, is a false
alarm."""
ONLY_HOST = "only-host"
"""A run of which little but the host's part is left: what it takes is what removing the host would
save at most."""
LOW_CONFIDENCE = 0.5
"""A verdict on a run that does not bear one must be `unknown` or stay below."""
GROWTH = "growth"
"""What the name of a finding holds that warns of memory that grows from step to step."""


Moment = tuple[int, int]
"""The number of the repeat and of the block of steps in it. Variants take turns: what has the same
moment was measured within seconds."""
StepTimes = dict[str, dict[Moment, float]]
"""Variant to moment to step time, ms."""


class Saved(msgspec.Struct, frozen=True):
    """What a removal saved, share of the plain step time, and at how many moments."""

    mid: float
    low: float
    high: float
    moments: int


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was said of one run: the bound, and per finding its bound, saving and places.

    `lines` are those of the findings of the bound, `all_lines` those of all findings.
    """

    bound: str
    confidence: float = 1.0
    warnings: list[str] = []
    findings: list[tuple[str, str, float, float, float]] = []
    lines: list[tuple[str, int]] = []
    all_lines: list[tuple[str, int]] = []


class Row(msgspec.Struct, frozen=True, omit_defaults=True):
    """One case as measured and as answered; `right` is None where nothing can be held against."""

    case: str
    family: str
    tuned: bool
    kind: str
    truth: str
    planted: str
    best_saving: float
    answer: Answer
    right: bool | None
    regret: float | None
    error: float | None = None
    covered: bool | None = None
    false_alarm: bool | None = None
    line_named: bool | None = None
    line_listed: bool | None = None
    growth_named: bool | None = None
    measured: dict[str, Saved] = {}
    other_errors: list[float] = []
    baselines: dict[str, tuple[bool, float]] = {}


def savings(timings: StepTimes, within: Mapping[str, str] | None = None) -> dict[str, Saved]:
    """Per removed bound what it saved: the median over moments, each against plain steps beside it.

    The machine's pace changes within minutes: only what was measured within seconds is compared.
    `within`: removals that take another one with them, and which; they save what goes beyond it.
    """
    plain = timings.get("plain", {})
    inner = within or {}
    found = {}
    for variant, times in timings.items():
        if variant in ("plain", "wrapped"):
            continue
        bound, saved = variant, _removed
        if variant == ONLY_HOST:
            bound, saved = "host", _left
        without = timings.get(inner.get(variant, "plain"), {})
        pairs = [
            saved(plain[moment], times[moment] + plain[moment] - without[moment])
            for moment in times
            if moment in plain and moment in without
        ]
        if pairs:
            each = (statistics.median(pairs), min(pairs), max(pairs))
            found[bound] = Saved(*(round(value, 4) for value in each), len(pairs))
    return found


def _removed(before: float, after: float) -> float:
    return 1 - after / before


def _left(before: float, after: float) -> float:
    return after / before


def best_of(measured: dict[str, Saved]) -> tuple[str, float]:
    """The bound whose removal saved most, and how much."""
    if not measured:
        return "", 0.0
    bound = max(measured, key=lambda name: measured[name].mid)
    return bound, measured[bound].mid


def judged(bound: str, measured: dict[str, Saved]) -> tuple[bool, float]:
    """Whether naming `bound` is right, and the regret: what it leaves of the best saving.

    A bound whose removal was not measured counts as saving nothing. `balanced` is right where
    no removal stands out.
    """
    _, best = best_of(measured)
    ranked = sorted((saved.mid for saved in measured.values()), reverse=True)
    if bound == "balanced":
        tie = len(ranked) > 1 and ranked[0] - ranked[1] <= BALANCED_MARGIN
        right = best < BALANCED_BELOW or tie
        return right, 0.0 if right else 1.0
    saved = measured[bound].mid if bound in measured else 0.0
    if best <= TIE:
        return False, 0.0
    return saved >= best - TIE, min(1.0, max(0.0, 1 - saved / best))


def row_of(
    case: Case,
    measured: dict[str, Saved],
    answer: Answer,
    named_by_baselines: dict[str, str],
    lines: dict[str, set[tuple[str, int]]],
) -> Row:
    """One case's score; `lines` are the places marked in the scripts, per cause."""
    truth, best = best_of(measured)
    right, regret = _verdict(case, measured, answer)
    error, covered = _saving_error(measured, answer)
    marked = {place for cause in case.cause.split("+") for place in lines.get(cause, set())}
    named = bool(marked & {(file, line) for file, line in answer.lines})
    listed = bool(marked & {(file, line) for file, line in answer.all_lines})
    grows = any(GROWTH in finding[0] for finding in answer.findings)
    with_line = case.kind == "planted" and case.cause not in LINELESS
    baselines = {
        name: judged(bound, measured) for name, bound in named_by_baselines.items() if measured
    }
    return Row(
        case=case.name,
        family=case.family,
        tuned=case.tuned,
        kind=case.kind,
        truth="unknown" if case.kind == "bad-input" else truth,
        planted=case.bound,
        best_saving=best,
        answer=answer,
        right=right,
        regret=regret,
        error=error,
        covered=covered,
        false_alarm=_false_alarm(case, measured, answer),
        line_named=named if with_line and truth == case.bound else None,
        line_listed=listed if with_line else None,
        growth_named=grows if case.kind == "growth" else None,
        measured=measured,
        other_errors=_all_errors(measured, answer),
        baselines=baselines,
    )


def _verdict(
    case: Case, measured: dict[str, Saved], answer: Answer
) -> tuple[bool | None, float | None]:
    if case.kind == "bad-input":
        return answer.bound == "unknown" or answer.confidence < LOW_CONFIDENCE, None
    if not measured:
        return None, None
    right, regret = judged(answer.bound, measured)
    return right, None if answer.bound == "unknown" else regret


def _saving_error(measured: dict[str, Saved], answer: Answer) -> tuple[float | None, bool | None]:
    """Error of the promise behind the verdict, and whether its interval holds the measurement."""
    promised = _largest(answer, answer.bound)
    if promised is None or answer.bound not in measured:
        return None, None
    _, _, low, mid, high = promised
    saved = measured[answer.bound].mid
    return abs(mid - saved), low <= saved <= high


def _all_errors(measured: dict[str, Saved], answer: Answer) -> list[float]:
    """Errors of every promise whose removal was measured."""
    found = []
    for bound, saved in measured.items():
        promised = _largest(answer, bound)
        if promised is not None:
            found.append(round(abs(promised[3] - saved.mid), 4))
    return found


def _largest(answer: Answer, bound: str) -> tuple[str, str, float, float, float] | None:
    mine = [finding for finding in answer.findings if finding[1] == bound]
    return max(mine, key=lambda finding: finding[3], default=None)


def _false_alarm(case: Case, measured: dict[str, Saved], answer: Answer) -> bool | None:
    """On a healthy run: an avoidable bound named, or promised a tenth that is not there.

    A promise is a finding's mid; what its removal saves must reach a tenth, and the low end.
    """
    if case.kind != "healthy":
        return None

    def is_there(bound: str, share: float) -> bool:
        return bound in measured and measured[bound].mid >= share - TIE

    named = answer.bound in AVOIDABLE and not judged(answer.bound, measured)[0]
    return named or any(
        bound in AVOIDABLE and mid >= ALARM and not is_there(bound, max(low, ALARM))
        for _, bound, low, mid, _ in answer.findings
    )


def summary(rows: Iterable[Row]) -> dict[str, Any]:
    """The figures over some rows; None where there is nothing to count."""
    rows = list(rows)
    answered = [row for row in rows if row.right is not None]
    normal = [row for row in answered if row.kind != "bad-input"]
    bad = [row for row in answered if row.kind == "bad-input"]
    return {
        "cases": sum(row.kind != "bad-input" for row in rows),
        "top1": _share(normal, lambda row: bool(row.right)),
        "bad_input": len(bad),
        "doubted": sum(bool(row.right) for row in bad),
        "regret": _mean([row.regret for row in normal if row.regret is not None]),
        "error_median": _quantile([row.error for row in rows if row.error is not None], 0.5),
        "error_p90": _quantile([row.error for row in rows if row.error is not None], 0.9),
        "all_errors_median": _quantile([e for row in rows for e in row.other_errors], 0.5),
        "coverage": _share([r for r in rows if r.covered is not None], lambda r: bool(r.covered)),
        "false_alarms": sum(row.false_alarm is True for row in rows),
        "healthy": sum(row.false_alarm is not None for row in rows),
        "abstained": sum(row.answer.bound == "unknown" for row in normal),
        "growth": sum(row.growth_named is True for row in rows),
        "growing": sum(row.growth_named is not None for row in rows),
        "lines": _share(
            [r for r in rows if r.line_named is not None], lambda r: bool(r.line_named)
        ),
        "listed": _share(
            [r for r in rows if r.line_listed is not None], lambda r: bool(r.line_listed)
        ),
    }


def baseline_summary(rows: Iterable[Row], name: str) -> dict[str, Any]:
    """Top-1 and regret of one baseline over the same rows."""
    found = [row.baselines[name] for row in rows if name in row.baselines]
    return {
        "cases": len(found),
        "top1": statistics.fmean(right for right, _ in found) if found else None,
        "regret": _mean([regret for _, regret in found]),
    }


def _share(rows: list[Row], test: Callable[[Row], bool]) -> float | None:
    return statistics.fmean(test(row) for row in rows) if rows else None


def _mean(values: list[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _quantile(values: list[float], share: float) -> float | None:
    """The smallest value that at least `share` of the values do not exceed."""
    if not values:
        return None
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, max(0, int(-(-share * len(ranked) // 1)) - 1))]
