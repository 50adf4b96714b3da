"""A run that still goes on is drawn anew every few seconds, and then as the finished one."""

from __future__ import annotations

import time
from collections.abc import Callable

import streamlit as st

from ..profiler.library import Source
from ..profiler.run.manifest import read_manifest
from ..profiler.run.status import effective_status
from . import markup, state

PERIOD_S = 2.0
MAX_SHARE = 0.25
"""Drawing anew takes at most this share of the time; a long run is drawn less often."""


def watch(source: Source, body: Callable[[Source], None]) -> None:
    """Draw the body; again and again as long as the run goes on."""
    if not is_running(source):
        body(source)
        return
    period = max(PERIOD_S, st.session_state.get("drawn_s", 0.0) / MAX_SHARE)

    @st.fragment(run_every=period)
    def drawn() -> None:
        if not is_running(source):
            st.rerun()
        began = time.monotonic()
        state.html(markup.note("The run goes on: these figures are provisional.", colour="#2e95d5"))
        body(source)
        st.session_state["drawn_s"] = time.monotonic() - began

    drawn()


def is_running(source: Source) -> bool:
    """Whether the source is a run whose launcher is still at work."""
    if source.kind != "run":
        return False
    return effective_status(read_manifest(source.path), source.path) == "running"
