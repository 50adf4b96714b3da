"""The answer: what the run is bound by, the evidence, what to do, what was ruled out or missing."""

from __future__ import annotations

import msgspec
import streamlit as st

from ...profiler.diagnosis import Diagnosis, Finding, Place
from ...profiler.library import Source
from ...profiler.report.colours import bound_colour
from ...profiler.report.markdown import to_markdown
from ...profiler.report.places import describe_place
from ...profiler.tables.evidence import PHASES, rank_of, rank_shares, share_of
from ...profiler.tables.longest import PHASE_WORDS
from ...profiler.tables.ruled_out import ruled_out
from ...profiler.tables.source_lines import source_lines
from ...profiler.text import digits, duration, milliseconds, scaled
from .. import live, markup, state
from ..charts.small import part_of_steps, share_by_rank, slot_bar

MAX_PLACES = 5


def _view(source: Source) -> None:
    live.watch(source, _body)


page = state.page_of_run(_view)


def _body(source: Source) -> None:
    diagnosis = state.diagnosis(source)
    dark = state.is_dark()
    state.html(markup.title(state.short_name(source, diagnosis.run.name), _command(source)))
    state.html(_card(diagnosis, dark=dark))
    if diagnosis.run.steps:
        state.html(markup.heading("Where the step time goes"))
        legend = markup.legend(diagnosis.breakdown, dark=dark)
        state.html(slot_bar(diagnosis.breakdown, dark=dark) + legend)
    for number, finding in enumerate(diagnosis.findings):
        _finding(number, finding, diagnosis, source)
    _doubts(diagnosis)
    _ruled_out(diagnosis)
    _more(source, diagnosis)


def _command(source: Source) -> str:
    return " ".join(state.run(source).manifest.command) if source.kind == "run" else source.key


def _card(diagnosis: Diagnosis, *, dark: bool) -> str:
    run, verdict = diagnosis.run, diagnosis.verdict
    sure = "" if verdict.bound == "unknown" else f"confidence {verdict.confidence:.2f}"
    if run.status == "running":
        sure = f"provisional, {sure}" if sure else "provisional"
    items = [
        ("median step", milliseconds(run.step_ms.median) if run.step_ms else ""),
        ("90th percentile", milliseconds(run.step_ms.p90) if run.step_ms else ""),
        ("steps", f"{run.steps:,}"),
        ("ranks", f"{run.world_size:,}"),
        ("start-up", duration(run.startup_s) if run.startup_s is not None else ""),
        ("device", ", ".join(run.devices)),
        ("runner-up", verdict.runner_up or ""),
        ("status", _status(diagnosis)),
    ]
    return markup.verdict_card(verdict.bound, verdict.headline, sure, items, dark=dark)


def _status(diagnosis: Diagnosis) -> str:
    run = diagnosis.run
    if run.status == "finished" or run.exit_code is None:
        return run.status
    return f"{run.status} (exit code {run.exit_code})"


def _finding(number: int, finding: Finding, diagnosis: Diagnosis, source: Source) -> None:
    colour = bound_colour(finding.bound, dark=state.is_dark())
    with st.container(border=True):
        state.html(
            markup.finding_title(number + 1, finding.title or finding.id, finding.bound, colour)
        )
        saving = finding.saving
        state.html(
            markup.saving_meter(saving.low, saving.mid, saving.high, finding.speedup, colour)
        )
        left, right = st.columns(2, gap="large")
        with left:
            _evidence(finding, diagnosis, source)
        with right:
            _fixes(finding)


