"""The arguments of events: ids and shapes into columns, the rarer rest interned."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from .notes import Notes
from .part import Interner, SignatureKey
from .table import Category, Int64, Signature, UInt8

_NONE = msgspec.Raw(b"")
_MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError)


class _OpArgs(msgspec.Struct, gc=False):
    """Arguments of CPU ops and annotations; sentinels tell that rarer ones are there."""

    external_id: int = msgspec.field(default=-1, name="External id")
    old_external_id: int = msgspec.field(default=-1, name="external id")
    dims: msgspec.Raw = msgspec.field(default=_NONE, name="Input Dims")
    old_dims: msgspec.Raw = msgspec.field(default=_NONE, name="Input dims")
    types: msgspec.Raw = msgspec.field(default=_NONE, name="Input type")
    strides: msgspec.Raw = msgspec.field(default=_NONE, name="Input Strides")
    concrete: msgspec.Raw = msgspec.field(default=_NONE, name="Concrete Inputs")
    stack: msgspec.Raw = msgspec.field(default=_NONE, name="Call stack")
    modules: msgspec.Raw = msgspec.field(default=_NONE, name="Module Hierarchy")
    collective: msgspec.Raw = msgspec.field(default=_NONE, name="Collective name")
    kernel_file: msgspec.Raw = msgspec.field(default=_NONE, name="kernel_file")
    kernel_backend: msgspec.Raw = msgspec.field(default=_NONE, name="kernel_backend")


class _WorkArgs(msgspec.Struct, gc=False):
    """Arguments of kernels, copies and memsets.

    `original_stream`: the stream of the work of a graph that an exporter drew in another row.
    """

    device: int = -1
    stream: int = -1
    original_stream: int = -1
    correlation: int = -1
    bytes: int = -1
    external_id: int = msgspec.field(default=-1, name="External id")
    old_external_id: int = msgspec.field(default=-1, name="external id")
    grid: msgspec.Raw = _NONE
    block: msgspec.Raw = _NONE
    registers: msgspec.Raw = msgspec.field(default=_NONE, name="registers per thread")
    shared: msgspec.Raw = msgspec.field(default=_NONE, name="shared memory")
    occupancy: msgspec.Raw = msgspec.field(default=_NONE, name="est. achieved occupancy %")
    kind: msgspec.Raw = _NONE
    collective: msgspec.Raw = msgspec.field(default=_NONE, name="Collective name")
    graph: msgspec.Raw = msgspec.field(default=_NONE, name="graph id")
    bandwidth: msgspec.Raw = msgspec.field(default=_NONE, name="memory bandwidth (GB/s)")
    call: msgspec.Raw = msgspec.field(default=_NONE, name="l0 call")


class _LinkArgs(msgspec.Struct, gc=False):
    """Arguments of runtime and driver calls."""

    correlation: int = -1
    external_id: int = msgspec.field(default=-1, name="External id")
    old_external_id: int = msgspec.field(default=-1, name="external id")


_UNKNOWN = -2  # no index of a rest

_Columns = dict[str, npt.NDArray[Any]]
_Reader = Callable[[_Columns, npt.NDArray[Any], list[msgspec.Raw]], None]

_OPS = (Category.CPU_OP, Category.ANNOTATION, Category.LOADER)
_WORK = (Category.KERNEL, Category.MEMCPY, Category.MEMSET, Category.COLLECTIVE)
_LINKS = (Category.RUNTIME, Category.DRIVER)
_WITHOUT = (Category.PYTHON, Category.TRACE)  # their arguments say nothing that names do not
_FORMS = np.full(256, 4, np.uint8)
"""Which form the arguments of a category have: none (0), those of ops (1), of
device work (2), of calls (3), or any (4)."""
for _form, _members in enumerate((_WITHOUT, _OPS, _WORK, _LINKS)):
    _FORMS[list(_members)] = _form

_PER_EVENT = frozenset(
    {
        "External id",
        "external id",
        "external ts",
        "Ev Idx",
        "Profiler Event Index",
        "Record function id",
        "Sequence number",
        "Fwd thread id",
        "Trace name",
        "Trace iteration",
        "Device",
        "Input Dims",
        "Input dims",
        "Input type",
        "Input Strides",
        "Input names",
        "Output dims",
        "Output type",
        "Output names",
        "Extra arguments",
        "Concrete Inputs",
        "correlation",
        "device",
        "stream",
        "original_stream",
        "graph node id",
        "bytes",
        "context",
        "queued",
        "memory bandwidth (GB/s)",
        "python_caller_id",
        "finished",
        "Seq",
        # XPU (libkineto's plugin of PTI): times and numbers of each piece of work
        "appended",
        "submitted",
        "sycl_task_begin",
        "sycl_enqk_begin",
        "sycl_node_id",
        "sycl_invocation_id",
        "kernel_id",
        "memory opration id",
    }
)
"""Arguments that have a column, or differ from event to event and say nothing."""

ITEM_BYTES: dict[str, int] = {
    "float": 4, "int": 4, "unsigned int": 4, "double": 8, "long int": 8, "long": 8,
    "long long": 8, "short int": 2, "short": 2, "signed char": 1, "char": 1,
    "unsigned char": 1, "byte": 1, "bool": 1, "half": 2, "c10::half": 2, "bfloat16": 2,
    "c10::bfloat16": 2, "c10::complex<float>": 8, "c10::complex<double>": 16,
    "c10::float8_e4m3fn": 1, "c10::float8_e5m2": 1, "c10::float8_e4m3fnuz": 1,
    "c10::float8_e5m2fnuz": 1, "float8_e4m3fn": 1, "float8_e5m2": 1,
}  # fmt: skip
"""Bytes an element, by the type names of `Input type` and NCCL's `dtype`, in lower case."""


