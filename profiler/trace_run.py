"""Traces that nobody here recorded, as ranks of a run: one file, or a folder with one a rank."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..collectors.records import Manifest, Window
from .diagnosis import Warning_
from .errors import UnusableData
from .features import RankInput
from .run.load import RankData, Run, SpanTable, load_run
from .run.manifest import FILE_NAME
from .timeline import PHASES, Timeline
from .trace.device import device_time
from .trace.idle import preparation
from .trace.intervals import EMPTY, Union, clip, covered, merge, subtract, union
from .trace.many import read_traces
from .trace.startup import startup_end, warm_steps
from .trace.steps import find_steps
from .trace.table import Category, Int64, Trace

SUFFIXES = (".json", ".json.gz", ".pt.trace.json", ".pt.trace.json.gz")
_RANK = re.compile(r"(?:rank|worker|trainer)[-_]?(\d+)", re.IGNORECASE)
_LOADER = re.compile(r"enumerate\(DataLoader\)")


@dataclass(frozen=True)
class TraceRun(Run):
    """A run that has only traces; its manifest says no more than the files do."""


def trace_files(path: Path) -> list[Path]:
    """The trace files that `path` names: itself, or those in the folder, by name."""
    if path.is_file():
        return [path]
    return sorted(p for p in path.iterdir() if p.is_file() and p.name.endswith(SUFFIXES))


def traces_by_rank(path: Path) -> dict[int, Trace]:
    """One trace a rank, the one with most events, for the tables of `profiler.tables.trace_*`.

    `path`: a run folder, a trace, or a folder with those of several ranks. Traces that cannot be
    read are left out; UnusableData where none can. Empty for a run that recorded none.
    """
    if (path / FILE_NAME).exists():
        places = [
            (rank.rank, place)
            for rank in load_run(path).ranks
            for window in rank.windows
            if (place := rank.trace_path(window)) is not None
        ]
        ranks = {str(place): rank for rank, place in places}
        files = [place for _, place in places]
    else:
        ranks, files = {}, trace_files(path)
    found: dict[int, Trace] = {}
    for order, (place, trace) in enumerate(_read_all(files, [])):
        rank = ranks.get(str(place), rank_of(trace, place, order)[0])
        if rank not in found or len(trace.events) > len(found[rank].events):
            found[rank] = trace
    return found


def load_traces(paths: Sequence[Path]) -> tuple[TraceRun, list[RankInput], list[Warning_]]:
    """Read trace files as ranks; two files of one rank are windows of it.

    A file that cannot be read is named in a warning; UnusableData when none can.
    """
    warnings: list[Warning_] = []
    found: dict[int, list[Trace]] = {}
    world = 0
    for order, (path, trace) in enumerate(_read_all(paths, warnings)):
        rank, size = rank_of(trace, path, order)
        world = max(world, size)
        found.setdefault(rank, []).append(trace)
    inputs = [rank_input(rank, traces, world) for rank, traces in sorted(found.items())]
    warnings += how_found(inputs)
    manifest = Manifest(
        schema=1,
        id=paths[0].name,
        name=paths[0].name,
        command=[],
        cwd="",
        started_ns=min((int(i.line.start_ns[0]) for i in inputs), default=0),
        status="finished",
        launcher_pid=0,
        launcher_start_ticks=0,
        host="",
        version="",
    )
    run = TraceRun(paths[0].parent, manifest, "finished")
    # The ranks are known already; the folder holds no record files to find them in.
    run.__dict__["ranks"] = [item.data for item in inputs]
    for name in ("metrics", "processes", "gaps", "_node_files"):
        run.__dict__[name] = []
    run.__dict__["stacks"] = {}
    return run, inputs, warnings


def _read_all(paths: Sequence[Path], warnings: list[Warning_]) -> list[tuple[Path, Trace]]:
    traces, errors = [], []
    for path, result in zip(paths, read_traces(paths), strict=True):
        if isinstance(result, UnusableData):
            errors.append(result)
            warnings.append(Warning_(result.slug, f"{path.name}: {result.message}"))
        else:
            traces.append((path, result))
    if not traces and errors:
        raise errors[0]
    return traces


def rank_of(trace: Trace, path: Path, order: int) -> tuple[int, int]:
    """Rank and world size: as the trace says, else as the file is called, else in order."""
    if says_rank(trace):
        info = trace.metadata["distributedInfo"]
        world = info.get("world_size")
        return info["rank"], world if isinstance(world, int) else 0
    named = _RANK.search(path.name)
    return (int(named[1]) if named else order), 0


def says_rank(trace: Trace) -> bool:
    """Whether the trace itself says whose it is."""
    info = trace.metadata.get("distributedInfo")
    return isinstance(info, dict) and isinstance(info.get("rank"), int)


def rank_input(rank: int, traces: list[Trace], world: int) -> RankInput:
    """A rank of which there are only traces, each a window of it; `world` is 0 where not known."""
    empty = np.empty(0, np.int64)
    data = RankData(
        rank=rank,
        pid=0,
        host="",
        folder=Path(traces[0].path).parent,
        spans=SpanTable(np.empty(0, np.uint8), empty, empty, empty),
        sites=[],
        windows=[],
        process=None,
        memory=[],
        gaps=[],
        world_size=world or None,
    )
    longest = max(traces, key=lambda trace: len(trace.events))
    line = _timeline(rank, longest)
    windows = []
    for index, trace in enumerate(traces):
        starts, ends = _steps(trace)
        begin, end = int(starts[0]), int(ends[-1])
        window = Window(index=index, start_ns=begin, end_ns=end, first_step=0, steps=len(starts))
        windows.append((window, trace))
    return RankInput(data, line, windows)


def _timeline(rank: int, trace: Trace) -> Timeline:
    """The steps of a trace as a timeline: all steady, all profiled, phases as far as marked."""
    start, end = _steps(trace)
    whole = union(start, end)
    intervals: dict[str, Union] = dict.fromkeys(PHASES, EMPTY)
    intervals["loader"] = clip(_loader_waits(trace), int(start[0]), int(end[-1]))
    prepared = clip(preparation(trace), int(start[0]), int(end[-1]))
    intervals["preparation"] = subtract(prepared, intervals["loader"])
    intervals["rest"] = subtract(whole, merge(prepared, intervals["loader"]))
    phases = {
        name: covered(part, start, end).astype(np.float64) for name, part in intervals.items()
    }
    every = np.ones(len(start), np.bool_)
    return Timeline(rank, "trace", start, end, phases, intervals, every, every, int(start[0]))


def _steps(trace: Trace) -> tuple[Int64, Int64]:
    """Starts and ends of the steps after start-up.

    Where nothing marks a step, the time from the first to the last device work stands for one:
    what comes before is the start of the program (making a context, the first allocation).
    """
    steps = find_steps(trace)
    device = device_time(trace) if steps.source == "window" else None
    if device is None:
        steps = warm_steps(trace, steps)
        return steps.start_ns, steps.end_ns
    begin, end = device.window
    warm = startup_end(trace, begin, end)
    return np.array([warm if warm is not None and warm < end else begin]), np.array([end])


def how_found(inputs: Sequence[RankInput]) -> list[Warning_]:
    """Say so where steps are guessed, or where start-up was left out."""
    found: dict[str, str] = {}
    for trace in (trace for item in inputs for _, trace in item.traces):
        steps = find_steps(trace)
        if steps.source == "pattern":
            found["steps-by-pattern"] = (
                f"no step is marked: {len(steps)} repetitions of a sequence of ops or kernels are "
                "taken for steps, which may be layers or requests"
            )
        device = device_time(trace) if steps.source == "window" else None
        first = device.window[0] if device is not None else int(steps.start_ns[0])
        left_out = (int(_steps(trace)[0][0]) - first) * 1e-9
        if left_out > 0:
            found["start-up-left-out"] = f"{left_out:.1f} s of start-up are left out of the steps"
    return [Warning_(slug, text) for slug, text in found.items()]


def _loader_waits(trace: Trace) -> Union:
    events = trace.events
    names = np.fromiter(
        (_LOADER.search(name) is not None for name in trace.names), np.bool_, len(trace.names)
    )
    chosen = events.category == Category.LOADER
    if len(names):
        chosen |= names[events.name] & np.isin(
            events.category, (Category.ANNOTATION, Category.CPU_OP)
        )
    return union(events.start_ns[chosen], events.start_ns[chosen] + events.duration_ns[chosen])
