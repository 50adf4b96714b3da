"""What the launching threads did while the device was idle: exclusive and exhaustive causes.

Only time in which the device is idle is looked at: a wait of the host that the device's queue
hides is charged nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from .copies import copy_kinds
from .heap import give_back_heap
from .intervals import (
    EMPTY,
    Union,
    group_rows,
    in_pieces,
    intersect,
    nest,
    one_after_another,
    subtract,
    total,
    union,
    union_of,
    union_of_chosen,
    union_of_rows,
)
from .kernels import launches, launching_calls
from .steps import find_steps
from .table import Category, Int32, Int64, Trace, looked_up

Mask = npt.NDArray[np.bool_]
Threads = npt.NDArray[np.int32]

IDLE_CAUSES = (
    "loader",
    "garbage",
    "allocator",
    "synchronisation",
    "copy-in",
    "copy",
    "launch",
    "preparation",
    "dispatch",
    "another-thread",
    "python",
    "nothing-seen",
)
"""In order of precedence where several hold at one time."""

IDLE_SLOTS = {
    "loader": "input",
    "garbage": "host",
    "allocator": "memory",
    "synchronisation": "host",
    "copy-in": "input",
    "copy": "host",
    "launch": "host",
    "preparation": "input",
    "dispatch": "host",
    "another-thread": "host",
    "python": "host",
    "nothing-seen": "other",
}

SYNCHRONISE = re.compile(
    r"(cuda|hip|mtia|xpu)?(Device|Stream|Event|Ctx)Synchronize|cudaEventQuery|zeCommandQueueSync"
    r"|ze(Event|CommandList|Fence)HostSynchronize"
    r"|^(ur|pi)(Events?Wait|QueueFinish)"  # not "urEnqueueEventsWait": that makes the queue wait
    r"|^synchronize(Stream|Device|Event)?$"  # MTIA
)
COPY = re.compile(
    r"^(cuda|hip|cu)Mem(cpy|set)(?!.*Kernel)"
    r"|^(ur|pi)\w*Enqueue\w*(Memcpy|MemBuffer(Read|Write|Copy|Fill)|Fill|Memset)"
    r"|^enqueueCommand memcpy"
)
ALLOCATOR = re.compile(
    r"^(cuda|hip)(Malloc|Free|Host(Alloc|Malloc|Free|Register|Unregister))"
    # the mapping of torch's expandable segments (c10/cuda/CUDACachingAllocator.cpp)
    r"|^(cuda|hip|cu)Mem(Create|Map|Unmap|Release|SetAccess|Address(Reserve|Free))"
    r"|^cuMem(Alloc|Free|Host(Alloc|Register|Unregister))"
    r"|^(ur|pi)\w*USM\w*(Alloc|Free)|^ze(Mem(Alloc|Free)|VirtualMem|PhysicalMem)"
)
MODULE = "nn.Module: "

_WAITS = "waits of the launching threads"
_QUERY = re.compile("Query")
"""Asks whether an event has come to pass, and returns at once."""

_BLOCK_ROWS = 1 << 17  # so that the work takes memory for a block, not for all rows

_LOADER = re.compile(r"enumerate\(DataLoader\)|DataLoaderIter\.__next__", re.IGNORECASE)
_GARBAGE = re.compile(r"^(Python GC|GC|<built-in function collect>)$")
"""The profiler's own events of the collector, and an explicit `gc.collect()`."""

_WAIT = re.compile(
    r"(?:^|/)threading\.py\(\d+\): (?:wait|wait_for|join|acquire|_wait_for_tstate_lock)$"
    r"|(?:^|/)queue\.py\(\d+\): (?:get|put|join)$"
    r"|(?:^|/)concurrent/futures/_base\.py\(\d+\): (?:result|exception|wait)$"
    r"|^<built-in method (?:acquire|__enter__) of _thread\.R?[Ll]ock "
    r"|^<built-in method (?:get|put) of _queue\.SimpleQueue "
    r"|_engine_run_backward$|^<built-in method run_backward of "
)
"""Python frames that wait for another thread: locks, queues, futures, and the autograd engine,
whose device threads do the work while the caller sleeps."""


def is_wait(call: str) -> bool:
    """Whether a runtime call of this name returns only once the device is done."""
    return SYNCHRONISE.search(call) is not None and _QUERY.search(call) is None


def idle_causes(trace: Trace, idle: Union) -> dict[str, Union]:
    """Split the device's idle time by cause, in the order of `IDLE_CAUSES`.

    The parts are disjoint and cover `idle`; causes that do not occur are left out.
    """
    return {cause: one_after_another(parts) for cause, parts in each_cause(trace, idle)}