def _evidence(finding: Finding, diagnosis: Diagnosis, source: Source) -> None:
    colour = bound_colour(finding.bound, dark=state.is_dark())
    seen = markup.evidence(
        ((item.text, item.source, share_of(item, diagnosis)) for item in finding.evidence), colour
    )
    state.html(markup.heading("Evidence") + seen)
    _chart(finding, diagnosis, source)
    if not finding.where:
        return
    manifest = state.run(source).manifest
    found = markup.places(_place(place, manifest.cwd) for place in finding.where[:MAX_PLACES])
    state.html(markup.heading("Where") + found)
    for place in finding.where:
        if place.file and place.line:
            lines = source_lines(place.file, place.line, state.roots(), manifest.started_ns)
            if lines:
                state.html(markup.source(lines, place.line, colour))
                return


def _place(place: Place, cwd: str) -> str:
    """Return a place in words, files below the folder that the run was started in from there."""
    file = place.file or ""
    if cwd and file.startswith(cwd.rstrip("/") + "/"):
        place = msgspec.structs.replace(place, file=file[len(cwd.rstrip("/")) + 1 :])
    return describe_place(place)


def _chart(finding: Finding, diagnosis: Diagnosis, source: Source) -> None:
    """Draw the finding's part of every step, else its share of each rank's time."""
    dark = state.is_dark()
    colour = bound_colour(finding.bound, dark=dark)
    phase, rank = PHASES.get(finding.bound), rank_of(finding)
    series = state.series(source, rank) if phase and rank is not None else None
    if phase and rank is not None and series is not None and series.phase_ms[phase].any():
        words = PHASE_WORDS[phase]
        text = f"Time of every step of rank {rank} over the run; in colour: {words}."
        drawn = part_of_steps(series, phase, words, colour, dark=dark)
        state.html(markup.paragraph(text) + drawn)
        return
    shares = rank_shares(diagnosis, finding.bound)
    if shares:
        text = f"Share of {finding.bound} in the step time of each rank."
        state.html(markup.paragraph(text) + share_by_rank(shares, colour, dark=dark))


def _fixes(finding: Finding) -> None:
    state.html(markup.heading("What to do"))
    for fix in finding.fixes:
        state.html(markup.fix(fix.title, fix.detail))
        if fix.snippet:
            state.html(markup.code(fix.snippet))


def _doubts(diagnosis: Diagnosis) -> None:
    for warning in diagnosis.warnings:
        state.html(markup.note(warning.text, slug=warning.slug))


def _ruled_out(diagnosis: Diagnosis) -> None:
    out = ruled_out(diagnosis)
    missing = diagnosis.missing
    if not out and not missing:
        return
    left, right = st.columns(2, gap="large")
    if out:
        with left:
            rows = [(f"{item.slot}: {item.reason}", "") for item in out]
            state.html(markup.heading("Ruled out") + markup.bullets(rows))
    if missing:
        with right:
            rows = [(_effect(m.collector, m.effect, m.detail), m.reason) for m in missing]
            state.html(markup.heading("Not measured") + markup.bullets(rows))


def _effect(collector: str, effect: str, detail: str) -> str:
    text = f"{collector}: {effect}" if effect else collector
    return f"{text} ({detail})" if detail else text


def _more(source: Source, diagnosis: Diagnosis) -> None:
    with st.expander("Measured quantities"):
        rows = [
            (finding.id, item.quantity, _quantity(item.value, item.unit), item.source)
            for finding in diagnosis.findings
            for item in finding.evidence
        ]
        head = ("finding", "quantity", "value", "source")
        state.html(markup.table(head, rows) if rows else markup.paragraph("None."))
    with st.expander("As text, to paste into an issue"):
        state.html(markup.code(to_markdown(diagnosis)))
    environment = state.run(source).manifest.environment
    if environment:
        with st.expander("Environment of the run"):
            facts = [
                (group, name, value)
                for group, values in environment.items()
                for name, value in values.items()
            ]
            state.html(markup.table(("group", "name", "value"), facts))
    state.let_copy()


def _quantity(value: float, unit: str) -> str:
    if unit in ("FLOP/s", "bytes", "bytes/s", "bit/s"):
        return scaled(value, unit.replace("bytes", "B"))
    return f"{digits(value)} {unit}".strip()