class ArgumentReader:
    """Reads the arguments of chunk after chunk; signatures and rests are interned over all."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._ops = msgspec.json.Decoder(list[_OpArgs])
        self._work = msgspec.json.Decoder(list[_WorkArgs])
        self._links = msgspec.json.Decoder(list[_LinkArgs])
        self.signatures = Interner[SignatureKey]()
        self.rests = Interner[bytes]()
        self._signature_by_key: dict[bytes, int] = {}  # found faster than by four
        self._rest_by_key: dict[bytes, int] = {}
        self._rest_by_work: dict[bytes, int] = {}
        self._rest_bytes: list[int] = []

    def read(self, category: UInt8, spans: Sequence[Any]) -> _Columns:
        """Return the columns that come from arguments, for events of these categories."""
        count = len(spans)
        columns: _Columns = {
            name: np.full(count, -1, kind)
            for name, kind in (
                ("device", np.int32),
                ("stream", np.int32),
                ("correlation", np.int64),
                ("external_id", np.int64),
                ("signature", np.int32),
                ("args", np.int32),
                ("bytes", np.int64),
            )
        }
        forms = _FORMS[category]
        readers: tuple[_Reader, ...] = (self._read_ops, self._read_work, self._read_links)
        for form, reader in enumerate((*readers, self._read_any), start=1):
            places = np.flatnonzero(forms == form)
            if not len(places):
                continue
            raws = [spans[index].args for index in places.tolist()]
            try:
                reader(columns, places, raws)
            except _MALFORMED:
                self._read_any(columns, places, raws)
        return columns

    def _read_ops(self, columns: _Columns, at: npt.NDArray[Any], raws: list[msgspec.Raw]) -> None:
        args = self._ops.decode(_as_list(raws))
        external_id = _ids(args)
        # An argument that is not there is `_NONE` itself: told faster than by its length.
        signature = [
            -1 if a.types is _NONE and a.dims is _NONE else self._signature(a) for a in args
        ]
        rest = [
            -1
            if a.stack is _NONE
            and a.modules is _NONE
            and a.collective is _NONE
            and a.kernel_file is _NONE
            and a.kernel_backend is _NONE
            else self._rest(
                b"".join((a.stack, b"\0", a.modules)),
                raw,
                bool(a.collective or a.kernel_file or a.kernel_backend),
            )
            for a, raw in zip(args, raws, strict=True)
        ]
        columns["external_id"][at] = external_id
        columns["signature"][at] = signature
        columns["args"][at] = rest

    def _signature(self, args: _OpArgs) -> int:
        dims = args.dims or args.old_dims
        key = b"\0".join((dims, args.types, args.strides, args.concrete))
        index = self._signature_by_key.get(key)
        if index is None:
            index = self._signature_by_key[key] = self.signatures[
                bytes(dims), bytes(args.types), bytes(args.strides), bytes(args.concrete)
            ]
        return index

    def _read_work(self, columns: _Columns, at: npt.NDArray[Any], raws: list[msgspec.Raw]) -> None:
        args = self._work.decode(_as_list(raws))
        rests = self._rests_of_work(args, raws)
        found: dict[str, list[int] | Int64] = {
            "device": [a.device for a in args],
            "stream": [a.stream if a.original_stream < 0 else a.original_stream for a in args],
            "correlation": [a.correlation for a in args],
            "external_id": _ids(args),
            "bytes": [a.bytes for a in args],
            "args": rests,
        }
        arrays = {name: np.array(values, np.int64) for name, values in found.items()}
        rest_bytes = [*self._rest_bytes, -1]  # the last for the index -1: no rest
        messages = np.array([rest_bytes[index] for index in rests], np.int64)
        arrays["bytes"] = np.where(arrays["bytes"] >= 0, arrays["bytes"], messages)
        for name, values in arrays.items():
            limit = np.iinfo(columns[name].dtype).max
            columns[name][at] = np.where((values >= 0) & (values <= limit), values, -1)

    def _rests_of_work(self, args: list[_WorkArgs], raws: list[msgspec.Raw]) -> list[int]:
        keys = [b"" if a.collective else _work_key(a) for a in args]
        rests = [self._rest_by_work.get(key, _UNKNOWN) for key in keys]
        for place, rest in enumerate(rests):
            if rest == _UNKNOWN:
                key = keys[place]
                whole = not key or _is_rare(args[place], key)
                rests[place] = self._rest(key, raws[place], whole)
                if key and not key.startswith(_NO_WORK_KEY):
                    self._rest_by_work[key] = rests[place]
        return rests

    def _read_links(self, columns: _Columns, at: npt.NDArray[Any], raws: list[msgspec.Raw]) -> None:
        args = self._links.decode(_as_list(raws))
        correlation = np.array([a.correlation for a in args], np.int64)
        columns["external_id"][at] = _ids(args)
        columns["correlation"][at] = correlation

    def _read_any(self, columns: _Columns, at: npt.NDArray[Any], raws: list[msgspec.Raw]) -> None:
        """Read arguments of any form, one event after the other."""
        for place, raw in zip(at.tolist(), raws, strict=True):
            value = self.decoded(raw)
            external_id = value.get("External id", value.get("external id"))
            columns["external_id"][place] = _integer(external_id)
            columns["correlation"][place] = _integer(value.get("correlation"))
            columns["bytes"][place] = _integer(value.get("bytes"))
            columns["device"][place] = _integer(value.get("device"), 2**31)
            stream = value.get("original_stream", value.get("stream"))
            columns["stream"][place] = _integer(stream, 2**31)
            if "Input type" in value or "Input Dims" in value:
                columns["signature"][place] = self._signature(_op_args(value))
            columns["args"][place] = self._rest_of(value)

    def decoded(self, raw: msgspec.Raw) -> dict[str, Any]:
        """Return arguments as a dict; empty, counted, where they cannot be read."""
        try:
            value = msgspec.json.decode(raw)
        except _MALFORMED:
            self._notes.add("unreadable-arguments", "Arguments that cannot be read: left out.")
            return {}
        return value if isinstance(value, dict) else {}

    # the rest

    def _rest(self, key: bytes, raw: msgspec.Raw, whole: bool) -> int:
        """Return the index of the rarer arguments; `key` stands for them unless `whole`."""
        if whole:
            return self._rest_of(self.decoded(raw))
        index = self._rest_by_key.get(key)
        if index is None:
            index = self._rest_by_key[key] = self._rest_of(self.decoded(raw))
        return index

    def _rest_of(self, value: dict[str, Any]) -> int:
        rest = {name: item for name, item in value.items() if name not in _PER_EVENT}
        if not rest:
            return -1
        index = self.rests[msgspec.json.encode(rest)]
        if index == len(self._rest_bytes):
            self._rest_bytes.append(message_bytes(rest))
        return index


def signatures_of(keys: Iterable[SignatureKey]) -> list[Signature]:
    """Return the signatures that the keys stand for."""
    parts: dict[bytes, tuple[Any, ...]] = {}  # the same types and shapes come again and again

    def part(raw: bytes) -> tuple[Any, ...]:
        value = parts.get(raw)
        if value is None:
            value = parts[raw] = as_tuple(_decoded_list(raw))
        return value

    return [Signature(*(part(raw) for raw in key)) for key in keys]


def tensor_bytes(signature: Signature) -> int:
    """Return the size of an op's tensors, bytes; -1 where a shape or a type is not known."""
    size = 0
    for shape, kind in zip(signature.dims, signature.types, strict=False):
        item = ITEM_BYTES.get(str(kind).lower())
        if item is None:
            return -1
        if not isinstance(shape, tuple) or not all(isinstance(n, int) for n in shape):
            return -1
        size += math.prod(shape) * item
    return size if signature.dims else -1