def each_cause(trace: Trace, idle: Union) -> Iterator[tuple[str, list[Union]]]:
    """Yield what `idle_causes` returns cause by cause, in pieces in order of time.

    Each may have a million intervals: of one cause at a time, and never in two copies.
    """
    left = in_pieces(idle) if total(idle) else []
    threads = launching_threads(trace)
    calls = host_calls(trace, threads)
    for cause in IDLE_CAUSES[:-1]:
        if not left:
            break
        find = _SPANS.get(cause)
        spans = find(trace, threads) if find else _calls(trace, calls, cause)
        taken = [part for piece in left if len((part := intersect(piece, spans))[0])]
        if taken:
            for number, piece in enumerate(left):
                left[number] = subtract(piece, spans)
            left = [piece for piece in left if len(piece[0])]
            yield cause, taken
        del spans, taken
        give_back_heap()
    trace.forget(_WAITS)
    if left:
        yield "nothing-seen", left


def launching_threads(trace: Trace) -> npt.NDArray[np.int32]:
    """Host threads that launch device work; where no call is recorded, those that run ops."""
    return trace.once("launching threads", _launching_threads)


def _launching_threads(trace: Trace) -> npt.NDArray[np.int32]:
    events = trace.events
    for mask in (
        launches(trace),
        events.of(Category.RUNTIME, Category.DRIVER),
        events.of(Category.CPU_OP),
    ):
        if mask.any():
            return np.flatnonzero(np.bincount(events.thread[mask])).astype(np.int32)
    return np.empty(0, np.int32)


def matching(trace: Trace, pattern: re.Pattern[str]) -> Mask:
    """Which events have a name that `pattern` finds."""
    found = np.fromiter(
        (pattern.search(name) is not None for name in trace.names), np.bool_, len(trace.names)
    )
    if not found.any():
        return np.zeros(len(trace.events), np.bool_)
    return looked_up(found, trace.events.name)


def spans_of(trace: Trace, mask: Mask) -> Union:
    """The union of the events that `mask` chooses."""
    return union_of_rows(trace.events.start_ns, trace.events.duration_ns, mask)


def on_threads(trace: Trace, threads: Threads) -> Mask:
    """Which events are of these threads."""
    wanted = np.zeros(len(trace.threads), np.bool_)
    wanted[threads] = True
    return looked_up(wanted, trace.events.thread)


def host_calls(trace: Trace, threads: Threads | None = None) -> Mask:
    """Runtime and driver calls of the threads that launch (`threads`, where they are known)."""
    threads = launching_threads(trace) if threads is None else threads
    return trace.events.of(Category.RUNTIME, Category.DRIVER) & on_threads(trace, threads)


def _calls(trace: Trace, calls: Mask, cause: str) -> Union:
    pattern = {"allocator": ALLOCATOR, "synchronisation": SYNCHRONISE, "copy": COPY}.get(cause)
    return spans_of(trace, calls if pattern is None else calls & matching(trace, pattern))


def _copy_in(trace: Trace, threads: Threads) -> Union:
    """Calls that copy from the host to the device: from pageable memory they stage it first."""
    copies = np.flatnonzero(trace.events.of(Category.MEMCPY))
    to_device = [kind == "host-to-device" for kind in copy_kinds(trace, copies)]
    copies = copies[np.array(to_device, np.bool_)]
    calls = launching_calls(trace, copies)
    mask = _only(len(trace.events), calls[calls >= 0])
    return spans_of(trace, mask & on_threads(trace, threads) & matching(trace, COPY))


def _loader(trace: Trace, _: Threads) -> Union:
    mask = trace.events.of(Category.LOADER)
    return spans_of(trace, mask | matching(trace, _LOADER) & _ranges(trace))


def _garbage(trace: Trace, _: Threads) -> Union:
    return spans_of(trace, matching(trace, _GARBAGE) & _ranges(trace))


def _ranges(trace: Trace) -> Mask:
    return trace.events.of(Category.CPU_OP, Category.ANNOTATION, Category.PYTHON)


def preparation(trace: Trace, threads: Threads | None = None) -> Union:
    """From the start of each step to its first module call: making the batch ready.

    As in the phases of a recorded run. Only where module calls are recorded and steps marked.
    """
    calls = _module_calls(trace, threads)
    steps = find_steps(trace)
    if not len(calls) or steps.source not in ("profiler", "optimizer"):
        return EMPTY
    starts = trace.events.start_ns[calls]
    place = np.searchsorted(starts, steps.start_ns)
    found = np.minimum(place, len(starts) - 1)
    inside = (place < len(starts)) & (starts[found] < steps.end_ns)
    return union(steps.start_ns[inside], starts[found][inside])


