"""Collectives of host threads (gloo, MPI) and of devices (NCCL, RCCL), paired across ranks."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .arguments import ITEM_BYTES
from .device import communication_work
from .device_steps import launch_ns
from .intervals import Union, union
from .kernels import enclosing_events, innermost_ops
from .steps import find_steps
from .table import Signature, Trace

Int64 = npt.NDArray[np.int64]

STEP_ANNOTATION = "ProfilerStep#"

HOST_PREFIXES = ("gloo:", "mpi:")

EXCHANGE_PREFIXES = (
    "c10d::",
    "_c10d_functional::",
    "record_param_comms",
    "torch::distributed::reducer::",
    "torch.distributed.ddp.reducer::",
    "fsdp::",
)
"""Ops of the training thread that are there for the exchange alone (torch 2.13)."""

MIN_COMMON = 3
"""Clocks are aligned by at least so many collectives that all ranks recorded."""

OPERATIONS = (
    ("allreduce", "all_reduce"),
    ("reducescatter", "reduce_scatter"),
    ("allgather", "all_gather"),
    ("alltoall", "all_to_all"),
    ("sendrecv", "send_recv"),
    ("broadcast", "broadcast"),
    ("barrier", "barrier"),
    ("gather", "gather"),
    ("scatter", "scatter"),
    ("reduce", "reduce"),
    ("send", "send"),
    ("recv", "recv"),
)
"""What a name holds, without "_", and the operation that it means: the first that fits. c10d's
metadata says "allreduce_coalesced", "_allgather_base", "reduce_scatter_tensor_coalesced"."""

MAX_COUNT = 1 << 48
"""More elements than any memory holds: such a number is damaged."""

UNEVEN = frozenset({"all_to_all", "gather", "scatter", "send_recv"})
"""Operations whose ranks may put in different amounts. NCCL's kernel of an all-to-all is called
SendRecv, which is all that a trace without metadata says."""

POINT_TO_POINT = frozenset({"send", "recv"})
"""One rank's send meets another one's recv: calls of one name on several ranks are no pair."""


@dataclass(frozen=True)
class Collective:
    """One collective as one rank saw it: `step` and `ordinal` pair it with the other ranks'.

    `bytes` is what one rank puts in and `received` what it gets out, 0 where the trace does not
    tell; `dtype` the elements' type as recorded, in lower case. `group` names the process group and
    `group_ranks` its members, where recorded. `row` is the event's index in its trace.
    """

    name: str
    step: int
    ordinal: int
    bytes: int
    start_ns: int
    end_ns: int
    group_size: int = 0
    group: str = ""
    group_ranks: tuple[int, ...] = ()
    row: int = field(default=-1, compare=False)
    received: int = field(default=0, compare=False)
    dtype: str = field(default="", compare=False)

    @property
    def operation(self) -> str:
        """The name without its library: "all_reduce" of "nccl:all_reduce"."""
        return self.name.rpartition(":")[2]

    @property
    def members(self) -> str:
        """Who takes part: the ranks of the group, else the group's name."""
        return ",".join(map(str, self.group_ranks)) or self.group

    @property
    def key(self) -> tuple[int, str, str, int, int]:
        """What the same collective has in common on all ranks."""
        size = 0 if self.operation in UNEVEN else self.bytes
        return self.step, self.name, self.members, size, self.ordinal

    def message_bytes(self, ranks: int) -> int:
        """Its size among so many ranks as NCCL's tests define it, 0 where the trace does not tell.

        Of an all-gather and a gather all that comes out, of a scatter all that goes in, else what
        one rank puts in or gets, the larger (nccl-tests, PERFORMANCE.md).
        """
        gathered = self.bytes * ranks
        if self.operation == "all_gather":
            return self.received if self.received > self.bytes else gathered
        if self.operation == "gather":
            return gathered or self.received
        if self.operation == "scatter":
            return max(self.bytes, self.received * ranks)
        return max(self.bytes, self.received)


def host_collectives(trace: Trace, main: int) -> list[Collective]:
    """Collectives that threads other than `main` carried out, numbered by step and size."""
    events = trace.events
    names = [i for i, name in enumerate(trace.names) if name.startswith(HOST_PREFIXES)]
    chosen = np.flatnonzero(np.isin(events.name, names) & (events.thread != main))
    said = []
    for row in chosen.tolist():
        library, _, rest = trace.names[events.name[row]].partition(":")
        said.append(_Said(f"{library}:{operation_of(rest) or rest}", *_put_in(trace, row)))
    return _numbered(trace, chosen, said, events.start_ns[chosen])


