"""Traces that nobody here recorded, as ranks of a run: one file, or a folder with one a rank."""

from __future__ import annotations

import os
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
from .run.sound import sound_world_size
from .timeline import PHASES, Timeline
from .trace.device import device_time, device_work
from .trace.device_steps import device_steps
from .trace.heap import give_back_heap
from .trace.idle import preparation, spans_of
from .trace.intervals import EMPTY, Union, clip, covered, merge, subtract, total, union
from .trace.many import read_traces
from .trace.startup import startup_end, warm_steps
from .trace.steps import Steps, find_steps
from .trace.table import Category, Trace, looked_up

SUFFIXES = (".json", ".json.gz", ".pt.trace.json", ".pt.trace.json.gz")

OUTSIDE_SHARE = 0.02
"""Share of the device's busy time outside the steps before it is said: below half of the least
share that is claimed at all (MIN_SHARE in rules.base)."""

_RANK = re.compile(r"(?:rank|worker|trainer)[-_]?(\d+)", re.IGNORECASE)
_LOADER = re.compile(r"enumerate\(DataLoader\)")


@dataclass(frozen=True)
class TraceRun(Run):
    """A run that has only traces; its manifest says no more than the files do."""


def trace_files(path: Path) -> list[Path]:
    """The trace files that `path` names: itself, or those in the folder, by name."""
    if os.path.isfile(path):
        return [path]
    return sorted(p for p in path.iterdir() if p.name.endswith(SUFFIXES) and os.path.isfile(p))


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
        world_size=sound_world_size(world),
    )
    judged = [_judged(trace) for trace in traces]
    longest = max(judged, key=lambda one: len(one.trace.events))
    line = _timeline(rank, longest.trace, longest.steps)
    windows = []
    for index, one in enumerate(judged):
        begin, end = one.window
        count = len(one.steps)
        window = Window(index=index, start_ns=begin, end_ns=end, first_step=0, steps=count)
        windows.append((window, one.trace))
    give_back_heap()
    return RankInput(data, line, windows, [note for one in judged for note in _notes(one)])


def _timeline(rank: int, trace: Trace, steps: Steps) -> Timeline:
    """The steps of a trace as a timeline: all steady, all profiled, phases as far as marked."""
    start, end = steps.start_ns, steps.end_ns
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


@dataclass(frozen=True)
class _Judged:
    """A trace with the steps that are looked at; so much start-up before them is left out, ns."""

    trace: Trace
    steps: Steps
    left_out_ns: int

    @property
    def window(self) -> tuple[int, int]:
        """From the start of the first step to the end of the last."""
        return int(self.steps.start_ns[0]), int(self.steps.end_ns[-1])


def _judged(trace: Trace) -> _Judged:
    """The trace with its steps after start-up, as the device works them.

    Where nothing marks a step, the time from the first to the last device work stands for one:
    what comes before is the start of the program (making a context, the first allocation).
    """
    steps = find_steps(trace)
    device = device_time(trace) if steps.source == "window" else None
    if device is None:
        warm = warm_steps(trace, steps)
        left_out = int(warm.start_ns[0] - steps.start_ns[0])
        return _Judged(trace, device_steps(trace, warm), left_out)
    begin, end = device.window
    ready = startup_end(trace, begin, end)
    start = ready if ready is not None and ready < end else begin
    one = Steps("window", np.array([start]), np.array([end]), np.zeros(1, np.int64))
    return _Judged(trace, one, start - begin)


def how_found(inputs: Sequence[RankInput]) -> list[Warning_]:
    """Say so where steps are guessed, start-up was left out, or work lies outside the steps."""
    found = {note.slug: note for item in inputs for note in item.notes}
    return list(found.values())


def _notes(judged: _Judged) -> list[Warning_]:
    notes = []
    if judged.steps.source == "pattern":
        text = (
            f"no step is marked: {len(judged.steps)} repetitions of a sequence of ops or kernels "
            "are taken for steps, which may be layers or requests"
        )
        notes.append(Warning_("steps-by-pattern", text))
    left_out = judged.left_out_ns * 1e-9
    if left_out > 0:
        text = f"{left_out:.1f} s of start-up are left out of the steps"
        notes.append(Warning_("start-up-left-out", text))
    share = _outside(judged)
    if share > OUTSIDE_SHARE:
        text = (
            f"{share:.0%} of the device's time lies before the first or behind the last step: it "
            "counts in none of the shares"
        )
        notes.append(Warning_("work-outside-steps", text))
    return notes


def _outside(judged: _Judged) -> float:
    """Share of the device's busy time outside the steps; start-up that is left out is none."""
    begin, end = judged.window
    busy = spans_of(judged.trace, device_work(judged.trace))
    if judged.left_out_ns > 0 and len(busy[1]):
        busy = clip(busy, begin, max(end, int(busy[1][-1])))
    whole = total(busy)
    return 1 - total(clip(busy, begin, end)) / whole if whole else 0.0


def _loader_waits(trace: Trace) -> Union:
    events = trace.events
    names = np.fromiter(
        (_LOADER.search(name) is not None for name in trace.names), np.bool_, len(trace.names)
    )
    chosen = events.of(Category.LOADER)
    if len(names):
        chosen |= looked_up(names, events.name) & events.of(Category.ANNOTATION, Category.CPU_OP)
    return union(events.start_ns[chosen], events.start_ns[chosen] + events.duration_ns[chosen])
