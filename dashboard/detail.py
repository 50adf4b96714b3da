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

MIN_SPAN_NS = 1_000
STEP_KEY = "step-of-detail"
Span = tuple[int, int]


def inside_a_step(source: Source, line: Timeline, typical: int) -> None:
    """Show one step; the address names it. `typical` is the one to begin with, counted from 1."""
    _take_from_address(source, line, typical)

    @st.fragment
    def inside() -> None:
        _body(source, line)

    inside()


def _take_from_address(source: Source, line: Timeline, typical: int) -> None:
    """Set the step that is shown first: the address's, else one that was traced."""
    whose = f"{source.key}:{line.rank}"
    if st.session_state.get("detail-of") == whose and STEP_KEY in st.session_state:
        st.session_state[STEP_KEY] = min(st.session_state[STEP_KEY], len(line))
        return
    wanted = st.query_params.get("step", "")
    step = int(wanted) if wanted.isdecimal() and 1 <= int(wanted) <= len(line) else typical
    st.session_state["detail-of"] = whose
    st.session_state[STEP_KEY] = step
    st.session_state["detail-span"] = None


def choose(step: int) -> None:
    """Show that step, counted from 1, at the next drawing."""
    st.session_state[STEP_KEY] = step
    st.session_state["detail-span"] = None


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
    with right:
        _buttons(whole)
    python = any(lane.what == "python" for lane in every.lanes) and st.toggle(
        "Python functions", key="detail-python"
    )
    span = _zoomed(whole)
    _draw(every, span, whole[0], python=python)
    took = milliseconds((whole[1] - whole[0]) * 1e-6)
    part = milliseconds((span[1] - span[0]) * 1e-6)
    words = f"Step {step:,} took {took}" + (f"; {part} of it are shown." if span != whole else ".")
    state.html(markup.paragraph(f"{words} Drag over a part to see it larger."))
    _about(every, state.window_file(source, line.rank, whole) if window is not None else None)


def _about(every: Lanes, file: Path | None) -> None:
    if file is None:
        words = "No trace window covers this step: only its phases are known. "
        state.html(markup.paragraph(words + "The traced steps have a lane for each thread."))
        return
    if every.left_out:
        state.html(markup.paragraph(f"{every.left_out:,} less busy threads are not shown."))
    perfetto.offer(file)


def _forget_span() -> None:
    st.session_state["detail-span"] = None


def _span(whole: Span) -> Span:
    kept = st.session_state.get("detail-span")
    return kept if kept is not None else whole


def _zoomed(whole: Span) -> Span:
    """Return what is shown, after a drag over the figure of what was shown before."""
    span = _span(whole)
    dragged = st.session_state.get(_key(span))
    boxes = dragged["selection"]["box"] if dragged else []
    if not boxes:
        return span
    edges = sorted(whole[0] + int(float(x) * 1e6) for x in boxes[0]["x"])
    found = _fitted((max(edges[0], span[0]), min(edges[1], span[1])), whole)
    st.session_state["detail-span"] = found
    return found


def _fitted(span: Span, whole: Span) -> Span:
    """Keep a stretch within the step and not too short."""
    width = min(max(span[1] - span[0], MIN_SPAN_NS), whole[1] - whole[0])
    begin = min(max(span[0], whole[0]), whole[1] - width)
    return begin, begin + width


def _key(span: Span) -> str:
    return f"lanes-{span[0]}-{span[1]}"


def _buttons(whole: Span) -> None:
    """The keyboard's way through a step."""
    moves = (
        (":material/zoom_in:", "Zoom in", 0.25, 0.75),
        (":material/zoom_out:", "Zoom out", -0.5, 1.5),
        (":material/arrow_back:", "Earlier", -0.5, 0.5),
        (":material/arrow_forward:", "Later", 0.5, 1.5),
        (":material/fit_screen:", "Whole step", None, None),
    )
    with st.container(horizontal=True, gap="small"):
        for icon, words, low, high in moves:
            key = f"detail-{words}"
            st.button(words, icon=icon, key=key, on_click=_move, args=(whole, low, high))


def _move(whole: Span, low: float | None, high: float | None) -> None:
    if low is None or high is None:
        st.session_state["detail-span"] = None
        return
    begin, end = _span(whole)
    width = end - begin
    moved = begin + int(low * width), begin + int(high * width)
    st.session_state["detail-span"] = _fitted(moved, whole)


def _draw(every: Lanes, span: Span, origin_ns: int, *, python: bool) -> None:
    shown = shown_lanes(every, *span, python=python)
    boxes = visible(every, shown, *span)
    if not len(boxes):
        state.html(markup.empty("Nothing was recorded in this stretch."))
        return
    figure = lanes(every, shown, boxes, span, origin_ns, dark=state.is_dark())
    kinds = sorted({every.kinds[name] for name in boxes.name.tolist() if name >= 0})
    state.html(markup.kind_legend(kinds, dark=state.is_dark()))
    st.plotly_chart(
        figure,
        width="stretch",
        key=_key(span),
        on_select="rerun",
        selection_mode="box",
        config={"displaylogo": False, "displayModeBar": False},
    )
