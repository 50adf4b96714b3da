"""Ops and kernels: how near each is to the machine's roofs, and a table of all of them."""

from __future__ import annotations

import streamlit as st

from ...profiler.digest.job import RankOps
from ...profiler.digest.window import Tables
from ...profiler.library import Source
from ...profiler.tables.ops import OpRow, slot_shares
from ...profiler.text import digits, percent, scaled
from .. import live, markup, state, tables
from ..charts.roofline import roofline

MAX_OPS_NAMED = 3
"""Of the ops that launch a kernel."""


def _view(source: Source) -> None:
    live.watch(source, _body)


page = state.page_of_run(_view)


def _body(source: Source) -> None:
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


def _roofline(ops: RankOps) -> None:
    dark = state.is_dark()
    state.html(markup.heading("Roofline"))
    made = roofline(ops.rows, ops.roofs, dark=dark)
    if made is None:
        state.html(markup.empty("No op has known work.", "The trace was recorded without shapes."))
        return
    state.charts(made, "roofline", bar=True)
    state.html(markup.legend(slot_shares(ops.rows), dark=dark))
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
        "of roof": st.column_config.ProgressColumn(format="%.1f %%", max_value=100),
        "ms a step": st.column_config.NumberColumn(format="%.3f"),
        "GFLOP/s": st.column_config.NumberColumn(format="%.4g"),
        "GB/s": st.column_config.NumberColumn(format="%.4g"),
        "FLOP/byte": st.column_config.NumberColumn(format="%.3g"),
    }
    tables.shown([_cells(row) for row in shown], column_config=config, placeholder="")
    if len(ops.rows) < ops.ops and not wanted:
        state.html(markup.paragraph(f"The {len(ops.rows):,} longest of {ops.ops:,}."))


def _of_window(source: Source, rank: int) -> None:
    window = state.first_window(source, rank)
    if window is None:
        return
    _kernels(window.tables)
    _tensor_cores(window.tables)
    _queues(window.tables)
    _outliers(window.tables)
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
        "Ops on host and device",
        [
            {
                "op": row.name,
                "shapes": row.dims,
                "calls": row.calls,
                "host, ms": round(row.total_host_ms, 3),
                "host itself, ms": round(row.self_host_ms, 3),
                "device, ms": round(row.total_device_ms, 3),
                "device itself, ms": round(row.self_device_ms, 3),
            }
            for row in window.tables.ops
        ],
        "Over the trace window. Device time is that of the work that the op launches; an op inside "
        "one of its own name counts once.",
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


def _kernels(tables: Tables) -> None:
    """Computing kernels by name, and what they reach of their roofs."""
    cores = {True: "yes", False: "no", None: ""}
    beyond = any((row.roof_share or 0.0) > 1 for row in tables.kernels)
    words = "Over the trace window. Limited by what the shapes, or the name, tell."
    if beyond:
        words += (
            " Above 100 % of the roof the kernel found its data in a cache, or did other work than "
            "its op's shapes say, or the device is not the one of the roofs."
        )
    _rows(
        "Kernels",
        [
            {
                "kernel": row.name,
                "share": percent(row.share),
                "calls": row.calls,
                "time, ms": round(row.total_ms, 3),
                "mean, us": round(row.mean_us, 2),
                "limited by": row.limiter,
                "of roof": percent(row.roof_share) if row.roof_share is not None else "unknown",
                "tensor cores": cores[row.tensor_cores],
                "launched by": ", ".join(row.ops[:MAX_OPS_NAMED]),
            }
            for row in tables.kernels
        ],
        words,
    )


def _queues(tables: Tables) -> None:
    """How far the host runs ahead of each device."""
    _rows(
        "Launch queue",
        [
            {
                "device": queue.device,
                "pieces of work": queue.work,
                "depth, mean": round(queue.mean_depth, 2),
                "depth, most": queue.max_depth,
                "empty": percent(queue.empty_share),
                "launched into an empty queue": percent(queue.starved_share),
                "steps that drain it": percent(queue.drained_steps),
                "delay, median us": _rounded(queue.median_delay_us),
                "delay, p90 us": _rounded(queue.p90_delay_us),
            }
            for queue in tables.queues
        ],
        "Work launched and not finished. A deep queue hides what the host does; an empty one means "
        "that the device waits for it.",
    )


def _outliers(tables: Tables) -> None:
    """Steps far above the median, and what was longer in them."""
    _rows(
        "Steps far above the median",
        [
            {
                "step": step.number,
                "time, ms": round(step.duration_ms, 3),
                "above the median, ms": round(step.excess_ms, 3),
                "longer in it": ", ".join(
                    f"{name} {digits(value)} ms" for name, value in step.differences
                ),
            }
            for step in tables.outliers
        ],
        "Steps of the trace window, against the medians of all of them.",
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


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
        tables.shown(rows)
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
