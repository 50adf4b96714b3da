"""What every collector beside the training looks like."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from .procfs import ProcessTree
from .records import Reason, Record
from .writer import Clock


@dataclass(frozen=True)
class Metric:
    """Unit and meaning of one metric, e.g. Metric("bytes/s", "received on an interface")."""

    unit: str
    text: str


@dataclass(frozen=True)
class Availability:
    """Whether a collector can work here; if not, why, and the exact line that mends it."""

    works: bool
    reason: Reason | None = None
    detail: str = ""
    mend: str = ""


@dataclass
class Job:
    """The job as the collectors beside it see it. The launcher keeps `root_pid` and `ranks` fresh.

    `ranks` maps a rank process's pid to its rank number; `folder` is this host's node folder,
    `run_folder` the whole run. `processes` is made here: the job's process tree, which the
    collectors share.
    """

    root_pid: int
    run_folder: Path
    folder: Path
    clock: Clock
    cwd: Path
    ranks: dict[int, int] = field(default_factory=dict)
    processes: ProcessTree = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.processes = ProcessTree(lambda: self.root_pid, lambda: self.ranks)


@runtime_checkable
class Collector(Protocol):
    """A source of samples beside the training, one file each in `collectors/beside/`.

    Each module has one class that satisfies this protocol; it is found by listing the folder.
    `probe` must be cheap (< 0.2 s) and never raise; `start` may raise; `sample` returns records
    within `period_s` of work to be written by the caller; `stop` releases everything and may
    return last records. A collector owns no thread unless it says so; all four are called from
    one thread of its own by the supervisor, so that a hanging one stops no other. A value that is
    not known is left out of a sample, never written as zero. Metrics named `…_per_s` are means
    since the collector's last sample.
    """

    name: ClassVar[str]
    period_s: ClassVar[float]
    effect: ClassVar[str]
    """What the verdict loses without it, e.g. "no GPU utilisation, memory or power"."""
    runs_degraded: ClassVar[bool]
    """Whether it is still run, after its gap is written, when `probe` says that it cannot work."""
    metrics: ClassVar[dict[str, Metric]]
    """Metric names; `<x>` stands for a part that varies, e.g. "net.<if>.rx_bytes_per_s"."""

    def probe(self) -> Availability:
        """Say whether this collector can work on this machine."""

    def start(self, job: Job) -> None:
        """Open what is needed."""

    def sample(self) -> list[Record]:
        """Read once."""

    def stop(self) -> list[Record]:
        """Release everything; safe to call twice."""
