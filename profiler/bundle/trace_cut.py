"""A trace cut to some of its steps and redacted: again a Kineto file, which Perfetto opens."""

from __future__ import annotations

import gzip
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
import numpy.typing as npt

from ..errors import UnusableData
from ..redact.known import Known
from ..redact.redactor import Redactor
from .layout import MAX_TRACE_BYTES, MAX_TRACE_EVENTS
from .trace_events import WholeEvent, read_events, starts_us
from .trace_redact import TraceRedactor

LEVEL = 5
"""gzip's level 6 saves another 2 % and takes half as long again."""

TARGET = 0.85
"""Of the room that there is, so that a wrong estimate still fits."""

MAX_TRIES = 3
FIRST_GUESS_BYTES = 40.0
"""gzip bytes an event where nothing better is known; real traces have 15 to 45."""

_STEP = re.compile(r"ProfilerStep#\d+$")
_OPTIMIZER = re.compile(r"Optimizer\.(?:step|zero_grad)#")
_HOST_CATEGORIES = ("user_annotation", "cpu_op", "Operator", "operator")

Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Survey:
    """What a first reading tells: the starts of the events, the steps, both in µs, and the rest.

    `steps` has one row a step: start and end.
    """

    path: Path
    starts_us: Float
    events: int
    steps: Float
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cut:
    """What came out: bytes of the file, events, and the steps kept of those there are."""

    size: int
    unpacked: int
    events: int
    steps_kept: int
    steps: int
    whole: bool


def survey(path: Path, known: Known) -> Survey:
    """Read a trace once, learning users' names and the host's; raises UnusableData."""
    starts: list[Float] = []
    marks: list[tuple[float, float]] = []
    optimizers: list[tuple[float, float]] = []
    events = 0

    def take(found: Sequence[WholeEvent]) -> None:
        nonlocal events
        events += len(found)
        starts.append(starts_us(found))
        for event in found:
            if event.name.startswith(("ProfilerStep#", "Optimizer.")) and _is_host_range(event):
                begin = event.start_us
                mine = marks if _STEP.match(event.name) else optimizers
                mine.append((begin, begin + event.duration_us))

    metadata = read_events(path, take, known)
    host = metadata.get("host_name")
    if isinstance(host, str):
        known.hosts.add(host)
    joined = np.concatenate(starts) if starts else np.empty(0)
    joined = np.sort(joined[np.isfinite(joined)])
    return Survey(path, joined, events, _steps(marks, optimizers), metadata)


def _is_host_range(event: WholeEvent) -> bool:
    named = _STEP.match(event.name) or event.name.startswith("Optimizer.step#")
    return bool(named) and event.ph == "X" and event.cat in _HOST_CATEGORIES


def _steps(marks: list[tuple[float, float]], optimizers: list[tuple[float, float]]) -> Float:
    """Marked steps, each once; else those between the ends of optimizer steps."""
    if marks:
        return np.array(sorted(set(marks)))
    ends = sorted(end for _, end in optimizers)
    if len(ends) < 2:
        return np.empty((0, 2))
    return np.array(list(itertools.pairwise(ends)))


def write_cut(found: Survey, target: Path, redactor: Redactor, max_bytes: int) -> Cut | None:
    """Write the trace, whole if it fits, else the steps nearest the median one that do.

    None when not even one step fits. `target` is a gzip file.
    """
    whole = (-math.inf, math.inf)
    wanted = float(max_bytes)
    packed = _packed_bytes_per_event(found)
    # What is written is smaller than the source: nothing is repeated in white space.
    fits = found.events * packed <= max_bytes * 1.2 and found.events <= MAX_TRACE_EVENTS
    chosen = whole if fits else _choose(found, wanted * TARGET / packed)
    for _ in range(MAX_TRIES):
        if chosen is None:
            return None
        cut = _write(found, target, redactor, chosen, max_bytes)
        if cut is not None and cut.size <= max_bytes:
            return cut
        events = _count(found, chosen)
        over = cut.size / max_bytes if cut is not None else 2.0
        chosen = _choose(found, events * TARGET / over)
    return None


def _packed_bytes_per_event(found: Survey) -> float:
    with found.path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    if not packed or not found.events:
        return FIRST_GUESS_BYTES
    return found.path.stat().st_size / found.events


def _count(found: Survey, span: tuple[float, float]) -> int:
    first, last = np.searchsorted(found.starts_us, span)
    return int(last - first)


