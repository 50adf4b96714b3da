"""Step times over the run with what else went on, and the metrics on the same time axis."""

from __future__ import annotations

import streamlit as st

from ...profiler.library import Source
from ...profiler.tables.longest import longest_steps
from ...profiler.tables.metrics import Panel, panels
from ...profiler.tables.steps import StepSeries, typical_step
from ...profiler.text import duration, milliseconds, percent, plural
from .. import browser, detail, live, markup, state
from ..charts.timeline import end_s, timeline
from ..zoom import Zoom, forget

NOTEWORTHY_DRIFT = 0.05
KEY = "timeline"
NS_PER_S = 1e9
MIN_SPAN_NS = 10_000_000
"""A stretch of a hundredth of a second: less is looked at within a step."""


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
    _chart(source, series, panels(run))
    if not run.metrics:
        state.html(markup.paragraph("No collector beside the training left samples."))
    _longest(series)
    detail.inside_a_step(source, line, typical_step(line))


def _chart(source: Source, series: StepSeries, metrics: list[Panel]) -> None:
    """The figure, of the stretch that was chosen: a drag or a button draws it alone anew."""

    @st.fragment
    def chart() -> None:
        state.guarded(lambda _: _stretch(series, metrics), source, headed=False)

    whose = f"{source.key}:{series.rank}"
    if st.session_state.get("timeline-of") != whose:
        st.session_state["timeline-of"] = whose
        forget(KEY)
    chart()


def _stretch(series: StepSeries, metrics: list[Panel]) -> None:
    whole = (0, int(end_s(series, metrics) * NS_PER_S))
    zoom = Zoom(KEY, whole, min(MIN_SPAN_NS, whole[1]))
    if st.session_state.pop("step-clicked", False):
        st.rerun()  # the whole page: what is in the step stands below
    zoom.buttons("Whole run")
    begin, end = zoom.span
    span_s = (begin / NS_PER_S, end / NS_PER_S)
    figure = timeline(series, metrics, dark=state.is_dark(), span_s=span_s)
    state.charts(
        figure,
        zoom.figure_key,
        on_drag=zoom.dragged(NS_PER_S),
        on_click=lambda step: _click(step, len(series)),
    )
    words = "Drag over a part to see it larger, in all rows; click on a step to look into it below."
    if zoom.span != whole:
        part = f"{duration(span_s[0])} to {duration(span_s[1])} of {duration(whole[1] / NS_PER_S)}."
        words = f"{part} {words}"
    state.html(markup.paragraph(words))


def _click(step: int, steps: int) -> None:
    """A click on a step shows it below."""
    if 1 <= step <= steps:
        detail.choose(step)
        st.session_state["step-clicked"] = True


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
            "step": f"{step.step}",
            "at, s": f"{step.start_s:,.2f}",
            "took, ms": f"{step.duration_ms:,.2f}",
            "× median": f"{step.factor:.2f}",  # noqa: RUF001
            "what grew": step.cause if step.grown_ms > 0 else "nothing",
            "by, ms": f"{max(0.0, step.grown_ms):,.2f}",
        }
        for step in longest_steps(series)
    ]
    if rows:
        state.html(markup.heading("The longest steps"))
        browser.pick_from(rows, "longest", detail.choose)
