"""Inside a step: lanes of what ran when; a drag over them, or a button, shows a part of it."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from ..profiler.library import Source
from ..profiler.tables.lanes import Lanes, shown_lanes, visible
from ..profiler.tables.lanes import lanes as lanes_of
from ..profiler.text import milliseconds
from ..profiler.timeline import Timeline
from . import markup, perfetto, state
from .charts.lanes import lanes
from .zoom import Zoom, forget

MIN_SPAN_NS = 1_000
NS_PER_MS = 1e6
KEY = "detail"
STEP_KEY = "step-of-detail"


def inside_a_step(source: Source, line: Timeline, typical: int) -> None:
    """Show one step; the address names it. `typical` is the one to begin with, counted from 1."""
    _take_from_address(source, line, typical)

    @st.fragment
    def inside() -> None:
        state.guarded(lambda source: _body(source, line), source, headed=False)

    inside()


def _take_from_address(source: Source, line: Timeline, typical: int) -> None:
    """Set the step that is shown first: the address's, else one that was traced."""
    whose = f"{source.key}:{line.rank}"
    if st.session_state.get("detail-of") == whose and STEP_KEY in st.session_state:
        st.session_state[STEP_KEY] = min(st.session_state[STEP_KEY], len(line))
        return
    wanted = state.number_in_address("step")
    step = wanted if wanted is not None and 1 <= wanted <= len(line) else typical
    st.session_state["detail-of"] = whose
    st.session_state[STEP_KEY] = step
    forget(KEY)


def choose(step: int) -> None:
    """Show that step, counted from 1, at the next drawing."""
    st.session_state[STEP_KEY] = step
    forget(KEY)


def _body(source: Source, line: Timeline) -> None:
    state.html(markup.heading("Inside a step"))
    left, right = st.columns([1, 4], vertical_alignment="bottom")
    step = int(
        left.number_input("Step", 1, len(line), key=STEP_KEY, step=1, on_change=_forget_span)
    )
    st.query_params["step"] = str(step)
    whole = int(line.start_ns[step - 1]), int(line.end_ns[step - 1])
    window = state.window_near(source, line, whole)
    every = window.lanes if window is not None else lanes_of(line, None)
    zoom = Zoom(KEY, whole, MIN_SPAN_NS)
    with right:
        zoom.buttons("Whole step")
    python = any(lane.what == "python" for lane in every.lanes) and st.toggle(
        "Python functions", key="detail-python"
    )
    span = zoom.span
    _draw(every, zoom, python=python)
    took = milliseconds((whole[1] - whole[0]) * 1e-6)
    part = milliseconds((span[1] - span[0]) * 1e-6)
    words = f"Step {step:,} took {took}" + (f"; {part} of it are shown." if span != whole else ".")
    state.html(markup.paragraph(f"{words} Drag over a part to see it larger."))
    _about(every, state.window_file(source, line.rank, whole))


def _about(every: Lanes, file: Path | None) -> None:
    if file is None:
        words = "No trace window covers this step: only its phases are known. "
        state.html(markup.paragraph(words + "The traced steps have a lane for each thread."))
        return
    if every.left_out:
        state.html(markup.paragraph(f"{every.left_out:,} less busy threads are not shown."))
    perfetto.offer(file)


def _forget_span() -> None:
    forget(KEY)


def _draw(every: Lanes, zoom: Zoom, *, python: bool) -> None:
    span = zoom.span
    shown = shown_lanes(every, *span, python=python)
    boxes = visible(every, shown, *span)
    if not len(boxes):
        state.html(markup.empty("Nothing was recorded in this stretch."))
        return
    figure = lanes(every, shown, boxes, span, zoom.whole[0], dark=state.is_dark())
    kinds = sorted({every.kinds[name] for name in boxes.name.tolist() if name >= 0})
    state.html(markup.kind_legend(kinds, dark=state.is_dark()))
    state.charts(figure, zoom.figure_key, on_drag=zoom.dragged(NS_PER_MS, zoom.whole[0]))
