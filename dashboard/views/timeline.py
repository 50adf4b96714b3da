"""Step times over the run with what else went on, and the metrics on the same time axis."""

from __future__ import annotations

import numpy as np
import streamlit as st

from ...profiler.library import Source
from ...profiler.tables.longest import longest_steps
from ...profiler.tables.metrics import panels
from ...profiler.tables.steps import StepSeries
from ...profiler.text import duration, milliseconds, percent, plural
from ...profiler.timeline import Timeline
from .. import detail, live, markup, state
from ..charts.timeline import timeline

NOTEWORTHY_DRIFT = 0.05


def _view(source: Source) -> None:
    live.watch(source, _body)


page = state.page_of_run(_view)


def _body(source: Source) -> None:
    state.html(markup.title("Timeline", state.name_of(source)))
    ranks = state.ranks_of(source)
    rank = state.choose_rank(ranks) if ranks else 0
    line, series = state.timeline(source, rank), state.series(source, rank)
    if line is None or series is None:
        hint = "A timeline needs at least two optimizer steps."
        state.html(markup.empty("No steps were recorded.", hint))
        return
    run = state.run(source)
    state.html(markup.facts(_facts(series)))
    state.html(
        markup.band_legend(sorted({band.what for band in series.bands}), dark=state.is_dark())
    )
    figure = timeline(series, panels(run), dark=state.is_dark())
    _take_click(figure_key := f"timeline-{rank}", len(series))
    state.charts(figure, figure_key, bar=True, click=True)
    if not run.metrics:
        state.html(markup.paragraph("No collector beside the training left samples."))
    _longest(series)
    detail.inside_a_step(source, line, _typical(line))


def _typical(line: Timeline) -> int:
    """Return a traced step of middling length, counted from 1; any steady one without a trace."""
    undisturbed = line.profiled & (line.phase_ns["profiler"] == 0)
    for mask in (line.steady & undisturbed, undisturbed, line.steady, np.ones(len(line), np.bool_)):
        found = np.flatnonzero(mask)
        if len(found):
            order = found[np.argsort(line.duration_ns[found])]
            return int(order[len(order) // 2]) + 1
    return 1


def _take_click(key: str, steps: int) -> None:
    """A click on a step shows it below."""
    chosen = st.session_state.get(key)
    points = chosen["selection"]["points"] if chosen else []
    step = next((int(p["customdata"][0]) for p in points if p.get("customdata")), None)
    if step is not None and step != st.session_state.get("clicked") and 1 <= step <= steps:
        st.session_state["clicked"] = step
        detail.choose(step)


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
            "what grew": step.cause if step.grown_ms > 0 else "nothing",
            "by, ms": round(max(0.0, step.grown_ms), 2),
        }
        for step in longest_steps(series)
    ]
    if rows:
        state.html(markup.heading("The longest steps"))
        picked = st.dataframe(
            rows, hide_index=True, on_select="rerun", selection_mode="single-row", key="longest"
        )
        chosen = picked["selection"]["rows"]
        if chosen and rows[chosen[0]]["step"] != st.session_state.get("picked-row"):
            st.session_state["picked-row"] = rows[chosen[0]]["step"]
            detail.choose(int(str(rows[chosen[0]]["step"])))
