"""What the pages share: the served paths, the chosen run, cached analysis, the background."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar, cast

import streamlit as st

from ..profiler import library
from ..profiler.diagnosis import Diagnosis
from ..profiler.errors import BoundscopeError
from ..profiler.features import Features
from ..profiler.library import Entry, Source
from ..profiler.run.load import Run
from . import markup

LISTING_TTL_S = 3
"""How long the list of runs is kept: a new run shows up after so many seconds."""

KEPT_RUNS = 8

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
    """Return every served run and trace."""
    return _sources(tuple(str(root) for root in roots()))


def entries() -> list[Entry]:
    """Return them as rows, newest first."""
    return _entries(tuple(str(root) for root in roots()))


def lookup(key: str | None) -> Source | None:
    """Return the served source of that key; no path is ever built from what an address says."""
    return next((source for source in sources() if source.key == key), None)


def chosen_key() -> str | None:
    """Return the run that the address names, else the one looked at last."""
    key = st.query_params.get("run") or st.session_state.get("run")
    return str(key) if key else None


@st.cache_data(show_spinner="Reading the run …", max_entries=4 * KEPT_RUNS)
def _diagnosis(_source: Source, path: str, stamp: int) -> Diagnosis:  # noqa: ARG001 - the key
    return library.diagnose_source(_source)


@st.cache_resource(show_spinner="Reading the traces …", max_entries=KEPT_RUNS)
def _features(_source: Source, path: str, stamp: int) -> Features:  # noqa: ARG001 - the key
    return library.derive_source(_source)


@st.cache_resource(show_spinner="Reading the run …", max_entries=KEPT_RUNS)
def _run(_source: Source, path: str, stamp: int) -> Run:  # noqa: ARG001 - the key
    return library.open_run(_source)


def diagnosis(source: Source) -> Diagnosis:
    """Return the diagnosis, kept until a file of the run changes."""
    return _diagnosis(source, str(source.path), source.stamp)


def features(source: Source) -> Features:
    """Return the features, likewise. They need the traces: the first time takes a while.

    One object for all who look, as with `run`: it is frozen.
    """
    return _features(source, str(source.path), source.stamp)


def run(source: Source) -> Run:
    """Return the run's records, likewise; one object for all who look: read it, never change it."""
    return _run(source, str(source.path), source.stamp)


def is_dark() -> bool:
    """Whether the page has a dark background."""
    return getattr(st.context.theme, "type", None) == "dark"


def html(text: str) -> None:
    """Show what `markup` made."""
    st.html(text)


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
        try:
            view(source)
        except BoundscopeError as error:
            html(markup.note(error.message, error.hint, error.slug, markup.ERROR))

    return page


def _no_such_run(key: str | None) -> None:
    if key is None:
        html(markup.empty("No run is chosen.", "Choose one on the page Runs."))
    else:
        html(markup.empty(f"There is no run {key} in the served folders.", "See the page Runs."))


def charts(figure: object, key: str, *, bar: bool = False) -> None:
    """Show a Plotly figure over the full width; `bar` adds zoom and picture buttons on hover."""
    config = {"displaylogo": False, "displayModeBar": "hover" if bar else False}
    st.plotly_chart(figure, width="stretch", key=key, config=config)


def name_of(source: Source) -> str:
    """Return a run's name and where it lies."""
    name = run(source).manifest.name
    return f"{name} · {source.key}" if name and name != source.key else source.key


def choose_rank(ranks: Sequence[int]) -> int:
    """Let one of several ranks be chosen; kept while other pages are looked at."""
    if len(ranks) == 1:
        return ranks[0]
    before = st.session_state.get("rank")
    index = list(ranks).index(before) if isinstance(before, int) and before in ranks else 0
    rank = pick("Rank", list(ranks), index, width=140)
    st.session_state["rank"] = rank
    return rank


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
