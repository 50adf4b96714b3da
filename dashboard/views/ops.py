"""Ops and kernels: how near each is to the machine's roofs, and a table of all of them."""

from __future__ import annotations

import streamlit as st

from ...profiler.features import RankFeatures
from ...profiler.library import Source
from ...profiler.tables.ops import OpRow, op_rows, roof_lines
from ...profiler.text import scaled
from .. import markup, state
from ..charts.roofline import roofline

MAX_ROWS = 500


def _view(source: Source) -> None:
    state.html(markup.title("Ops", state.name_of(source)))
    ranks = {rank.rank: rank for rank in state.features(source).ranks if rank.ops}
    if not ranks:
        hint = "Ops come from torch-profiler windows; this run has none that could be read."
        state.html(markup.empty("No ops were recorded.", hint))
        return
    rank = ranks[state.choose_rank(sorted(ranks))]
    rows = op_rows(rank)
    _roofline(rank, rows)
    _table(rows)


page = state.page_of_run(_view)


def _roofline(rank: RankFeatures, rows: list[OpRow]) -> None:
    dark = state.is_dark()
    state.html(markup.heading("Roofline"))
    made = roofline(rows, roof_lines(rank.roofs), dark=dark)
    if made is None:
        state.html(markup.empty("No op has known work.", "The trace was recorded without shapes."))
        return
    state.charts(made, "roofline", bar=True)
    slots: dict[str, float] = {}
    for row in rows:
        slots[row.slot] = slots.get(row.slot, 0.0) + row.share
    state.html(markup.legend(slots, dark=dark))
    words = "One bubble an op with its shapes, its area the time it takes."
    if rank.roofs is None:
        words += " This machine's roofs are not known: boundscope calibrate measures them."
    else:
        rates = (
            f"{roof.name} {scaled(roof.rate, 'B/s' if roof.is_bandwidth else 'FLOP/s')}"
            for roof in roof_lines(rank.roofs)
        )
        words += f" Roofs ({rank.roofs.source}): {', '.join(rates)}."
    state.html(markup.paragraph(words))


def _table(rows: list[OpRow]) -> None:
    state.html(markup.heading("All ops by their own time"))
    words = st.text_input("Search", placeholder="op, kernel, family or slot", key="ops-search")
    wanted = words.lower().split()
    shown = [row for row in rows if all(word in _text(row) for word in wanted)][:MAX_ROWS]
    if not shown:
        state.html(markup.empty("No op matches."))
        return
    config = {
        "share": st.column_config.ProgressColumn(format="%.1f %%", max_value=100),
        "of roof": st.column_config.ProgressColumn(format="%.0f %%", max_value=100),
        "ms a step": st.column_config.NumberColumn(format="%.3f"),
        "GFLOP/s": st.column_config.NumberColumn(format="%.4g"),
        "GB/s": st.column_config.NumberColumn(format="%.4g"),
        "FLOP/byte": st.column_config.NumberColumn(format="%.3g"),
    }
    st.dataframe([_cells(row) for row in shown], hide_index=True, column_config=config)
    if len(shown) < len(rows) and not wanted:
        state.html(markup.paragraph(f"The {MAX_ROWS} longest of {len(rows):,}."))


def _text(row: OpRow) -> str:
    return f"{row.label} {row.kernel} {row.family} {row.slot}".lower()


def _cells(row: OpRow) -> dict[str, object]:
    cells: dict[str, object] = {
        "op": row.name,
        "share": row.share * 100,
        "ms a step": row.per_step_ms,
        "slot": row.slot,
        "of roof": row.roof_share * 100 if row.roof_share else None,
        "calls": row.calls,
        "shapes": row.dims,
        "GFLOP/s": row.flop_per_s / 1e9 if row.flop_per_s else None,
        "GB/s": row.bytes_per_s / 1e9 if row.bytes_per_s else None,
        "FLOP/byte": row.intensity,
        "family": row.family,
    }
    if row.kernel:
        cells["kernel"] = row.kernel
    return cells
