"""The records of a run with everything private replaced: each type by its fields."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec

from ...collectors.records import (
    Frame,
    Gap,
    Header,
    Manifest,
    Process,
    Record,
    Sample,
    Site,
    SpanKind,
    Spans,
    Stacks,
    Window,
)
from ..environment import LAUNCHER_VARIABLES, SCHEDULER_VARIABLES
from ..machine.roofs import Roofs
from .known import Known
from .redactor import Redactor

ARGUMENTS, ENVIRONMENT = "arguments", "environment"
HOSTS, PATHS, STACKS, SITES = "host names", "folders", "stack frames", "places in the code"
PROCESSES, GAPS, METRICS = "processes", "gaps", "metrics"


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


ALLOWED_FACTS: dict[str, frozenset[str]] = {
    "python": _names("python implementation boundscope kernel machine libc os"),
    "torch": _names("version cuda cudnn nccl threads interop_threads backend debug"),
    "hardware": _names(
        "cpu cpus_logical cpus_physical cache_l1_data cache_l1_instruction cache_l2 cache_l3 "
        "cache_l4 memory_bytes numa_nodes gpus gpu_driver"
    ),
    "limits": _names(
        "cores cores_affinity cores_allowed cores_quota memory_bytes shared_memory_bytes"
    ),
    "scheduler": frozenset(name for name in SCHEDULER_VARIABLES if not name.endswith("ID"))
    | _names("SLURM_NODEID SLURM_PROCID SLURM_LOCALID kubernetes container"),
    "git": _names("commit dirty"),
    "launcher": frozenset(LAUNCHER_VARIABLES)
    | _names("kind nproc_per_node nnodes num_processes num_gpus"),
}
"""The facts of the environment that leave the machine, by group. What is not named here does not,
whatever a newer recorder writes."""

ALLOWED_VARIABLES = ALLOWED_FACTS["launcher"] | ALLOWED_FACTS["scheduler"]

Number = TypeVar("Number", int, float)

_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_ID = re.compile(r"[0-9a-f]{8,16}")
_ROOF = re.compile(r"[a-z]{2,4}\d{0,2}(?:_matrix)?|special|l[1-4]|dram(?:_copy|_triad)?")
WINDOW_FILE = re.compile(r"trace-\d{1,6}\.json")
"""A window's trace, as recorders call it: a file of the rank's own folder."""
_KINDS = frozenset(
    value for name, value in vars(SpanKind).items() if name.isupper() and isinstance(value, str)
)


def learn(known: Known, record: Record | Manifest) -> None:
    """Note the names of hosts and users, and the project's folders, that a record tells."""
    if isinstance(record, Header | Manifest):
        known.hosts.add(record.host)
    if isinstance(record, Manifest):
        known.projects.add(record.cwd)
    if isinstance(record, Manifest):
        known.look_for_hosts(record.job.replace("master ", "master_addr=", 1))
        known.look_for_hosts(" ".join(record.command))
        _look_for_hosts_in_facts(known, record.environment.values())
    if isinstance(record, Process):
        known.look_for_hosts(" ".join(record.argv))
        _look_for_hosts_in_facts(known, [record.facts])
    for text in texts_of(record):
        known.look_at(text)


def _look_for_hosts_in_facts(known: Known, groups: Iterable[dict[str, str]]) -> None:
    for facts in groups:
        for name, value in facts.items():
            known.look_for_hosts(f"{name}={value}")


def texts_of(value: Any) -> Iterable[str]:
    """Return every text in a record."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from texts_of(getattr(value, name))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from texts_of(key)
            yield from texts_of(item)
    elif isinstance(value, list | tuple) and value and not isinstance(value[0], int | float):
        for item in value:
            yield from texts_of(item)


def files_of(record: Record | Manifest) -> Iterable[str]:
    """Return the files of code that a record names."""
    if isinstance(record, Frame | Site) and record.file:
        yield record.file
    if isinstance(record, Site) and record.facts.get("fetch_file"):
        yield record.facts["fetch_file"]


def redacted_manifest(manifest: Manifest, redactor: Redactor) -> Manifest:
    """Return the manifest with pseudonyms and only the allowed facts."""
    return msgspec.structs.replace(
        manifest,
        id=manifest.id if _ID.fullmatch(manifest.id) else redactor.text(manifest.id, "run name"),
        name=redactor.text(manifest.name, "run name"),
        command=redactor.arguments(manifest.command, ARGUMENTS),
        cwd=redactor.path(manifest.cwd, PATHS),
        host=redactor.host(manifest.host, HOSTS),
        version=redactor.text(manifest.version, ENVIRONMENT),
        environment={
            group: facts
            for group, given in manifest.environment.items()
            if (facts := _facts(group, given, redactor))
        },
        gaps=[_gap(gap, redactor) for gap in manifest.gaps],
        job="",  # by it other launchers find a run that goes on: it has the first host's name
    )


def _facts(group: str, given: dict[str, str], redactor: Redactor) -> dict[str, str]:
    allowed = ALLOWED_FACTS.get(group, frozenset())
    shown = {}
    for name, value in given.items():
        if name not in allowed and not redactor.keeps("environment"):
            redactor.note("fact", ENVIRONMENT, "left out: not on the list of what may leave")
        elif (group, name) == ("git", "commit") and _COMMIT.fullmatch(value):
            shown[name] = value
        else:
            shown[redactor.text(name, ENVIRONMENT)] = redactor.named_value(name, value, ENVIRONMENT)
    return shown


def redacted_roofs(roofs: Roofs, redactor: Redactor) -> Roofs:
    """Return the roofs of the run's machine; what they are called is a short list of words."""
    return msgspec.structs.replace(
        roofs,
        flops=_named_roofs(roofs.flops),
        flops_1=_named_roofs(roofs.flops_1),
        bandwidth=_named_roofs(roofs.bandwidth),
        cache_bytes=_named_roofs(roofs.cache_bytes),
        device=redactor.text(roofs.device, PROCESSES),
        key=roofs.key if _ID.fullmatch(roofs.key) else "",
        notes=[redactor.text(note, PROCESSES) for note in roofs.notes],
    )


