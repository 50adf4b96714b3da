"""From a run folder to a `Run`: everything that was collected, as plain tables."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from ...collectors.pyspy import read_part
from ...collectors.records import (
    Frame,
    Gap,
    Manifest,
    Memory,
    Process,
    Record,
    Sample,
    Site,
    SpanKind,
    Spans,
    Stack,
    Stacks,
    Window,
)
from .files import RecordFile, read_records
from .manifest import read_manifest, read_members
from .sound import sound_world_size
from .status import Status, effective_status

RANK_FOLDER = re.compile(r"rank-(\d+)-(\d+)(?:-\d+)?")
"""Rank and pid; a third number where one process became another program, pid and all."""

EARLY_S = 1.0
"""Records come four times a second, and the end of the run takes up to half a second."""
EARLY_EFFECT = (
    "what the rank did after that is not known: a full disk, or an end without exit handlers"
)

Int64 = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class SpanTable:
    """Spans of the training thread, sorted by start. Times are ns since the epoch."""

    kind: Bytes  # ord of the `SpanKind` letter
    start_ns: Int64
    duration_ns: Int64
    detail: Int64

    def of(self, *kinds: str) -> SpanTable:
        """Only the spans of the given kinds."""
        return self.select(np.isin(self.kind, [ord(kind) for kind in kinds]))

    def select(self, mask: npt.NDArray[np.bool_]) -> SpanTable:
        """Only the spans where `mask` is True."""
        return SpanTable(
            self.kind[mask], self.start_ns[mask], self.duration_ns[mask], self.detail[mask]
        )

    @property
    def end_ns(self) -> Int64:
        """End of each span."""
        return self.start_ns + self.duration_ns

    def __len__(self) -> int:
        return len(self.kind)


@dataclass(frozen=True)
class StackTable:
    """Stack samples: per entry a stack (frame ids, outermost first), a count, and whose it is."""

    frames: dict[int, Frame]
    stacks: dict[int, list[int]]
    samples: list[Stacks]

    def __bool__(self) -> bool:
        return bool(self.samples)

    def plus(self, other: StackTable) -> StackTable:
        """Both together; the other's ids, which count within its own file, begin after these."""
        frame, stack = max(self.frames, default=-1) + 1, max(self.stacks, default=-1) + 1
        moved = {id_ + frame: Frame(id_ + frame, f.function, f.file, f.line)
                 for id_, f in other.frames.items()}  # fmt: skip
        stacks = {id_ + stack: [f + frame for f in ids] for id_, ids in other.stacks.items()}
        samples = [
            msgspec.structs.replace(sample, counts=[(id_ + stack, n) for id_, n in sample.counts])
            for sample in other.samples
        ]
        return StackTable(self.frames | moved, self.stacks | stacks, self.samples + samples)


@dataclass(frozen=True)
class RankData:
    """What one training process recorded."""

    rank: int
    pid: int
    host: str
    folder: Path
    spans: SpanTable
    sites: list[Site]
    windows: list[Window]
    process: Process | None
    memory: list[Memory]
    gaps: list[Gap]
    world_size: int | None = None
    closed: bool = False

    @property
    def steps_seen(self) -> int:
        """How many optimizer steps were recorded."""
        marks = (SpanKind.OPTIMIZER, SpanKind.SKIPPED, SpanKind.STEP)
        return len(self.spans.of(*marks))

    def site(self, what: str, index: int) -> Site | None:
        """The place that spans of a kind call `index`."""
        for site in self.sites:
            if site.what == what and site.index == index:
                return site
        return None

    def trace_path(self, window: Window) -> Path | None:
        """Where the window's trace lies: compressed after the run, plain before.

        Only what lies in the rank's own folder: a run that somebody sent may name any file.
        """
        if not window.file or Path(window.file).name != window.file:
            return None
        home = self.folder.parent.resolve() / self.folder.name
        for name in (window.file + ".gz", window.file):
            path = self.folder / name
            if os.path.isfile(path) and path.resolve().parent == home:
                return path
        return None


@dataclass(frozen=True)
class MetricTable:
    """Samples of one collector on one host: metric name to (times in ns, values)."""

    collector: str
    host: str
    series: dict[str, tuple[Int64, Float]]


