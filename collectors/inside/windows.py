"""Short torch-profiler windows: after warm-up, once more later, and on demand.

A window is bounded in steps, in time and in events. The number of events cannot be read while the
profiler runs, so a probe of one step (at most `PROBE_S`) measures the event rate first. A watchdog
in the recorder's thread has a window that outlives its time ended inside a step, by the main thread
between two bytecodes: ended from elsewhere, it would crash a training that runs an op just then.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import msgspec

from ..records import TRACE_MARKER, SpanKind, Window
from .heap import minor_faults, resident_bytes, trim
from .manners import UnseenThread, call_in_main_thread, signals_deferred
from .recorder import HOLD_S, Recorder

WARM_STEPS = 5
WARM_S = 0.5
"""Lazy imports, thread pools and allocators settle in the first steps of a run."""

LATER_S = 20.0
"""The second window: late enough to differ from the first, early enough for a short run."""

NEVER_S = 1e9
"""After the second window none comes by itself."""

PROBE_S = 0.05
"""At the 200,000 events/s of the tiniest ops (measured, torch 2.13) this holds 10,000 events."""

MAX_EVENTS = 8_000
"""Stopping costs 4 to 8 us and 2 kB an event (measured, torch 2.13): 60 ms and 16 MB."""

MAX_GROWTH_BYTES = 24_000_000
"""A window ends with the step in which the process has grown by so much. The profiler's small
blocks split the heap's free ones, so that tensors of up to 32 MB find no room in them any more:
13 MB a step where a step's tensors are that large together (glibc, measured). `trim` gives it
back."""

ENOUGH_STEPS = 5
MAX_WARM_WINDOWS = 3
"""Windows that memory cut short are repeated until they hold so many steps together."""

STEP_COUNTS = (1, 2, 5, 10, 20)
ALIGNED_STEPS = 5
ALIGN_BELOW_S = 0.2
"""Windows of fast steps start at multiples of so many steps and take one of a few lengths, so that
the ranks of a job, which step together, record the same steps."""

USUAL_OF = 5
"""The usual duration of a step is the median of so many."""

MAX_WINDOW_S = 30.0

MAX_TRIES = 5
"""Windows cut short by a fork or by the script's own profiler that are tried again: a loop that
forks every few steps must not pay for a window each time."""

BLOCKED = "the script's own profiler ran when a window was due, and Kineto has room for one"
OTHER_THREAD = "torch was imported by another thread than the one that trains"
"""Kineto starts its first profiler only in the thread that loaded it, and complains on stderr."""
BLOCKED_EFFECT = "no torch-profiler window: no ops or kernels"

FORCE_S = 0.5
"""How long the end of the process waits for a profiler to be turned off by force."""

EVENT_MARK = b'"ph": "X"'


class Windows:
    """Plans, starts and ends the profiler windows of one training process."""

    def __init__(self, torch: Any, recorder: Recorder) -> None:
        self._torch = torch
        self._recorder = recorder
        self._lock = threading.RLock()
        self._profile: Any = None
        self._pending: tuple[Any, Window] | None = None
        self._annotation: Any = None
        self._wanted: list[str] = []
        self._want_at = "step"
        self._reason = ""
        self._index = 0
        self._first_tick = 0
        self._last_tick = 0
        self._nothing_until = 0
        self._durations: deque[int] = deque(maxlen=USUAL_OF)
        self._events_per_s = 0.0
        self._probed = False
        self._later_done = False
        self._start_ns = self._end_by = self._first_step = self._target_step = 0
        self._start_cost = self._stop_cost = 0
        self._step = 0
        self._own_call = 0
        self._held = self._hung = False
        self._blocked = False
        self._asked: tuple[int, object] = (-1, None)
        self._failed = False
        self._again = False
        self._tries = MAX_TRIES
        self._resident = self._faults = 0
        self._warm = (0, 0)
        self.foreign = False
        self.importer = 0
        recorder.every_flush.append(self.watch)

    @property
    def active(self) -> bool:
        """Whether a window is open now."""
        return self._profile is not None

    def attends(self) -> bool:
        """Whether a window is open or wanted, so that the boundaries within a step matter."""
        return self._profile is not None or bool(self._wanted)

    @property
    def used(self) -> bool:
        """Whether any window was opened, which leaves a thread of Kineto's behind."""
        return self._index > 0 or self._profile is not None

    def tick(self, step: int) -> None:
        """A step ended, in the training thread."""
        now = time.monotonic_ns()
        self._step = step
        if self._last_tick:
            self._durations.append(now - self._last_tick)
        self._first_tick = self._first_tick or now
        self._last_tick = now
        idle = not self._wanted and self._profile is None and self._annotation is None
        if idle and now < self._nothing_until:
            return
        if self._profile is not None:
            grown = resident_bytes() - self._resident >= MAX_GROWTH_BYTES
            if step >= self._target_step or now >= self._end_by or grown:
                self.stop(truncated=False)
            else:
                self._annotate(step)
            return
        self._end_annotation()  # of a window that was ended from outside this thread
        if self._due(step, now):
            if self._free():
                self._plan_and_start(step)
            else:
                self._blocked = True
        elif not self._wanted:
            self._nothing_until = self._first_tick + int(self._next_window_s() * 1e9)

    def _next_window_s(self) -> float:
        """When the next window comes by itself, s after the first step."""
        if not self._probed:
            return WARM_S
        return NEVER_S if self._later_done else LATER_S

    def boundary(self) -> None:
        """A backward pass begins: where partial windows of heavy steps may start."""
        if self._overdue():
            self.stop_overdue()
        if self._want_at == "backward" and self._wanted and self._profile is None and self._free():
            self._plan_and_start(self._step)

    def profiler_begins(self) -> None:
        """A profiler is prepared or enabled: ours gives way to one of the script's own."""
        if self._own_call != threading.get_ident():
            self.foreign = True
            self._interrupt()

    def profiler_ended(self) -> None:
        """A profiler was disabled; the script's own may be prepared again at any time."""
        if self._own_call != threading.get_ident():
            self.foreign = False

    def hold(self) -> None:
        """Before a fork: end the window, and wait for a trace that is being written."""
        self._interrupt()
        self._held = self._acquire()

    def release(self) -> None:
        """After the fork, in the parent."""
        if self._held:
            self._held = False
            self._lock.release()

    def _interrupt(self) -> None:
        """End a window that is in somebody's way; it is tried again."""
        if not self._acquire():
            return
        try:
            if self._profile is not None and self._tries:
                self._tries -= 1
                self._again = True
            self.stop(truncated=True)
        finally:
            self._lock.release()

    def _acquire(self) -> bool:
        """Take the lock; False where its holder hangs, which is waited for only once."""
        taken = self._lock.acquire(timeout=0 if self._hung else HOLD_S)
        self._hung = not taken
        return taken

    def _free(self) -> bool:
        """Whether no other profiler runs; Kineto has room for one."""
        running = getattr(self._torch.autograd.profiler, "_is_profiler_enabled", False)
        return not (self.foreign or running or self._torch.autograd._profiler_enabled())

    def _due(self, step: int, now: int) -> bool:
        if self._pending is not None or self._failed or not self._recorder.writes:
            return False
        if self.importer not in (0, threading.get_ident()):
            self._failed = True
            self._recorder.gap("windows", "not-supported", OTHER_THREAD, BLOCKED_EFFECT)
            return False
        if not self._wants(step, now) or self._want_at != "step":
            return False
        return self._step_ns >= ALIGN_BELOW_S * 1e9 or step % ALIGNED_STEPS == 0

    def _wants(self, step: int, now: int) -> bool:
        """Whether a window is wanted; asks for the two that come by themselves."""
        running_s = (now - self._first_tick) * 1e-9
        if not self._wanted and not self._probed:
            if step >= WARM_STEPS and running_s >= WARM_S:
                self._wanted = ["probe"]
        elif not self._wanted and not self._later_done and running_s >= LATER_S:
            self._later_done = True
            self._wanted = ["later"]
        return bool(self._wanted)

    @property
    def _step_ns(self) -> int:
        """The usual duration of a step; a single one may have waited for new loader workers."""
        recent = sorted(self._durations)
        return recent[len(recent) // 2] if recent else 0

    def _plan_and_start(self, step: int) -> None:
        self._reason = self._wanted.pop(0)
        if self._reason == "probe":
            steps, seconds = 1, PROBE_S
        else:
            per_step = max(1.0, self._events_per_s * self._step_ns * 1e-9)
            affordable = MAX_EVENTS // per_step
            steps = max([count for count in STEP_COUNTS if count <= affordable], default=1)
            seconds = MAX_WINDOW_S
            if self._events_per_s:
                seconds = min(seconds, max(PROBE_S, 2 * MAX_EVENTS / self._events_per_s))
        self._target_step = step + steps
        self._first_step = step
        self._start(seconds)

    def _start(self, seconds: float) -> None:
        begin = self._start_ns = time.monotonic_ns()
        self._end_by = begin + int(seconds * 1e9)
        level = os.environ.get("KINETO_LOG_LEVEL")
        if level is None:
            # Kineto of torch 2.13 prints "USDT: ... profiler_start" on the user's stderr.
            # Past os.environ, which another thread of the script may be reading.
            os.putenv("KINETO_LOG_LEVEL", "6")
        self._own_call = threading.get_ident()
        self._resident = resident_bytes()
        try:
            with signals_deferred():
                profile = self._make_profile(self._torch.autograd.profiler)
                profile.__enter__()
                self._profile = profile  # before a deferred signal may raise
        finally:
            self._own_call = 0
            if level is None:
                os.unsetenv("KINETO_LOG_LEVEL")
        self._start_ns = time.monotonic_ns()
        self._start_cost = self._start_ns - begin
        self._end_by = self._start_ns + int(seconds * 1e9)
        self._faults = minor_faults()
        self._recorder.span(SpanKind.PROFILER, begin, self._start_ns, self._index)
        self._annotate(self._first_step)
        self._recorder.short_sleep = True
        self._recorder.wake()

    def _make_profile(self, profiler: Any) -> Any:
        options: dict[str, Any] = {"use_kineto": True, "record_shapes": True}
        if self._torch.cuda.is_initialized():
            options["use_device"] = "cuda"
        experimental = self._torch._C._profiler._ExperimentalConfig
        for settings in (
            {"profile_all_threads": True, "trace_only": True},
            {"profile_all_threads": True},
            {},
        ):
            try:
                config = experimental(**settings)
            except TypeError:
                continue  # an older torch that does not know one of the settings
            return profiler.profile(experimental_config=config, **options)
        return profiler.profile(**options)

    def _annotate(self, step: int) -> None:
        self._end_annotation()
        record_function = self._torch.autograd.profiler.record_function
        self._annotation = record_function(f"ProfilerStep#{step}")
        self._annotation.__enter__()

    def _end_annotation(self) -> None:
        annotation, self._annotation = self._annotation, None
        if annotation is not None:
            annotation.__exit__(None, None, None)

    def stop(self, *, truncated: bool) -> None:
        """End the window; the trace is written later by the recorder's thread."""
        if not self._acquire():
            return
        try:
            profile, self._profile = self._profile, None
            if profile is None:
                return
            begin = time.monotonic_ns()
            faults = minor_faults() - self._faults
            if threading.get_ident() == self._recorder.training_thread:
                self._end_annotation()
            self._own_call = threading.get_ident()
            try:
                with signals_deferred():
                    self._stop_profile(profile)
            except Exception:
                self._force_off()
                raise
            finally:
                self._own_call = 0
            end = time.monotonic_ns()
            self._stop_cost = end - begin
            self._recorder.spans.append(
                (SpanKind.PROFILER, begin, end - begin, self._index, self._recorder.training_thread)
            )
            self._recorder.short_sleep = False
            offset = self._recorder.clock.offset_ns
            window = Window(
                index=self._index,
                start_ns=self._start_ns + offset,
                end_ns=begin + offset,
                first_step=self._first_step,
                steps=self._step - self._first_step,
                reason=self._reason,
                start_cost_ns=self._start_cost,
                stop_cost_ns=self._stop_cost,
                truncated=truncated,
                minor_faults=faults,
            )
            self._index += 1
            self._pending = (profile, window)
        finally:
            self._lock.release()
        self._recorder.wake()

    @staticmethod
    def _stop_profile(profile: Any) -> None:
        profile.use_device = None  # torch would wait for the device, from the watching thread too
        profile.__exit__(None, None, None)

    def _overdue(self) -> bool:
        return self._profile is not None and time.monotonic_ns() >= self._end_by

    def stop_overdue(self) -> None:
        """In the main thread, between two bytecodes: end the window that took too long."""
        if self._overdue() and threading.get_ident() == self._recorder.training_thread:
            self.stop(truncated=True)

    def _force_off(self) -> None:
        """Turn the profiler off past torch's Python part: left on, it crashes the process's end."""
        autograd = self._torch.autograd
        if not getattr(autograd.profiler, "_is_profiler_enabled", False):
            return
        with contextlib.suppress(Exception):
            autograd._disable_profiler()
        with contextlib.suppress(Exception):
            autograd.profiler._run_on_profiler_stop()

    def watch(self) -> None:
        """In the recorder's thread: see to overlong windows, export ended ones, read requests.

        Never ended from here: torch collects what a profiler recorded without a lock, and an op
        that the training runs meanwhile crashes the process (seen with torch 2.13).
        """
        if self._overdue() and self._asked[0] != self._index:
            # What was asked before has been called by now: its window has ended.
            self._asked = (self._index, call_in_main_thread(self.stop_overdue))
        if self._pending is not None:
            self.export()
        folder = self._recorder.folder
        if folder is not None and self._probed and not self._wanted:
            marker = folder / TRACE_MARKER
            if marker.exists():
                marker.unlink()
                self._wanted = ["signal"]
                self._want_at = "step"

    def export(self) -> None:
        """Write the ended window's trace and its record; plan what follows a probe."""
        if not self._acquire():
            return
        try:
            if self._pending is None:
                return
            profile, window = self._pending
            if self._recorder.folder is None:
                self._recorder.flush()
            folder = self._recorder.folder
            if folder is None:
                self._pending = None
                return
            begin = time.monotonic_ns()
            path = folder / f"trace-{window.index}.json"
            try:
                events = self._write(profile, path)
            except BaseException:
                self._failed, self._pending = True, None
                raise
            # The C library holds its lock while it gives memory back: a part of the window's cost.
            self._pending = (None, window)
            del profile
            if resident_bytes() - self._resident >= MAX_GROWTH_BYTES // 2:
                trim()
            end = time.monotonic_ns()
            thread = self._recorder.training_thread
            start = window.start_ns - self._recorder.clock.offset_ns
            self._recorder.spans.append((SpanKind.WINDOW, start, end - start, window.index, thread))
            self._recorder.record(
                msgspec.structs.replace(
                    window, file=path.name, events=events, export_cost_ns=end - begin
                )
            )
            self._plan_after(window, events)
            self._pending = None
        finally:
            self._lock.release()

    @staticmethod
    def _write(profile: Any, path: Path) -> int:
        """Write the trace whole or not at all; raises OSError when the disk is full or gone."""
        if not path.parent.is_dir():  # Kineto would complain on the user's stderr
            raise FileNotFoundError(str(path.parent))
        partial = path.with_suffix(".partial")
        try:
            profile.export_chrome_trace(str(partial))
            events = partial.read_bytes().count(EVENT_MARK)
            partial.rename(path)
        except BaseException:
            for left in path.parent.glob(partial.name + "*"):
                left.unlink()
            raise
        return events

    def _plan_after(self, window: Window, events: int) -> None:
        seconds = max(1e-4, (window.end_ns - window.start_ns) * 1e-9)
        self._events_per_s = max(self._events_per_s, events / seconds)
        if self._again:
            self._again = False
            self._wanted = [window.reason]
            return
        if window.reason == "warm" and not window.truncated:
            steps, windows = self._warm[0] + window.steps, self._warm[1] + 1
            self._warm = (steps, windows)
            if steps < ENOUGH_STEPS and windows < MAX_WARM_WINDOWS and self._planned(window):
                self._wanted = ["warm"]
                return
        if window.reason != "probe":
            heavy = window.truncated and self._want_at == "step" and window.reason == "warm"
            self._want_at = "backward" if heavy else "step"
            self._wanted = ["backward"] if heavy else self._wanted
            return
        self._probed = True
        self._wanted = ["warm"]

    def _planned(self, window: Window) -> bool:
        """Whether more steps were planned than the window holds: memory ended it."""
        return window.first_step + window.steps < self._target_step

    def close(self) -> None:
        """End and export what is open, at the end of the process; say why there was no window."""
        if self._blocked and not self.used:
            self._recorder.gap("windows", "not-supported", BLOCKED, BLOCKED_EFFECT)
        self.stop(truncated=True)
        self.export()
        if self._hung:  # the other thread hangs, perhaps in the midst of stopping the profiler
            helper = UnseenThread(self._force_off)
            helper.start()
            helper.join(FORCE_S)
