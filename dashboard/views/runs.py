"""Every run in the served folders: search, filter, open, pick two to compare."""

from __future__ import annotations

import time

import streamlit as st

from ...profiler.compare import MIN_NOISE
from ...profiler.library import Entry, Source
from ...profiler.text import duration, milliseconds, percent
from .. import markup, state, upload

PAGE_SIZE = 20
NOTEWORTHY_CHANGE = MIN_NOISE
"""Nothing less is claimed of two runs (`compare.MIN_NOISE`)."""

PERIOD_S = 3.0
"""A list with a run that goes on is drawn anew so often: as long as the list is kept."""

ALL = "every verdict"


def page() -> None:
    """Show the list."""
    rows = state.entries()
    where = ", ".join(str(root) for root in state.roots())
    state.html(markup.title("Runs", f"{len(rows)} in {where}" if rows else where))
    upload.offer()
    if not rows:
        hint = "Record one with: boundscope run train.py"
        state.html(markup.empty("There are no runs here yet.", hint))
        return
    if any(row.status == "running" for row in rows):
        _refreshing()
    else:
        _list(rows)


def _refreshing() -> None:
    """Draw the list again and again as long as a run in it goes on."""

    @st.fragment(run_every=PERIOD_S)
    def drawn() -> None:
        rows = state.entries()
        if not any(row.status == "running" for row in rows):
            st.rerun()
        _list(rows)

    drawn()


def _list(rows: list[Entry]) -> None:
    shown = _filtered(rows)
    if not shown:
        state.html(markup.empty("No run matches.", "Change the search or the verdict above."))
        return
    _compare_bar(rows)
    for entry in _one_screen(shown):
        _card(entry)


def _filtered(rows: list[Entry]) -> list[Entry]:
    search, choose = st.columns([3, 2])
    words = search.text_input("Search", placeholder="name, command, device …", key="search")
    bounds = sorted({row.diagnosis.verdict.bound for row in rows if row.diagnosis})
    with choose:
        bound = state.pick("Verdict", [ALL, *bounds], key="bound")
    return [row for row in rows if _matches(row, words.lower().split(), bound)]


def _matches(row: Entry, words: list[str], bound: str) -> bool:
    if bound != ALL and (row.diagnosis is None or row.diagnosis.verdict.bound != bound):
        return False
    devices = row.diagnosis.run.devices if row.diagnosis else []
    text = " ".join((row.source.key, row.name, row.command, row.status, *devices)).lower()
    return all(word in text for word in words)


def _one_screen(rows: list[Entry]) -> list[Entry]:
    pages = (len(rows) + PAGE_SIZE - 1) // PAGE_SIZE
    if pages == 1:
        return rows
    number = state.pick("Page", range(1, pages + 1), words=lambda n: f"{n} of {pages}", width=160)
    return rows[(number - 1) * PAGE_SIZE : number * PAGE_SIZE]


def _compare_bar(rows: list[Entry]) -> None:
    """Offer the comparison once two runs are ticked; the older one is the base."""
    ticked = [row for row in rows if row.source.key in _ticked()]
    pages = st.session_state.get("pages", {})
    if len(ticked) == 1:
        state.html(markup.paragraph("Tick a second run to compare the two."))
    elif len(ticked) > 2:
        state.html(markup.note("Tick two runs to compare, not more."))
    elif len(ticked) == 2 and "compare" in pages:
        base, new = sorted(ticked, key=lambda row: row.started_ns)
        query = {"run": new.source.key, "base": base.source.key}
        st.page_link(pages["compare"], label="Compare the two ticked runs", query_params=query)


def _ticked() -> set[str]:
    """The keys of the ticked runs; a box forgets its own tick when a search hides it."""
    ticked: set[str] = st.session_state.setdefault("ticked", set())
    return ticked


def _tick_box(source: Source) -> None:
    key = f"tick:{source.key}"
    st.session_state.setdefault(key, source.key in _ticked())
    st.checkbox("Compare", key=key, on_change=_note_tick, args=(source.key, key))


def _note_tick(run: str, box: str) -> None:
    if st.session_state[box]:
        _ticked().add(run)
    else:
        _ticked().discard(run)


def _card(entry: Entry) -> None:
    with st.container(border=True):
        words, act = st.columns([6, 1.4], vertical_alignment="center")
        with words:
            state.html(_summary(entry))
        with act:
            pages = st.session_state.get("pages", {})
            if "verdict" in pages and entry.status != "unreadable":
                query = {"run": entry.source.key}
                st.page_link(pages["verdict"], label="Open", query_params=query)
            if "compare" in pages and entry.step_ms is not None:
                _tick_box(entry.source)


def _summary(entry: Entry) -> str:
    dark = state.is_dark()
    diagnosis = entry.diagnosis
    parts = [markup.run_title(entry.name, entry.source.key)]
    if diagnosis is None:
        parts.append(markup.paragraph(_undiagnosed(entry)))
        return "".join(parts)
    verdict = diagnosis.verdict
    parts.append(markup.run_verdict(verdict.bound, verdict.headline, dark=dark))
    parts.append(markup.facts(_facts(entry)))
    return "".join(parts)


def _undiagnosed(entry: Entry) -> str:
    if entry.status == "unreadable":
        return "Its manifest cannot be read."
    if entry.status == "trace":
        return f"A trace, written {_when(entry.started_ns)}. Open it to diagnose it."
    started = _when(entry.started_ns)
    if entry.status == "running":
        since = duration(round(max(0.0, time.time() - entry.started_ns * 1e-9)))
        return f"Running since {started}, for {since}. Open it for a provisional diagnosis."
    return f"Started {started}, {entry.status}. Open it for a diagnosis."


def _facts(entry: Entry) -> list[tuple[str, str]]:
    diagnosis = entry.diagnosis
    assert diagnosis is not None
    run = diagnosis.run
    took = duration(entry.duration_s) if entry.duration_s is not None else ""
    return [
        ("started", _when(entry.started_ns)),
        ("took", took),
        ("median step", milliseconds(entry.step_ms) if entry.step_ms is not None else ""),
        ("against the run before", _trend(entry.change)),
        ("ranks", str(run.world_size)),
        ("device", ", ".join(run.devices)),
        ("status", "" if entry.status == "finished" else entry.status),
        ("verdict of", "" if entry.is_current else "another version"),
    ]


def _trend(change: float | None) -> str:
    if change is None:
        return ""
    if abs(change) < NOTEWORTHY_CHANGE:
        return "the same"
    return f"▲ {percent(change)} slower" if change > 0 else f"▼ {percent(-change)} faster"


def _when(time_ns: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(time_ns / 1e9))
