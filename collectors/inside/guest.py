"""The guest in a training process: sleeps until the process trains, then records what it does.

Nothing here may raise into the training, touch a random stream, synchronise a device or keep a
tensor. A method that fails is recorded as a gap and replaced by one that does nothing.
"""

from __future__ import annotations

import atexit
import functools
import os
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ..records import Gap, Process, Site, SpanKind
from ..writer import Clock, RecordWriter
from .garbage import GarbagePauses
from .memory import DeviceMemory
from .recorder import Recorder
from .sites import SiteBook
from .stack_samples import StackSampler
from .ticks import StepTicker
from .windows import Windows

OLDEST_TORCH = (2, 2)
"""The first release with global optimizer hooks and today's Kineto format."""

Method = TypeVar("Method", bound=Callable[..., Any])


def guarded(method: Method) -> Method:
    """Keep any failure of ours out of the training; the failing part stops and is named."""
    name = method.__name__

    @functools.wraps(method)
    def wrapper(self: Guest, *args: Any) -> Any:
        try:
            return method(self, *args)
        except Exception:
            self.disable(name)
            return None

    return wrapper  # type: ignore[return-value]


def arm(run_folder: str) -> None:
    """Called once, right after the process imported torch."""
    from . import patches

    torch = sys.modules["torch"]
    guest = Guest(Path(run_folder), torch)
    if not guest.supported():
        return
    guest.announce()
    patches.install(torch, guest)
    os.register_at_fork(before=guest.before_fork, after_in_child=guest.after_fork)


def _is_multiprocessing_child() -> bool:
    process = sys.modules.get("multiprocessing.process")
    return process is not None and process.parent_process() is not None