def _named_roofs(rates: dict[str, Number]) -> dict[str, Number]:
    return {name: rate for name, rate in rates.items() if _ROOF.fullmatch(name)}


def redacted(record: Record, redactor: Redactor) -> Record:
    """Return the record with pseudonyms; numbers stay."""
    change = _CHANGES.get(type(record))
    return record if change is None else change(record, redactor)


def _header(record: Header, redactor: Redactor) -> Header:
    return msgspec.structs.replace(
        record,
        host=redactor.host(record.host, HOSTS),
        collector=redactor.text(record.collector, METRICS),
        version=redactor.text(record.version, ENVIRONMENT),
    )


def _sample(record: Sample, redactor: Redactor) -> Sample:
    values = {redactor.metric(name, METRICS): value for name, value in record.values.items()}
    return msgspec.structs.replace(record, values=values)


def _spans(record: Spans, _redactor: Redactor) -> Spans:
    if _KINDS.issuperset(record.kind):
        return record
    kind = "".join(letter if letter in _KINDS else "?" for letter in record.kind)
    return msgspec.structs.replace(record, kind=kind)


def _site(record: Site, redactor: Redactor) -> Site:
    return msgspec.structs.replace(
        record,
        what=redactor.text(record.what, SITES),
        file=redactor.path(record.file, SITES),
        function=redactor.op_name(record.function, SITES),
        facts=_named_values(record.facts, redactor, SITES),
    )


def _window(record: Window, redactor: Redactor) -> Window:
    file = record.file if WINDOW_FILE.fullmatch(record.file) else ""
    return msgspec.structs.replace(record, file=file, reason=redactor.text(record.reason, SITES))


def _process(record: Process, redactor: Redactor) -> Process:
    return msgspec.structs.replace(
        record,
        python=redactor.text(record.python, PROCESSES),
        torch=redactor.text(record.torch, PROCESSES),
        argv=redactor.arguments(record.argv, ARGUMENTS),
        facts=_named_values(record.facts, redactor, PROCESSES),
    )


def _named_values(facts: dict[str, str], redactor: Redactor, where: str) -> dict[str, str]:
    """Facts whose values are paths, numbers or words; a secret's name tells a secret."""
    shown = {}
    for name, value in facts.items():
        if name in ("fetch_file", "executable"):
            shown[name] = redactor.path(value, where)
        else:
            shown[redactor.op_name(name, where)] = redactor.named_value(name, value, where)
    return shown


def _gap(record: Gap, redactor: Redactor) -> Gap:
    return msgspec.structs.replace(
        record,
        collector=redactor.text(record.collector, GAPS),
        detail=redactor.text(record.detail, GAPS),
        effect=redactor.text(record.effect, GAPS),
    )


def _frame(record: Frame, redactor: Redactor) -> Frame:
    return msgspec.structs.replace(
        record,
        function=redactor.op_name(record.function, STACKS),
        file=redactor.path(record.file, STACKS),
    )


def _stacks(record: Stacks, redactor: Redactor) -> Stacks:
    return msgspec.structs.replace(
        record,
        role=record.role if record.role in ("rank", "worker") else "rank",
        thread_name=redactor.text(record.thread_name, STACKS),
    )


_CHANGES: dict[type, Callable[[Any, Redactor], Record]] = {
    Header: _header,
    Sample: _sample,
    Spans: _spans,
    Site: _site,
    Window: _window,
    Process: _process,
    Gap: _gap,
    Frame: _frame,
    Stacks: _stacks,
}
