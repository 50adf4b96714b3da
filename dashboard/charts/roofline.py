"""The roofline: how fast each op runs against what the machine allows at its intensity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import plotly.graph_objects as go

from ...profiler.report.colours import slot_colours
from ...profiler.tables.ops import OpRow, Roof
from ...profiler.text import percent, scaled
from .base import figure, grid_colour, ink, plain, short

HEIGHT = 460
MAX_BUBBLES = 60
BUBBLE_AREA = 2_400
MIN_BUBBLE = 7
NAMED = 3
APART = (1.2, 0.5)
"""Names stand at least so many decades apart, intensity and rate."""
SAME = 1.05
"""Roofs nearer than this factor are one line on the screen; they come sorted by rate."""
CLEAR_OF_SLOPES = 4.0
"""The name at the right end has room where the slope left the roof this factor before it."""
ROOM = 4.0
"""The axes end this factor beyond the outermost op."""

OUTER = 1 / 3
"""Part of the axis at each end in which a name under the middle of its op could be cut off."""


def roofline(rows: Sequence[OpRow], roofs: Sequence[Roof], *, dark: bool) -> go.Figure | None:
    """Return the plot, both axes logarithmic; None when no op has a known intensity and rate."""
    placed = [row for row in rows if row.intensity and row.flop_per_s][:MAX_BUBBLES]
    if not placed:
        return None
    made = figure(HEIGHT)
    made.update_layout(margin={"l": 8, "r": 8, "t": 10, "b": 8})
    xs = [row.intensity or 1.0 for row in placed]
    ys = [row.flop_per_s or 1.0 for row in placed]
    low, high = min(xs) / ROOM, max(xs) * ROOM
    tops = [roof.rate for roof in roofs if not roof.is_bandwidth]
    top = max([*ys, *tops]) * 2
    _roofs(made, roofs, (low, high), dark=dark)
    span = (math.log10(low), math.log10(high))
    _bubbles(made, placed, span, dark=dark)
    made.update_xaxes(
        type="log",
        range=list(span),
        title="arithmetic intensity, FLOP/byte",
        gridcolor=grid_colour(dark=dark),
        dtick=1,
        tickformat="~g",
    )
    made.update_yaxes(
        type="log",
        range=[math.log10(min(ys) / ROOM), math.log10(top)],
        gridcolor=grid_colour(dark=dark),
        dtick=1,
        tickformat="~s",
        ticksuffix="FLOP/s",
    )
    return made


def _roofs(
    made: go.Figure, roofs: Sequence[Roof], span: tuple[float, float], *, dark: bool
) -> None:
    colour = ink(dark=dark)
    ceiling = max((roof.rate for roof in roofs if not roof.is_bandwidth), default=math.inf)
    bandwidths = [roof.rate for roof in roofs if roof.is_bandwidth]
    fastest, slowest = max(bandwidths, default=0.0), min(bandwidths, default=0.0)
    for number, roof in enumerate(_named_once(roofs)):
        if roof.is_bandwidth:
            begin, end = span[0], min(span[1], ceiling / roof.rate)
            x, y = [begin, end], [begin * roof.rate, end * roof.rate]
        else:
            begin, end = (max(span[0], roof.rate / fastest) if fastest else span[0]), span[1]
            x, y = [begin, end], [roof.rate, roof.rate]
        if x[0] >= x[1]:
            continue
        # At its right end, but where a slope crosses it there: then at its beginning.
        at_end = not roof.is_bandwidth and slowest * span[1] > roof.rate * CLEAR_OF_SLOPES
        place = "top left" if at_end else "top right"
        made.add_scatter(
            x=x,
            y=y,
            mode="lines+text",
            line={"color": colour, "width": 1.3, "dash": "solid" if number == 0 else "dash"},
            text=["", plain(roof.name)] if at_end else [plain(roof.name), ""],
            textposition="bottom right" if roof.is_bandwidth else place,
            textfont={"size": 11},
            hoverinfo="skip",
            cliponaxis=False,
        )


def _named_once(roofs: Sequence[Roof]) -> list[Roof]:
    """Put arithmetic roofs of the same height together: their names would lie on each other."""
    found: list[Roof] = []
    for roof in roofs:
        last = found[-1] if found else None
        if last and not (last.is_bandwidth or roof.is_bandwidth) and roof.rate < SAME * last.rate:
            found[-1] = replace(last, name=f"{last.name}, {roof.name}")
        else:
            found.append(roof)
    return found


def _bubbles(
    made: go.Figure, rows: Sequence[OpRow], span: tuple[float, float], *, dark: bool
) -> None:
    colours = slot_colours(dark=dark)
    largest = max(row.self_ms for row in rows)
    named = _named(rows)
    for slot in sorted({row.slot for row in rows}):
        mine = [row for row in rows if row.slot == slot]
        made.add_scatter(
            x=[row.intensity for row in mine],
            y=[row.flop_per_s for row in mine],
            mode="markers+text",
            name=slot,
            marker={
                "color": colours[slot],
                "opacity": 0.82,
                "line": {"width": 1, "color": ink(dark=dark)},
                "size": [
                    max(MIN_BUBBLE, math.sqrt(BUBBLE_AREA * row.self_ms / largest)) for row in mine
                ],
            },
            text=[short(row.name, 24) if id(row) in named else "" for row in mine],
            textposition=[_beside(row, span) for row in mine],
            textfont={"size": 11},
            customdata=[_hover(row) for row in mine],
            hovertemplate="%{customdata}<extra></extra>",
        )


def _beside(row: OpRow, span: tuple[float, float]) -> str:
    """Return where an op's name stands: near an end of the axis it runs towards the middle."""
    part = (math.log10(row.intensity or 1.0) - span[0]) / (span[1] - span[0])
    side = "right" if part < OUTER else "left" if part > 1 - OUTER else "center"
    return f"bottom {side}"


def _named(rows: Sequence[OpRow]) -> set[int]:
    """Return the ids of the longest ops whose names do not run into each other."""
    spots: list[tuple[float, float]] = []
    named: set[int] = set()
    for row in rows:
        spot = math.log10(row.intensity or 1.0), math.log10(row.flop_per_s or 1.0)
        near = any(abs(spot[0] - x) < APART[0] and abs(spot[1] - y) < APART[1] for x, y in spots)
        if not near and len(named) < NAMED:
            named.add(id(row))
            spots.append(spot)
    return named


def _hover(row: OpRow) -> str:
    reached = f"<br>{percent(row.roof_share)} of the roof" if row.roof_share else ""
    return (
        f"<b>{short(row.name, 60)}</b><br>{short(row.dims, 60)}"
        f"<br>{percent(row.share)} of the ops' time, {row.calls} calls"
        f"<br>{scaled(row.flop_per_s or 0, 'FLOP/s')}"
        f" at {row.intensity or 0:.3g} FLOP/byte{reached}"
    )
