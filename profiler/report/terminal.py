"""The diagnosis in a terminal: the verdict, a bar of slots, findings, fixes, what was missing."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from ..diagnosis import Diagnosis, Finding
from ..printable import printable_struct
from ..text import percent, plural
from .colours import SLOT_COLOURS
from .facts import run_facts
from .places import describe_place

SLOT_MARKS = dict(zip(SLOT_COLOURS, "█▓▒◆░▞▚▤·", strict=True))
"""Without colours the bar still tells the slots apart."""

BAR_WIDTH = 60
MAX_FINDINGS = 3
MAX_PLACES = 3
MAX_FIXES = 2


def render(diagnosis: Diagnosis, console: Console) -> None:
    """Print the diagnosis. Names from the run are text: they are never read as markup."""
    diagnosis = printable_struct(diagnosis)
    _verdict(diagnosis, console)
    if diagnosis.run.steps:
        _bar(diagnosis, console)
    for number, finding in enumerate(diagnosis.findings[:MAX_FINDINGS], start=1):
        _finding(number, finding, console)
    left = len(diagnosis.findings) - MAX_FINDINGS
    if left > 0:
        _line(console, f"  and {plural(left, 'smaller finding')}: boundscope diagnose --json")
    _missing(diagnosis, console)


def _line(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style=style), soft_wrap=True)


def _verdict(diagnosis: Diagnosis, console: Console) -> None:
    verdict = diagnosis.verdict
    console.print()
    colour = SLOT_COLOURS.get(verdict.bound, "")
    _line(console, verdict.headline, f"bold {colour}".strip())
    facts = run_facts(diagnosis)
    if facts:
        _line(console, "  " + " · ".join(facts), "dim")


def _bar(diagnosis: Diagnosis, console: Console) -> None:
    shown = sorted(
        ((slot, share) for slot, share in diagnosis.breakdown.items() if share >= 0.005),
        key=lambda item: -item[1],
    )
    if not shown:
        return
    widths = _widths([share for _, share in shown])
    bar = Text("  ")
    legend = Text("  ")
    for (slot, share), width in zip(shown, widths, strict=True):
        bar.append(SLOT_MARKS[slot] * width, style=SLOT_COLOURS[slot])
        legend.append(SLOT_MARKS[slot], style=SLOT_COLOURS[slot])
        legend.append(f" {slot} {percent(share)}   ")
    console.print(bar, soft_wrap=True)
    console.print(legend, soft_wrap=True)


def _widths(shares: list[float]) -> list[int]:
    """Whole cells that sum to the bar's width, by largest remainder."""
    exact = [share / sum(shares) * BAR_WIDTH for share in shares]
    widths = [int(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: widths[i] - exact[i])
    for index in by_remainder[: BAR_WIDTH - sum(widths)]:
        widths[index] += 1
    return widths


def _finding(number: int, finding: Finding, console: Console) -> None:
    console.print()
    saving = finding.saving
    title = Text(f"{number}. {finding.title}", style="bold")
    if saving.high > 0:
        title.append(
            f"  saves about {percent(saving.mid)} of step time "
            f"({percent(saving.low)} to {percent(saving.high)}), {finding.speedup:g} times as fast",
            style="not bold",
        )
    console.print(title, soft_wrap=True)
    for where in finding.where[:MAX_PLACES]:
        _line(console, f"   at {describe_place(where)}", SLOT_COLOURS[finding.bound])
    for evidence in finding.evidence:
        _line(console, f"   - {evidence.text}")
    for fix in finding.fixes[:MAX_FIXES]:
        _line(console, f"   → {fix.title}")
        for line in fix.snippet.splitlines():
            _line(console, f"       {line}", "cyan")


def _missing(diagnosis: Diagnosis, console: Console) -> None:
    if not diagnosis.missing and not diagnosis.warnings:
        return
    console.print()
    for missing in diagnosis.missing:
        _line(console, f"  missing {missing.collector} ({missing.reason}): {missing.effect}", "dim")
    for warning in diagnosis.warnings:
        _line(console, f"  warning[{warning.slug}]: {warning.text}", "yellow")
