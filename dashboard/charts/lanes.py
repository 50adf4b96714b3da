"""What ran when: lanes of host threads, streams, loader and collectives between two times."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from ...profiler.report.colours import slot_colours, text_on
from ...profiler.tables.lanes import KINDS, NO_NAME, Boxes, Lane, Lanes
from ...profiler.text import digits
from .base import figure, grid_colour, ink, keep_margins, plain, short

Int64 = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]

ROW = 21
"""Pixels; a box names itself only where the page's font fits in."""
GAP = 0.9
"""Room between two lanes, rows: the lane's name stands there."""

TEXT_SHARE = 0.045
"""A box names itself from this share of the width on."""

PLAIN = ("#5b6675", "#c3ccd8")
"""Ranges and phases that are of no slot: on a dark, on a light background."""


def lanes(  # noqa: PLR0913 - what is drawn, and of which stretch
    every: Lanes,
    shown: Sequence[Lane],
    boxes: Boxes,
    span: tuple[int, int],
    origin_ns: int,
    *,
    dark: bool,
) -> go.Figure:
    """Return the figure of [begin, end), ns: time in ms from `origin_ns`, lane below lane."""
    place, height = _places(shown)
    made = figure(int((height + 1.5) * ROW) + 70)
    made.update_layout(barmode="overlay", bargap=0, dragmode="select", hovermode="closest")
    made.update_layout(uniformtext={"minsize": 9, "mode": "hide"}, selectdirection="h")
    made.update_layout(margin={"l": 6, "r": 6, "t": 4, "b": 8})
    begin, width = span[0], max(1, span[1] - span[0])
    colours = {**slot_colours(dark=dark), "none": PLAIN[0 if dark else 1]}
    rows = np.asarray(place, np.float64)
    for number, kind in enumerate(KINDS):
        chosen = np.flatnonzero(boxes.kind == number)
        if len(chosen):
            left, right = _edges(boxes, chosen, span)
            shape = (_ms(left - origin_ns), _ms(right - left), rows[boxes.row[chosen]])
            named = right - left > TEXT_SHARE * width
            style = (kind, colours[kind])
            _add(made, every, boxes, chosen, shape=shape, named=named, kind=style)
    _names(made, shown, place, dark=dark)
    made.update_xaxes(
        range=[(begin - origin_ns) * 1e-6, (begin + width - origin_ns) * 1e-6],
        gridcolor=grid_colour(dark=dark),
        zeroline=False,
        title="ms since the step began",
        fixedrange=True,
    )
    made.update_yaxes(range=[height, -GAP - 0.6], visible=False, fixedrange=True)
    keep_margins(made, left=6)
    return made


def _places(shown: Sequence[Lane]) -> tuple[list[float], float]:
    """The height of each row, counted over all lanes, and of all of them."""
    place, at = [], 0.0
    for lane in shown:
        place += [at + row for row in range(len(lane.rows))]
        at += len(lane.rows) + GAP
    return place, at


def _ms(time_ns: Int64) -> Float:
    return np.asarray(time_ns * 1e-6, np.float64)


def _edges(boxes: Boxes, chosen: Int64, span: tuple[int, int]) -> tuple[Int64, Int64]:
    """Cut boxes at the edges of what is shown."""
    left = np.maximum(boxes.start_ns[chosen], span[0])
    return left, np.maximum(np.minimum(boxes.end_ns[chosen], span[1]), left)


def _add(  # noqa: PLR0913 - one trace of the figure
    made: go.Figure,
    every: Lanes,
    boxes: Boxes,
    chosen: Int64,
    *,
    shape: tuple[Float, Float, Float],
    named: npt.NDArray[np.bool_],
    kind: tuple[str, str],
) -> None:
    labels = [_label(every, boxes, index) for index in chosen.tolist()]
    base, length, row = shape
    word, colour = kind
    made.add_bar(
        x=length,
        base=base,
        y=row,
        width=0.92,
        orientation="h",
        name=word,
        marker={"color": colour, "line": {"width": 0}},
        text=[short(label, 34) if room else "" for label, room in zip(labels, named, strict=True)],
        textposition="inside",
        insidetextanchor="start",
        textangle=0,
        constraintext="inside",
        textfont={"size": 11, "color": text_on(colour)},
        customdata=[
            f"<b>{short(label, 90)}</b><br>{_took(boxes, index)}"
            for label, index in zip(labels, chosen.tolist(), strict=True)
        ],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _label(every: Lanes, boxes: Boxes, index: int) -> str:
    name = int(boxes.name[index])
    return f"{int(boxes.count[index]):,} events" if name == NO_NAME else every.names[name]


def _took(boxes: Boxes, index: int) -> str:
    length = int(boxes.end_ns[index] - boxes.start_ns[index])
    words = f"{digits(length * 1e-6)} ms" if length >= 1e5 else f"{digits(length * 1e-3)} µs"
    return words if boxes.count[index] == 1 else f"within {words}: zoom in to tell them apart"


def _names(made: go.Figure, shown: Sequence[Lane], place: Sequence[float], *, dark: bool) -> None:
    row = 0
    for lane in shown:
        more = f"  ({lane.deeper:,} deeper ones not shown)" if lane.deeper else ""
        made.add_annotation(
            text=plain(lane.label[:48] + more),
            x=0,
            xref="x domain",
            xanchor="left",
            y=place[row] - 0.45,
            yanchor="bottom",
            showarrow=False,
            font={"size": 11, "color": ink(dark=dark)},
        )
        row += len(lane.rows)
