"""The C library's heap: kept while a trace is read, given back when its columns are there."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # options of mallopt (malloc.h of glibc)
_KEPT_BYTES = 64 << 20
_LARGE_BYTES = 32 << 20  # glibc takes no more, and goes up to it by itself

KEEPING = {
    "MALLOC_TRIM_THRESHOLD_": str(_KEPT_BYTES),
    "MALLOC_MMAP_THRESHOLD_": str(_LARGE_BYTES),
}
"""The environment with which a process keeps its heap from the start, as in `kept_heap`."""


def give_back_heap() -> None:
    """Return free heap to the system, where the C library can: reading a trace leaves 20 to 40 MB
    of it, in pieces between what is still in use."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def kept_heap() -> Iterator[None]:
    """Keep what is freed for the next allocation, where the C library can.

    Chunk after chunk of a trace takes and frees the same tens of MB. Given to the system in
    between, every page comes back as a fault: 23 times as many, and 200 MB took 1.8 s, not 1.3.
    Behind it, blocks of under 32 MB still come from the heap, as the arrays of an analysis do.
    """
    _set_thresholds(_KEPT_BYTES, _LARGE_BYTES)
    try:
        yield
    finally:
        _set_thresholds(_LARGE_BYTES, _LARGE_BYTES)
        give_back_heap()


def _set_thresholds(trim: int, large: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_TRIM_THRESHOLD, trim)
        library.mallopt(_MMAP_THRESHOLD, large)
