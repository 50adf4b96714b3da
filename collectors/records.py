"""The record types of a run folder, typed once: the writers encode them, the readers decode them.

Every file is JSON lines. The first line of a file is a `Header`. Every later line is one of the
other records, told apart by its `t` field. Times are nanoseconds since the epoch, taken from the
monotonic clock plus the offset that the header's clock pair fixes, so that a stepped system clock
moves nothing. Records are only ever added to: readers skip types that they do not know.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

SCHEMA = 1

TRACE_MARKER = "want-trace"
"""A file of this name in a rank folder asks that rank for a torch-profiler window."""

STACKS_MARKER = "want-stacks"
"""A file of this name in a rank folder asks that rank to sample its own stacks."""

MAIN_THREAD = "MainThread"
"""The name of the thread that trains in `Stacks`: Python's own for its first thread."""

Reason: TypeAlias = Literal[
    "no-driver", "no-permission", "not-supported", "not-installed", "switched-off", "crashed"
]
"""Why a collector has no data: the closed list of the design."""


class Header(msgspec.Struct, frozen=True, tag_field="t", tag="header", omit_defaults=True):
    """The first line of every file: what writes it, where, and its clock pair."""

    schema: int
    collector: str
    host: str
    pid: int
    mono_ns: int
    wall_ns: int
    version: str = ""
    rank: int | None = None
    local_rank: int | None = None
    world_size: int | None = None


class Sample(msgspec.Struct, frozen=True, tag_field="t", tag="sample"):
    """One reading of a collector: metric name to value, units as in the collector's `metrics`."""

    time_ns: int
    values: dict[str, float]


class Spans(msgspec.Struct, frozen=True, tag_field="t", tag="spans", omit_defaults=True):
    """Spans of one training process since the last such record, in columns.

    `kind` has one letter a span (see `SpanKind`); `start` is relative to `base_ns`; `duration` in
    ns; `detail` is the kind's own number (optimizer index, loader index, …; 0 where it has none);
    `thread` is empty when every span is of the training thread, else an index per span.
    """

    base_ns: int
    kind: str
    start: list[int]
    duration: list[int]
    detail: list[int]
    thread: list[int] = []


class SpanKind:
    """The letters of `Spans.kind`. `detail` is given in brackets."""

    LOADER = "l"  # waiting for a loader's next batch [loader index]
    LOADER_START = "i"  # a loader's iterator is made: workers start [loader index]
    LOADER_END = "z"  # a loader is exhausted; its last, empty wait [loader index]
    LOADER_CPU = "c"  # duration is the thread's CPU time within the wait just before [loader index]
    EVAL_LOADER = "v"  # a wait for a batch with gradients off [loader index]
    FORWARD = "f"  # a module's call that is inside no other module's [1 with gradients off, else 0]
    ZERO_GRAD = "y"  # an optimizer's zero_grad [0]
    BACKWARD = "b"  # torch.autograd.backward or grad [0]
    OPTIMIZER = "o"  # one optimizer's step [optimizer index]
    SKIPPED = "a"  # a GradScaler step that skipped its optimizer [optimizer index]
    SAVE = "s"  # a checkpoint being written [site index]
    GC = "g"  # a garbage-collection pause [generation]
    EVAL_MODE = "e"  # from a module's eval() to its train(), no backward between [site index]
    STEP = "u"  # boundscope.step(): an instant, the user's own step end [0]
    WINDOW = "w"  # a torch-profiler window until its trace is written and freed [window index]
    PROFILER = "p"  # the loop stands still for the profiler's start or stop [window index]


class Site(msgspec.Struct, frozen=True, tag_field="t", tag="site", omit_defaults=True):
    """A place in the user's code that spans refer to by `index`.

    `what` is "loader", "loader-facts", "optimizer", "save" or "eval"; `facts` are the object's own
    settings (a loader's num_workers, batch_size, dataset class, …), as short strings.
    """

    what: str
    index: int
    file: str = ""
    line: int = 0
    function: str = ""
    facts: dict[str, str] = {}


