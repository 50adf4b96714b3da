"""Every change to somebody else's code, in this one file.

All wrappers call the original with the same arguments, return its result and let its exceptions
pass; frames of ours are cut from a traceback that reaches the default excepthook. What dynamo may
trace steps aside while it compiles, so that no graph is cut in two.
"""

from __future__ import annotations

import functools
import importlib.abc
import os
import sys
import types
from collections.abc import Callable, Sequence
from threading import get_ident
from time import monotonic_ns, thread_time_ns
from typing import TYPE_CHECKING, Any

from .manners import redeliver_lost_signals

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

    from .guest import Guest

OWN_FOLDER = os.path.dirname(__file__)

GUEST_ATTRIBUTE = "_boundscope_guest"
"""Where `boundscope.step()` finds the guest: an attribute of the torch module."""

CHECKPOINT_FUNCTIONS = {
    "safetensors.torch": ("save_file", "save_model"),
    "torch.distributed.checkpoint": ("save", "async_save"),
}
"""Modules that may be imported later, and their functions that write checkpoints."""

WRAPPED = "_boundscope_wrapped"
"""An attribute of what `_saving` made."""


def install(torch: Any, guest: Guest) -> None:
    """Put every patch in place; one that does not fit this torch is left out and named."""
    setattr(torch, GUEST_ATTRIBUTE, guest)
    for patch in (
        _optimizers,
        _loaders,
        _forward,
        _backward,
        _saves,
        _modes,
        _scaler,
        _foreign_profiler,
        _dynamo,
    ):
        try:
            patch(torch, guest)
        except Exception:
            guest.failed(patch.__name__.strip("_"))
    _peel_tracebacks()
    redeliver_lost_signals(OWN_FOLDER)


def _dynamo(torch: Any, _guest: Guest) -> None:
    """Mark our functions, so that dynamo runs their frames and never tries to compile them."""
    frames = torch._C._dynamo.eval_frame
    skip = getattr(frames, "skip_code", None)
    if skip is None:  # newer than torch 2.6
        action = frames._FrameAction
        strategy = frames._FrameExecStrategy(action.SKIP, action.DEFAULT)
        skip = functools.partial(_call_reversed, frames.set_code_exec_strategy, strategy)
    package = __name__.rpartition(".")[0]
    for module in [m for name, m in sys.modules.items() if name.startswith(package)]:
        for value in vars(module).values():
            for member in vars(value).values() if isinstance(value, type) else [value]:
                code = getattr(getattr(member, "__wrapped__", member), "__code__", None)
                if isinstance(code, types.CodeType):
                    _each_code(code, skip)


def _call_reversed(function: Callable[..., Any], second: Any, first: Any) -> None:
    function(first, second)


def _each_code(code: types.CodeType, function: Callable[[types.CodeType], Any]) -> None:
    """Call `function` with the code and with that of the functions made inside it."""
    function(code)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            _each_code(constant, function)


def _compiling(torch: Any) -> Callable[[], bool]:
    """What tells that dynamo traces the caller; dynamo itself takes it as the constant True.

    The cheaper of two that do; an older torch may lack it, or both.
    """
    compiler = torch.compiler
    either = getattr(compiler, "is_compiling", lambda: False)
    function: Callable[[], bool] = getattr(compiler, "is_dynamo_compiling", either)
    return function


def _optimizers(torch: Any, guest: Guest) -> None:
    module = sys.modules["torch.optim.optimizer"]  # torch.optim deletes the attribute
    compiling = _compiling(torch)

    def before(optimizer: Any, _args: Any, _kwargs: Any) -> None:
        if not compiling():
            guest.optimizer_begins(optimizer)

    def after(optimizer: Any, _args: Any, _kwargs: Any) -> None:
        if not compiling():
            guest.optimizer_stepped(optimizer)

    hooks: Any = module
    hooks.register_optimizer_step_pre_hook(before)
    hooks.register_optimizer_step_post_hook(after)

    optimizer_class = torch.optim.Optimizer
    zero_grad = optimizer_class.zero_grad

    @functools.wraps(zero_grad)
    def clear(self: Any, *args: Any, **kwargs: Any) -> Any:
        if compiling():
            return zero_grad(self, *args, **kwargs)
        start = monotonic_ns()
        try:
            return zero_grad(self, *args, **kwargs)
        finally:
            guest.gradients_cleared(start)

    optimizer_class.zero_grad = clear


def _loaders(torch: Any, guest: Guest) -> None:
    loader_module = torch.utils.data.dataloader
    iterator_class = loader_module._BaseDataLoaderIter
    loader_class = torch.utils.data.DataLoader
    next_batch = iterator_class.__next__
    make_iterator = loader_class.__iter__

    @functools.wraps(next_batch)
    def __next__(self: Any) -> Any:
        thread, waiting = get_ident(), guest.waiting
        if thread in waiting:  # a loader inside a dataset: a part of the outer one's wait
            return next_batch(self)
        waiting.add(thread)
        start, cpu_start = monotonic_ns(), thread_time_ns()
        try:
            batch = next_batch(self)
        except StopIteration:
            guest.loader_ended(self, start)
            raise
        finally:
            waiting.discard(thread)
        guest.loader_waited(self, start, cpu_start)
        return batch

    @functools.wraps(make_iterator)
    def __iter__(self: Any) -> Any:
        start = monotonic_ns()
        iterator = make_iterator(self)
        guest.loader_started(self, iterator, start)
        return iterator

    iterator_class.__next__ = __next__
    loader_class.__iter__ = __iter__


