"""What the pages share: the served paths, the chosen run, cached analysis, the background."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import plotly.graph_objects as go
import streamlit as st

from ..profiler import library
from ..profiler.diagnosis import Diagnosis
from ..profiler.digest.job import Job
from ..profiler.digest.make import job_of, window_of
from ..profiler.digest.window import Window
from ..profiler.errors import BoundscopeError, UnusableData
from ..profiler.library import Entry, Source
from ..profiler.run.load import Run
from ..profiler.run.manifest import read_manifest
from ..profiler.run.status import effective_status
from ..profiler.tables.steps import StepSeries, step_series
from ..profiler.timeline import Timeline, build_timeline
from . import browser, markup, upload
from .charts.base import theme

LISTING_TTL_S = 3
"""How long the list of runs is kept: a new run shows up after so many seconds."""

KEPT_RUNS = 8

MIN_AGE_S = 2.0
MAX_SHARE = 0.25
"""Reading a run that goes on takes at most this share of the time: it trains on this machine."""

MAX_DIGITS = 10
"""No run has a step or a rank of more digits; Python refuses to read numbers of thousands."""

WORDS = {"job": "Reading the traces …", "run": "Reading the run …"}
OTHER_WORDS = "Reading the steps …"

T = TypeVar("T")


def roots() -> list[Path]:
    """Return the served paths; nothing outside them is read."""
    return [Path(path) for path in json.loads(os.environ.get(library.PATHS_VARIABLE, "[]"))]


@st.cache_data(ttl=LISTING_TTL_S, show_spinner=False)
def _sources(paths: tuple[str, ...]) -> list[Source]:
    return library.find_sources([Path(path) for path in paths])


@st.cache_data(ttl=LISTING_TTL_S, show_spinner="Looking for runs …")
def _entries(paths: tuple[str, ...]) -> list[Entry]:
    return library.list_entries(_sources(paths))


def sources() -> list[Source]:
    """Return every served run and trace, and what was dropped on the page."""
    return [*_sources(tuple(str(root) for root in roots())), *upload.stored_sources()]


def entries(with_key: str | None = None) -> list[Entry]:
    """Return them as rows, newest first; looked for anew where the kept rows lack `with_key`."""
    found = _listed()
    if with_key is not None and all(row.source.key != with_key for row in found):
        _entries.clear()
        found = _listed()
    return found


def _listed() -> list[Entry]:
    dropped = library.list_entries(upload.stored_sources())
    return [*dropped, *_entries(tuple(str(root) for root in roots()))]


def lookup(key: str | None) -> Source | None:
    """Return the served source of that key; no path is ever built from what an address says.

    One that the kept list lacks may have been made since: then the folders are looked at again.
    """
    found = _find(key)
    if found is None and key is not None:
        _sources.clear()
        found = _find(key)
    return found


def _find(key: str | None) -> Source | None:
    return next((source for source in sources() if source.key == key), None)


def chosen_key() -> str | None:
    """Return the run that the address names, else the one looked at last."""
    key = st.query_params.get("run") or st.session_state.get("run")
    return str(key) if key else None


@st.cache_resource(show_spinner=False, max_entries=4 * KEPT_RUNS)
def _job(_source: Source, path: str, stamp: int) -> Job:  # noqa: ARG001 - the key
    return job_of(_source, stamp)


@st.cache_resource(show_spinner=False, max_entries=KEPT_RUNS)
def _run(_source: Source, path: str, stamp: int) -> Run:  # noqa: ARG001 - the key
    return library.open_run(_source)


@dataclass
class _Taken:
    """What was read of a run that goes on: the state of its files, and until when that will do.

    One for each such run: the caches for finished ones would keep each state of it.
    """

    stamp: int
    until_s: float
    found: dict[str, Any] = field(default_factory=dict)


@st.cache_resource(show_spinner=False)
def _taken() -> dict[str, _Taken]:
    return {}


def _stamp(source: Source) -> int:
    """Return the state of the source's files.

    A run that goes on is written to all the time: what was read of it counts for a while, so that
    reading it takes a small share of the machine that trains.
    """
    if not is_running(source):
        return _files_stamp(source, str(source.path))
    kept = _taken().get(str(source.path))
    if kept is not None and time.monotonic() < kept.until_s:
        return kept.stamp
    return source.stamp


@st.cache_data(ttl=LISTING_TTL_S, show_spinner=False)
def _files_stamp(_source: Source, path: str) -> int:  # noqa: ARG001 - the key
    return _source.stamp


def _fresh(what: str, read: Callable[[int], T], live: Callable[[], T], source: Source) -> T:
    """Return what is kept of the source in this state, or reads it.

    `read` is given the state of the files and keeps what it reads; `live` reads a run that goes
    on, of which the newest state alone is kept, under `what`. A sign says that it is read, where
    nothing is shown yet.
    """
    path = str(source.path)
    running = is_running(source)
    stamp = _stamp(source)
    kept = _taken().get(path)
    if running and kept is not None and kept.stamp == stamp and what in kept.found:
        return cast(T, kept.found[what])
    began = time.monotonic()
    quiet = st.session_state.get("drawn") == source.key
    with contextlib.nullcontext() if quiet else st.spinner(WORDS.get(what, OTHER_WORDS)):
        found = live() if running else read(stamp)
    if not running:
        _taken().pop(path, None)
        return found
    if kept is None or kept.stamp != stamp:
        until = time.monotonic() + max(MIN_AGE_S, (time.monotonic() - began) / MAX_SHARE)
        kept = _taken()[path] = _Taken(stamp, until)
    kept.found[what] = found
    return found


@st.cache_resource(show_spinner=False, max_entries=4 * KEPT_RUNS)
def _line(_source: Source, path: str, stamp: int, rank: int) -> Timeline | None:  # noqa: ARG001
    return _read_line(_source, rank)


def _read_line(source: Source, rank: int) -> Timeline | None:
    data = library.open_rank(source, rank)
    return build_timeline(data) if data is not None else None


def ranks_of(source: Source) -> list[int]:
    """Return the ranks whose steps `timeline` may know."""
    if source.kind == "run":
        return library.rank_numbers(source)
    return job(source).grid.ranks


def timeline(source: Source, rank: int) -> Timeline | None:
    """Return the steps of one rank, without reading the others'; None with less than two."""
    if source.kind != "run":
        return job(source).timeline(rank)
    return _fresh(
        f"line {rank}",
        lambda stamp: _line(source, str(source.path), stamp, rank),
        lambda: _read_line(source, rank),
        source,
    )


