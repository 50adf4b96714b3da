"""A torch-profiler trace as columns: what the reader makes and every analysis takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
UInt8 = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Found = TypeVar("Found")

_BLOCK_ROWS = 1 << 17
_TABLE_ROWS = 8
"""Bytes of the table in `contains` for each value: as much as an int64 column has."""


class Category(IntEnum):
    """What an event is, whatever the trace's year called it."""

    OTHER = 0
    CPU_OP = 1  # aten::…, autograd nodes, gloo/c10d ops on host threads
    ANNOTATION = 2  # record_function ranges on host threads (user_annotation)
    PYTHON = 3  # python_function
    RUNTIME = 4  # cuda_runtime, hip runtime, XPU/MTIA runtime calls
    DRIVER = 5  # cuda_driver
    KERNEL = 6  # device work
    MEMCPY = 7  # device work
    MEMSET = 8  # device work
    DEVICE_ANNOTATION = 9  # gpu_user_annotation: a range on a stream, not work
    SYNC = 10  # cuda_sync
    OVERHEAD = 11  # the profiler's own
    TRACE = 12  # "Trace" spans: PyTorch Profiler (0), Iteration markers
    LOADER = 13  # 2021's own DataLoader category
    COLLECTIVE = 14  # device-side collective of builds that give it a category of its own


DEVICE_WORK = (Category.KERNEL, Category.MEMCPY, Category.MEMSET, Category.COLLECTIVE)


@dataclass(frozen=True)
class Signature:
    """The recorded arguments of an op, interned: one object for all events that share it."""

    dims: tuple[Any, ...] = ()  # "Input Dims": a tuple per argument, nested for tensor lists
    types: tuple[str, ...] = ()  # "Input type"
    strides: tuple[Any, ...] = ()  # "Input Strides"
    concrete: tuple[str, ...] = ()  # "Concrete Inputs"


@dataclass(frozen=True)
class Events:
    """Complete events, sorted by (start_ns, -duration_ns). All columns have one length.

    `start_ns` is nanoseconds since the epoch where the trace says so (see `Trace.epoch`), else
    since the trace's own zero. -1 stands for "not recorded" in every id column. Columns are not to
    be written to; `correlation` and `external_id` are int32 where all ids fit, to save memory:
    widen them before arithmetic.
    """

    start_ns: Int64
    duration_ns: Int64
    category: UInt8  # a `Category`
    name: Int32  # index into Trace.names
    thread: Int32  # index into Trace.threads (host threads and device streams alike)
    device: Int32  # device ordinal for device work, else -1
    stream: Int32  # stream id for device work, else -1
    correlation: Int64
    external_id: Int64
    signature: Int32  # index into Trace.signatures, -1 without recorded shapes
    args: Int32  # index into Trace.args (the remaining, rarer arguments), -1 where none
    bytes: Int64  # memcpy / memset / collective bytes where recorded, else -1

    def __len__(self) -> int:
        return len(self.start_ns)

    def of(self, *categories: Category) -> npt.NDArray[np.bool_]:
        """Which events have one of these categories."""
        first, *others = map(int, categories)  # an enum would be compared as int64
        found = np.empty(len(self), np.bool_)
        for begin in range(0, len(self), _BLOCK_ROWS):
            values, chosen = (
                column[begin : begin + _BLOCK_ROWS] for column in (self.category, found)
            )
            np.equal(values, first, out=chosen)
            for category in others:
                chosen |= values == category
        return found


def looked_up(values: npt.NDArray[Any], index: npt.NDArray[np.integer]) -> npt.NDArray[Any]:
    """Return `values[index]`; where the index is -1, "not recorded", something to be masked.

    In blocks: numpy makes an index of 8 bytes a row first. With `clip` it does not go through a
    copy of the result.
    """
    found = np.empty(len(index), values.dtype)
    for begin in range(0, len(index), _BLOCK_ROWS):
        block = slice(begin, begin + _BLOCK_ROWS)
        np.take(values, index[block], out=found[block], mode="clip")
    return found


def contains(ids: npt.NDArray[np.integer], values: npt.NDArray[np.integer]) -> Mask:
    """Which of `values` are among `ids`; negative ones stand for "not recorded" and never are.

    By a table from the least to the largest id where that is short enough: ids count up.
    """
    ids = ids[ids >= 0]
    if not len(ids):
        return np.zeros(len(values), np.bool_)
    least, largest = int(ids.min()), int(ids.max())
    if largest - least > _TABLE_ROWS * (len(ids) + len(values)):
        known = np.unique(ids)
        place = np.minimum(np.searchsorted(known, values), len(known) - 1)
        return np.asarray(known[place] == values)
    table = np.zeros(largest - least + 1, np.bool_)
    table[ids - least] = True
    found = (values >= least) & (values <= largest)
    for begin in range(0, len(values), _BLOCK_ROWS):
        block, inside = values[begin : begin + _BLOCK_ROWS], found[begin : begin + _BLOCK_ROWS]
        inside &= table[np.where(inside, block - least, 0)]
    return np.asarray(found)


@dataclass(frozen=True)
class Thread:
    """One row of the trace: a host thread or a device stream."""

    pid: str
    tid: str
    name: str = ""
    is_device: bool = False


@dataclass(frozen=True)
class TraceWarning:
    """Something wrong with the trace; `slug` has a section in docs/trace-health.md."""

    slug: str
    text: str
    count: int = 1


@dataclass(frozen=True)
class Trace:
    """One trace file."""

    path: str
    events: Events
    names: list[str]
    threads: list[Thread]
    signatures: list[Signature]
    args: list[dict[str, Any]]
    epoch: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)  # deviceProperties, distributedInfo, …
    warnings: list[TraceWarning] = field(default_factory=list)
    _found: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, what: str, find: Callable[[Trace], Found]) -> Found:
        """Return `find(self)`, kept under the name `what` for those who ask again.

        For what several analyses need: it is not to be written to, and stays as long as the trace.
        """
        if what not in self._found:
            self._found[what] = find(self)
        found: Found = self._found[what]
        return found

    def forget(self, what: str) -> None:
        """Give back the memory of what `once` kept."""
        self._found.pop(what, None)
