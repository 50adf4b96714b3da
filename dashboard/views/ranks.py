"""The ranks side by side: their slots, step times, waits for each other, and collectives."""

from __future__ import annotations

import streamlit as st

from ...profiler.diagnosis import Diagnosis
from ...profiler.digest.job import Job
from ...profiler.library import Source
from ...profiler.tables.straggler import LinkRow
from ...profiler.text import percent, plural, scaled
from .. import live, markup, state, tables
from ..charts.ranks import slot_map, step_map, wait_map
from ..charts.slots import rank_bars

MAX_BARS = 32
"""More bars than this are a heat map."""


def _view(source: Source) -> None:
    live.watch(source, _body)


page = state.page_of_run(_view)


def _body(source: Source) -> None:
    state.html(markup.title("Ranks", state.name_of(source)))
    diagnosis = state.diagnosis(source)
    if not diagnosis.ranks:
        state.html(markup.empty("No rank took two steps."))
        return
    job = state.job(source)
    if len(job.grid.ranks) > 1:
        state.html(markup.facts([("ranks", f"{len(job.grid.ranks):,}"), _straggler(job)]))
    _slots(diagnosis)
    if len(job.grid.ranks) > 1:
        state.html(markup.heading("Step time by rank"))
        state.charts(step_map(job.step_grid, dark=state.is_dark()), "step-map")
        _waits(job)
    _collectives(job)


def _straggler(job: Job) -> tuple[str, str]:
    found = job.straggler
    if found is None:
        return ("straggler", "none stands out")
    why = {
        "arrivals": f"last at {percent(found.share)} of the common collectives",
        "waits": f"waits {percent(found.share)} of a step less than the others",
        "steps": f"its median step is {percent(found.share)} longer than the others'",
    }
    return ("straggler", f"rank {found.rank}: {why[found.by]}")


def _slots(diagnosis: Diagnosis) -> None:
    dark = state.is_dark()
    state.html(markup.heading("Where the time of each rank goes"))
    if len(diagnosis.ranks) <= MAX_BARS:
        bars = [(f"rank {rank.rank}", rank.breakdown) for rank in diagnosis.ranks]
        state.charts(rank_bars(bars, dark=dark), "rank-bars")
        state.html(markup.legend(diagnosis.breakdown, dark=dark))
        if len(bars) > 1:
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
    words = f"{plural(grid.collectives, 'collective')} of {plural(grid.steps, 'step')}."
    state.html(markup.paragraph(words))


def _collectives(job: Job) -> None:
    rows = job.collectives
    state.html(markup.heading("Collectives"))
    if not rows:
        what = "One rank: there are none." if len(job.grid.ranks) == 1 else "None were recorded."
        state.html(markup.empty(what))
        return
    link = job.link
    if link is not None:
        _link(link)
    cells = [
        {
            "collective": row.operation,
            "group": f"{row.group_size} ranks" + (f" ({row.members})" if row.members else ""),
            "size": scaled(row.bytes, "B") if row.bytes else "unknown",
            "calls": row.calls,
            "moving, ms": round(row.moving_ms, 3),
            "waiting, ms": round(row.waiting_ms, 3),
            "hidden by nothing, ms": round(row.exposed_ms, 3),
            "busbw": scaled(row.busbw, "B/s") if row.busbw else "unknown",
            "of the link": _percent(link.share_of(row)) if link is not None else None,
        }
        for row in rows
    ]
    if link is None or not link.bytes_per_s:
        for cell in cells:
            del cell["of the link"]
    share = st.column_config.ProgressColumn(format="%.1f %%", max_value=100)
    tables.shown(cells, column_config={"of the link": share})
    words = (
        "Per rank: the median time of a call from the arrival of the last rank, the mean wait for "
        "it, and the time of all calls that no computing hides. busbw as nccl-tests define it."
    )
    if any(row.waits_included for row in rows):
        words += " Calls that not every rank recorded include the wait: their busbw is at least so."
    state.html(markup.paragraph(words))


def _link(link: LinkRow) -> None:
    busy = link.busy_bytes_per_s
    where = "link between devices" if link.of_device else "busiest interface"
    state.html(
        markup.facts(
            [
                (where, link.name),
                ("its speed", scaled(link.bytes_per_s, "B/s") if link.bytes_per_s else "not known"),
                ("in a busy second", scaled(busy, "B/s") if busy is not None else ""),
            ]
        )
    )


def _percent(share: float | None) -> float | None:
    return share * 100 if share is not None else None
