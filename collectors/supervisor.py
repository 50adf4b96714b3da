"""Runs the collectors beside the training, each in a thread and a file of its own."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from .base import Collector, Job
from .beside import discover
from .records import Gap, Reason, Record
from .writer import RecordWriter

log = logging.getLogger(__name__)

TRACEBACK_CHARACTERS = 2000
"""The end of a traceback that a gap keeps: some ten frames."""


class _WriteFailed(Exception):
    """A record could not be written: the disk is full or the folder is gone."""


@dataclass
class _Slot:
    """One collector with its file and thread."""

    collector: Collector
    writer: RecordWriter
    thread: threading.Thread | None = None
    finished: threading.Event = field(default_factory=threading.Event)
    abandoned: bool = False
    cpu_s: float = 0.0
    samples: int = 0


class Supervisor:
    """Starts, runs and stops the collectors beside one job; never raises into the launcher.

    `only` and `without` choose by name; a collector that is not chosen leaves a file with a
    `switched-off` gap. `on_gap` is told every gap, also those that can't be written because the
    disk is full; it is called from the collector's thread.
    """

    def __init__(  # noqa: PLR0913 - choices by keyword
        self,
        job: Job,
        version: str = "",
        *,
        only: Collection[str] | None = None,
        without: Collection[str] = (),
        on_gap: Callable[[Gap], None] | None = None,
        collectors: Sequence[Collector] | None = None,
    ) -> None:
        self._job = job
        self._version = version
        self._only = only
        self._without = without
        self._on_gap = on_gap
        self._collectors = (
            list(collectors) if collectors is not None else [cls() for cls in discover()]
        )
        self._slots: list[_Slot] = []
        self._stop = threading.Event()
        self.gaps: list[Gap] = []

    def start(self) -> None:
        """Open every file and start a thread for each collector that is wanted."""
        for collector in self._collectors:
            slot = self._open(collector)
            if slot is None:
                continue
            if not self._wanted(collector.name):
                self._write_gap(slot, "switched-off", "switched off on the command line")
                self._close(slot)
                continue
            self._slots.append(slot)
            slot.thread = threading.Thread(
                target=self._run, args=(slot,), name=f"boundscope-{collector.name}", daemon=True
            )
            slot.thread.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """End all collectors; returns after `timeout_s` at the latest, hung ones left behind."""
        self._stop.set()
        deadline = time.monotonic() + timeout_s
        for slot in self._slots:
            if slot.finished.wait(max(0.0, deadline - time.monotonic())) or slot.abandoned:
                continue
            slot.abandoned = True
            self._write_gap(slot, "crashed", f"did not stop within {timeout_s:g} s: it hangs")

    def cpu_seconds(self) -> dict[str, float]:
        """CPU time that each collector's thread has used so far (subprocesses not included)."""
        return {slot.collector.name: slot.cpu_s for slot in self._slots}

    def _wanted(self, name: str) -> bool:
        return (self._only is None or name in self._only) and name not in self._without

    def _open(self, collector: Collector) -> _Slot | None:
        path = self._job.folder / f"{collector.name}.jsonl"
        try:
            writer = RecordWriter(path, collector.name, self._job.clock, version=self._version)
        except OSError as error:
            self._announce(self._gap(collector, "crashed", f"{path.name}: {error.strerror}"))
            return None
        return _Slot(collector, writer)

    def _run(self, slot: _Slot) -> None:
        try:
            self._collect(slot)
        except _WriteFailed as failure:
            slot.abandoned = True
            self._announce(self._gap(slot.collector, "crashed", f"cannot write: {failure}"))
            self._stop_collector(slot)
            slot.writer.abandon()
        except Exception as error:  # noqa: BLE001 - whatever it is, the others go on
            self._write_gap(slot, "crashed", _last_line_and_traceback(error))
            self._stop_collector(slot)
            self._close(slot)
        else:
            self._close(slot)
        finally:
            slot.cpu_s = time.thread_time()
            slot.finished.set()

    def _collect(self, slot: _Slot) -> None:
        collector = slot.collector
        availability = collector.probe()
        if not availability.works:
            reason = availability.reason or "not-supported"
            self._write_gap(slot, reason, availability.detail)
            if not getattr(collector, "runs_degraded", False):
                return
        collector.start(self._job)
        self._sample_on_schedule(slot)
        self._write(slot, collector.stop())

    def _sample_on_schedule(self, slot: _Slot) -> None:
        """Sample at whole multiples of the period after the start; missed ones are skipped."""
        period = slot.collector.period_s
        started = time.monotonic()
        tick = 1
        while not self._stop.wait(max(0.0, started + tick * period - time.monotonic())):
            self._write(slot, slot.collector.sample())
            slot.samples += 1
            slot.cpu_s = time.thread_time()
            tick = max(tick + 1, int((time.monotonic() - started) / period) + 1)

    def _write(self, slot: _Slot, records: Sequence[Record]) -> None:
        if slot.abandoned or not records:
            return
        for record in records:
            if isinstance(record, Gap):
                self._announce(record)
        try:
            slot.writer.write(*records)
        except OSError as error:
            raise _WriteFailed(error.strerror or str(error)) from error

    def _write_gap(self, slot: _Slot, reason: Reason, detail: str) -> None:
        gap = self._gap(slot.collector, reason, detail)
        self._announce(gap)
        try:
            slot.writer.write(gap)
        except OSError:
            log.debug("the gap of %s could not be written", slot.collector.name)

    def _gap(self, collector: Collector, reason: Reason, detail: str) -> Gap:
        return Gap(
            time_ns=self._job.clock.now_ns(),
            collector=collector.name,
            reason=reason,
            detail=detail,
            effect=collector.effect,
        )

    def _announce(self, gap: Gap) -> None:
        self.gaps.append(gap)
        if self._on_gap is None:
            return
        try:
            self._on_gap(gap)
        except Exception:
            log.exception("on_gap failed")

    def _stop_collector(self, slot: _Slot) -> None:
        try:
            slot.collector.stop()
        except Exception:
            log.debug("%s failed again while it stopped", slot.collector.name, exc_info=True)

    def _close(self, slot: _Slot) -> None:
        if not slot.abandoned:
            slot.writer.close()


def _last_line_and_traceback(error: BaseException) -> str:
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    last = lines[-1].strip()
    return f"{last}\n{''.join(lines)[-TRACEBACK_CHARACTERS:]}"
