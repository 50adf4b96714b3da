"""The table of the corpus as Markdown, for the screen and for docs/accuracy.md."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .score import Row, baseline_summary, summary

BEGIN = "<!-- table: written by python -m benchmarks.truth -->"
END = "<!-- end of the table -->"
BASELINES = ("largest utilisation", "phase shares")
CLASSES = (
    "input",
    "host",
    "compute",
    "memory",
    "network",
    "imbalance",
    "storage",
    "evaluation",
)
"""What can be best to remove; runs that bear no verdict have no such class."""


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


def points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def overall(rows: list[Row]) -> list[str]:
    """One line for the untuned, the tuned and all families."""
    lines = [
        "| families | cases | top-1 | mean regret | saving error, median / p90 (points) | "
        "interval holds | false alarms | abstained | line named by the verdict | by any finding | "
        "bad input doubted |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    parts: tuple[tuple[str, Callable[[Row], bool]], ...] = (
        ("untuned", lambda row: not row.tuned),
        ("tuned", lambda row: row.tuned),
        ("all", lambda _: True),
    )
    for name, chosen in parts:
        lines.append(_figures(name, [row for row in rows if chosen(row)]))
    s = summary(rows)
    if s["growing"]:
        lines += ["", f"Growing memory was named in {s['growth']} of {s['growing']} runs."]
    return lines


def _figures(name: str, rows: list[Row]) -> str:
    s = summary(rows)
    cells = [
        name,
        str(s["cases"]),
        percent(s["top1"]),
        percent(s["regret"]),
        f"{points(s['error_median'])} / {points(s['error_p90'])}",
        percent(s["coverage"]),
        f"{s['false_alarms']} of {s['healthy']}",
        str(s["abstained"]),
        percent(s["lines"]),
        percent(s["listed"]),
        f"{s['doubted']} of {s['bad_input']}",
    ]
    return f"| {' | '.join(cells)} |"


def against_baselines(rows: list[Row]) -> list[str]:
    lines = [
        "| names the bound by | untuned: top-1, regret | all: top-1, regret |",
        "|---|---|---|",
    ]
    judged = [row for row in rows if row.kind != "bad-input"]
    untuned = [row for row in judged if not row.tuned]
    ours = [summary(part) for part in (untuned, judged)]
    cells = [f"{percent(s['top1'])}, {percent(s['regret'])}" for s in ours]
    lines.append(f"| boundscope | {' | '.join(cells)} |")
    for name in BASELINES:
        both = [baseline_summary(part, name) for part in (untuned, judged)]
        cells = [f"{percent(s['top1'])}, {percent(s['regret'])}" for s in both]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def per_class(rows: list[Row]) -> list[str]:
    """One line a class: the bound whose removal saved most, as measured."""
    lines = [
        "| best removal | cases (untuned) | top-1 | untuned top-1 | mean regret | "
        "saving error, median / p90 (points) | interval holds |",
        "|---|---|---|---|---|---|---|",
    ]
    for bound in CLASSES:
        mine = [row for row in rows if row.truth == bound]
        if not mine:
            continue
        untuned = [row for row in mine if not row.tuned]
        s, u = summary(mine), summary(untuned)
        errors = f"{points(s['error_median'])} / {points(s['error_p90'])}"
        lines.append(
            f"| {bound} | {len(mine)} ({len(untuned)}) | {percent(s['top1'])} | "
            f"{percent(u['top1'])} | {percent(s['regret'])} | {errors} | {percent(s['coverage'])} |"
        )
    return lines


def cases(rows: list[Row]) -> list[str]:
    """One line a case."""
    lines = [
        "| case | held out | measured: removal saves | verdict | promised | right |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        measured = sorted(row.measured.items(), key=lambda item: -item[1].mid)
        saved = ", ".join(f"{bound} {percent(value.mid)}" for bound, value in measured)
        own = [f for f in row.answer.findings if f[1] == row.answer.bound]
        top = max(own, key=lambda finding: finding[3], default=None)
        promise = f"{percent(top[3])} ({percent(top[2])} to {percent(top[4])})" if top else "-"
        right = {True: "yes", False: "**no**", None: "-"}[row.right]
        verdict = f"{row.answer.bound} ({row.answer.confidence:.2f})"
        held = "" if row.tuned else "yes"
        lines.append(f"| {row.case} | {held} | {saved or '-'} | {verdict} | {promise} | {right} |")
    return lines


def table(rows: list[Row], facts: list[str]) -> str:
    """Everything, as Markdown."""
    parts = [
        facts,
        ["### Overall", "", *overall(rows)],
        ["### Beside two plain ways to name a bound", "", *against_baselines(rows)],
        ["### By class", "", *per_class(rows)],
        ["### Every case", "", *cases(rows)],
    ]
    return "\n\n".join("\n".join(part) for part in parts)


def write(page: Path, text: str) -> None:
    """Put the table between its two marks in the page."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")
