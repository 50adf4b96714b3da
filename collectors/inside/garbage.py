"""Garbage-collection pauses, from the interpreter's own callbacks."""

from __future__ import annotations

import gc
import time

from ..records import SpanKind
from .manners import raised_by_signal_handler
from .recorder import Recorder

MIN_PAUSE_NS = 20_000
"""Shorter pauses are not worth a record: 50 of them make a millisecond."""


class GarbagePauses:
    """Records pauses of the cyclic garbage collector."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._start = 0
        self._works = True
        gc.callbacks.append(self._on_collection)

    def _on_collection(self, phase: str, info: dict[str, int]) -> None:
        if not self._works:  # taken out here, the interpreter would skip the one after it
            return
        if phase == "start":
            self._start = time.monotonic_ns()
            return
        now = time.monotonic_ns()
        if self._start and now - self._start >= MIN_PAUSE_NS:
            try:
                self._recorder.span(SpanKind.GC, self._start, now, info.get("generation", 0))
            except Exception as error:  # the interpreter would print it
                if raised_by_signal_handler(error) is not None:
                    raise  # redelivered by manners.redeliver_lost_signals
                self._works = False
                self._recorder.crashed("inside", "pauses of garbage collection: no longer recorded")
        self._start = 0

    def close(self) -> None:
        """Stop listening."""
        if self._on_collection in gc.callbacks:
            gc.callbacks.remove(self._on_collection)
