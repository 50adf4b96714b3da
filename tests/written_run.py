"""Runs written down as the collectors would: every figure in them is known beforehand."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from boundscope.collectors.records import Header, Manifest, Record, Spans, Window
from boundscope.profiler.run.manifest import write_manifest
from boundscope.profiler.run.status import process_start_ticks

MS = 1_000_000
BEGIN_NS = 10**18
STEPS = 60
STEP_MS = 10
LOADER_MS = 4


def steps(first: int, count: int, step_ms: int = STEP_MS, loader_ms: int = LOADER_MS) -> Spans:
    """Steps of one length, the first of them number `first`: a wait, a forward pass, the rest."""
    kind, start, duration = "", [], []
    for step in range(first, first + count):
        at = step * step_ms
        parts = (("l", loader_ms), ("f", 2), ("b", step_ms - loader_ms - 3), ("o", 1))
        for letter, length in parts:
            kind += letter
            start.append(at * MS)
            duration.append(length * MS)
            at += length
    return Spans(BEGIN_NS, kind, start, duration, [0] * len(kind))


def window(file: str, first: int = 30, count: int = 3, step_ms: int = STEP_MS) -> list[Record]:
    """A trace window over so many steps, and the mark of it in the loop."""
    start, length = first * step_ms * MS, count * step_ms * MS
    span = Spans(BEGIN_NS, "w", [start], [length], [0])
    begin = BEGIN_NS + start
    return [span, Window(0, begin, begin + length, first, count, file)]


def trace(first: int = 30, count: int = 3, step_ms: int = STEP_MS) -> dict[str, Any]:
    """What torch-profiler would write of that window: a matrix product in every step."""
    events: list[dict[str, Any]] = []
    for step in range(first, first + count):
        at = BEGIN_NS / 1e3 + step * step_ms * 1e3
        name = f"ProfilerStep#{step}"
        events.append(_event(name, "user_annotation", at, step_ms * 1e3))
        events.append(_event("aten::mm", "cpu_op", at + (LOADER_MS + 0.5) * 1e3, 1e3))
    return {"schemaVersion": 1, "baseTimeNanoseconds": 0, "traceEvents": events}


def _event(name: str, kind: str, ts: float, dur: float) -> dict[str, Any]:
    return {
        "ph": "X", "cat": kind, "name": name, "ts": ts, "dur": dur, "pid": 7, "tid": 7,
    }  # fmt: skip


def write_rank(folder: Path, rank: int, records: Sequence[Record], world: int = 1) -> Path:
    """Write what one rank recorded; returns its folder."""
    made = folder / f"rank-{rank}-{7 + rank}"
    made.mkdir(parents=True)
    pid = 7 + rank
    header = Header(1, "steps", "host", pid, 0, BEGIN_NS, rank=rank, world_size=world)
    (made / "steps.jsonl").write_bytes(msgspec.json.encode(header) + b"\n")
    append(made, *records)
    return made


def append(rank_folder: Path, *records: Record) -> None:
    """Write on, as a run does that goes on."""
    with (rank_folder / "steps.jsonl").open("ab") as file:
        for record in records:
            file.write(msgspec.json.encode(record) + b"\n")


def write_run(folder: Path, *records: Record, world: int = 1, **more: Any) -> Path:
    """Write a finished run, the same records for every rank; returns its folder."""
    for rank in range(world):
        write_rank(folder, rank, records or [steps(0, STEPS)], world)
    write_manifest(folder, manifest(folder.name, **more))
    return folder


def manifest(name: str, **more: Any) -> Manifest:
    """The manifest of a run that ended well."""
    known: dict[str, Any] = {
        "schema": 1,
        "id": name,
        "name": name,
        "command": ["python", "train.py"],
        "cwd": "/",
        "started_ns": BEGIN_NS,
        "status": "finished",
        "launcher_pid": 1,
        "launcher_start_ticks": 1,
        "host": "host",
        "version": "0",
        "ended_ns": BEGIN_NS + STEPS * STEP_MS * MS,
        "exit_code": 0,
    }
    return Manifest(**{**known, **more})


def going_on() -> dict[str, Any]:
    """What is different in the manifest of a run whose launcher, this process, is at work."""
    ticks = process_start_ticks(os.getpid())
    assert ticks is not None
    return {
        "status": "running",
        "exit_code": None,
        "ended_ns": 0,
        "launcher_pid": os.getpid(),
        "launcher_start_ticks": ticks,
        "host": socket.gethostname(),
    }


def with_window(folder: Path, text: str | None = None, **more: Any) -> Path:
    """A run of one rank with a trace window; `text` stands in the trace's file, or a good trace."""
    write_run(folder, steps(0, STEPS), *window("trace-0.json"), **more)
    content = json.dumps(trace()) if text is None else text
    (folder / "rank-0-7" / "trace-0.json").write_text(content)
    return folder
