"""The allocator's events of a trace (`profile_memory=True`): read on their own, when asked for.

Kineto writes one instant named "[memory]" for each block that is allocated or freed. No other
figure needs them, so that the reader leaves them out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from .notes import Notes
from .source import blocks
from .table import Int32, Int64, Trace

_NAME = b'"[memory]"'
_REST = re.compile(rb"[^{}]*\{[^{}]*\}[^{}]*\}")
_MAX_EVENT_BYTES = 4096
_EPOCH_NS = 10**18
_MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

DEVICE_TYPES = {0: "cpu", 1: "cuda", 6: "hip", 9: "xla", 12: "xpu", 13: "mps", 20: "privateuse"}
"""c10::DeviceType, by its numbers."""


@dataclass(frozen=True)
class MemoryEvents:
    """Blocks allocated and freed, in order of time; all columns have one length.

    `time_ns` as in `Events.start_ns`. `bytes` is negative for a block that is freed. `allocated`
    and `reserved` are the allocator's totals after it; these and `address` are -1 where a trace
    does not have them (2021). `device_type` as in `DEVICE_TYPES`, `device` the ordinal, -1 for the
    CPU. `thread` is an index into the trace's threads, -1 where it recorded nothing else.
    """

    time_ns: Int64
    bytes: Int64
    allocated: Int64
    reserved: Int64
    address: Int64
    device_type: Int32
    device: Int32
    thread: Int32

    def __len__(self) -> int:
        return len(self.time_ns)


class _Args(msgspec.Struct):
    bytes: int = msgspec.field(name="Bytes")
    device_type: int = msgspec.field(default=0, name="Device Type")
    device: int = msgspec.field(default=-1, name="Device Id")
    allocated: int = msgspec.field(default=-1, name="Total Allocated")
    reserved: int = msgspec.field(default=-1, name="Total Reserved")
    address: int = msgspec.field(default=-1, name="Addr")


class _Instant(msgspec.Struct):
    ts: float
    args: _Args
    pid: int | str = ""
    tid: int | str = ""
    name: str = ""


def read_memory_events(trace: Trace) -> MemoryEvents:
    """Read the allocator's events of a trace's file; empty where none are recorded.

    Events that are damaged are left out. Raises UnusableData where the file is gone.
    """
    decoder = msgspec.json.Decoder(_Instant, strict=False)
    threads = {(thread.pid, thread.tid): index for index, thread in enumerate(trace.threads)}
    base = _base_ns(trace)
    rows = []
    for raw in _instants(blocks(Path(trace.path), Notes())):
        try:
            event = decoder.decode(raw)
        except _MALFORMED:
            continue
        row = _row(event, threads, base) if event.name == "[memory]" else None
        if row is not None:
            rows.append(row)
    table = np.array(rows, np.int64).reshape(-1, 8)
    table = table[np.argsort(table[:, 0], kind="stable")]
    return MemoryEvents(
        time_ns=table[:, 0],
        bytes=table[:, 1],
        allocated=table[:, 2],
        reserved=table[:, 3],
        address=table[:, 4],
        device_type=table[:, 5].astype(np.int32),
        device=table[:, 6].astype(np.int32),
        thread=table[:, 7].astype(np.int32),
    )


def _row(event: _Instant, threads: dict[tuple[str, str], int], base: int) -> tuple[int, ...] | None:
    if not abs(event.ts) < 9e15:  # nor a number that is none
        return None
    args = event.args
    time_ns = round(event.ts * 1000)
    row = (
        time_ns + base if time_ns < _EPOCH_NS else time_ns,
        args.bytes,
        args.allocated,
        args.reserved,
        args.address,
        args.device_type,
        args.device,
        threads.get((str(event.pid), str(event.tid)), -1),
    )
    fits = all(abs(value) < 2**63 for value in row) and all(abs(v) < 2**31 for v in row[5:])
    return row if fits else None


def _base_ns(trace: Trace) -> int:
    """The zero of the file's time stamps, ns since 1970; 0 where the trace's is the file's own."""
    if not trace.epoch:
        return 0
    base: Any = trace.metadata.get("baseTimeNanoseconds", 0)
    try:
        return int(base)
    except (TypeError, ValueError, OverflowError):
        return 0


def _instants(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The bytes of each event that has the name, whole."""
    held, start = b"", 0
    for piece in pieces:
        buffer = held + piece
        safe = len(buffer) - _MAX_EVENT_BYTES
        yield from _found(buffer, start, safe)
        held = buffer[max(0, safe - _MAX_EVENT_BYTES) :]
        start = max(0, min(safe, _MAX_EVENT_BYTES))
    yield from _found(held, start, len(held))


def _found(buffer: bytes, start: int, stop: int) -> Iterator[bytes]:
    at = buffer.find(_NAME, start)
    while 0 <= at < stop:
        head = buffer.rfind(b"{", 0, at)
        rest = _REST.match(buffer, at + len(_NAME), at + _MAX_EVENT_BYTES)
        if head >= 0 and buffer.find(b"}", head, at) >= 0:  # the arguments stand before the name
            head = buffer.rfind(b"{", 0, head)
            end = buffer.find(b"}", at) + 1
        else:
            end = rest.end() if rest else 0
        if head >= 0 and end:
            yield buffer[head:end]
        at = buffer.find(_NAME, at + len(_NAME))
