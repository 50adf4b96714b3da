"""Which way a copy goes, and from what memory: from its event's name, or what the device noted."""

from __future__ import annotations

import re

from .distinct import distinct
from .table import Int64, Trace

_MARKS = (
    ("memset", "memset"),
    ("fillbuffer", "memset"),
    ("htod", "host-to-device"),
    ("hosttodevice", "host-to-device"),
    ("dtoh", "device-to-host"),
    ("devicetohost", "device-to-host"),
    ("ptop", "peer-to-peer"),
    ("peer", "peer-to-peer"),
    ("dtod", "device-to-device"),
    ("devicetodevice", "device-to-device"),
)

_LETTERS = re.compile(r"\bmemcpy ([mhds])2([mhds])\b")
"""Kineto's XPU builds: "Memcpy M2D (…)". H is host memory that the driver allocated, M memory that
it does not know (malloc's), D a device's, S shared (PTI, pti_view.h)."""
_HOST = "mh"

_DIRECTION = "direction"
"""What MTIA notes with a copy: "HOST_TO_DEVICE"; the event's name is the same for all."""


def copy_kind(name: str) -> str:
    """Direction of a copy from its event's name ("Memcpy HtoD (Pageable -> Device)").

    "unknown" where the name does not tell, and for a copy within the host's memory.
    """
    lowered = name.lower()
    letters = _LETTERS.search(lowered)
    if letters is not None:
        return _by_letters(letters[1], letters[2])
    return next((kind for mark, kind in _MARKS if mark in lowered), "unknown")


def _by_letters(source: str, target: str) -> str:
    if source in _HOST:
        return "unknown" if target in _HOST else "host-to-device"
    return "device-to-host" if target in _HOST else "device-to-device"


def copy_kinds(trace: Trace, rows: Int64) -> list[str]:
    """The direction of each copy or memset of `rows`, by its name, else by its arguments."""
    if not len(rows):
        return []
    events = trace.events
    unique, inverse = distinct(events.name[rows], events.args[rows])
    kinds = [_kind(trace, name, args) for name, args in unique.tolist()]
    return [kinds[index] for index in inverse.tolist()]


def _kind(trace: Trace, name: int, args: int) -> str:
    kind = copy_kind(trace.names[name])
    said = trace.args[args].get(_DIRECTION) if kind == "unknown" and args >= 0 else None
    return copy_kind(said.replace("_", "")) if isinstance(said, str) else kind


def is_pageable(name: str) -> bool:
    """Whether a copy to the device reads memory that is not pinned: the driver stages it first."""
    lowered = name.lower()
    letters = _LETTERS.search(lowered)
    if letters is not None:
        return letters[1] == "m" and letters[2] not in _HOST
    return "pageable ->" in lowered