def exchange_of_thread(trace: Trace, rows: Int64, ends: Int64) -> Union:
    """When a thread's ops are there for the exchange alone; what they call is.

    `rows` are the thread's ops by start, `ends` when each ends, ns. Such ops call collectives, and
    copy into buckets and out of them.
    """
    names = [i for i, name in enumerate(trace.names) if name.startswith(EXCHANGE_PREFIXES)]
    mine = np.isin(trace.events.name[rows], names)
    return union(trace.events.start_ns[rows[mine]], ends[mine])


def device_collectives(trace: Trace) -> list[Collective]:
    """Communication kernels of a device, numbered within their step.

    Their sizes come from their own arguments, else from the op that launched them.
    """
    chosen = np.flatnonzero(communication_work(trace))
    said = [_device_said(trace, row) for row in chosen.tolist()]
    open_ = [index for index, one in enumerate(said) if not one.bytes and not one.received]
    if open_:
        ops = innermost_ops(trace, chosen[open_], enclosing_events(trace))
        for index, op in zip(open_, ops.tolist(), strict=True):
            if op >= 0:
                said[index] = said[index].of_op(*_put_in(trace, op))
    return _numbered(trace, chosen, said, launch_ns(trace, chosen))


class _Said(NamedTuple):
    """What the trace says of one collective."""

    name: str
    bytes: int
    dtype: str
    received: int = 0

    def of_op(self, size: int, dtype: str) -> _Said:
        """The same with the size of the first tensor of the op that launched it."""
        return self._replace(bytes=size, dtype=self.dtype or dtype)


def _device_said(trace: Trace, row: int) -> _Said:
    events = trace.events
    args = trace.args[events.args[row]] if events.args[row] >= 0 else {}
    dtype = str(args.get("dtype", "")).lower()
    item = ITEM_BYTES.get(dtype, 0)
    put_in, got = (_count(args.get(f"{way} msg nelems")) for way in ("In", "Out"))
    recorded = max(0, int(events.bytes[row]))  # of one way or the other
    return _Said(
        name=_collective_name(trace.names[events.name[row]], args),
        bytes=(put_in or 0) * item,
        dtype=dtype,
        received=recorded if got is None else got * item,
    )


def _count(value: object) -> int | None:
    """A number of elements or ranks; None for what cannot be one."""
    known = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_COUNT
    return value if known else None  # type: ignore[return-value]


def operation_of(name: str) -> str:
    """The operation that a name of c10d, a library or a kernel means; "" where none is known."""
    plain = name.lower().replace("_", "")
    return next((meant for mark, meant in OPERATIONS if mark in plain), "")


def _collective_name(kernel: str, args: dict[str, object]) -> str:
    """The operation: as NCCL's metadata names it, else from the kernel's name."""
    said = args.get("Collective name")
    if isinstance(said, str) and said:
        return f"nccl:{operation_of(said) or said}"
    return f"nccl:{operation_of(kernel) or 'communication'}"


def _put_in(trace: Trace, event: int) -> tuple[int, str]:
    """Bytes and type of an op's first tensor argument; 0 where shapes were not recorded."""
    index = int(trace.events.signature[event])
    signature = trace.signatures[index] if index >= 0 else Signature()
    if not signature.dims or not signature.types:
        return 0, ""
    dtype = str(signature.types[0]).lower()
    dims = signature.dims[0]
    tensors = (
        dims if isinstance(dims, tuple) and any(isinstance(d, tuple) for d in dims) else [dims]
    )
    return sum(_elements(shape) for shape in tensors) * ITEM_BYTES.get(dtype, 4), dtype


def _elements(shape: object) -> int:
    if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape):
        return 0
    return math.prod(shape)


def _numbered(trace: Trace, rows: Int64, said: list[_Said], began_ns: Int64) -> list[Collective]:
    """Number collectives within step, name, size and group, in order of their start.

    `began_ns` says to which step each belongs: when it was launched. Steps that were found on the
    device hold what begins in them.
    """
    events = trace.events
    steps = find_steps(trace)
    seen: dict[tuple[int, str, str, int, int], int] = defaultdict(int)
    began_ns = events.start_ns[rows] if steps.on_device else began_ns
    places = np.searchsorted(steps.start_ns, began_ns, side="right") - 1
    result = []
    for row, one, at in zip(rows.tolist(), said, places.tolist(), strict=True):
        start = int(events.start_ns[row])
        args = trace.args[events.args[row]] if events.args[row] >= 0 else {}
        group = str(args.get("Process Group Name", ""))
        ranks = _group_ranks(args.get("Process Group Ranks"))
        found = Collective(
            name=one.name,
            step=int(steps.number[at]) if at >= 0 else -1,
            ordinal=0,
            bytes=one.bytes,
            start_ns=start,
            end_ns=start + int(events.duration_ns[row]),
            group_size=_count(args.get("Group size")) or len(ranks),
            group=group,
            group_ranks=ranks,
            row=row,
            received=one.received,
            dtype=one.dtype,
        )
        seen[found.key] += 1
        result.append(replace(found, ordinal=seen[found.key] - 1))
    return result


