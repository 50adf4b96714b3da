"""The ranks side by side: their slots, step times, waits for each other, and collectives."""

from __future__ import annotations

import streamlit as st

from ...profiler.diagnosis import Diagnosis
from ...profiler.digest.job import Job
from ...profiler.library import Source
from ...profiler.links import busiest_link
from ...profiler.text import percent, plural, scaled
from .. import markup, state
from ..charts.ranks import slot_map, step_map, wait_map
from ..charts.slots import rank_bars

MAX_BARS = 32
"""More bars than this are a heat map."""


def _view(source: Source) -> None:
    state.html(markup.title("Ranks", state.name_of(source)))
    diagnosis = state.diagnosis(source)
    if not diagnosis.ranks:
        state.html(markup.empty("No rank took two steps."))
        return
    _slots(diagnosis)
    job = state.job(source)
    if len(job.grid.ranks) > 1:
        state.html(markup.heading("Step time by rank"))
        state.charts(step_map(job.step_grid, dark=state.is_dark()), "step-map")
        _waits(job)
    _collectives(job, source)


page = state.page_of_run(_view)


def _slots(diagnosis: Diagnosis) -> None:
    dark = state.is_dark()
    state.html(markup.heading("Where the time of each rank goes"))
    if len(diagnosis.ranks) <= MAX_BARS:
        bars = [(f"rank {rank.rank}", rank.breakdown) for rank in diagnosis.ranks]
        state.charts(rank_bars(bars, dark=dark), "rank-bars")
        state.html(markup.legend(diagnosis.breakdown, dark=dark))
        state.html(markup.paragraph("The legend shows the mean over the ranks."))
    else:
        rows = [(rank.rank, rank.breakdown) for rank in diagnosis.ranks]
        state.charts(slot_map(rows, dark=dark), "rank-map")


def _waits(job: Job) -> None:
    state.html(markup.heading("Who waits for whom"))
    grid = job.wait_grid
    if grid is None:
        hint = "They come from trace windows of the same steps."
        state.html(markup.empty("The ranks recorded no common collectives.", hint))
        return
    state.charts(wait_map(grid, dark=state.is_dark()), "wait-map")
    late = {rank: count for rank, count in job.late.items() if count}
    whole = sum(late.values())
    if whole:
        worst = max(late, key=lambda rank: late[rank])
        words = f"Rank {worst} arrived last at {percent(late[worst] / whole)} of them."
        state.html(
            markup.paragraph(
                f"{plural(grid.collectives, 'collective')} of {plural(grid.steps, 'step')}. {words}"
            )
        )


def _collectives(job: Job, source: Source) -> None:
    rows = job.collectives
    state.html(markup.heading("Collectives"))
    if not rows:
        what = "One rank: there are none." if len(job.grid.ranks) == 1 else "None were recorded."
        state.html(markup.empty(what))
        return
    link = busiest_link(state.run(source))
    if link is not None:
        speed = scaled(link.speed_bits_per_s, "bit/s") if link.speed_bits_per_s else "not known"
        state.html(
            markup.facts(
                [
                    ("busiest link", link.name),
                    ("busy second", scaled(link.peak_bits_per_s, "bit/s")),
                    ("its speed", speed),
                ]
            )
        )
    cells = [
        {
            "collective": row.name,
            "size": scaled(row.bytes, "B") if row.bytes else "unknown",
            "calls": row.calls,
            "moving, ms": round(row.moving_ms, 3),
            "waiting, ms": round(row.waiting_ms, 3),
            "busbw": scaled(row.bus_bytes_per_s, "B/s") if row.bus_bytes_per_s else "unknown",
        }
        for row in rows
    ]
    st.dataframe(cells, hide_index=True)
    words = (
        "Means over ranks and calls. Moving counts from the arrival of the last rank; busbw as "
        "nccl-tests define it."
    )
    state.html(markup.paragraph(words))
