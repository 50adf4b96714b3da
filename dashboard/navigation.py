"""Which pages there are, their addresses, and the bar at the side that leads to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import streamlit as st
from PIL import Image

from ..profiler.report.colours import SLOT_COLOURS
from . import browser, markup, state
from .views import compare, memory, ops, ranks, runs, share, stacks, timeline, verdict

Page = tuple[str, str, str, Callable[[], None]]

FIRST = "runs"

PAGES: tuple[Page, ...] = (
    ("runs", "Runs", ":material/list:", runs.page),
    ("verdict", "Verdict", ":material/gavel:", verdict.page),
    ("timeline", "Timeline", ":material/timeline:", timeline.page),
    ("ops", "Ops", ":material/scatter_plot:", ops.page),
    ("stacks", "Stacks", ":material/local_fire_department:", stacks.page),
    ("ranks", "Ranks", ":material/grid_on:", ranks.page),
    ("memory", "Memory", ":material/memory:", memory.page),
    ("share", "Share", ":material/share:", share.page),
    ("compare", "Compare", ":material/compare_arrows:", compare.page),
)
"""Path of the address, name, icon, and what draws the page. The first one is shown at "/"."""

CHARTED = frozenset({"timeline", "ops", "stacks", "ranks", "memory", "compare"})
"""Pages with Plotly figures."""


def main() -> None:
    """Draw the page that the address names."""
    st.set_page_config(page_title="boundscope", page_icon=_icon(), layout="wide")
    made = {
        path: st.Page(
            draw,
            title=name,
            icon=icon,
            url_path="" if path == FIRST else path,
            default=path == FIRST,
        )
        for path, name, icon, draw in PAGES
    }
    # The first page is at "/"; its name works too, for whoever types it.
    again = st.Page(runs.page, title="Runs", url_path="runs")
    chosen = st.navigation([*made.values(), again], position="hidden")
    state.html(markup.STYLE)
    if chosen.url_path in CHARTED:
        browser.fetch_library()
    _side_bar(made)
    st.session_state["pages"] = made
    chosen.run()


def _icon() -> Image.Image:
    """Return the tab's picture, three bars in slot colours.

    Made here: Streamlit's named icons are fetched from the network for a tab.
    """
    image = np.zeros((32, 32, 4), np.uint8)
    for row, (slot, width) in enumerate((("input", 28), ("compute", 18), ("network", 10))):
        colour = [int(SLOT_COLOURS[slot][i : i + 2], 16) for i in (1, 3, 5)]
        image[3 + 9 * row : 10 + 9 * row, 2 : 2 + width] = [*colour, 255]
    return Image.fromarray(image)


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