@dataclass(frozen=True)
class Run:
    """One recorded run. Files are read when they are first asked for."""

    folder: Path
    manifest: Manifest
    status: Literal["running", "finished", "failed", "killed"]
    skipped_lines: list[str] = field(default_factory=list)

    @cached_property
    def ranks(self) -> list[RankData]:
        """Training processes by rank.

        Where some processes took optimizer steps, those that only iterated a loader (a data
        server, a preprocessing child) are not ranks.
        """
        trained = [rank for rank in self._recorded if rank.steps_seen]
        usable = trained or [rank for rank in self._recorded if len(rank.spans)]
        return sorted(_latest_by_rank(usable), key=lambda rank: rank.rank)

    @cached_property
    def _recorded(self) -> list[RankData]:
        """Every process that recorded anything, a rank or not."""
        folders = sorted(self.folder.glob("rank-*-*"))
        return [load_rank(path) for path in folders if RANK_FOLDER.fullmatch(path.name)]

    @property
    def world_size(self) -> int:
        """Ranks of the job as it says itself, at least those that were recorded."""
        said = [rank.world_size for rank in self.ranks if rank.world_size]
        return max([*said, len(self.ranks)])

    @property
    def lost_ranks(self) -> bool:
        """Whether collectors beside saw ranks at work, and no rank's folder is here."""
        seen = any(name.startswith("rank.") for table in self.metrics for name in table.series)
        return seen and not self._recorded

    @cached_property
    def metrics(self) -> list[MetricTable]:
        """Samples of the collectors beside the training."""
        tables = []
        for file in self._node_files:
            series = _series(file.records)
            if series and file.header is not None:
                tables.append(MetricTable(file.header.collector, file.header.host, series))
        return tables

    @cached_property
    def stacks(self) -> dict[int, StackTable]:
        """Stack samples per rank process (pid), from outside or from inside."""
        found = _StackTables()
        inside = [read_records(path) for path in self.folder.glob("rank-*-*/stacks*.jsonl")]
        for file in [*self._node_files, *inside]:
            found.add(file.records, "" if file.header is None else file.header.host)
        for path in sorted(self.folder.glob("node-*/stacks-*.part")):  # the launcher was killed
            found.add(read_part(path), path.parent.name.removeprefix("node-"))
        return found.tables

    @cached_property
    def processes(self) -> list[Process]:
        """Python processes that imported torch, trained or not."""
        return [r for file in self._node_files for r in file.records if isinstance(r, Process)]

    @cached_property
    def gaps(self) -> list[Gap]:
        """Everything that could not be collected, from the manifest and from every file."""
        gaps = list(self.manifest.gaps)
        for part in read_members(self.folder):
            gaps += part.gaps
        for file in self._node_files:
            gaps += [record for record in file.records if isinstance(record, Gap)]
        for rank in self._recorded:
            gaps += rank.gaps
        for path in self.folder.glob("rank-*-*/stacks*.jsonl"):
            gaps += [r for r in read_records(path).records if isinstance(r, Gap)]
        return gaps + self._ended_early()

    def _ended_early(self) -> list[Gap]:
        """Ranks whose records stop before the run did, without the line that a good end leaves."""
        if self.status not in ("finished", "failed"):
            return []
        gaps = []
        for rank in self.ranks:
            last_ns = int(rank.spans.end_ns.max(initial=0))
            missing_s = (self.manifest.ended_ns - last_ns) * 1e-9
            if not rank.closed and not rank.gaps and missing_s > EARLY_S:
                detail = f"rank {rank.rank}'s records end {missing_s:.1f} s before the run does"
                gaps.append(Gap(last_ns, "inside", "crashed", detail, EARLY_EFFECT))
        return gaps

    @cached_property
    def _node_files(self) -> list[RecordFile]:
        return [read_records(path) for path in sorted(self.folder.glob("node-*/*.jsonl"))]


def load_run(folder: Path) -> Run:
    """Open a run folder; raises UnusableData when it is none."""
    manifest = read_manifest(folder)
    return Run(folder, manifest, _worst_status(folder, manifest))


def _worst_status(folder: Path, manifest: Manifest) -> Status:
    """The run's status; a job is as good as the worst of its launchers' commands."""
    status = effective_status(manifest, folder)
    if status != "finished":
        return status
    others = {part.status for part in read_members(folder)}
    if "killed" in others:
        return "killed"
    return "failed" if "failed" in others else status