def message_bytes(args: dict[str, Any]) -> int:
    """Return a collective's size as NCCL's tests define it, bytes; -1 where it is not recorded.

    For all-gather that is the output, for reduce-scatter the input, else both are the same: the
    larger of "In msg nelems" and "Out msg nelems" (nccl-tests, PERFORMANCE.md).
    """
    item = ITEM_BYTES.get(str(args.get("dtype", "")).lower())
    counts = [args.get("In msg nelems"), args.get("Out msg nelems")]
    known = [count for count in counts if isinstance(count, int)]
    return max(known) * item if item and known else -1


def _as_list(raws: list[msgspec.Raw]) -> bytes:
    return b"".join((b"[", b",".join(raws), b"]"))


def _work_key(args: _WorkArgs) -> bytes:
    """What the rarer arguments of CUDA's and ROCm's device work depend on."""
    return b"\0".join(
        (
            args.grid,
            args.block,
            args.registers,
            args.shared,
            args.occupancy,
            args.kind,
            args.graph,
        )
    )


_NO_WORK_KEY = _work_key(_WorkArgs())
"""How the key of copies begins, and of work of other builds, whose arguments it says nothing of."""


def _is_rare(args: _WorkArgs, key: bytes) -> bool:
    """Whether the key says nothing of work that is no copy of CUDA or ROCm: those have no rest."""
    return key.startswith(_NO_WORK_KEY) and (not args.bandwidth or bool(args.call))


