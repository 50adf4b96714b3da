"""A run that still goes on is drawn anew every few seconds, and then as the finished one."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from ..profiler.library import Source
from . import markup, state

PERIOD_S = 2.0


def watch(source: Source, body: Callable[[Source], None]) -> None:
    """Draw the body; again and again as long as the run goes on.

    How often the run is read for that is up to `state`: a drawing between two readings is cheap.
    """
    st.session_state.pop("drawn", None)
    if not state.is_running(source):
        body(source)
        return

    @st.fragment(run_every=PERIOD_S)
    def drawn() -> None:
        state.guarded(_provisional, source)

    def _provisional(source: Source) -> None:
        if not state.is_running(source):
            st.rerun()
        state.html(markup.note("The run goes on: these figures are provisional.", colour="#2e95d5"))
        body(source)
        st.session_state["drawn"] = source.key

    drawn()
