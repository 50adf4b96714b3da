"""Memory of the devices and of the host over the run: state, peak, growth."""

from __future__ import annotations

import numpy as np
import streamlit as st

from ...profiler.digest.window import Peak
from ...profiler.library import Source
from ...profiler.run.load import Run
from ...profiler.tables.memory import (
    DeviceMemory,
    MemorySeries,
    device_memory,
    host_limit,
    host_memory,
)
from ...profiler.text import duration, plural, scaled
from .. import live, markup, state, tables
from ..charts.memory import memory

NOTEWORTHY_GROWTH = 0.05


def _view(source: Source) -> None:
    live.watch(source, _body)


page = state.page_of_run(_view)


def _body(source: Source) -> None:
    state.html(markup.title("Memory", state.name_of(source)))
    run = state.run(source)
    devices, host = device_memory(run), host_memory(run)
    traced = [] if state.is_running(source) else state.ranks_of(source)
    ranks = sorted({device.rank for device in devices}) or traced
    rank = state.choose_rank(ranks) if ranks else 0
    window = state.first_window(source, rank) if rank in traced else None
    peaks = window.tables.memory if window is not None else []
    if not devices and not host and not peaks:
        hint = "boundscope run samples it; a trace has it when recorded with profile_memory=True."
        state.html(markup.empty("No memory was recorded.", hint))
        return
    if devices:
        _devices(devices, rank)
    elif host:
        words = "No allocator of a device was sampled: the CPU trained."
        state.html(markup.heading("Device memory") + markup.paragraph(words))
    for peak in peaks:
        _peak(peak)
    if host:
        _host(run, host)


def _devices(devices: list[DeviceMemory], rank: int) -> None:
    state.html(markup.heading("Device memory"))
    for device in (device for device in devices if device.rank == rank):
        state.html(
            markup.facts(
                [
                    ("device", str(device.device)),
                    ("peak allocated", scaled(device.peak_allocated, "B")),
                    ("peak reserved", scaled(device.reserved.peak, "B")),
                    ("growth", _growth(device.allocated)),
                    ("allocator", plural(device.retries, "retry").replace("retrys", "retries")),
                    ("out of memory", plural(device.ooms, "time")),
                ]
            )
        )
        figure = memory([device.allocated, device.reserved], None, dark=state.is_dark())
        state.charts(figure, f"device-{device.rank}-{device.device}")


def _peak(peak: Peak) -> None:
    """The allocator within the trace window, and what was live at its peak."""
    state.html(markup.heading(f"Allocator of {peak.device} in the trace window"))
    grown = peak.growth_per_step
    most = "peak" if peak.absolute else "peak above the start of the recording"
    state.html(
        markup.facts(
            [
                (most, scaled(peak.peak_bytes, "B")),
                ("reached after", duration(peak.peak_s)),
                ("growth a step", scaled(grown, "B") if grown else "none" if grown == 0 else ""),
            ]
        )
    )
    lines = [_line("allocated", peak.time_s, peak.allocated)]
    if peak.reserved:
        lines.append(_line("reserved", peak.time_s, peak.reserved))
    figure = memory(lines, None, dark=state.is_dark(), title="seconds into the trace window")
    state.charts(figure, f"peak-{peak.device}")
    if not peak.live:
        state.html(markup.paragraph("The trace has no addresses: what was live is not known."))
        return
    rows = [
        {
            "allocated by": live.op or "outside of any op",
            "blocks": live.blocks or None,
            "live at the peak": scaled(live.bytes, "B"),
            "share": live.bytes / peak.peak_bytes * 100 if peak.peak_bytes else None,
        }
        for live in peak.live
    ]
    share = st.column_config.ProgressColumn(format="%.0f %%", max_value=100)
    state.html(markup.heading("What was live at the peak"))
    tables.shown(rows, column_config={"share": share}, placeholder="")


def _line(label: str, time_s: list[float], values: list[int]) -> MemorySeries:
    return MemorySeries(label, np.asarray(time_s), np.asarray(values, np.float64), None)


def _host(run: Run, host: list[MemorySeries]) -> None:
    state.html(markup.heading("Host memory of the job"))
    limit = host_limit(run)
    job = next((line for line in host if line.label == "job"), host[0])
    items = [("peak", scaled(job.peak, "B")), ("growth", _growth(job))]
    if limit is not None:
        items.append((limit[0], scaled(limit[1], "B")))
    state.html(markup.facts(items))
    shown = host if len(host) > 2 else [job]
    state.charts(memory(shown, limit, dark=state.is_dark()), "host-memory")
    words = "Resident memory; pages that processes share count in each of them."
    state.html(markup.paragraph(words))


def _growth(line: MemorySeries) -> str:
    if line.growth is None:
        return "too few samples to tell"
    if abs(line.growth) < NOTEWORTHY_GROWTH * line.peak:
        return "none"
    sign = "+" if line.growth > 0 else "−"  # noqa: RUF001 - a minus sign
    return f"{sign}{scaled(abs(line.growth), 'B')} over the second half"
