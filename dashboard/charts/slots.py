"""A bar of slots for each rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from ...profiler.diagnosis import SLOTS
from ...profiler.report.colours import slot_colours
from .base import figure, plain

ROW_HEIGHT = 30
MIN_SHARE = 0.001


def rank_bars(ranks: Sequence[tuple[str, Mapping[str, float]]], *, dark: bool) -> go.Figure:
    """Return a stacked bar of slots for each (label, shares), in the given order."""
    made = figure(80 + ROW_HEIGHT * len(ranks), barmode="stack", bargap=0.25)
    colours = slot_colours(dark=dark)
    labels = [plain(label) for label, _ in ranks]
    for slot in SLOTS:
        values = [shares.get(slot, 0.0) for _, shares in ranks]
        if max(values, default=0.0) >= MIN_SHARE:
            made.add_bar(
                x=values,
                y=labels,
                orientation="h",
                name=slot,
                marker={"color": colours[slot], "line": {"width": 0}},
                hovertemplate="%{y}: " + slot + " %{x:.1%}<extra></extra>",
            )
    made.update_layout(margin={"l": 8, "r": 26, "t": 8, "b": 28})  # room for the figures below
    made.update_xaxes(range=[0, 1], tickformat=".0%", fixedrange=True, automargin=False)
    made.update_yaxes(autorange="reversed", type="category", fixedrange=True)
    return made
