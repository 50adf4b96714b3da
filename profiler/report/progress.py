"""How far the reading of traces is, on stderr: only on a terminal, only where it takes a while."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

SHOWN_AFTER_S = 1.0
"""Work that is done by then needs no bar."""


def on_terminal(stream: TextIO | None) -> bool:
    """Whether somebody looks at what is written there."""
    return stream is not None and not stream.closed and stream.isatty()


@contextmanager
def reading_shown(wanted: bool = True) -> Iterator[None]:
    """Within, show how far `read_traces` is, if `wanted` and stderr is a terminal."""
    if not wanted or not on_terminal(sys.stderr):
        yield
        return
    from ..trace.many import watched

    bar = _Bar()
    try:
        with watched(bar.reached):
            yield
    finally:
        bar.stop()


class _Bar:
    """A bar that appears late and goes away at the end; several threads may tell it."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._progress: Any = None
        self._task: Any = None

    def reached(self, done: int, total: int) -> None:
        """Show that `done` of `total` bytes have been read."""
        with self._lock:
            if self._progress is None:
                if time.monotonic() - self._began < SHOWN_AFTER_S or done >= total:
                    return
                self._start()
            self._progress.update(self._task, completed=done, total=total)

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn()
        self._progress = Progress(
            *columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True
        )
        self._task = self._progress.add_task("reading traces", total=None)
        self._progress.start()

    def stop(self) -> None:
        """Take the bar away."""
        with self._lock:
            if self._progress is not None:
                self._progress.stop()
                self._progress = None
                self._began = float("inf")