def _choose(found: Survey, max_events: float) -> tuple[float, float] | None:
    """Choose the steps to keep: neighbours, so that they can be looked at as they ran.

    Of all groups of as many steps as fit, the one whose duration is nearest to as many median
    steps: start-up and outliers are what a figure of the steady state does not stand on. Where
    nothing marks a step, the middle of the trace.
    """
    steps = found.steps
    max_events = min(max_events, float(MAX_TRACE_EVENTS))
    if not len(steps):
        return _middle(found, int(max_events))
    edges = np.searchsorted(found.starts_us, steps)
    counts = edges[:, 1] - edges[:, 0]
    length = max(1, int(max_events / max(1.0, float(np.median(counts)))))
    length = min(length, len(steps))
    median = float(np.median(steps[:, 1] - steps[:, 0]))
    while length:
        begins, ends = steps[: len(steps) - length + 1, 0], steps[length - 1 :, 1]
        events = edges[length - 1 :, 1] - edges[: len(steps) - length + 1, 0]
        distance = np.abs(ends - begins - length * median)
        distance[events > max_events] = np.inf
        best = int(np.argmin(distance))
        if np.isfinite(distance[best]):
            return float(begins[best]), float(ends[best])
        length //= 2
    return None


def _middle(found: Survey, max_events: int) -> tuple[float, float] | None:
    count = len(found.starts_us)
    if max_events < 1 or not count:
        return None
    first = max(0, (count - max_events) // 2)
    last = min(count - 1, first + max_events - 1)
    return float(found.starts_us[first]), float(found.starts_us[last])


class _Writer:
    """Writes chosen events as they come; flows once both their ends have come."""

    def __init__(
        self, raw: BinaryIO, events: TraceRedactor, span: tuple[float, float], limit: int
    ) -> None:
        # The name in a gzip header would be the temporary file's; the time would be now.
        self._file = gzip.GzipFile("", "wb", LEVEL, raw, mtime=0)
        self._raw = raw
        self._redact = events
        self._begin, self._end = span
        self._limit = limit
        self._flows: dict[tuple[str, bytes], dict[str, bytes]] = {}
        self._encoder = msgspec.json.Encoder()
        self.count = 0
        self.unpacked = 0
        self.too_large = False

    def take(self, events: Sequence[WholeEvent]) -> None:
        """Write those of the events that lie in the chosen time, and names of rows."""
        if self.too_large:
            return
        lines: list[bytes] = []
        encode, redact = self._encoder.encode, self._redact
        starts = starts_us(events)
        inside = ((starts >= self._begin) & (starts < self._end)).tolist()
        for event, chosen in zip(events, inside, strict=True):
            phase = event.ph
            if not phase or not (chosen or phase == "M"):
                continue
            line = encode(redact.event(event))
            if phase in "stf":
                lines += self._flow(event, line)
            else:
                lines.append(line)
        if lines:
            self.put(b"".join(b",\n" + line for line in lines) if self.count else _joined(lines))
            self.count += len(lines)

    def _flow(self, event: WholeEvent, line: bytes) -> list[bytes]:
        key = (event.cat, bytes(event.id))
        ends = self._flows.setdefault(key, {})
        if event.ph == "t":
            return [line] if len(ends) == 2 else []
        ends[event.ph] = line
        if len(ends) < 2 or not all(ends.values()):
            return []
        pair = [ends["s"], ends["f"]]
        ends.update(s=b"", f=b"")
        return pair

    def close(self) -> None:
        """Write what gzip still holds."""
        self._file.close()

    def put(self, data: bytes) -> None:
        """Write bytes, and notice when there are too many."""
        self.unpacked += len(data)
        self._file.write(data)
        if self._raw.tell() > self._limit or self.unpacked > MAX_TRACE_BYTES:
            self.too_large = True


def _joined(lines: list[bytes]) -> bytes:
    return b",\n".join(lines)


def _write(
    found: Survey,
    target: Path,
    redactor: Redactor,
    span: tuple[float, float],
    max_bytes: int,
) -> Cut | None:
    """Write one try; None where it grew far too large on the way."""
    events = TraceRedactor(redactor)
    metadata = events.metadata(found.metadata)
    head = msgspec.json.encode(metadata)
    opening = b"{" if head == b"{}" else head[:-1] + b",\n"
    with target.open("wb") as raw:
        writer = _Writer(raw, events, span, 2 * max_bytes)
        writer.put(opening + b'"traceEvents": [\n')
        read_events(found.path, writer.take)
        writer.put(b"\n]}\n")
        writer.close()
    if writer.too_large:
        return None
    if not writer.count:
        raise UnusableData(
            "not-a-trace", f"{found.path.name} holds no trace events.", "leave this file out"
        )
    begin, end = span
    steps = found.steps
    kept = int(np.sum((steps[:, 0] >= begin) & (steps[:, 1] <= end))) if len(steps) else 0
    whole = math.isinf(begin)
    return Cut(target.stat().st_size, writer.unpacked, writer.count, kept, len(steps), whole)