def series(source: Source, rank: int) -> StepSeries | None:
    """Return one rank's steps as they are drawn: in seconds since the run began."""
    line = timeline(source, rank)
    if line is None:
        return None
    return step_series(line, run(source).manifest.started_ns if source.kind == "run" else 0)


def window_near(source: Source, line: Timeline, span_ns: tuple[int, int]) -> Window | None:
    """Return what is shown of the trace window around [begin, end), None where there is none.

    It needs a trace: the first time takes a while. Its columns stay in a file. Of a trace that
    cannot be read a note says so, and the page goes on without it.
    """
    # What a run that goes on writes meanwhile changes nothing in a window that is over.
    stamp = 0 if is_running(source) else _stamp(source)
    try:
        with st.spinner("Reading the trace …"):
            found = window_of(source, stamp, line, span_ns)
    except UnusableData as error:
        words = f"The trace window cannot be shown. {error.message}"
        html(markup.note(words, error.hint, error.slug))
        return None
    return found[0] if found is not None else None


def window_file(source: Source, rank: int, span_ns: tuple[int, int]) -> Path | None:
    """Return the file of that window, None where there is none."""
    try:
        return library.trace_near(source, rank, span_ns)
    except UnusableData:
        return None


def first_window(source: Source, rank: int) -> Window | None:
    """Return the first trace window of a rank; None where it has none."""
    line = timeline(source, rank)
    if line is None or not line.profiled.any():
        return None
    first = int(np.flatnonzero(line.profiled)[-1])
    return window_near(source, line, (int(line.start_ns[first]), int(line.end_ns[first])))


def diagnosis(source: Source) -> Diagnosis:
    """Return what `boundscope diagnose` says: as kept with the run where that is so, else anew."""
    kept = None if is_running(source) else _stored(source, str(source.path), _stamp(source))
    return kept if kept is not None else job(source).diagnosis


@st.cache_data(show_spinner=False, max_entries=4 * KEPT_RUNS)
def _stored(_source: Source, path: str, stamp: int) -> Diagnosis | None:  # noqa: ARG001 - the key
    return library.current_diagnosis(_source)


def job(source: Source) -> Job:
    """Return what is shown of a job: it needs every trace, so the first time takes a while.

    One object for all who look, as with `run`: it is frozen.
    """
    return _fresh(
        "job",
        lambda stamp: _job(source, str(source.path), stamp),
        lambda: job_of(source, 0, keep=False),
        source,
    )


