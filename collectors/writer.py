"""One writer per file: append-only, whole lines, first line a `Header`."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path

import msgspec

from .records import SCHEMA, Closed, Header, Record

APPENDING = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC


class Clock:
    """Monotonic time placed on nanoseconds since the epoch by one clock pair."""

    def __init__(self) -> None:
        self.mono_ns = time.monotonic_ns()
        self.wall_ns = time.time_ns()
        self.offset_ns = self.wall_ns - self.mono_ns

    def now_ns(self) -> int:
        """Nanoseconds since the epoch; unmoved by a system clock that is set meanwhile."""
        return time.monotonic_ns() + self.offset_ns


class RecordWriter:
    """Appends records to one file, a whole line at a time; raises OSError when the disk is full.

    After a failed write the partial line is cut off again where the file system allows it, so
    that a later line never joins a torn one.
    """

    def __init__(  # noqa: PLR0913 - the header's facts, by keyword
        self,
        path: Path,
        collector: str,
        clock: Clock,
        *,
        version: str = "",
        rank: int | None = None,
        local_rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        self.path = path
        self.clock = clock
        self._encoder = msgspec.json.Encoder()
        self._fd = os.open(path, APPENDING | os.O_CREAT, 0o644)
        self._identity = _identity(self._fd)
        self.pid = os.getpid()
        self.write(
            Header(
                schema=SCHEMA,
                collector=collector,
                host=socket.gethostname(),
                pid=self.pid,
                mono_ns=clock.mono_ns,
                wall_ns=clock.wall_ns,
                version=version,
                rank=rank,
                local_rank=local_rank,
                world_size=world_size,
            )
        )

    def write(self, *records: Record) -> None:
        """Append `records` with one system call where the file system takes it whole."""
        data = b"".join(self._encoder.encode(record) + b"\n" for record in records)
        if not self._is_ours():
            # Not closed: the number is somebody else's by now. Not made anew: a file that was
            # removed was removed on purpose.
            self._fd = -1
            self._fd = os.open(self.path, APPENDING)
            self._identity = _identity(self._fd)
        written = 0
        try:
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError:
            self._cut_torn_line(data[:written])
            raise

    def _is_ours(self) -> bool:
        """Whether the descriptor is still our file: a program may close all that it finds open.

        What it opens next gets the same number, and must never get our lines.
        """
        try:
            return self._fd >= 0 and _identity(self._fd) == self._identity
        except OSError:
            return False

    def _cut_torn_line(self, partial: bytes) -> None:
        torn = len(partial) - (partial.rfind(b"\n") + 1)
        if torn:
            size = os.fstat(self._fd).st_size
            os.ftruncate(self._fd, size - torn)

    def close(self) -> None:
        """Write the closing line and close the file; safe to call twice."""
        if self._fd < 0:
            return
        with contextlib.suppress(OSError):
            self.write(Closed(time_ns=self.clock.now_ns()))
        self.abandon()

    def abandon(self) -> None:
        """Close the file without a closing line (after a fork, or when the disk is full)."""
        if self._is_ours():
            os.close(self._fd)
        self._fd = -1


def _identity(descriptor: int) -> tuple[int, int]:
    facts = os.fstat(descriptor)
    return facts.st_dev, facts.st_ino
