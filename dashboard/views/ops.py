"""Ops and kernels: how near each is to the machine's roofs, and a table of all of them."""

from __future__ import annotations

import streamlit as st

from ...profiler.digest.job import RankOps
from ...profiler.digest.window import Tables
from ...profiler.library import Source
from ...profiler.tables.ops import OpRow
from ...profiler.text import digits, percent, scaled
from .. import markup, state
from ..charts.roofline import roofline


def _view(source: Source) -> None:
    state.html(markup.title("Ops", state.name_of(source)))
    ranks = {ops.rank: ops for ops in state.job(source).ops}
    if not ranks:
        hint = "Ops come from torch-profiler windows; this run has none that could be read."
        state.html(markup.empty("No ops were recorded.", hint))
        return
    ops = ranks[state.choose_rank(sorted(ranks))]
    _roofline(ops)
    _table(ops)
    _of_window(source, ops.rank)


page = state.page_of_run(_view)


def _roofline(ops: RankOps) -> None:
    dark = state.is_dark()
    state.html(markup.heading("Roofline"))
    made = roofline(ops.rows, ops.roofs, dark=dark)
    if made is None:
        state.html(markup.empty("No op has known work.", "The trace was recorded without shapes."))
        return
    state.charts(made, "roofline", bar=True)
    slots: dict[str, float] = {}
    for row in ops.rows:
        slots[row.slot] = slots.get(row.slot, 0.0) + row.share
    state.html(markup.legend(slots, dark=dark))
    words = "One bubble an op with its shapes, its area the time it takes."
    if not ops.roofs:
        words += " This machine's roofs are not known: boundscope calibrate measures them."
    else:
        rates = (
            f"{roof.name} {scaled(roof.rate, 'B/s' if roof.is_bandwidth else 'FLOP/s')}"
            for roof in ops.roofs
        )
        words += f" Roofs ({ops.roofs_source}): {', '.join(rates)}."
    state.html(markup.paragraph(words))


def _table(ops: RankOps) -> None:
    state.html(markup.heading("All ops by their own time"))
    words = st.text_input("Search", placeholder="op, kernel, family or slot", key="ops-search")
    wanted = words.lower().split()
    shown = [row for row in ops.rows if all(word in _text(row) for word in wanted)]
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
    st.dataframe(
        [_cells(row) for row in shown], hide_index=True, column_config=config, placeholder=""
    )
    if len(ops.rows) < ops.ops and not wanted:
        state.html(markup.paragraph(f"The {len(ops.rows):,} longest of {ops.ops:,}."))


def _of_window(source: Source, rank: int) -> None:
    window = state.first_window(source, rank)
    if window is None:
        return
    _tensor_cores(window.tables)
    _rows(
        "Copies",
        [
            {
                "copy": copy.kind,
                "memory": copy.memory,
                "calls": copy.calls,
                "size": scaled(copy.bytes, "B"),
                "time, ms": round(copy.duration_ms, 3),
                "hidden by nothing, ms": round(copy.exposed_ms, 3),
                "rate": scaled(copy.bytes_per_s, "B/s") if copy.bytes_per_s else "unknown",
            }
            for copy in window.tables.copies
        ],
        "Over the trace window. Copies from pageable host memory make the host wait.",
    )
    _rows(
        "Where the host waits for the device",
        [
            {
                "call": spot.call,
                "op": spot.op,
                "place": spot.frame,
                "calls": spot.calls,
                "waited, ms": round(spot.waited_ms, 3),
                "device idle, ms": round(spot.idle_ms, 3),
            }
            for spot in window.tables.syncs
        ],
        "Over the trace window. A wait that keeps the device busy costs nothing.",
    )
    _rows(
        "By module",
        [
            {
                "module": row.path or "outside of any",
                "calls": row.calls,
                "device, ms": round(row.total_device_ms, 3),
                "device itself, ms": round(row.self_device_ms, 3),
                "host, ms": round(row.total_host_ms, 3),
            }
            for row in window.tables.modules
        ],
        "Over the trace window. Backward runs outside of every module.",
    )


def _tensor_cores(tables: Tables) -> None:
    if not tables.tensor_cores:
        return
    state.html(markup.heading("Tensor cores"))
    for use in tables.tensor_cores:
        known = use.tensor_ms + use.plain_ms
        words = (
            f"{use.dtype or 'type unknown'}: matrix products and the like take "
            f"{digits(use.matrix_ms)} ms, {percent(use.share)} of the kernels' time"
        )
        share = use.tensor_ms / known if known else None
        on = f", {percent(share)} of it on tensor cores" if share is not None else ""
        open_ = f"; of {digits(use.unknown_ms)} ms the kernels' names do not tell"
        text = f"{words}{on}{open_ if use.unknown_ms > 0 else ''}."
        state.html(markup.evidence([(text, "trace", share)], markup.ACCENT))


def _rows(heading: str, rows: list[dict[str, object]], words: str) -> None:
    if rows:
        state.html(markup.heading(heading))
        st.dataframe(rows, hide_index=True)
        state.html(markup.paragraph(words))


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
