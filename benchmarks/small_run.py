"""A run folder written by hand that has something of everything, for what damages run folders."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from boundscope.collectors.records import (
    Closed,
    Frame,
    Gap,
    Header,
    Manifest,
    Memory,
    Process,
    Record,
    Sample,
    Site,
    Spans,
    Stack,
    Stacks,
    Window,
)
from boundscope.profiler.diagnose import ROOFS_FILE, diagnose_run
from boundscope.profiler.library import DIAGNOSIS_FILE
from boundscope.profiler.machine.roofs import Roofs
from boundscope.profiler.run.manifest import write_manifest

MS = 1_000_000
BEGIN_NS = 10**18
STEPS = 80
STEP_MS = 12
WINDOW_STEPS = range(40, 45)
HOST = "host"


def write_run(folder: Path) -> Path:
    """Write a finished run of two ranks into `folder`, its diagnosis too; return the folder."""
    for rank in (0, 1):
        _write_rank(folder / f"rank-{rank}-{7 + rank}", rank)
    _write_node(folder / f"node-{HOST}")
    manifest = _manifest()
    write_manifest(folder, manifest)
    (folder / "node-other").mkdir()
    other = msgspec.structs.replace(manifest, host="other", gaps=[_gap("gpu")])
    (folder / "node-other" / "launcher-9.json").write_bytes(msgspec.json.encode(other))
    (folder / ROOFS_FILE).write_bytes(msgspec.json.encode(_roofs()))
    (folder / DIAGNOSIS_FILE).write_bytes(msgspec.json.encode(diagnose_run(folder)))
    return folder


def _manifest() -> Manifest:
    return Manifest(
        schema=1,
        id="0123abcd",
        name="small",
        command=["python", "train.py", "--lr", "0.1"],
        cwd="/home/somebody/project",
        started_ns=BEGIN_NS - 500 * MS,
        status="finished",
        launcher_pid=6,
        launcher_start_ticks=1,
        host=HOST,
        version="0.1.0",
        child_pid=7,
        ended_ns=BEGIN_NS + STEPS * STEP_MS * MS,
        exit_code=0,
        environment={
            "python": {"python": "3.11.4", "kernel": "5.15"},
            "hardware": {"cpu": "Some CPU", "cpus_logical": "8", "memory_bytes": "68719476736"},
            "limits": {"cores": "8"},
            "git": {"commit": "0123abcd", "dirty": "no"},
        },
        gaps=[_gap("gpu")],
        job="master host:29500",
    )


def _gap(collector: str) -> Gap:
    return Gap(BEGIN_NS, collector, "no-driver", "libnvidia-ml.so is not there", "no GPU figures")


def _roofs() -> Roofs:
    return Roofs(
        flops={"fp32": 1e11, "fp64": 5e10},
        bandwidth={"dram_copy": 2e10, "l2": 1e11},
        cache_bytes={"l1": 32 << 10, "l2": 1 << 20},
        dispatch_ns=900.0,
        threads=4,
        source="measured",
        device="Some CPU",
        flops_1={"fp32": 3e10},
        key="0123456789ab",
        notes=["the machine was busy"],
    )


def _write(path: Path, header: Header, records: Sequence[Record]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (msgspec.json.encode(record) + b"\n" for record in [header, *records, Closed(BEGIN_NS)])
    path.write_bytes(b"".join(lines))


def _header(collector: str, pid: int, rank: int | None = None) -> Header:
    world = None if rank is None else 2
    return Header(1, collector, HOST, pid, 0, BEGIN_NS, "0.1.0", rank, rank, world)


def _write_rank(folder: Path, rank: int) -> None:
    parts = (("l", 5 + rank), ("c", 1), ("f", 2), ("b", 3 - rank), ("o", 1))
    spans = [_spans(first, parts) for first in range(0, STEPS, 20)]
    start = BEGIN_NS + WINDOW_STEPS[0] * STEP_MS * MS
    length = len(WINDOW_STEPS) * STEP_MS * MS
    project = "/home/somebody/project/train.py"
    facts = {"num_workers": "2", "batch_size": "8", "fetch_file": project}
    process = Process(7 + rank, 6, "3.11.4", "2.13.0", ["train.py", "--lr", "0.1"], _facts())
    records: list[Record] = [
        process,
        Site("loader", 0, project, 12, "main", facts),
        Site("optimizer", 0, project, 20, "main", {"class": "SGD"}),
        Site("save", 0, project, 30, "save"),
        *spans,
        Spans(start, "wps", [0, 0, -20 * MS], [length, MS, MS], [0, 0, 0]),
        Window(0, start, start + length, WINDOW_STEPS[0], len(WINDOW_STEPS), "trace-0.json", 15),
        Memory(BEGIN_NS, 0, 1 << 30, 2 << 30, 3 << 29, 0, 0),
        Memory(BEGIN_NS + 500 * MS, 0, 1 << 31, 5 << 29, 1 << 31, 1, 0),
    ]
    _write(folder / "steps.jsonl", _header("steps", 7 + rank, rank), records)
    trace = json.dumps(_trace(rank)).encode()
    (folder / "trace-0.json.gz").write_bytes(gzip.compress(trace, 1, mtime=0))
    inside = [*_stacks(7 + rank, rank), _gap("stacks")]
    _write(folder / "stacks.jsonl", _header("stacks", 7 + rank, rank), inside)


def _facts() -> dict[str, str]:
    return {"threads": "4", "backend": "cpu", "executable": "/usr/bin/python3"}


def _spans(first: int, parts: Sequence[tuple[str, int]]) -> Spans:
    kind, start, duration = "", [], []
    for step in range(first, first + 20):
        at = step * STEP_MS
        for letter, length in parts:
            kind += letter
            start.append(at * MS)
            duration.append(length * MS)
            at += length if letter != "c" else 0
    return Spans(BEGIN_NS, kind, start, duration, [0] * len(kind))


def _trace(rank: int) -> dict[str, Any]:
    events: list[dict[str, Any]] = []
    shapes = {"Input Dims": [[64, 64], [64, 64]], "Input type": ["float", "float"]}
    for step in WINDOW_STEPS:
        at = (BEGIN_NS + step * STEP_MS * MS) / 1e3
        events += [
            _event(f"ProfilerStep#{step}", "user_annotation", at, STEP_MS * 1e3),
            _event("aten::mm", "cpu_op", at + 6_500, 900, External=step, **shapes),
            _event("gloo:all_reduce", "user_annotation", at + 9_000, 300 + 50 * rank),
        ]
    return {"schemaVersion": 1, "baseTimeNanoseconds": 0, "traceEvents": events}


def _event(name: str, kind: str, ts: float, dur: float, **args: Any) -> dict[str, Any]:
    event = {"ph": "X", "cat": kind, "name": name, "ts": ts, "dur": dur, "pid": 7, "tid": 7}
    return {**event, "args": args} if args else event


def _stacks(pid: int, rank: int) -> list[Record]:
    project = "/home/somebody/project/train.py"
    torch = "/usr/lib/python3/site-packages/torch/utils/data/dataloader.py"
    records: list[Record] = [
        Frame(0, "main", project, 12),
        Frame(1, "__next__", torch, 700),
        Frame(2, "augment", project, 40),
        Stack(0, [0, 1]),
        Stack(1, [0, 1, 2]),
    ]
    for second in range(STEPS * STEP_MS // 1_000 + 1):
        begin = BEGIN_NS + second * 1_000 * MS
        end = begin + 1_000 * MS
        records.append(
            Stacks(begin, end, 50 * MS, pid, pid, [(0, 12), (1, 8)], "rank", "MainThread", rank)
        )
    return records


def _write_node(folder: Path) -> None:
    header = _header
    samples = {
        "host": {"host.cpu_percent": 60.0, "job.cpu_cores": 2.0, "host.cpu.0.percent": 60.0},
        "storage": {"disk.sda.busy_percent": 5.0, "disk.sda.read_bytes_per_s": 1e6},
        "network": {"net.eth0.sent_bytes_per_s": 1e5},
    }
    for collector, values in samples.items():
        taken = [
            Sample(BEGIN_NS + second * 1_000 * MS, {k: v + second for k, v in values.items()})
            for second in range(12)
        ]
        _write(folder / f"{collector}.jsonl", header(collector, 6), [*taken, _gap(collector)])
    _write(folder / "stacks.jsonl", header("stacks", 6), _stacks(7, 0))
    process = Process(8, 6, "3.11.4", "2.13.0", ["train.py"], _facts())
    _write(folder / "process-8.jsonl", header("process", 8), [process, _gap("inside")])
    part = folder / "stacks-8-rank-1-50000000.part"
    part.write_text(json.dumps(py_spy_recording()))


def py_spy_recording() -> list[dict[str, Any]]:
    """A recording as py-spy writes it: one thread in two frames, 4 s long."""
    place = {"filename": "/home/somebody/project/train.py", "line": 12}
    events = [("thread (0x8): MainThread", {}, 0, 4_000_000), ("main", place, 0, 4_000_000)]
    events += [("augment", place, n * 200_000, n * 200_000 + 100_000) for n in range(20)]
    begins = [(at, 0, name, args, "B") for name, args, at, _ in events]
    ends = [(end, 1, name, args, "E") for name, args, _, end in reversed(events)]
    return [
        {"name": name, "ph": phase, "tid": 8, "ts": at, "args": args}
        for at, _, name, args, phase in sorted(begins + ends, key=lambda item: item[:2])
    ]
