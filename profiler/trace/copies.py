"""Which way a copy goes, from its event's name."""

from __future__ import annotations


def copy_kind(name: str) -> str:
    """Direction of a copy from its event's name ("Memcpy HtoD (Pageable -> Device)")."""
    lowered = name.lower()
    for mark, kind in (
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
    ):
        if mark in lowered:
            return kind
    return "unknown"