def _forward(torch: Any, guest: Guest) -> None:
    """Time the outermost module calls; an inner one costs a few comparisons."""
    module_class = torch.nn.Module
    call = module_class.__call__
    compiling = _compiling(torch)

    @functools.wraps(call)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        if compiling() or guest.in_forward or guest.forward_left <= 0:
            if len(args) == 1 and not kwargs:  # the usual call: nothing to pack and unpack
                return call(self, args[0])
            return call(self, *args, **kwargs)
        guest.in_forward = True
        start = monotonic_ns()
        try:
            return call(self, *args, **kwargs)
        finally:
            guest.in_forward = False
            guest.forward_ran(start)

    module_class.__call__ = __call__


def _backward(torch: Any, guest: Guest) -> None:
    def timed(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            guest.backward_begins()
            start = monotonic_ns()
            try:
                return original(*args, **kwargs)
            finally:
                guest.backward_ran(start)

        return wrapper

    # What both public functions call: dynamo knows those two by identity. Torch 2.2 lacks it.
    lacking = not hasattr(torch.autograd, "_engine_run_backward")
    for name in ("backward", "grad") if lacking else ("_engine_run_backward",):
        setattr(torch.autograd, name, timed(getattr(torch.autograd, name)))


def _saving(original: Callable[..., Any], guest: Guest) -> Callable[..., Any]:
    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        thread, saving = get_ident(), guest.saving
        if thread in saving:
            return original(*args, **kwargs)
        saving.add(thread)
        start = monotonic_ns()
        try:
            return original(*args, **kwargs)
        finally:
            saving.discard(thread)
            guest.saved(start)

    setattr(wrapper, WRAPPED, True)
    return wrapper


def _saves(torch: Any, guest: Guest) -> None:
    torch.save = torch.serialization.save = _saving(torch.save, guest)
    # In both places where it is found, so that it still pickles by its name.
    built_in: Any = sys.modules[os.name]
    os.fsync = built_in.fsync = _saving(os.fsync, guest)
    sys.meta_path.insert(0, _CheckpointWatcher(guest))


def wrap_checkpoints(guest: Guest) -> None:
    """Wrap the functions of checkpoint libraries that were imported before the watcher stood.

    A library that imports torch itself is one: `from safetensors.torch import save_file` in a
    script that has not imported torch. So the name is replaced in every module that took it.
    """
    for library, functions in CHECKPOINT_FUNCTIONS.items():
        module = sys.modules.get(library)
        for name in functions if module is not None else ():
            original = getattr(module, name, None)
            if not callable(original) or getattr(original, WRAPPED, False):
                continue
            wrapper = _saving(original, guest)
            for holder in list(sys.modules.values()):
                if not isinstance(holder, types.ModuleType):
                    continue
                taken = object.__getattribute__(holder, "__dict__")  # a lazy module stays unloaded
                if taken.get(name) is original:
                    taken[name] = wrapper


class _CheckpointWatcher(importlib.abc.MetaPathFinder):
    """Patches checkpoint libraries as they are imported."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None,
        target: types.ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Find the module as the other finders do, and patch it once it is loaded."""
        functions = CHECKPOINT_FUNCTIONS.get(name)
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
        execute = getattr(loader, "exec_module", None)
        if execute is None:
            return

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
    compiling = _compiling(torch)

    @functools.wraps(train)
    def wrapper(self: Any, mode: bool = True) -> Any:
        if compiling():
            return train(self, mode)
        thread, changing = get_ident(), guest.changing_mode
        if thread in changing:  # a part of the module whose mode changes
            return train(self, mode)
        changing.add(thread)
        try:
            return train(self, mode)
        finally:
            changing.discard(thread)
            guest.mode_changed(self, mode)

    module_class.train = wrapper


def _scaler(torch: Any, guest: Guest) -> None:
    # Torch 2.2 has it for CUDA only.
    scaler_class = getattr(torch.amp, "GradScaler", None) or torch.cuda.amp.GradScaler
    step = scaler_class.step

    @functools.wraps(step)
    def wrapper(self: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        start, before = monotonic_ns(), guest.optimizer_steps
        result = step(self, optimizer, *args, **kwargs)
        guest.scaler_stepped(optimizer, start, before)
        return result

    scaler_class.step = wrapper


def _foreign_profiler(torch: Any, guest: Guest) -> None:
    """Tell the guest when a profiler that is not ours is prepared, enabled and disabled."""
    profiler = torch.autograd.profiler

    def before(name: str) -> None:
        original = getattr(profiler, name)

        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            guest.profiler_begins()
            return original(*args, **kwargs)

        setattr(profiler, name, wrapper)

    before("_prepare_profiler")
    before("_enable_profiler")
    disable = profiler._disable_profiler

    @functools.wraps(disable)
    def disabled(*args: Any, **kwargs: Any) -> Any:
        result = disable(*args, **kwargs)
        guest.profiler_ended()
        return result

    profiler._disable_profiler = disabled


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
        for member in getattr(error, "exceptions", ()):  # of an ExceptionGroup
            if isinstance(member, BaseException):
                _peel_error(member, seen)
        error = error.__context__


def _peel(trace: types.TracebackType | None) -> types.TracebackType | None:
    """The same traceback without the frames of the guest's files."""
    kept: list[types.TracebackType] = []
    while trace is not None:
        if os.path.dirname(trace.tb_frame.f_code.co_filename) != OWN_FOLDER:
            kept.append(trace)
        trace = trace.tb_next
    result: types.TracebackType | None = None
    for entry in reversed(kept):
        result = types.TracebackType(result, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return result
