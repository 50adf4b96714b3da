"""Memory of the devices and of the host over the run: state, peak, growth."""

from __future__ import annotations

from ...profiler.library import Source
from ...profiler.run.load import Run
from ...profiler.tables.memory import (
    DeviceMemory,
    MemorySeries,
    device_memory,
    host_limit,
    host_memory,
)
from ...profiler.text import plural, scaled
from .. import live, markup, state
from ..charts.memory import memory

NOTEWORTHY_GROWTH = 0.05


def _view(source: Source) -> None:
    live.watch(source, _body)


page = state.page_of_run(_view)


def _body(source: Source) -> None:
    state.html(markup.title("Memory", state.name_of(source)))
    run = state.run(source)
    devices, host = device_memory(run), host_memory(run)
    if not devices and not host:
        hint = "Memory is sampled by boundscope run; a trace has none."
        state.html(markup.empty("No memory was recorded.", hint))
        return
    _devices(devices)
    if host:
        _host(run, host)


def _devices(devices: list[DeviceMemory]) -> None:
    state.html(markup.heading("Device memory"))
    if not devices:
        state.html(markup.paragraph("No allocator of a device was sampled: the CPU trained."))
        return
    ranks = sorted({device.rank for device in devices})
    rank = state.choose_rank(ranks)
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
