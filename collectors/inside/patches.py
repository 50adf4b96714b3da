"""Every change to somebody else's code, in this one file.

All wrappers call the original with the same arguments, return its result and let its exceptions
pass; frames of ours are cut from a traceback that reaches the default excepthook.
"""

from __future__ import annotations

import functools
import importlib.abc
import os
import sys
import time
import types
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

    from .guest import Guest

CHECKPOINT_FUNCTIONS = {
    "safetensors.torch": ("save_file", "save_model"),
    "torch.distributed.checkpoint": ("save",),
}
"""Modules that may be imported later, and their functions that write checkpoints."""


def install(torch: Any, guest: Guest) -> None:
    """Put every patch in place; one that does not fit this torch is left out and named."""
    for patch in (_optimizers, _loaders, _backward, _saves, _modes, _scaler, _foreign_profiler):
        try:
            patch(torch, guest)
        except Exception:
            guest.disable(patch.__name__)
    _peel_tracebacks()


def _optimizers(_torch: Any, guest: Guest) -> None:
    module = sys.modules["torch.optim.optimizer"]  # torch.optim deletes the attribute

    def before(_optimizer: Any, _args: Any, _kwargs: Any) -> None:
        guest.optimizer_begins()

    def after(optimizer: Any, _args: Any, _kwargs: Any) -> None:
        guest.optimizer_stepped(optimizer)

    hooks: Any = module
    hooks.register_optimizer_step_pre_hook(before)
    hooks.register_optimizer_step_post_hook(after)


def _loaders(torch: Any, guest: Guest) -> None:
    loader_module = torch.utils.data.dataloader
    iterator_class = loader_module._BaseDataLoaderIter
    loader_class = torch.utils.data.DataLoader
    next_batch = iterator_class.__next__
    make_iterator = loader_class.__iter__
    indices: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
    described: set[int] = set()

    @functools.wraps(next_batch)
    def __next__(self: Any) -> Any:
        start, cpu_start = time.monotonic_ns(), time.thread_time_ns()
        try:
            batch = next_batch(self)
        except StopIteration:
            guest.loader_ended(indices.get(self, 0), start)
            raise
        guest.loader_waited(indices.get(self, 0), start, cpu_start)
        return batch

    @functools.wraps(make_iterator)
    def __iter__(self: Any) -> Any:
        start = time.monotonic_ns()
        iterator = make_iterator(self)
        index = guest.loader_started(start) or 0
        try:
            indices[iterator] = index
            if index not in described:
                described.add(index)
                guest.loader_facts(index, _loader_facts(self))
        except Exception:
            guest.disable("loader_facts")
        return iterator

    iterator_class.__next__ = __next__
    loader_class.__iter__ = __iter__


def _loader_facts(loader: Any) -> dict[str, str]:
    dataset = loader.dataset
    fetch = getattr(type(dataset), "__getitem__", None) or getattr(type(dataset), "__iter__", None)
    code = getattr(fetch, "__code__", None)
    facts = {
        "num_workers": str(loader.num_workers),
        "batch_size": str(loader.batch_size),
        "pin_memory": str(bool(loader.pin_memory)),
        "persistent_workers": str(bool(loader.persistent_workers)),
        "prefetch_factor": str(loader.prefetch_factor),
        "dataset": type(dataset).__name__,
    }
    if code is not None:
        facts["fetch_file"] = code.co_filename
        facts["fetch_line"] = str(code.co_firstlineno)
    return facts


def _backward(torch: Any, guest: Guest) -> None:
    def timed(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            guest.backward_begins()
            start = time.monotonic_ns()
            try:
                return original(*args, **kwargs)
            finally:
                guest.backward_ran(start)

        return wrapper

    torch.autograd.backward = timed(torch.autograd.backward)
    torch.autograd.grad = timed(torch.autograd.grad)


def _saving(original: Callable[..., Any], guest: Guest) -> Callable[..., Any]:
    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        outermost = bool(guest.saving_begins())
        start = time.monotonic_ns()
        try:
            return original(*args, **kwargs)
        finally:
            guest.saved(outermost, start)

    return wrapper


def _saves(torch: Any, guest: Guest) -> None:
    torch.save = torch.serialization.save = _saving(torch.save, guest)
    os.fsync = _saving(os.fsync, guest)
    sys.meta_path.insert(0, _CheckpointWatcher(guest))


class _CheckpointWatcher(importlib.abc.MetaPathFinder):
    """Patches checkpoint libraries as they are imported."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._waiting = dict(CHECKPOINT_FUNCTIONS)

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None,
        target: types.ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Find the module as the other finders do, and patch it once it is loaded."""
        functions = self._waiting.pop(name, None)
        if functions is None:
            return None
        for finder in list(sys.meta_path):
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                self._patch_after_loading(spec, functions)
                return spec
        return None

    def _patch_after_loading(self, spec: ModuleSpec, functions: tuple[str, ...]) -> None:
        loader: Any = spec.loader
        execute = loader.exec_module

        def exec_module(module: types.ModuleType) -> None:
            execute(module)
            for name in functions:
                original = getattr(module, name, None)
                if callable(original):
                    setattr(module, name, _saving(original, self._guest))

        loader.exec_module = exec_module


def _modes(torch: Any, guest: Guest) -> None:
    module_class = torch.nn.Module
    train = module_class.train

    @functools.wraps(train)
    def wrapper(self: Any, mode: bool = True) -> Any:
        outermost = guest.mode_changes()
        try:
            return train(self, mode)
        finally:
            if outermost:
                guest.mode_changed(self, mode)

    module_class.train = wrapper


def _scaler(torch: Any, guest: Guest) -> None:
    scaler_class = torch.amp.GradScaler
    step = scaler_class.step

    @functools.wraps(step)
    def wrapper(self: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        start, before = time.monotonic_ns(), guest.optimizer_steps
        result = step(self, optimizer, *args, **kwargs)
        guest.scaler_stepped(optimizer, start, before)
        return result

    scaler_class.step = wrapper


def _foreign_profiler(torch: Any, guest: Guest) -> None:
    profiler = torch.autograd.profiler
    prepare = profiler._prepare_profiler

    @functools.wraps(prepare)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        guest.foreign_profiler()
        return prepare(*args, **kwargs)

    profiler._prepare_profiler = wrapper


def _peel_tracebacks() -> None:
    previous = sys.excepthook

    def excepthook(
        kind: type[BaseException], error: BaseException, trace: types.TracebackType | None
    ) -> None:
        try:
            _peel_error(error, set())
            trace = error.__traceback__
        except Exception:
            trace = error.__traceback__ or trace
        previous(kind, error, trace)

    sys.excepthook = excepthook


def _peel_error(error: BaseException | None, seen: set[int]) -> None:
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        error.__traceback__ = _peel(error.__traceback__)
        _peel_error(error.__cause__, seen)
        error = error.__context__


def _peel(trace: types.TracebackType | None) -> types.TracebackType | None:
    """The same traceback without the frames of this file."""
    kept: list[types.TracebackType] = []
    while trace is not None:
        if trace.tb_frame.f_code.co_filename != __file__:
            kept.append(trace)
        trace = trace.tb_next
    result: types.TracebackType | None = None
    for entry in reversed(kept):
        result = types.TracebackType(result, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return result
