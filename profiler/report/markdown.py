"""The diagnosis as Markdown, short enough for an issue comment."""

from __future__ import annotations

from ..diagnosis import Diagnosis, Finding
from ..printable import printable_struct
from ..text import duration, milliseconds, percent
from .escape import escaped, slug
from .places import describe_place

MAX_FINDINGS = 3
MAX_WORDS = 400
"""Characters of one text: an evidence or a fix that boundscope writes has up to 300."""


def to_markdown(diagnosis: Diagnosis) -> str:
    """Verdict, slots, findings and gaps; names from the run are escaped."""
    diagnosis = printable_struct(diagnosis)
    run = diagnosis.run
    lines = [f"**{_text(diagnosis.verdict.headline)}**", ""]
    facts = [f"status {run.status}", f"{run.steps:,} steps", f"world size {run.world_size}"]
    if run.step_ms is not None:
        facts.append(
            f"step {milliseconds(run.step_ms.median)} (p90 {milliseconds(run.step_ms.p90)})"
        )
    if run.startup_s is not None:
        facts.append(f"start-up {duration(run.startup_s)}")
    if diagnosis.verdict.bound != "unknown":
        facts.append(f"confidence {diagnosis.verdict.confidence:.2f}")
    facts += run.devices
    lines += [_text(" · ".join(facts)), "", "| slot | share |", "|---|---|"]
    shares = sorted(diagnosis.breakdown.items(), key=lambda item: -item[1])
    lines += [f"| {slot} | {percent(share)} |" for slot, share in shares if share >= 0.005]
    for number, finding in enumerate(diagnosis.findings[:MAX_FINDINGS], start=1):
        lines += ["", *_finding(number, finding)]
    if diagnosis.missing:
        lines += ["", "Missing:"]
        lines += [
            f"- {_text(m.collector)} ({_text(m.reason)}): {_text(m.effect)}"
            for m in diagnosis.missing
        ]
    lines += [f"- warning `{slug(w.slug)}`: {_text(w.text)}" for w in diagnosis.warnings]
    return "\n".join(lines)


def _finding(number: int, finding: Finding) -> list[str]:
    saving = finding.saving
    lines = [f"{number}. **{_text(finding.title)}** (`{slug(finding.id)}`)"]
    if saving.high > 0:
        lines[0] += (
            f": saves about {percent(saving.mid)} of step time "
            f"({percent(saving.low)} to {percent(saving.high)})"
        )
    lines += [f"   - at {_text(describe_place(where))}" for where in finding.where]
    lines += [f"   - {_text(evidence.text)}" for evidence in finding.evidence]
    lines += [f"   - fix: {_text(fix.title)}" for fix in finding.fixes]
    return lines


def _text(text: str) -> str:
    return escaped(text, MAX_WORDS)