class Window(msgspec.Struct, frozen=True, tag_field="t", tag="window", omit_defaults=True):
    """One torch-profiler window: its trace file and what it cost the loop.

    `minor_faults`: page faults of the process from its start to its end; -1 where not counted.
    """

    index: int
    start_ns: int
    end_ns: int
    first_step: int
    steps: int
    file: str = ""
    events: int = 0
    reason: str = "warm"  # warm | later | signal
    start_cost_ns: int = 0
    stop_cost_ns: int = 0
    export_cost_ns: int = 0
    truncated: bool = False
    minor_faults: int = -1


class Process(msgspec.Struct, frozen=True, tag_field="t", tag="process", omit_defaults=True):
    """Facts of a Python process that imported torch: what it is and which versions it has."""

    pid: int
    parent_pid: int
    python: str
    torch: str
    argv: list[str] = []
    facts: dict[str, str] = {}


class Gap(msgspec.Struct, frozen=True, tag_field="t", tag="gap", omit_defaults=True):
    """A collector that cannot work or stopped working: why, and what that costs."""

    time_ns: int
    collector: str
    reason: Reason
    detail: str = ""
    effect: str = ""


class Frame(msgspec.Struct, frozen=True, tag_field="t", tag="frame", omit_defaults=True):
    """One code location of stack samples, interned: written once, before its first use."""

    id: int
    function: str
    file: str
    line: int


class Stack(msgspec.Struct, frozen=True, tag_field="t", tag="stack"):
    """One call stack, interned: frame ids, outermost first."""

    id: int
    frames: list[int]


class Stacks(msgspec.Struct, frozen=True, tag_field="t", tag="stacks", omit_defaults=True):
    """Stack samples of one thread from `start_ns` to `end_ns`: pairs of stack id and count.

    `interval_ns` is the time between two samples. `role` is "rank" for a thread of the training
    process and "worker" for a process below it (a loader worker); `rank` is the rank that the
    process is, or serves. `cpu_share` is the CPU time of a training process's thread, other than
    its main one, over that of the recording (1: a whole core; None: not known).
    """

    start_ns: int
    end_ns: int
    interval_ns: int
    pid: int
    thread: int
    counts: list[tuple[int, int]]
    role: str = "rank"
    thread_name: str = ""
    rank: int | None = None
    cpu_share: float | None = None


class Memory(msgspec.Struct, frozen=True, tag_field="t", tag="memory"):
    """Allocator state of one device of a training process, bytes; `retries` and `ooms` count."""

    time_ns: int
    device: int
    allocated: int
    reserved: int
    peak_allocated: int
    retries: int
    ooms: int


class Closed(msgspec.Struct, frozen=True, tag_field="t", tag="closed"):
    """The last line of a file whose writer ended in good order."""

    time_ns: int


Record: TypeAlias = (
    Header
    | Sample
    | Spans
    | Site
    | Window
    | Process
    | Gap
    | Frame
    | Stack
    | Stacks
    | Memory
    | Closed
)


class Fact(msgspec.Struct, frozen=True):
    """One fact of the environment that a report may show: `value` as text."""

    name: str
    value: str


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """`manifest.json`: what ran, where, and how it ended. Written whole and renamed into place.

    `status` is "running" from the start; "finished", "failed" or "killed" at the end. A run whose
    launcher vanished keeps "running" here; readers look whether its launcher is still alive.
    `environment` groups: "python", "torch", "hardware", "limits" (cores and memory that the cgroup
    allows), "scheduler" (SLURM, Kubernetes, container), "git", "launcher". `job` names what the
    launchers that share the folder have in common; each but the first keeps a manifest of its own
    kind in `node-<host>/launcher-<pid>.json`.
    """

    schema: int
    id: str
    name: str
    command: list[str]
    cwd: str
    started_ns: int
    status: Literal["running", "finished", "failed", "killed"]
    launcher_pid: int
    launcher_start_ticks: int
    host: str
    version: str
    child_pid: int = 0
    ended_ns: int = 0
    exit_code: int | None = None
    signal: int | None = None
    environment: dict[str, dict[str, str]] = {}
    gaps: list[Gap] = []
    job: str = ""
