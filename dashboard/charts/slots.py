"""One bar of slots, or one a rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from ...profiler.diagnosis import SLOTS
from ...profiler.report.colours import slot_colours, text_on
from ...profiler.text import percent
from .base import figure, plain

BAR_HEIGHT = 58
ROW_HEIGHT = 30
MIN_SHARE = 0.001


def slot_bar(shares: Mapping[str, float], *, dark: bool) -> go.Figure:
    """Return one stacked bar over the whole width, largest slot first."""
    made = figure(BAR_HEIGHT, barmode="stack", uniformtext={"minsize": 11, "mode": "hide"})
    made.update_layout(margin={"l": 0, "r": 0, "t": 2, "b": 2}, bargap=0)
    colours = slot_colours(dark=dark)
    for slot, share in sorted(shares.items(), key=lambda item: -item[1]):
        if share >= MIN_SHARE:
            made.add_bar(
                x=[share],
                y=[""],
                orientation="h",
                name=slot,
                text=f"{slot} {percent(share)}",
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                marker={"color": colours[slot], "line": {"width": 0}},
                textfont={"color": text_on(colours[slot]), "size": 13},
                hovertemplate=f"{slot}: {percent(share)} of step time<extra></extra>",
            )
    made.update_xaxes(visible=False, range=[0, 1], fixedrange=True)
    made.update_yaxes(visible=False, fixedrange=True)
    return made


def rank_bars(ranks: Sequence[tuple[str, Mapping[str, float]]], *, dark: bool) -> go.Figure:
    """Return a stacked bar of slots for each (label, shares), in the given order."""
    made = figure(60 + ROW_HEIGHT * len(ranks), barmode="stack", bargap=0.25)
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
    made.update_xaxes(range=[0, 1], tickformat=".0%", fixedrange=True)
    made.update_yaxes(autorange="reversed", type="category", fixedrange=True)
    return made
