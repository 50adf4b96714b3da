"""Collectives of host threads (gloo, MPI) and of devices (NCCL, RCCL), paired across ranks."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .device import communication_work
from .intervals import Union, union
from .steps import find_steps
from .table import Signature, Trace

Int64 = npt.NDArray[np.int64]

STEP_ANNOTATION = "ProfilerStep#"

HOST_PREFIXES = ("gloo:", "mpi:")

MIN_COMMON = 3
"""Clocks are aligned by at least so many collectives that all ranks recorded."""

_ELEMENT_BYTES = {
    "float": 4,
    "double": 8,
    "half": 2,
    "bfloat16": 2,
    "c10::half": 2,
    "c10::bfloat16": 2,
    "long": 8,
    "long int": 8,
    "int": 4,
    "unsigned char": 1,
    "signed char": 1,
    "byte": 1,
    "char": 1,
    "bool": 1,
}


@dataclass(frozen=True)
class Collective:
    """One collective as one rank saw it: `step` and `ordinal` pair it with the other ranks'.

    `bytes` is what one rank puts in, 0 where the trace does not tell. `group` names the process
    group and `group_ranks` its members, where recorded. `row` is the event's index in its trace.
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

    @property
    def key(self) -> tuple[int, str, str, int, int]:
        """What the same collective has in common on all ranks."""
        members = ",".join(map(str, self.group_ranks)) or self.group
        return self.step, self.name, members, self.bytes, self.ordinal


def host_collectives(trace: Trace, main: int) -> list[Collective]:
    """Collectives that threads other than `main` carried out, numbered by step and size."""
    events = trace.events
    names = [i for i, name in enumerate(trace.names) if name.startswith(HOST_PREFIXES)]
    chosen = np.flatnonzero(np.isin(events.name, names) & (events.thread != main))
    sizes = [_signature_bytes(trace, int(i)) for i in chosen]
    return _numbered(trace, chosen, [trace.names[events.name[i]] for i in chosen], sizes)


def device_collectives(trace: Trace) -> list[Collective]:
    """Communication kernels of a device, numbered within their step."""
    chosen = np.flatnonzero(communication_work(trace))
    events = trace.events
    names, sizes = [], []
    for i in chosen:
        args = trace.args[events.args[i]] if events.args[i] >= 0 else {}
        names.append(_collective_name(trace.names[events.name[i]], args))
        sizes.append(_args_bytes(args))
    return _numbered(trace, chosen, names, sizes)


def _collective_name(kernel: str, args: dict[str, object]) -> str:
    """The operation: as NCCL's metadata names it, else from the kernel's name."""
    said = args.get("Collective name")
    if isinstance(said, str) and said:
        return f"nccl:{said}"
    lowered = kernel.lower()
    for mark, name in (
        ("allreduce", "all_reduce"),
        ("all_reduce", "all_reduce"),
        ("reducescatter", "reduce_scatter"),
        ("allgather", "all_gather"),
        ("sendrecv", "send_recv"),
        ("alltoall", "all_to_all"),
        ("broadcast", "broadcast"),
        ("reduce", "reduce"),
    ):
        if mark in lowered:
            return f"nccl:{name}"
    return "nccl:communication"


def _args_bytes(args: dict[str, object]) -> int:
    elements, dtype = args.get("In msg nelems"), str(args.get("dtype", "")).lower()
    size = _ELEMENT_BYTES.get(dtype, 0)
    return int(elements) * size if isinstance(elements, int) else 0


def _signature_bytes(trace: Trace, event: int) -> int:
    """Bytes of a collective's first tensor argument; 0 where shapes were not recorded."""
    index = int(trace.events.signature[event])
    signature = trace.signatures[index] if index >= 0 else Signature()
    if not signature.dims or not signature.types:
        return 0
    size = _ELEMENT_BYTES.get(str(signature.types[0]).lower(), 4)
    dims = signature.dims[0]
    tensors = (
        dims if isinstance(dims, tuple) and any(isinstance(d, tuple) for d in dims) else [dims]
    )
    return sum(_elements(shape) for shape in tensors) * size


def _elements(shape: object) -> int:
    if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape):
        return 0
    return math.prod(shape)


def _numbered(trace: Trace, rows: Int64, names: list[str], sizes: list[int]) -> list[Collective]:
    """Number collectives within step, name, size and group, in order of their start."""
    events = trace.events
    steps = find_steps(trace)
    seen: dict[tuple[int, str, int, str], int] = defaultdict(int)
    result = []
    for row, name, size in zip(rows.tolist(), names, sizes, strict=True):
        start = int(events.start_ns[row])
        at = int(np.searchsorted(steps.start_ns, start, side="right")) - 1
        step = int(steps.number[at]) if at >= 0 else -1
        args = trace.args[events.args[row]] if events.args[row] >= 0 else {}
        size_of_group, group = args.get("Group size"), str(args.get("Process Group Name", ""))
        ranks = _group_ranks(args.get("Process Group Ranks"))
        same = step, name, size, ",".join(map(str, ranks)) or group
        found = Collective(
            name=name,
            step=step,
            ordinal=seen[same],
            bytes=size,
            start_ns=start,
            end_ns=start + int(events.duration_ns[row]),
            group_size=size_of_group if isinstance(size_of_group, int) else len(ranks),
            group=group,
            group_ranks=ranks,
            row=row,
        )
        seen[same] += 1
        result.append(found)
    return result


def _group_ranks(text: object) -> tuple[int, ...]:
    """The members of "[0, 1, 2]"; none where the list is shortened or not there."""
    if not isinstance(text, str) or "..." in text:
        return ()
    return tuple(int(part) for part in re.findall(r"\d+", text))


def is_complete(group: Mapping[int, Collective], recorded: Iterable[int]) -> bool:
    """Whether all recorded ranks that take part are there, and more than one does.

    Where a group's members are not known, all recorded ranks take part.
    """
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
