"""From one run's step time to another's, slot by slot; ops that moved."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from ...profiler.compare import Comparison, OpChange
from ...profiler.report.colours import slot_colours
from ...profiler.text import digits, short_name
from .base import figure, grid_colour, ink, short

ROW = 34
OP_ROW = 26
LABEL_CHARACTERS = 20
"""What leaves half of a telephone's width for the bars."""
MIN_CHANGE_SHARE = 0.002
"""Slots that changed by less, share of the longer step, are left out of the figure."""

SLOWER, FASTER = "#d1495b", "#2a9d8f"


def waterfall(found: Comparison, *, dark: bool) -> go.Figure:
    """Return the step time of the base, what each slot adds or takes, and the new step time.

    Horizontal, so that the names of slots fit on a telephone.
    """
    colours = slot_colours(dark=dark)
    largest = max(found.base.step_ms, found.new.step_ms)
    slots = [s for s in found.slots if abs(s.change_ms) >= MIN_CHANGE_SHARE * largest]
    names = ["base", *[slot.slot for slot in slots], "new"]
    starts, widths, fill, texts = [0.0], [found.base.step_ms], [ink(dark=dark)], []
    texts.append(f"{digits(found.base.step_ms)} ms")
    at = found.base.step_ms
    for slot in slots:
        starts.append(min(at, at + slot.change_ms))
        widths.append(abs(slot.change_ms))
        fill.append(colours[slot.slot])
        texts.append(f"{signed_ms(slot.change_ms)}")
        at += slot.change_ms
    starts.append(0.0)
    widths.append(found.new.step_ms)
    fill.append(ink(dark=dark))
    texts.append(f"{digits(found.new.step_ms)} ms")
    made = figure(70 + ROW * len(names))
    made.add_bar(
        x=widths,
        y=names,
        base=starts,
        orientation="h",
        marker={"color": fill, "line": {"width": 0}},
        text=texts,
        textposition="outside",
        cliponaxis=False,
        hovertemplate="%{y}: %{text}<extra></extra>",
    )
    peak = max(start + width for start, width in zip(starts, widths, strict=True))
    made.update_xaxes(
        range=[0, peak * 1.32], title="ms a step", gridcolor=grid_colour(dark=dark), fixedrange=True
    )
    made.update_yaxes(autorange="reversed", type="category", fixedrange=True)
    return made


def moved_ops(ops: Sequence[OpChange], *, dark: bool) -> go.Figure:
    """Return the ops or kernels whose time a step changed, the largest change on top."""
    made = figure(70 + OP_ROW * len(ops))
    changes = [op.change_ms for op in ops]
    made.add_bar(
        x=changes,
        y=list(range(len(ops))),
        orientation="h",
        marker={"color": [SLOWER if change > 0 else FASTER for change in changes]},
        text=[signed_ms(change) for change in changes],
        textposition="outside",
        cliponaxis=False,
        customdata=[[short(op.name, 60), op.base_ms, op.new_ms] for op in ops],
        hovertemplate="%{customdata[0]}<br>%{customdata[1]:.4~g} ms to %{customdata[2]:.4~g} ms"
        "<extra></extra>",
    )
    span = max((abs(change) for change in changes), default=1.0) or 1.0
    low, high = min([0.0, *changes]), max([0.0, *changes])
    room = 0.6 * span  # for the figures beside the bars
    made.update_xaxes(
        range=[low - room if low < 0 else -0.02 * span, high + room if high > 0 else 0.02 * span],
        title="ms a step",
        gridcolor=grid_colour(dark=dark),
        zerolinecolor=ink(dark=dark),
        fixedrange=True,
    )
    made.update_yaxes(
        autorange="reversed",
        tickvals=list(range(len(ops))),
        ticktext=[short(_label(op.name), LABEL_CHARACTERS) for op in ops],
        fixedrange=True,
    )
    return made


def _label(name: str) -> str:
    """A name without its arguments, and without its namespaces where there is no room for them."""
    text = short_name(name)
    return text if len(text) <= LABEL_CHARACTERS else text.rpartition("::")[2] or text


def signed_ms(value: float) -> str:
    """Return a change in ms with its sign."""
    sign = "+" if value >= 0 else "−"  # noqa: RUF001 - a minus sign
    return f"{sign}{digits(abs(value))} ms"
