"""Which pages there are, their addresses, and the bar at the side that leads to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st

from . import markup, state
from .views import compare, memory, ops, ranks, runs, stacks, timeline, verdict

Page = tuple[str, str, str, Callable[[], None]]

PAGES: tuple[Page, ...] = (
    ("runs", "Runs", ":material/list:", runs.page),
    ("verdict", "Verdict", ":material/gavel:", verdict.page),
    ("timeline", "Timeline", ":material/timeline:", timeline.page),
    ("ops", "Ops", ":material/scatter_plot:", ops.page),
    ("stacks", "Stacks", ":material/local_fire_department:", stacks.page),
    ("ranks", "Ranks", ":material/grid_on:", ranks.page),
    ("memory", "Memory", ":material/memory:", memory.page),
    ("compare", "Compare", ":material/compare_arrows:", compare.page),
)
"""Path of the address, name, icon, and what draws the page. The first one is shown at "/"."""


def main() -> None:
    """Draw the page that the address names."""
    st.set_page_config(page_title="boundscope", page_icon=":material/speed:", layout="wide")
    made = {
        path: st.Page(draw, title=name, icon=icon, url_path=path, default=path == "runs")
        for path, name, icon, draw in PAGES
    }
    chosen = st.navigation(list(made.values()), position="hidden")
    state.html(markup.STYLE)
    _side_bar(made)
    st.session_state["pages"] = made
    chosen.run()


def _side_bar(pages: dict[str, Any]) -> None:
    """Show the links; each carries the chosen run, so that every address can be sent on."""
    key = state.chosen_key()
    source = state.lookup(key)
    with st.sidebar:
        state.html(markup.title("boundscope"))
        st.page_link(pages["runs"], label="Runs")
        if source is None:
            return
        st.divider()
        state.html(markup.heading(source.path.name))
        for path, name, _, _ in PAGES:
            if path not in ("runs", "compare"):
                st.page_link(pages[path], label=name, query_params={"run": source.key})
        if "compare" in pages:
            st.divider()
            st.page_link(pages["compare"], label="Compare", query_params={"run": source.key})
