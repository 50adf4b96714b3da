"""What the tests of the rules share: recordings written by hand, and ranks made of ops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from boundscope.collectors.records import (
    Frame,
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
)
from boundscope.profiler.diagnose import diagnose_features, diagnose_run
from boundscope.profiler.diagnosis import SLOTS, Diagnosis, Finding
from boundscope.profiler.features import Features, RankFeatures
from boundscope.profiler.machine.roofs import Roofs
from boundscope.profiler.run.load import RankData, Run, SpanTable, StackTable
from boundscope.profiler.timeline import PHASES, Timeline
from boundscope.profiler.trace.device import DeviceTime
from boundscope.profiler.trace.device_division import DeviceWindow
from boundscope.profiler.trace.host import OpTime
from boundscope.profiler.trace.intervals import EMPTY

S = 1_000_000_000
MS = 1_000_000
START = 1_000 * S

Span = tuple[str, int, int, int]
"""Kind, start (ns from the run's start), duration (ns), detail."""


def write(path: Path, collector: str, records: Sequence[Record], rank: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pid = 100 + (rank or 0)
    header = Header(
        1, collector, "h", pid, START, START, rank=rank, world_size=1 if rank is None else rank + 1
    )
    lines = [msgspec.json.encode(record) for record in [header, *records]]
    path.write_bytes(b"\n".join(lines) + b"\n")


class Recording:
    """A run folder: one rank's spans, metrics a second, stack samples a second; with `ranks` > 1
    the others do the same as the first."""

    def __init__(self, folder: Path, cores: int = 4) -> None:
        self.folder = folder
        self.cores = cores
        self.ranks = 1
        self.threads = 2
        self.spans: list[Span] = []
        self.sites: list[Site] = []
        self.memory: list[Memory] = []
        self.samples: list[Sample] = []
        self.frames: list[Record] = []
        self.stacks: list[Record] = []

    def steps(self, durations_ms: Sequence[float], input_ms: float = 0.0) -> None:
        """Steps one after the other: the wait for a batch, work, the optimizer's millisecond."""
        now = self.spans[-1][1] + self.spans[-1][2] if self.spans else 0
        for duration in durations_ms:
            if input_ms:
                self.spans.append(("l", now, int(input_ms * MS), 0))
            now += int(duration * MS)
            self.spans.append(("o", now - MS, MS, 0))

    @property
    def seconds(self) -> int:
        return max((start + length for _, start, length, _ in self.spans), default=0) // S

    def metric(self, name: str, *values: float) -> None:
        """One value a second; a single one is held to the end."""
        every = list(values) if len(values) > 1 else list(values) * (self.seconds + 1)
        for second, value in enumerate(every):
            self.samples.append(Sample(START + second * S + S // 2, {name: value}))

    def sampled(self, count: int, *frames: tuple[str, str, int], **who: object) -> None:
        """`count` stack samples in each second, outermost frame first."""
        first = len(self.frames) + 1
        ids = list(range(first, first + len(frames)))
        for number, (file, function, line) in zip(ids, frames, strict=True):
            self.frames.append(Frame(number, function, file, line))
        stack = len(self.stacks) + 1
        self.stacks.append(Stack(stack, ids))
        for second in range(self.seconds):
            begin = START + second * S
            self.stacks.append(
                Stacks(
                    begin,
                    begin + S,
                    50 * MS,
                    **{  # type: ignore[arg-type]
                        "pid": 100,
                        "thread": 100,
                        "thread_name": "MainThread",
                        "rank": 0,
                        **who,
                    },
                    counts=[(stack, count)],
                )
            )

    def diagnose(self) -> Diagnosis:
        environment = {"limits": {"cores": str(self.cores)}}
        manifest = Manifest(
            1, "id", "n", [], "", START, "finished", 0, 0, "h", "", environment=environment
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))
        kinds, starts, durations, details = zip(
            *sorted(self.spans, key=lambda s: s[1]), strict=True
        )
        spans = Spans(START, "".join(kinds), list(starts), list(durations), list(details))
        for rank in range(self.ranks):
            pid = 100 + rank
            process = Process(pid, 1, "3.11", "2.13", facts={"threads": str(self.threads)})
            write(
                self.folder / f"rank-{rank}-{pid}" / "steps.jsonl",
                "inside",
                [process, spans, *self.sites, *self.memory],
                rank=rank,
            )
        write(self.folder / "node-h" / "host.jsonl", "host", self.samples)
        write(self.folder / "node-h" / "stacks.jsonl", "stacks", [*self.frames, *self.stacks])
        return diagnose_run(self.folder)


def named(diagnosis: Diagnosis, id_: str) -> Finding:
    found = [finding for finding in diagnosis.findings if finding.id == id_]
    assert found, [finding.id for finding in diagnosis.findings]
    return found[0]


def value(finding: Finding, quantity: str) -> float:
    return next(e.value for e in finding.evidence if e.quantity == quantity)


def loader_site(**facts: str) -> list[Site]:
    given = {"num_workers": "0", "batch_size": "8", "dataset": "Images", **facts}
    return [Site("loader", 0, "/u/train.py", 9, "main"), Site("loader-facts", 0, facts=given)]


FETCH = ("/x/site-packages/torch/utils/data/_utils/fetch.py", "fetch", 54)
LOADER = ("/x/site-packages/torch/utils/data/dataloader.py", "__next__", 700)
WORKER = ("/x/site-packages/torch/utils/data/_utils/worker.py", "_worker_loop", 374)
QUEUE = ("/usr/lib/python3.11/multiprocessing/queues.py", "get", 113)


NONE = np.empty(0, np.int64)
PIXELS = 16 * 1024 * 1024
TENSOR = 4.0 * PIXELS
GPU = Roofs(
    flops={"fp32": 20e12, "tf32": 150e12, "bf16": 300e12},
    bandwidth={"dram": 2e12},
    source="catalogue",
)


def rank_of(ops: list[OpTime], slot: str, *, device: bool = False, **more: Any) -> RankFeatures:
    steps, step_ns = 60, 100 * MS
    start = np.arange(steps, dtype=np.int64) * step_ns
    shares = {name: float(name == slot) for name in SLOTS}
    phases = {phase: np.zeros(steps) for phase in PHASES}
    line = Timeline(
        rank=0,
        source="optimizer",
        start_ns=start,
        end_ns=start + step_ns,
        phase_ns={**phases, "forward": np.full(steps, float(step_ns))},
        phase_intervals=dict.fromkeys(PHASES, (NONE, NONE)),
        steady=np.ones(steps, np.bool_),
        profiled=np.zeros(steps, np.bool_),
        first_ns=0,
    )
    window = DeviceWindow(0, 1, {}, {}, DeviceTime((0, 1), 1, EMPTY, EMPTY, EMPTY), [], [])
    spans = SpanTable(np.empty(0, np.uint8), NONE, NONE, NONE)
    return RankFeatures(
        data=RankData(0, 1, "h", Path("r"), spans, [], [], None, [], []),
        timeline=line,
        shares=shares,
        block_shares=np.array([[shares[name] for name in SLOTS]] * 10),
        phase_ms={phase: float(v.mean()) * 1e-6 for phase, v in line.phase_ns.items()},
        ops=ops,
        window_ms=100.0,
        event_overhead_ns=0.0,
        device=[window] if device else [],
        **{"collectives": [], "roofs": GPU if device else None, **more},
    )


def with_shares(rank: RankFeatures, **shares: float) -> RankFeatures:
    """The rank with other shares of its slots, the same in every block of steps."""
    full = dict.fromkeys(SLOTS, 0.0) | shares
    return replace(rank, shares=full, block_shares=np.array([[full[s] for s in SLOTS]] * 10))


FrameOf = tuple[str, str, int]


def stacks_of(*seen: tuple[int, int, Sequence[FrameOf]]) -> dict[int, StackTable]:
    """Stack samples of the process of `rank_of`: how many, of which thread (1: the main one), and
    their frames, outermost first."""
    frames: dict[int, Frame] = {}
    stacks: dict[int, list[int]] = {}
    samples = []
    for number, (count, thread, places) in enumerate(seen):
        ids = [len(frames) + i for i in range(len(places))]
        frames |= {
            i: Frame(i, f, file, line) for i, (file, f, line) in zip(ids, places, strict=True)
        }
        stacks[number] = ids
        samples.append(Stacks(S, 2 * S, 50 * MS, 1, thread, [(number, count)], rank=0))
    return {1: StackTable(frames, stacks, samples)}


def run_with(rank: RankFeatures, stacks: dict[int, StackTable] | None = None) -> Run:
    manifest = Manifest(1, "i", "n", [], "", 0, "finished", 0, 0, "h", "")
    run = Run(Path("r"), manifest, "finished")
    run.__dict__.update(ranks=[rank.data], metrics=[], stacks=stacks or {}, processes=[], gaps=[])
    run.__dict__["_node_files"] = []
    return run


def diagnosed(rank: RankFeatures, stacks: dict[int, StackTable] | None = None) -> Diagnosis:
    return diagnose_features(Features(run_with(rank, stacks), [rank], rank.shares, {}))


def product(dims: str, achieved: float, kernel: str = "") -> OpTime:
    """A matrix product of 90 ms at so much of its roof."""
    return OpTime(
        "aten::mm", "gemm", "compute", 10, 90 * MS, 90 * MS, 1e12, 1e9, 90 * MS * achieved, 0.0,
        dims, kernel,
    )  # fmt: skip


def elementwise(name: str, passes: int, calls: int = 1, family: str = "elementwise") -> OpTime:
    """An op on 64 MB tensors whose every pass over one takes a millisecond."""
    time = float(passes * calls * MS)
    return OpTime(
        name, family, "memory", calls, time, time, 1.0, passes * calls * TENSOR, time, 0.0,
        f"[{PIXELS}]",
    )  # fmt: skip