def _ids(args: Sequence[_OpArgs] | Sequence[_WorkArgs] | Sequence[_LinkArgs]) -> Int64:
    ids = np.array([a.external_id for a in args], np.int64)
    without = np.flatnonzero(ids < 0)
    if len(without):
        ids[without] = [args[place].old_external_id for place in without.tolist()]
    return ids


def _decoded_list(raw: bytes) -> list[Any]:
    if not raw:
        return []
    try:
        value = msgspec.json.decode(raw)
    except _MALFORMED:
        return []
    return value if isinstance(value, list) else []


def as_tuple(value: Any) -> Any:
    """Return lists, nested ones too, as tuples."""
    return tuple(as_tuple(item) for item in value) if isinstance(value, list) else value


def _op_args(value: dict[str, Any]) -> _OpArgs:
    def raw(name: str) -> msgspec.Raw:
        return msgspec.Raw(msgspec.json.encode(value[name])) if name in value else _NONE

    return _OpArgs(
        dims=raw("Input Dims"),
        types=raw("Input type"),
        strides=raw("Input Strides"),
        concrete=raw("Concrete Inputs"),
    )


def _integer(value: Any, limit: int = 2**63) -> int:
    """Return an id as a number; -1 for what is not one."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return -1
    return number if 0 <= number < limit else -1