class Guest:
    """One training process as seen from inside. Dormant until the first sign of training."""

    def __init__(self, run_folder: Path, torch: Any) -> None:
        self.run_folder = run_folder
        self.torch = torch
        self.version = os.environ.get("BOUNDSCOPE_VERSION", "")
        self.sites = SiteBook()
        self._early_gaps: list[Gap] = []
        self._reset()

    def _reset(self) -> None:
        self.recorder: Recorder | None = None
        self.windows: Windows | None = None
        self.stacks: StackSampler | None = None
        self.garbage: GarbagePauses | None = None
        self.ticker = StepTicker()
        self.optimizer_steps = 0
        self._loader_worker: bool | None = None
        self._optimizers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._optimizer_start = 0
        self._optimizer_depth = 0
        self._in_mode_change = False
        self._in_save = False
        self._evaluating = 0

    # -- life ---------------------------------------------------------------------------------

    def supported(self) -> bool:
        """Whether this torch is new enough; writes a gap when it is not."""
        version = str(getattr(self.torch, "__version__", "0"))
        release = version.partition("+")[0].split(".")
        numbers = tuple(int(part) for part in release[:2] if part.isdigit())
        if numbers >= OLDEST_TORCH:
            return True
        oldest = ".".join(str(number) for number in OLDEST_TORCH)
        self._write_process_file(
            f"torch {version} is older than {oldest}, the oldest supported version"
        )
        return False

    def announce(self) -> None:
        """Leave a note that this process imported torch, even if it never trains.

        Children of multiprocessing (loader workers among them) are announced when they train.
        """
        if not _is_multiprocessing_child():
            self._write_process_file("")

    def _write_process_file(self, unsupported: str) -> None:
        clock = Clock()
        folder = self.run_folder / f"node-{os.uname().nodename}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"process-{os.getpid()}.jsonl"
        writer = RecordWriter(path, "process", clock, version=self.version)
        writer.write(self._process_record())
        if unsupported:
            effect = "no steps, input waits or torch-profiler windows of this process"
            writer.write(Gap(clock.now_ns(), "inside", "not-supported", unsupported, effect))
        writer.abandon()

    def _process_record(self) -> Process:
        torch = self.torch
        facts = {"executable": sys.executable}
        if hasattr(torch, "get_num_threads"):
            facts["threads"] = str(torch.get_num_threads())
        cuda = getattr(torch, "cuda", None)
        if cuda is not None and cuda.is_initialized():
            for index in range(cuda.device_count()):
                facts[f"device.{index}"] = str(cuda.get_device_name(index))
        distributed = sys.modules.get("torch.distributed")
        if distributed is not None and distributed.is_available() and distributed.is_initialized():
            facts["backend"] = str(distributed.get_backend())
        return Process(
            pid=os.getpid(),
            parent_pid=os.getppid(),
            python=sys.version.split()[0],
            torch=str(getattr(torch, "__version__", "unknown")),
            argv=[str(argument) for argument in sys.argv],
            facts=facts,
        )

    def _active(self) -> Recorder | None:
        """The recorder, made at the first sign of training; None in a loader worker."""
        if self.recorder is not None:
            return self.recorder
        if self._loader_worker is None:
            self._loader_worker = self.torch.utils.data.get_worker_info() is not None
        if self._loader_worker:
            return None
        return self._activate()

    def _activate(self) -> Recorder:
        recorder = Recorder(self.run_folder, self.version)
        recorder.training_thread = threading.get_ident()
        self.recorder = recorder
        recorder.record(self._process_record())
        for gap in self._early_gaps:
            recorder.record(gap)
        self.windows = Windows(self.torch, recorder)
        self.stacks = StackSampler(recorder)
        self.garbage = GarbagePauses(recorder)
        DeviceMemory(self.torch, recorder)
        recorder.start()
        atexit.register(self.close)
        if _is_multiprocessing_child():
            # Such children leave through os._exit and run only multiprocessing's own finalizers.
            from multiprocessing.util import Finalize

            Finalize(None, self.close, exitpriority=100)
        return recorder

    def close(self) -> None:
        """Write out everything; at the end of the process."""
        try:
            if self.windows is not None:
                self.windows.close()
            if self.stacks is not None:
                self.stacks.close()
            if self.garbage is not None:
                self.garbage.remove()
            if self.recorder is not None:
                self.recorder.close()
        except Exception:
            self.disable("close")

    def disable(self, name: str) -> None:
        """Replace a failed method by one that does nothing, and record why."""
        setattr(self, name, lambda *_: None)
        try:
            effect = f"{name} is no longer recorded"
            gap = Gap(time.time_ns(), "inside", "crashed", traceback.format_exc(limit=6), effect)
            if self.recorder is not None:
                self.recorder.record(gap)
            else:
                self._early_gaps.append(gap)
        except Exception:
            self.recorder = None

    @guarded
    def before_fork(self) -> None:
        """A fork must not copy an open profiler window into the child."""
        if self.windows is not None and self.windows.active:
            self.windows.stop(truncated=True)

    def after_fork(self) -> None:
        """In the child: forget the parent's recorder; the child may turn out to be a rank."""
        try:
            if self.garbage is not None:
                self.garbage.remove()
            if self.recorder is not None:
                self.recorder.abandon()
            atexit.unregister(self.close)
        except Exception:
            self._loader_worker = True
            return
        self._reset()

    # -- what the patches report --------------------------------------------------------------

    @guarded
    def loader_started(self, start: int) -> int:
        """A loader's iterator was made (its workers started); returns the loader's index."""
        recorder = self._active()
        if recorder is None:
            return 0
        end = time.monotonic_ns()
        index, site = self.sites.site("loader", depth=4)
        if site is not None:
            recorder.record(site)
        recorder.span(SpanKind.LOADER_START, start, end, index)
        return index

    @guarded
    def loader_facts(self, index: int, facts: dict[str, str]) -> None:
        """The settings of loader `index`, once."""
        recorder = self._active()
        if recorder is not None:
            recorder.record(Site(what="loader-facts", index=index, facts=facts))

    @guarded
    def loader_waited(self, index: int, start: int, cpu_start: int) -> None:
        """The loop got a batch; `cpu_start` is the thread's CPU time when it asked."""
        recorder = self._active()
        if recorder is None:
            return
        evaluating = not self.torch.is_grad_enabled()
        kind = SpanKind.EVAL_LOADER if evaluating else SpanKind.LOADER
        cpu = time.thread_time_ns() - cpu_start
        recorder.span(kind, start, time.monotonic_ns(), index)
        recorder.span(SpanKind.LOADER_CPU, start, start + cpu, index)
        if not evaluating or not self.optimizer_steps:
            self._ticked(self.ticker.batch())

    @guarded
    def loader_ended(self, index: int, start: int) -> None:
        """The loop asked for a batch and there was none left."""
        recorder = self._active()
        if recorder is not None:
            recorder.span(SpanKind.LOADER_END, start, time.monotonic_ns(), index)

    @guarded
    def optimizer_begins(self) -> None:
        """An optimizer's step starts; one inside another's (a wrapper) is not a step."""
        self._optimizer_depth += 1
        if self._optimizer_depth == 1:
            self._optimizer_start = time.monotonic_ns()

    @guarded
    def optimizer_stepped(self, optimizer: Any) -> None:
        """An optimizer's step ended."""
        self._optimizer_depth -= 1
        if self._optimizer_depth > 0:
            return
        self._optimizer_depth = 0
        now = time.monotonic_ns()
        recorder = self._active()
        if recorder is None:
            return
        index = self._optimizer_index(optimizer)
        recorder.span(SpanKind.OPTIMIZER, self._optimizer_start or now, now, index)
        self.optimizer_steps += 1
        self._ticked(self.ticker.optimizer(index))

    def _optimizer_index(self, optimizer: Any) -> int:
        index = self._optimizers.get(optimizer)
        if index is None:
            index = len(self._optimizers)
            self._optimizers[optimizer] = index
            assert self.recorder is not None
            self.recorder.training_thread = threading.get_ident()
            file, line, function = self.sites.locate(4)
            facts = {"class": type(optimizer).__name__}
            self.recorder.record(Site("optimizer", index, file, line, function, facts))
        return index

    @guarded
    def scaler_stepped(self, optimizer: Any, start: int, steps_before: int) -> None:
        """A GradScaler's step returned; when its optimizer did not step, it was skipped."""
        recorder = self._active()
        if recorder is None or self.optimizer_steps != steps_before:
            return
        index = self._optimizer_index(optimizer)
        recorder.span(SpanKind.SKIPPED, start, time.monotonic_ns(), index)
        self.optimizer_steps += 1
        self._ticked(self.ticker.optimizer(index))

    @guarded
    def user_step(self) -> None:
        """The script itself says that a step ended."""
        recorder = self._active()
        if recorder is not None:
            now = time.monotonic_ns()
            recorder.span(SpanKind.STEP, now, now)
            self._ticked(self.ticker.user())

    def _ticked(self, ticked: bool) -> None:
        if ticked and self.windows is not None:
            self.windows.tick(self.ticker.count)

    @guarded
    def backward_begins(self) -> None:
        """A backward pass starts."""
        if self.windows is not None:
            self.windows.boundary()

    @guarded
    def backward_ran(self, start: int) -> None:
        """A backward pass ended."""
        if self.recorder is not None:
            self.recorder.span(SpanKind.BACKWARD, start, time.monotonic_ns())

    @guarded
    def saving_begins(self) -> bool:
        """A checkpoint is being written; False inside another one."""
        outermost = not self._in_save
        self._in_save = True
        return outermost

    @guarded
    def saved(self, outermost: bool, start: int) -> None:
        """A checkpoint was written."""
        if not outermost:
            return
        self._in_save = False
        recorder = self.recorder
        if recorder is None:
            return
        index, site = self.sites.site("save", depth=4)
        if site is not None:
            recorder.record(site)
        recorder.span(SpanKind.SAVE, start, time.monotonic_ns(), index)

    @guarded
    def mode_changes(self) -> bool:
        """`Module.train` was called; True for the outermost module of the call."""
        outermost = not self._in_mode_change
        self._in_mode_change = True
        return outermost

    @guarded
    def mode_changed(self, module: Any, training: bool) -> None:
        """The outermost module went to train or eval mode; a module already in it is no news."""
        self._in_mode_change = False
        recorder = self.recorder
        if recorder is None:
            return
        now = time.monotonic_ns()
        if training:
            same = self._evaluating == id(module)
            self._evaluating = 0
            recorder.span(SpanKind.TRAIN_MODE, now, now, int(same))
            return
        self._evaluating = id(module)
        index, site = self.sites.site("eval", depth=4)
        if site is not None:
            recorder.record(site)
        recorder.span(SpanKind.EVAL_MODE, now, now, index)

    @guarded
    def foreign_profiler(self) -> None:
        """The script starts a profiler of its own: ours gives way."""
        if self.windows is not None and self.windows.active:
            self.windows.stop(truncated=True)
