"""The samples of the collectors beside the training, as panels over the time of the run."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..run.load import MetricTable, Run

Float = npt.NDArray[np.float64]

MAX_LINES = 8
"""Lines of one panel: those with the highest mean. More can't be told apart."""

NOTHING = 1e-9


@dataclass(frozen=True)
class Line:
    """One metric over time: seconds since the start of the run."""

    label: str
    time_s: Float
    value: Float


@dataclass(frozen=True)
class Panel:
    """Metrics that share an axis; `unit` is "%", "B", "B/s", "W" or "cores"."""

    title: str
    unit: str
    lines: list[Line]
    left_out: int = 0


@dataclass(frozen=True)
class _Spec:
    title: str
    unit: str
    patterns: tuple[tuple[str, str], ...]  # (pattern of the metric, label with its groups)
    idle_too: bool = False  # keep lines that are zero throughout


SPECS = (
    _Spec("GPU utilisation", "%", ((r"gpu\.(\d+)\.utilization_percent", r"GPU \1"),), True),
    _Spec("GPU memory", "B", ((r"gpu\.(\d+)\.memory_used_bytes", r"GPU \1"),), True),
    _Spec(
        "CPU of the job",
        "cores",
        ((r"job\.cpu_cores", "job"), (r"rank\.(\d+)\.cpu_cores", r"rank \1")),
        True,
    ),
    _Spec(
        "CPU of the host",
        "%",
        ((r"host\.cpu_percent", "all cores"), (r"host\.steal_percent", "steal")),
        True,
    ),
    _Spec(
        "Host memory",
        "B",
        ((r"job\.rss_bytes", "job"), (r"host\.memory_available_bytes", "available")),
    ),
    _Spec(
        "Network",
        "B/s",
        (
            (r"net\.(.+)\.rx_bytes_per_s", r"\1 received"),
            (r"net\.(.+)\.tx_bytes_per_s", r"\1 sent"),
        ),
    ),
    _Spec(
        "Storage of the job",
        "B/s",
        (
            (r"storage\.job\.read_bytes_per_s", "read"),
            (r"storage\.job\.write_bytes_per_s", "written"),
        ),
        True,
    ),
    _Spec(
        "Stalled for",
        "%",
        ((r"psi\.(cpu|io|memory)\.some_avg10_percent", r"\1"),),
    ),
    _Spec("Power", "W", ((r"gpu\.(\d+)\.power_watts", r"GPU \1"), (r"power\.(.+)\.watts", r"\1"))),
)


def panels(run: Run) -> list[Panel]:
    """Return the panels that have data, in a fixed order."""
    found = (_panel(spec, run) for spec in SPECS)
    return [panel for panel in found if panel is not None]


def _panel(spec: _Spec, run: Run) -> Panel | None:
    hosts = {table.host for table in run.metrics}
    lines = [
        line
        for table in run.metrics
        for line in _lines(spec, table, run.manifest.started_ns, named=len(hosts) > 1)
    ]
    if not lines:
        return None
    lines.sort(key=lambda line: -float(np.mean(line.value)))
    return Panel(spec.title, spec.unit, lines[:MAX_LINES], max(0, len(lines) - MAX_LINES))


def _lines(spec: _Spec, table: MetricTable, origin_ns: int, *, named: bool) -> list[Line]:
    lines = []
    for pattern, label in spec.patterns:
        for name, (time_ns, value) in table.series.items():
            match = re.fullmatch(pattern, name)
            if match is None or not len(value):
                continue
            if not spec.idle_too and float(np.max(np.abs(value))) < NOTHING:
                continue
            text = match.expand(label)
            text = f"{table.host}: {text}" if named else text
            seconds = np.asarray((time_ns - origin_ns) * 1e-9, np.float64)
            lines.append(Line(text, seconds, value))
    return lines