def _latest_by_rank(ranks: list[RankData]) -> list[RankData]:
    """One process per rank: after an elastic restart, the one that recorded most steps."""
    best: dict[int, RankData] = {}
    for rank in ranks:
        known = best.get(rank.rank)
        if known is None or rank.steps_seen > known.steps_seen:
            best[rank.rank] = rank
    return list(best.values())


def load_rank(folder: Path) -> RankData:
    """Read what one training process recorded in its folder `rank-<n>-<pid>`."""
    name = RANK_FOLDER.fullmatch(folder.name)
    rank, pid = (int(name[1]), int(name[2])) if name else (0, 0)
    columns = _SpanColumns()
    file = read_records(folder / "steps.jsonl", columns.take)
    header = file.header
    records = file.records
    return RankData(
        rank=rank if header is None or header.rank is None else header.rank,
        pid=pid if header is None else header.pid,
        host="" if header is None else header.host,
        folder=folder,
        spans=columns.table(),
        sites=[record for record in records if isinstance(record, Site)],
        windows=[record for record in records if isinstance(record, Window)],
        process=next((r for r in reversed(records) if isinstance(r, Process)), None),
        memory=[record for record in records if isinstance(record, Memory)],
        gaps=[record for record in records if isinstance(record, Gap)],
        world_size=None if header is None else sound_world_size(header.world_size),
        closed=file.closed,
    )


class _SpanColumns:
    """Gathers the spans of the training thread, 25 bytes each."""

    def __init__(self) -> None:
        self._kinds: list[Bytes] = []
        self._starts: list[Int64] = []
        self._durations: list[Int64] = []
        self._details: list[Int64] = []

    def take(self, record: Record) -> bool:
        """Take spans, and only them; those whose columns differ in length are damaged."""
        if not isinstance(record, Spans):
            return False
        kind = np.frombuffer(record.kind.encode(), np.uint8)
        start = np.asarray(record.start, np.int64) + record.base_ns
        duration = np.asarray(record.duration, np.int64)
        detail = np.asarray(record.detail, np.int64)
        keep = np.asarray(record.thread or [0] * len(kind)) == 0
        if not len(kind) == len(start) == len(duration) == len(detail) == len(keep):
            return False
        self._kinds.append(kind[keep])
        self._starts.append(start[keep])
        self._durations.append(duration[keep])
        self._details.append(detail[keep])
        return True

    def table(self) -> SpanTable:
        """All of them, sorted by start, the longer one first."""
        if not self._kinds:
            empty = np.empty(0, np.int64)
            return SpanTable(np.empty(0, np.uint8), empty, empty, empty)
        start, duration = np.concatenate(self._starts), np.concatenate(self._durations)
        order = np.lexsort((-duration, start))
        kind, detail = np.concatenate(self._kinds), np.concatenate(self._details)
        return SpanTable(kind[order], start[order], duration[order], detail[order])


def _series(records: Iterable[Record]) -> dict[str, tuple[Int64, Float]]:
    times: dict[str, list[int]] = defaultdict(list)
    values: dict[str, list[float]] = defaultdict(list)
    for record in records:
        if isinstance(record, Sample):
            for name, value in record.values.items():
                times[name].append(record.time_ns)
                values[name].append(value)
    return {
        name: (np.asarray(times[name], np.int64), np.asarray(values[name], np.float64))
        for name in times
    }


class _StackTables:
    """Stack samples per training process (pid), file after file.

    Two hosts may give one pid to two processes: the one with more samples is kept.
    """

    def __init__(self) -> None:
        self.tables: dict[int, StackTable] = {}
        self._hosts: dict[int, str] = {}

    def add(self, records: Sequence[Record], host: str) -> None:
        """Take the samples of one file, written on `host`."""
        by_pid: dict[int, list[Stacks]] = defaultdict(list)
        for record in records:
            if isinstance(record, Stacks):
                by_pid[record.pid].append(record)
        if not by_pid:
            return
        frames = {record.id: record for record in records if isinstance(record, Frame)}
        stacks = {record.id: record.frames for record in records if isinstance(record, Stack)}
        for pid, samples in by_pid.items():
            table, known = StackTable(frames, stacks, samples), self.tables.get(pid)
            if known is not None and self._hosts[pid] == host:
                self.tables[pid] = known.plus(table)
            elif known is None or len(samples) > len(known.samples):
                self.tables[pid], self._hosts[pid] = table, host
