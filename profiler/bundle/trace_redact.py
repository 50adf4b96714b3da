"""The events and the metadata of a trace with everything private replaced."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from ..redact import named
from ..redact.redactor import Redactor
from .trace_events import NOTHING, WholeEvent

NAMES, ARGUMENTS, METADATA, ROWS = (
    "trace: names of events",
    "trace: arguments of events",
    "trace: metadata",
    "trace: names of rows",
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ALLOWED = _words(
    "schemaVersion displayTimeUnit baseTimeNanoseconds deviceProperties distributedInfo "
    "record_shapes profile_memory with_stack with_flops with_modules cupti_version "
    "cuda_runtime_version cuda_driver_version hip_runtime_version hip_driver_version "
    "nccl_version"
)
"""What stands beside the events and leaves the machine. Not the host's name, not the trace's id and
file, and nothing that a user's `add_metadata` wrote."""

_PRIVATE_PROPERTY = re.compile(r"serial|uuid|guid|pci|board|asset", re.IGNORECASE)
_DEVICE_CATEGORIES = _words(
    "kernel concurrent_kernel gpu_memcpy gpu_memset cuda_runtime cuda_driver hip_runtime Kernel "
    "Memcpy Memset Runtime cuda_sync xpu_runtime mtia_ccp_events"
)
MAX_DEPTH = 8
MAX_KNOWN = 200_000
_OPTION = re.compile(r"--?[A-Za-z]")
_QUOTED_NUMBER = re.compile(rb"\"-?\d{1,20}(?:\.\d{1,9})?\"")
_DIGITS = frozenset(b"-0123456789")
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_PLAIN_PHASES = ("X", "M")
_PHASES = frozenset("XMBEstfiIPCnbeNOD(){}RSTpFvVcaA")
_HEX_ID = re.compile(rb'"0x[0-9a-fA-F]{1,16}"|"\d{1,20}"|-?\d{1,20}')


class TraceRedactor:
    """Redacts events; texts that hold nothing private are looked up, not looked through again."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._clean: set[str] = set()
        self._clean_kernels: set[str] = set()
        self._clean_json: set[bytes] = set()

    def event(self, event: WholeEvent) -> WholeEvent:
        """Replace what is private in the event itself; times that are no numbers are left out."""
        where = ROWS if event.ph == "M" else NAMES
        if event.cat not in self._clean:
            event.cat = self._text(event.cat, NAMES)
        if event.cat in _DEVICE_CATEGORIES:
            event.name = self._kernel(event.name)
        elif event.name not in self._clean:
            event.name = self._text(event.name, where)
        if isinstance(event.pid, str):
            event.pid = self._text(event.pid, ROWS)
        if isinstance(event.tid, str):
            event.tid = self._text(event.tid, ROWS)
        event.ts, event.dur = _time(event.ts), _time(event.dur)
        if event.args:
            event.args = self._arguments(event.args, ROWS if event.ph == "M" else ARGUMENTS)
        if event.ph not in _PLAIN_PHASES:
            self._rarer(event)
        elif event.id or event.bp or event.s:
            event.id, event.bp, event.s = NOTHING, "", ""
        return event

    @staticmethod
    def _rarer(event: WholeEvent) -> None:
        """Leave flows, instants and counters their own fields, and no words in them."""
        event.ph = event.ph if event.ph in _PHASES else "i"
        event.id = event.id if event.id and _HEX_ID.fullmatch(event.id) else NOTHING
        event.bp = "e" if event.bp else ""
        event.s = event.s if event.s in ("g", "p", "t") else ""

    def metadata(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return what may stand beside the events."""
        shown = {}
        for key, value in values.items():
            if key not in ALLOWED:
                self._redactor.note("fact", METADATA, "left out: not on the list")
            elif key == "deviceProperties":
                shown[key] = self._devices(value)
            else:
                shown[key] = self._value(value, METADATA, 0)
        return shown

    def _devices(self, value: Any) -> list[dict[str, Any]]:
        devices = value if isinstance(value, list) else []
        return [
            {
                self._text(name, METADATA): self._value(fact, METADATA, 0)
                for name, fact in device.items()
                if not _PRIVATE_PROPERTY.search(name) and not isinstance(fact, dict | list)
            }
            for device in devices
            if isinstance(device, dict)
        ]

    def _row(self, row: int | str) -> int | str:
        return self._text(row, ROWS) if isinstance(row, str) else row

    def _text(self, text: str, where: str) -> str:
        if text in self._clean:
            return text
        made = self._redactor.op_name(text, where)
        self._learn(text, made)
        return made

    def _kernel(self, text: str) -> str:
        if text in self._clean_kernels:
            return text
        made = self._redactor.kernel_name(text, NAMES)
        if made == text and len(self._clean_kernels) < MAX_KNOWN:
            self._clean_kernels.add(text)
        return made

    def _learn(self, text: str, made: str) -> None:
        if made == text:
            if len(self._clean) >= MAX_KNOWN:
                self._clean.clear()
                self._clean_json.clear()
            self._clean.add(text)
            if not named.is_private(text):
                self._clean_json.add(msgspec.json.encode(text))

    def _arguments(self, raw: msgspec.Raw, where: str) -> msgspec.Raw:
        """Return arguments as they are where each of their texts is known to be harmless."""
        if raw == b"{}":
            return NOTHING
        if self._clean_json.issuperset(_STRING.findall(raw)):
            return raw
        try:
            value = msgspec.json.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return NOTHING
        if not isinstance(value, dict):
            return NOTHING
        return msgspec.Raw(msgspec.json.encode(self._value(value, where, 0)))

    def _value(self, value: Any, where: str, depth: int) -> Any:
        if isinstance(value, str):
            return value if value in self._clean else self._text(value, where)
        if not isinstance(value, list | dict):
            return value
        if depth >= MAX_DEPTH:
            return None
        if isinstance(value, list):
            if _is_command(value):
                return self._redactor.arguments(value, where)
            return [self._value(item, where, depth + 1) for item in value]
        return {
            self._text(key, where): self._named(key, item, where, depth)
            for key, item in value.items()
        }

    def _named(self, key: str, value: Any, where: str, depth: int) -> Any:
        """A value by its name: a secret of any form is replaced as a whole."""
        if isinstance(value, bool) or value is None:
            return value
        if named.SECRET_NAME.search(key) or named.SERIAL_NAME.search(key):
            text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
            shown = self._redactor.named_value(key, text, where)
            return value if shown == text else shown
        if named.HOST_NAME.search(key):
            hosts = value if isinstance(value, list) else [value]
            if all(isinstance(host, str) for host in hosts):
                shown_hosts = [self._redactor.named_value(key, host, where) for host in hosts]
                return shown_hosts if isinstance(value, list) else shown_hosts[0]
        return self._value(value, where, depth + 1)


def _is_command(value: list[Any]) -> bool:
    """Whether a list has options among its words, whose values may be private."""
    return all(isinstance(item, str) for item in value) and any(map(_OPTION.match, value))


def _time(raw: msgspec.Raw) -> msgspec.Raw:
    """Return a number's own text; anything else could hold words."""
    if not raw or bytes(raw)[0] in _DIGITS:  # JSON that begins so is a number
        return raw
    return raw if _QUOTED_NUMBER.fullmatch(raw) else NOTHING
