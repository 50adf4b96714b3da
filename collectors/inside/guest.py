"""The guest in a training process: sleeps until the process trains, then records what it does.

Nothing here may raise into the training, touch a random stream, synchronise a device or keep a
tensor. A method that fails is recorded as a gap and replaced by one that does nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from threading import get_ident
from time import monotonic_ns, thread_time_ns
from typing import Any

from ..records import Gap, Site, SpanKind
from .facts import (
    announce,
    is_multiprocessing_child,
    leave_note,
    loader_facts,
    optimizer_facts,
    process_record,
    unsupported,
)
from .garbage import GarbagePauses
from .guards import SLOW_CALLS, SLOW_NS, guarded
from .manners import leave_without_destructors, raised_by_signal_handler
from .memory import DeviceMemory
from .recorder import Recorder, Span
from .sites import SiteBook
from .stack_samples import StackSampler
from .ticks import StepTicker
from .windows import Windows

FORWARD_SPANS_A_STEP = 32
"""Loops that call a small module hundreds of times a step are timed for the first calls only."""

EVAL_SPANS_A_STEP = 512
"""Calls with gradients off are validation, of which all batches fall into one step."""

FACTS_AT_STEP = 2
"""By then torch has worked in the training thread: asking it for its threads changes nothing."""


def arm(run_folder: str) -> None:
    """Called once, right after the process imported torch."""
    from . import patches

    torch = sys.modules["torch"]
    version = os.environ.get("BOUNDSCOPE_VERSION", "")
    problem = unsupported(torch)
    announce(torch, Path(run_folder), version, problem)
    if problem:
        return
    guest = Guest(Path(run_folder), torch, version)
    patches.install(torch, guest)
    guest.note_early_gaps()
    os.register_at_fork(
        before=guest.before_fork,
        after_in_parent=guest.after_fork_in_parent,
        after_in_child=guest.after_fork_in_child,
    )


class Guest:
    """One training process as seen from inside. Dormant until the first sign of training.

    `waiting`, `saving` and `changing_mode` hold the threads that are inside a loader's wait, a
    checkpoint or a change of mode, so that only the outermost call is recorded.

    `keep` takes a span. Between a training's own kernels the code here is found in no cache, so
    that each further frame is felt: what runs in each step has few of them, and catches its
    failures itself (`caught`) where the rest is `guarded`.
    """

    def __init__(self, run_folder: Path, torch: Any, version: str) -> None:
        self.run_folder = run_folder
        self.torch = torch
        self._gradients_on = torch.is_grad_enabled
        self.version = version
        self._early_gaps: list[Gap] = []
        self.slow_calls: dict[str, int] = {}
        self._profiled = False
        self._importer = get_ident()
        self._reset()

    def _reset(self) -> None:
        self.recorder: Recorder | None = None
        self.keep: Callable[[Span], None] = deque[Span](maxlen=0).append
        self.windows: Windows | None = None
        self.stacks: StackSampler | None = None
        self.garbage: GarbagePauses | None = None
        self.sites = SiteBook()
        self.ticker = StepTicker()
        self.optimizer_steps = 0
        self.waiting: set[int] = set()
        self.saving: set[int] = set()
        self.changing_mode: set[int] = set()
        self.in_forward = False
        self.forward_left = FORWARD_SPANS_A_STEP
        self._eval_left = EVAL_SPANS_A_STEP
        self._stays_out: bool | None = None
        self._foreign_profiler = False
        self._loaders: dict[int, int] = {}  # by id: a weak key has callbacks, which lose signals
        self._described: set[int] = set()
        self._optimizers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._optimizer_count = 0
        self._last_optimizer: weakref.ref[Any] | None = None
        self._last_index = 0
        self._stepping: dict[int, tuple[int, int]] = {}
        self._evaluating: dict[int, tuple[int, int]] = {}

    # -- life ---------------------------------------------------------------------------------

    def _active(self) -> Recorder | None:
        """The recorder, made at the first sign of training; None in a loader worker."""
        if self.recorder is not None:
            return self.recorder
        if self._stays_out is None:
            self._stays_out = self.torch.utils.data.get_worker_info() is not None
        if self._stays_out:
            return None
        self._stays_out = True  # unless all of this works
        recorder = self._activate()
        self._stays_out = False
        return recorder

    def _activate(self) -> Recorder:
        recorder = Recorder(self.run_folder, self.version)
        recorder.training_thread = get_ident()
        recorder.record(process_record(self.torch))
        for gap in self._early_gaps:
            recorder.record(gap)
        self.windows = Windows(self.torch, recorder)
        self.windows.foreign = self._foreign_profiler
        self.windows.importer = self._importer
        self.stacks = StackSampler(recorder)
        DeviceMemory(self.torch, recorder)
        recorder.start()
        self.garbage = GarbagePauses(recorder)
        self.recorder = recorder
        self.keep = recorder.keep
        self.checkpoint_libraries()
        atexit.register(self.close)
        if is_multiprocessing_child():
            # Such children leave through os._exit and run only multiprocessing's own finalizers.
            from multiprocessing.util import Finalize

            Finalize(None, self.close, exitpriority=100)
        return recorder

    @guarded
    def checkpoint_libraries(self) -> None:
        """Wrap those that were imported before, or with, torch."""
        from .patches import wrap_checkpoints

        wrap_checkpoints(self)

    def close(self) -> None:
        """Write out everything; at the end of the process."""
        for part in (self.windows, self.stacks, self.garbage, self.recorder):
            try:
                if part is not None:
                    part.close()
            except Exception:
                self.failed(type(part).__name__)
                if self.recorder is not None:
                    self.recorder.flush()
            except BaseException:  # Ctrl-C once more: the user wants the end, not our last records
                return

    def disable(self, name: str) -> None:
        """Replace a failed method by one that does nothing, and record why."""
        setattr(self, name, lambda *_: None)
        self.failed(name)

    def caught(self, name: str, error: Exception) -> None:
        """A method failed that keeps its own failures out of the training; called where caught."""
        if raised_by_signal_handler(error) is not None:
            raise error
        self.disable(name)

    def took(self, name: str, took_ns: int) -> None:
        """Count calls that took too long; a method that always does is stopped and named."""
        if took_ns <= SLOW_NS:
            self.slow_calls.pop(name, None)
            return
        self.slow_calls[name] = self.slow_calls.get(name, 0) + 1
        if self.slow_calls[name] == SLOW_CALLS:
            setattr(self, name, lambda *_: None)
            last_s = took_ns * 1e-9
            detail = (
                f"{SLOW_CALLS} calls in a row held the training up, the last for {last_s:.2g} s"
            )
            self._stopped(name, detail)

    def failed(self, name: str) -> None:
        """Record that the part called `name` stopped because of the exception being handled."""
        self._stopped(name, traceback.format_exc(limit=6))

    def _stopped(self, name: str, detail: str) -> None:
        try:
            gap = Gap(time.time_ns(), "inside", "crashed", detail, f"{name} is no longer recorded")
            if self.recorder is not None:
                self.recorder.record(gap)
                return
            self._early_gaps.append(gap)
            if self._stays_out:  # no recorder will come to write it
                self.note_early_gaps()
        except Exception:
            self.recorder = None

    def note_early_gaps(self) -> None:
        """Leave a note of what failed before there was a recorder: there may never be one."""
        if self._early_gaps and not is_multiprocessing_child():
            with contextlib.suppress(OSError):
                leave_note(self.run_folder, self.version, *self._early_gaps)

    @guarded
    def before_fork(self) -> None:
        """A fork must copy neither an open profiler window nor a lock that our thread holds."""
        if self.windows is not None:
            self.windows.hold()
        if self.recorder is not None:
            self.recorder.hold()

    @guarded
    def after_fork_in_parent(self) -> None:
        """Let our thread go on."""
        if self.recorder is not None:
            self.recorder.release()
        if self.windows is not None:
            self.windows.release()

    def after_fork_in_child(self) -> None:
        """Forget the parent's recorder; the child may turn out to be a rank."""
        try:
            if self.garbage is not None:
                self.garbage.close()
            if self.recorder is not None:
                self.recorder.abandon()
            atexit.unregister(self.close)
            profiled = self._profiled or (self.windows is not None and self.windows.used)
            self._reset()
            self._profiled = profiled
            if profiled:
                leave_without_destructors()
        except Exception:
            self.recorder, self.windows, self._stays_out = None, None, True

    # -- what the patches report --------------------------------------------------------------

    @guarded
    def loader_started(self, loader: Any, iterator: Any, start: int) -> None:
        """A loader's iterator was made (its workers started)."""
        recorder = self._active()
        if recorder is None:
            return
        end = monotonic_ns()
        index, site = self.sites.site("loader", depth=4)
        if site is not None:
            recorder.record(site)
        self._loaders[id(iterator)] = index
        recorder.span(SpanKind.LOADER_START, start, end, index)
        if index not in self._described:
            self._described.add(index)
            self._describe_loader(index, loader)

    @guarded
    def _describe_loader(self, index: int, loader: Any) -> None:
        assert self.recorder is not None
        self.recorder.record(Site("loader-facts", index, facts=loader_facts(loader)))

    def loader_waited(self, iterator: Any, start: int, cpu_start: int) -> None:
        """The loop got a batch; `cpu_start` is the thread's CPU time when it asked."""
        try:
            if self.optimizer_steps:
                self._keep_wait(iterator, start, cpu_start)
            else:
                self.batches_before_optimizer(iterator, start, cpu_start)
        except Exception as error:
            self.caught("loader_waited", error)

    def _keep_wait(self, iterator: Any, start: int, cpu_start: int) -> None:
        took, cpu, thread = monotonic_ns() - start, thread_time_ns() - cpu_start, get_ident()
        kind = SpanKind.LOADER if self._gradients_on() else SpanKind.EVAL_LOADER
        index = self._loaders.get(id(iterator), 0)
        self.keep((kind, start, took, index, thread))
        self.keep((SpanKind.LOADER_CPU, start, cpu, index, thread))

    @guarded
    def batches_before_optimizer(self, iterator: Any, start: int, cpu_start: int) -> None:
        """Before any optimizer's step a batch is a sign of training, and may end a step."""
        if self._active() is not None:
            self._keep_wait(iterator, start, cpu_start)
            self._tick(self.ticker.batch, self._loaders.get(id(iterator), 0))

    @guarded
    def loader_ended(self, iterator: Any, start: int) -> None:
        """The loop asked for a batch and there was none left."""
        recorder = self._active()
        if recorder is not None:
            index = self._loaders.get(id(iterator), 0)
            recorder.span(SpanKind.LOADER_END, start, monotonic_ns(), index)

    def optimizer_begins(self, optimizer: Any) -> None:
        """An optimizer's step starts; one inside another's (a wrapper) is not a step.

        The same optimizer cannot be inside itself: its last step ended by an exception.
        """
        try:
            thread = get_ident()
            outer = self._stepping.get(thread)
            if outer is None or outer[0] == id(optimizer):
                self._stepping[thread] = (id(optimizer), monotonic_ns())
        except Exception as error:
            self.caught("optimizer_begins", error)

    def optimizer_stepped(self, optimizer: Any) -> None:
        """An optimizer's step ended."""
        try:
            now, thread = monotonic_ns(), get_ident()
            outer = self._stepping.get(thread)
            if outer is not None and outer[0] != id(optimizer):
                return
            self._stepping.pop(thread, None)
            start = now if outer is None else outer[1]
            self._optimizer_done(SpanKind.OPTIMIZER, optimizer, start, now)
        except Exception as error:
            self.caught("optimizer_stepped", error)

    @guarded
    def scaler_stepped(self, optimizer: Any, start: int, steps_before: int) -> None:
        """A GradScaler's step returned; when its optimizer did not step, it was skipped."""
        if self.optimizer_steps == steps_before:
            self._optimizer_done(SpanKind.SKIPPED, optimizer, start, monotonic_ns())

    def _optimizer_done(self, kind: str, optimizer: Any, start: int, end: int) -> None:
        recorder = self.recorder or self._active()
        if recorder is None:
            return
        index = self._last_index
        if self._last_optimizer is None or self._last_optimizer() is not optimizer:
            index = self._index_of(recorder, optimizer)
        self.keep((kind, start, end - start, index, get_ident()))
        self.optimizer_steps += 1
        self._tick(self.ticker.optimizer, index)

    def _index_of(self, recorder: Recorder, optimizer: Any) -> int:
        """Look the optimizer up; the last one is kept at hand, as most loops have but one."""
        index = self._optimizers.get(optimizer)
        if index is None:
            index = self._new_optimizer(recorder, optimizer)
        self._last_optimizer, self._last_index = weakref.ref(optimizer), index
        return index

    def _new_optimizer(self, recorder: Recorder, optimizer: Any) -> int:
        index = self._optimizers[optimizer] = self._optimizer_count
        self._optimizer_count += 1
        recorder.training_thread = get_ident()
        file, line, function = self.sites.locate(6)
        facts = optimizer_facts(optimizer)
        recorder.record(Site("optimizer", index, file, line, function, facts))
        return index

    @guarded
    def user_step(self) -> None:
        """The script itself says that a step ended."""
        recorder = self._active()
        if recorder is not None:
            now = monotonic_ns()
            recorder.span(SpanKind.STEP, now, now)
            self._tick(self.ticker.user)

    @guarded
    def _tick(self, count: Callable[..., bool], *what: int) -> None:
        """Let the ticker count what happened; guarded by itself: spans outlive its faults."""
        if not count(*what) or self.recorder is None or self.windows is None:
            return
        if get_ident() != self.recorder.training_thread:
            return
        self.forward_left = FORWARD_SPANS_A_STEP
        self._eval_left = EVAL_SPANS_A_STEP
        self.windows.tick(self.ticker.count)
        if self.ticker.count == FACTS_AT_STEP:
            self.recorder.find_place()
            self.recorder.record(process_record(self.torch, trained=True))

    def forward_ran(self, start: int) -> None:
        """A module that no other module called has run."""
        try:
            took, without_gradients = monotonic_ns() - start, 0
            if self._gradients_on():
                self.forward_left -= 1
            else:
                without_gradients = 1
                self._eval_left -= 1
                if self._eval_left <= 0:
                    self.forward_left = 0
            self.keep((SpanKind.FORWARD, start, took, without_gradients, get_ident()))
        except Exception as error:
            self.caught("forward_ran", error)

    def gradients_cleared(self, start: int) -> None:
        """An optimizer cleared its gradients."""
        try:
            self.keep((SpanKind.ZERO_GRAD, start, monotonic_ns() - start, 0, get_ident()))
        except Exception as error:
            self.caught("gradients_cleared", error)

    def backward_begins(self) -> None:
        """A backward pass starts: whatever was in `eval()` so far takes part in the training."""
        try:
            if self._evaluating:
                self._evaluating.clear()
            windows = self.windows
            if windows is not None and windows.attends():
                self.window_boundary(windows)
            elif self.slow_calls:
                self.slow_calls.pop("window_boundary", None)
        except Exception as error:
            self.caught("backward_begins", error)

    @guarded
    def window_boundary(self, windows: Windows) -> None:
        """A place where a window that is open or wanted may end or start."""
        windows.boundary()

    def backward_ran(self, start: int) -> None:
        """A backward pass ended."""
        try:
            end = monotonic_ns()
            if self.optimizer_steps:
                self.keep((SpanKind.BACKWARD, start, end - start, 0, get_ident()))
            else:
                self.backwards_before_optimizer(start, end)
        except Exception as error:
            self.caught("backward_ran", error)

    @guarded
    def backwards_before_optimizer(self, start: int, end: int) -> None:
        """Before any optimizer's step a backward pass is a sign of training, and may end a step."""
        recorder = self._active()
        if recorder is not None:
            recorder.span(SpanKind.BACKWARD, start, end)
            self._tick(self.ticker.backward)

    @guarded
    def saved(self, start: int) -> None:
        """A checkpoint was written."""
        recorder = self.recorder
        if recorder is None:
            return
        index, site = self.sites.site("save", depth=4)
        if site is not None:
            recorder.record(site)
        recorder.span(SpanKind.SAVE, start, monotonic_ns(), index)

    @guarded
    def mode_changed(self, module: Any, training: bool) -> None:
        """A module went to train or eval mode; the way there and back is one span."""
        recorder = self.recorder
        if recorder is None:
            return
        now = monotonic_ns()
        if training:
            start, index = self._evaluating.pop(id(module), (0, 0))
            if start:
                recorder.span(SpanKind.EVAL_MODE, start, now, index)
        elif id(module) not in self._evaluating:
            index, site = self.sites.site("eval", depth=4)
            if site is not None:
                recorder.record(site)
            self._evaluating[id(module)] = (now, index)

    @guarded
    def profiler_begins(self) -> None:
        """A profiler is prepared or enabled: when it is the script's own, ours gives way."""
        if self.windows is None:
            self._foreign_profiler = True
        else:
            self.windows.profiler_begins()

    @guarded
    def profiler_ended(self) -> None:
        """A profiler was disabled."""
        self._foreign_profiler = False
        if self.windows is not None:
            self.windows.profiler_ended()