def run(source: Source) -> Run:
    """Return the run's records, likewise; one object for all who look: read it, never change it."""
    return _fresh(
        "run",
        lambda stamp: _run(source, str(source.path), stamp),
        lambda: library.open_run(source),
        source,
    )


def is_running(source: Source) -> bool:
    """Whether the source is a run whose launcher is still at work."""
    if source.kind != "run":
        return False
    return effective_status(read_manifest(source.path), source.path) == "running"


def is_dark() -> bool:
    """Whether the page has a dark background."""
    return getattr(st.context.theme, "type", None) == "dark"


def html(text: str) -> None:
    """Show what `markup` made."""
    st.html(text)


def let_copy() -> None:
    """Let the buttons beside code copy it: once a page that has some."""
    with st.container(key="copying"):
        st.html(markup.COPYING, unsafe_allow_javascript=True)


def page_of_run(view: Callable[[Source], None]) -> Callable[[], None]:
    """Make a page of a view that needs a run; without one, or with a bad one, it says so."""

    @functools.wraps(view)
    def page() -> None:
        key = chosen_key()
        source = lookup(key)
        if source is None:
            _no_such_run(key)
            return
        st.session_state["run"] = source.key
        if st.query_params.get("run") != source.key:
            st.query_params["run"] = source.key
        guarded(view, source)

    return page


def guarded(view: Callable[[Source], None], source: Source, *, headed: bool = True) -> None:
    """Draw a view; where it cannot be drawn, say so in its place, as a page of its own or below.

    Whatever a fragment draws goes through here too: what leaves a fragment, Streamlit draws as an
    error of the program before anybody can catch it.
    """
    try:
        view(source)
    except BoundscopeError as error:
        said = markup.note(error.message, error.hint, error.slug, markup.ERROR)
        title = markup.title("This page cannot be shown", source.key) if headed else ""
        html(title + said)


def _no_such_run(key: str | None) -> None:
    html(markup.title("No such run" if key else "No run"))
    if key is None:
        html(markup.empty("No run is chosen.", "Choose one on the page Runs."))
    else:
        html(markup.empty(f"There is no run “{key}” in the served folders.", "See the page Runs."))


def charts(  # noqa: PLR0913 - what a figure can tell of
    made: go.Figure,
    key: str,
    *,
    subject: str = "",
    bar: bool = False,
    on_drag: browser.Dragged | None = None,
    on_click: browser.Clicked | None = None,
) -> None:
    """Show a Plotly figure in the page's colours (see `browser.show_figure`)."""
    template = theme(dark=is_dark())
    browser.show_figure(
        made, key, template, subject=subject, bar=bar, on_drag=on_drag, on_click=on_click
    )


def short_name(source: Source, name: str) -> str:
    """Return a run's own name; rank traces have none: that of their folder."""
    return source.path.name if source.kind == "traces" else name or source.path.name


def name_of(source: Source) -> str:
    """Return a run's name and where it lies."""
    name = short_name(source, run(source).manifest.name)
    return f"{name} · {source.key}" if name and name != source.key else source.key


def choose_rank(ranks: Sequence[int]) -> int:
    """Let one of several ranks be chosen: the address names it, or the page looked at before."""
    if len(ranks) == 1:
        return ranks[0]
    wanted = (number_in_address("rank"), st.session_state.get("rank"), ranks[0])
    index = next(list(ranks).index(one) for one in wanted if isinstance(one, int) and one in ranks)
    rank = pick("Rank", list(ranks), index, width=140)
    st.session_state["rank"] = rank
    st.query_params["rank"] = str(rank)
    return rank


def number_in_address(name: str) -> int | None:
    """Return what the address says as a number; None where it says none that can be meant."""
    said = st.query_params.get(name, "")
    return int(said) if said.isdecimal() and len(said) < MAX_DIGITS else None


def pick(  # noqa: PLR0913 - what a select box has
    label: str,
    options: Sequence[T],
    index: int = 0,
    *,
    words: Callable[[T], str] = str,
    key: str | None = None,
    width: int | None = None,
) -> T:
    """Let one of the options be chosen; `words` is how each is shown, as text."""
    chosen = st.selectbox(
        label, list(options), index, format_func=words, key=key, width=width or "stretch"
    )
    return cast(T, chosen)