def _group_ranks(text: object) -> tuple[int, ...]:
    """The members of "[0, 1, 2]"; none where the list is shortened or not there."""
    if not isinstance(text, str) or "..." in text:
        return ()
    return tuple(int(part) for part in re.findall(r"\d+", text))


def is_complete(group: Mapping[int, Collective], recorded: Iterable[int]) -> bool:
    """Whether all recorded ranks that take part are there, and more than one does.

    Where a group's members are not known, all recorded ranks take part. Sends and receipts are
    never complete: which of them belong together is not recorded.
    """
    if next(iter(group.values())).operation in POINT_TO_POINT:
        return False
    members = next(iter(group.values())).group_ranks
    expected = [rank for rank in recorded if not members or rank in members]
    return len(group) == len(expected) > 1


def transfers_of(
    by_rank: dict[int, list[Collective]], offsets: dict[int, int] | None = None
) -> dict[int, Union]:
    """For each rank the intervals in which bytes could move: from the last rank's arrival on.

    One that not every rank of its group recorded counts as transfer as a whole. `offsets`: what
    each rank's clock is ahead, ns (see `clock_offsets`). Intervals are in the rank's own clock.
    """
    ahead = offsets or dict.fromkeys(by_rank, 0)
    parts: dict[int, list[tuple[int, int]]] = {rank: [] for rank in by_rank}
    for group in paired(by_rank):
        complete = is_complete(group, by_rank)
        arrival = max(c.start_ns - ahead[rank] for rank, c in group.items())
        for rank, c in group.items():
            arrived = arrival + ahead[rank]
            begin = min(max(arrived, c.start_ns), c.end_ns) if complete else c.start_ns
            parts[rank].append((begin, c.end_ns))
    return {rank: to_intervals(pairs) for rank, pairs in parts.items()}


def clock_offsets(by_rank: dict[int, list[Collective]]) -> dict[int, int]:
    """What each rank's clock is ahead of the ranks' median, ns, from common collectives' ends.

    A collective ends on all ranks within microseconds (1 to 7 us on 8 GPUs of one host). Zeros
    where fewer than `MIN_COMMON` are common to all.
    """
    differences: dict[int, list[float]] = {rank: [] for rank in by_rank}
    for group in paired(by_rank):
        if is_complete(group, by_rank):
            middle = float(np.median([c.end_ns for c in group.values()]))
            for rank, c in group.items():
                differences[rank].append(c.end_ns - middle)
    return {
        rank: int(np.median(values)) if len(values) >= MIN_COMMON else 0
        for rank, values in differences.items()
    }


def last_arrivals(
    by_rank: dict[int, list[Collective]], offsets: dict[int, int] | None = None
) -> dict[int, int]:
    """How often each rank was the last to arrive at a collective that all ranks recorded."""
    ahead = offsets or dict.fromkeys(by_rank, 0)
    counts = dict.fromkeys(by_rank, 0)
    for group in paired(by_rank):
        if is_complete(group, by_rank):
            counts[max(group, key=lambda rank: group[rank].start_ns - ahead[rank])] += 1
    return counts


def arrival_skews(
    by_rank: dict[int, list[Collective]], offsets: dict[int, int] | None = None
) -> list[int]:
    """From the first to the last rank's arrival at each collective that all ranks recorded, ns.

    In order of time.
    """
    ahead = offsets or dict.fromkeys(by_rank, 0)
    found = []
    for group in paired(by_rank):
        if is_complete(group, by_rank):
            arrivals = [c.start_ns - ahead[rank] for rank, c in group.items()]
            found.append((max(arrivals), max(arrivals) - min(arrivals)))
    return [skew for _, skew in sorted(found)]


def paired(by_rank: Mapping[int, Sequence[Collective]]) -> list[dict[int, Collective]]:
    """The collectives of all ranks, those that are one and the same together, by rank."""
    groups: dict[tuple[int, str, str, int, int], dict[int, Collective]] = defaultdict(dict)
    for rank, collectives in by_rank.items():
        for c in collectives:
            groups[c.key][rank] = c
    return list(groups.values())


def to_intervals(pairs: list[tuple[int, int]]) -> Union:
    """The union of (start, end) pairs."""
    array = np.asarray(pairs, np.int64).reshape(-1, 2)
    return union(array[:, 0], array[:, 1])
