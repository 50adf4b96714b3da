"""Step times over the run with what else went on, and the metrics on the same time axis."""

from __future__ import annotations

import streamlit as st

from ...profiler.library import Source
from ...profiler.tables.longest import longest_steps
from ...profiler.tables.metrics import panels
from ...profiler.tables.steps import StepSeries, step_series
from ...profiler.text import duration, milliseconds, percent, plural
from ...profiler.timeline import Timeline, build_timeline
from .. import live, markup, state
from ..charts.timeline import timeline

NOTEWORTHY_DRIFT = 0.05


def _view(source: Source) -> None:
    live.watch(source, _body)


page = state.page_of_run(_view)


def _body(source: Source) -> None:
    state.html(markup.title("Timeline", state.name_of(source)))
    lines = _timelines(source)
    if not lines:
        hint = "A timeline needs at least two optimizer steps."
        state.html(markup.empty("No steps were recorded.", hint))
        return
    rank = state.choose_rank(sorted(lines))
    run = state.run(source)
    started = run.manifest.started_ns if source.kind == "run" else 0
    series = step_series(lines[rank], started)
    state.html(markup.facts(_facts(series)))
    state.html(
        markup.band_legend(sorted({band.what for band in series.bands}), dark=state.is_dark())
    )
    figure = timeline(series, panels(run), dark=state.is_dark())
    state.charts(figure, "timeline", bar=True)
    if not run.metrics:
        state.html(markup.paragraph("No collector beside the training left samples."))
    _longest(series)


def _timelines(source: Source) -> dict[int, Timeline]:
    """Steps by rank; of a foreign trace, those that its marks tell."""
    if source.kind != "run":
        return {rank.rank: rank.timeline for rank in state.features(source).ranks}
    found = {rank.rank: build_timeline(rank) for rank in state.run(source).ranks}
    return {rank: line for rank, line in found.items() if line is not None}


def _facts(series: StepSeries) -> list[tuple[str, str]]:
    drift = "too few steps to tell"
    if series.drift is not None:
        steady = abs(series.drift) < NOTEWORTHY_DRIFT
        way = "slower" if series.drift > 0 else "faster"
        drift = "none" if steady else f"{percent(abs(series.drift))} {way} at the end"
    startup = next((band.end_s for band in series.bands if band.what == "start-up"), None)
    return [
        ("median step", milliseconds(series.median_ms)),
        ("steady steps", f"{int(series.steady.sum()):,}"),
        ("outliers", plural(int(series.outlier.sum()), "step") if series.outlier.any() else "none"),
        ("drift", drift),
        ("start-up", duration(startup) if startup is not None else ""),
    ]


def _longest(series: StepSeries) -> None:
    rows = [
        {
            "step": step.step,
            "at, s": round(step.start_s, 2),
            "took, ms": round(step.duration_ms, 2),
            "× median": round(step.factor, 2),  # noqa: RUF001
            "what grew": step.cause,
            "by, ms": round(step.grown_ms, 2),
        }
        for step in longest_steps(series)
    ]
    if rows:
        state.html(markup.heading("The longest steps"))
        st.dataframe(rows, hide_index=True)
