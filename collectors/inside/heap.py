"""The process's resident memory, and giving back what a trace window left scattered in it."""

from __future__ import annotations

import ctypes
import os
import resource

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Resident memory of this process; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return 0


def minor_faults() -> int:
    """Page faults of this process so far that were served from memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def trim() -> None:
    """Let the C library give free pages back; does nothing where it cannot (not glibc)."""
    release = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if release is not None:
        release(0)
