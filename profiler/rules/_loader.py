"""What the findings about a loader share: its settings, its wait, its places."""

from __future__ import annotations

from dataclasses import dataclass

from ...collectors.records import Site, SpanKind
from ..diagnosis import Evidence, Place
from ..features import RankFeatures
from ..hot_lines import hot_lines
from ..recorded_facts import count_in
from ..text import milliseconds, plural
from ..whatif import Pipeline
from .base import Evidenced, place


@dataclass(frozen=True)
class Loader:
    """The loader that a rank waits for longest.

    `share` is the part of the step that the finding is about (None: all of `input`). `cpu_share` is
    the training thread's CPU time within its waits.
    """

    rank: RankFeatures
    facts: dict[str, str]
    workers: int
    cpu_share: float
    places: list[Place]
    evidence: list[Evidence]
    share: float | None = None

    @property
    def iterable(self) -> bool:
        """Whether its dataset is an IterableDataset, which yields samples in its own order."""
        return self.facts.get("kind") == "iterable"

    def call(self, **settings: object) -> str:
        """The user's own DataLoader call with other settings; `...` stands for what stays."""
        dataset = self.facts.get("dataset", "") or "dataset"
        size = self.facts.get("batch_size", "")
        known = [f"batch_size={size}"] if size.isdigit() else []
        words = [*known, "...", *(f"{name}={value}" for name, value in settings.items())]
        return f"DataLoader({_variable(dataset)}, {', '.join(words)})"

    def with_workers(self, **settings: object) -> str:
        """The call with workers where there are none: a stream must be divided among them."""
        if not self.iterable or self.workers:
            return self.call(**settings)
        return f"{self.call(**settings)}\n{_DIVIDED}"


_DIVIDED = (
    "# in __iter__, so that each worker yields a part of its own:\n"
    "info = torch.utils.data.get_worker_info()\n"
    "mine = itertools.islice(samples, info.id, None, info.num_workers)"
)


def _variable(name: str) -> str:
    return f"{name}(...)" if name[:1].isupper() else name


def loader_of(case: Evidenced, rank: RankFeatures, share: float | None = None) -> Loader:
    """The loader that `rank` waits for longest, with what every finding about it says."""
    index = _slowest_loader(rank)
    facts = _facts(rank, index)
    workers = count_in(facts, "num_workers")
    evidence = [
        Evidence(
            f"rank {rank.rank} waits {milliseconds(rank.phase_ms['loader'])} of every step for the "
            "loader's next batch",
            "input.wait_ms",
            round(rank.phase_ms["loader"], 4),
            "ms",
            "steps",
        ),
        Evidence(
            f"the loader has {plural(workers, 'worker')}",
            "input.num_workers",
            workers,
            "workers",
            "steps",
        ),
    ]
    return Loader(
        rank=rank,
        facts=facts,
        workers=workers,
        cpu_share=_cpu_share(rank, index),
        places=_places(case, rank, index, facts, workers),
        evidence=evidence,
        share=share,
    )


def pipeline_of(case: Evidenced, loader: Loader) -> Pipeline:
    """The loop and its loader for the replay of other settings."""
    rank = loader.rank
    process = rank.data.process
    threads = count_in(process.facts, "threads", 1) if process else 1
    wait = rank.phase_ms["loader"]
    step = sum(rank.phase_ms.values())
    return Pipeline(
        wait_ms=wait,
        cpu_share=loader.cpu_share,
        work_ms=max(0.0, step - wait),
        cores=case.cores_a_rank,
        threads=1 if rank.device else threads,
    )


def _slowest_loader(rank: RankFeatures) -> int:
    waits = rank.data.spans.of(SpanKind.LOADER, SpanKind.LOADER_START)
    totals: dict[int, int] = {}
    for index, duration in zip(waits.detail, waits.duration_ns, strict=True):
        totals[int(index)] = totals.get(int(index), 0) + int(duration)
    return max(totals, key=lambda index: totals[index], default=0)


def _facts(rank: RankFeatures, index: int) -> dict[str, str]:
    site = rank.data.site("loader-facts", index)
    return {} if site is None else site.facts


def _cpu_share(rank: RankFeatures, index: int) -> float:
    spans = rank.data.spans
    waits, cpu = spans.of(SpanKind.LOADER), spans.of(SpanKind.LOADER_CPU)
    whole = int(waits.duration_ns[waits.detail == index].sum())
    spent = int(cpu.duration_ns[cpu.detail == index].sum())
    return min(1.0, spent / whole) if whole else 0.0


def _places(
    case: Evidenced, rank: RankFeatures, index: int, facts: dict[str, str], workers: int
) -> list[Place]:
    """The line that the batch is waited for at, then the loop's line."""
    loop: Site | None = rank.data.site("loader", index)
    lines = hot_lines(case.features.run, rank.data.pid, "worker" if workers else "input")
    places = [
        place(line, rank.rank)
        for line in lines
        if workers or loop is None or (line.file, line.line) != (loop.file, loop.line)
    ]
    if not places and facts.get("fetch_file"):
        method = "__iter__" if facts.get("kind") == "iterable" else "__getitem__"
        function = f"{facts.get('dataset', '')}.{method}"
        line = count_in(facts, "fetch_line")
        places = [Place(rank=rank.rank, file=facts["fetch_file"], line=line, function=function)]
    if loop is not None:
        places.append(Place(rank=rank.rank, file=loop.file, line=loop.line, function=loop.function))
    return places