def _module_calls(trace: Trace, threads: Threads | None) -> Int64:
    """The events in which a launching thread calls a module, in order of time."""
    is_module = np.fromiter((n.startswith(MODULE) for n in trace.names), np.bool_, len(trace.names))
    if not is_module.any():
        return np.empty(0, np.int64)
    threads = launching_threads(trace) if threads is None else threads
    return np.flatnonzero(looked_up(is_module, trace.events.name) & on_threads(trace, threads))


def _dispatch(trace: Trace, threads: Threads) -> Union:
    """Ops of the launching threads, but for the time in which they wait inside of one."""
    waits = _waits(trace, threads)
    ops = _ops_of(trace, threads)
    if not waits:  # then it matters not whose they are, and no rows are sorted by thread
        return spans_of(trace, ops)
    waiting = on_threads(trace, np.fromiter(waits, np.int32, len(waits)))
    parts = _spans_by_thread(trace, ops & waiting).items()
    others = spans_of(trace, ops & ~waiting)
    return union_of([others, *(subtract(mine, waits[thread]) for thread, mine in parts)])


def _another_thread(trace: Trace, threads: Threads) -> Union:
    """A launching thread waits while another thread of its process runs ops."""
    waits = _waits(trace, threads)
    if not waits:
        return EMPTY
    ops = _spans_by_thread(trace, trace.events.of(Category.CPU_OP))
    found = []
    for thread, mine in waits.items():
        pid = trace.threads[thread].pid
        others = [part for t, part in ops.items() if t != thread and trace.threads[t].pid == pid]
        found.append(intersect(mine, union_of(others)))
    return union_of(found)


def _waits(trace: Trace, threads: Threads) -> dict[int, Union]:
    """The time in which each of the threads that wait does so, without the ops it runs there."""
    return trace.once(_WAITS, lambda trace: _find_waits(trace, threads))


def _find_waits(trace: Trace, threads: Threads) -> dict[int, Union]:
    events = trace.events
    wait = events.of(Category.PYTHON) & matching(trace, _WAIT) & on_threads(trace, threads)
    if not wait.any():
        return {}
    waiting = np.unique(events.thread[wait])
    rows = group_rows(events.thread, wait | _ops_of(trace, waiting))
    return {thread: _outside_ops(trace, mine, wait[mine]) for thread, mine in rows.items()}


def _outside_ops(trace: Trace, rows: Int32, wait: Mask) -> Union:
    """The time of a thread's waits without its ops in them; `rows` are both, `wait` the first."""
    start, duration = trace.events.start_ns, trace.events.duration_ns
    nested = nest(start[rows], duration[rows])
    within, parent = wait, nested.parent
    for _ in range(int(nested.depth.max())):  # an op in a wait's op is in the wait
        within = within | (parent >= 0) & within[parent]
    return subtract(
        union_of_chosen(start, duration, rows[wait]),
        union_of_chosen(start, duration, rows[within & ~wait]),
    )


def _ops_of(trace: Trace, threads: Threads) -> Mask:
    return trace.events.of(Category.CPU_OP) & on_threads(trace, threads)


def _spans_by_thread(trace: Trace, mask: Mask) -> dict[int, Union]:
    """The union of the events that `mask` chooses, for each thread that has any."""
    events = trace.events
    return {
        thread: union_of_chosen(events.start_ns, events.duration_ns, rows)
        for thread, rows in group_rows(events.thread, mask).items()
    }


def _only(count: int, rows: Int64) -> Mask:
    mask = np.zeros(count, np.bool_)
    mask[rows] = True
    return mask


def running(trace: Trace, threads: Threads) -> Union:
    """From a launching thread's first to its last recorded event it ran something, if only
    Python."""
    events = trace.events
    host = _ranges(trace) | events.of(Category.RUNTIME, Category.DRIVER)
    host &= on_threads(trace, threads)
    first = np.full(len(trace.threads), np.iinfo(np.int64).max)
    last = np.full(len(trace.threads), np.iinfo(np.int64).min)
    for begin in range(0, len(events), _BLOCK_ROWS):
        block = slice(begin, begin + _BLOCK_ROWS)
        chosen = host[block]
        thread, start = events.thread[block][chosen], events.start_ns[block][chosen]
        np.minimum.at(first, thread, start)
        np.maximum.at(last, thread, start + events.duration_ns[block][chosen])
    return union(first[threads], last[threads])


_SPANS: dict[str, Callable[[Trace, Threads], Union]] = {
    "loader": _loader,
    "garbage": _garbage,
    "copy-in": _copy_in,
    "preparation": preparation,
    "dispatch": _dispatch,
    "another-thread": _another_thread,
    "python": running,
}
