"""What keeps the guest from being noticed: threads nobody sees, exceptions that are not ours."""

from __future__ import annotations

import _thread
import contextlib
import ctypes
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import CodeType, TracebackType
from typing import Any

AGAIN_S = 0.001
"""After so long a callback that a signal fell into has returned."""


class UnseenThread:
    """A daemon thread that `threading` does not know of.

    So the script's own count of threads stays as it was, and a trace or profile function that it
    sets for all new threads (`threading.settrace`) does not run in ours.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._ended = threading.Event()
        self.ident = 0

    def start(self) -> None:
        """Start it; raises RuntimeError where the system allows no more threads."""
        _thread.start_new_thread(self._run, ())

    def _run(self) -> None:
        self.ident = threading.get_ident()
        try:
            self._work()
        except BaseException:  # noqa: S110 - nobody is there to catch it, nor to be told
            pass
        finally:
            self._ended.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for its end; whether it has ended."""
        return threading.get_ident() == self.ident or self._ended.wait(max(0.0, timeout_s))


def raised_by_signal_handler(error: BaseException) -> int | None:
    """The signal whose handler, one of the script's own, raised the error while our code ran.

    Handlers run wherever the main thread happens to be; a timeout or an interrupt that arrives in
    our code is meant for the script. None where the error is no handler's.
    """
    codes = _handler_codes()
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        number = codes.get(trace.tb_frame.f_code)
        if number is not None:
            return number
        trace = trace.tb_next
    # The default handler of Ctrl-C is written in C and leaves no frame.
    return int(signal.SIGINT) if type(error) is KeyboardInterrupt else None


def _handler_codes() -> dict[CodeType, int]:
    codes = {}
    for number in signal.valid_signals():
        code = _code_of(signal.getsignal(number))
        if code is not None:
            codes[code] = int(number)
    return codes


def _code_of(handler: Any) -> CodeType | None:
    """The code that runs when `handler` is called; None for one written in C."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    handler = getattr(handler, "__func__", handler)
    code = getattr(handler, "__code__", None)
    if code is None:  # an object with a __call__ of its own
        code = getattr(vars(type(handler)).get("__call__"), "__code__", None)
    return code if isinstance(code, CodeType) else None


def _signal_again(number: signal.Signals) -> None:
    time.sleep(AGAIN_S)
    _thread.interrupt_main(number)


def redeliver_lost_signals(own_folder: str) -> None:
    """Let a signal that arrives in a callback of ours that cannot raise arrive once more.

    The interpreter drops what is raised in the callbacks of a garbage collection or a fork, and
    prints it. Where it was a signal handler that raised there, the training would miss a Ctrl-C
    or a timeout; so its signal is made pending again, and the handler raises in the training.
    """
    previous = sys.unraisablehook

    def unraisablehook(unraisable: Any) -> None:
        number = None
        with contextlib.suppress(Exception):
            trace, error = unraisable.exc_traceback, unraisable.exc_value
            if os.path.dirname(trace.tb_frame.f_code.co_filename) == own_folder:
                number = raised_by_signal_handler(error.with_traceback(trace))
        if number is None:
            previous(unraisable)
        else:
            # Not from here: the handler would run in this hook, and raise where nobody listens.
            UnseenThread(functools.partial(_signal_again, signal.Signals(number))).start()

    sys.unraisablehook = unraisablehook


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """Let the script's signal handlers run only after the block: one that raised within a start
    or stop of the profiler would leave it half on, which crashes the process.

    Does nothing outside the main thread, where no handler runs.
    """
    if threading.get_ident() != threading.main_thread().ident:
        yield
        return
    arrived: dict[int, None] = {}
    own = [(n, signal.getsignal(n)) for n in signal.valid_signals()]
    handlers = [(number, handler) for number, handler in own if callable(handler)]
    try:
        for number, _ in handlers:
            signal.signal(number, lambda n, _frame: arrived.setdefault(n))
        yield
    finally:
        error = None
        for number, handler in handlers:
            error = _restored(number, handler) or error
        for arrival in arrived:
            signal.raise_signal(arrival)
        if error is not None:
            raise error


def _restored(number: int, handler: Any) -> BaseException | None:
    """Put a handler back; what handlers raise meanwhile is kept until all are back."""
    error = None
    while True:
        try:
            signal.signal(number, handler)
        except BaseException as raised:
            error = raised
        else:
            return error


def leave_without_destructors() -> None:
    """Let this process, a forked child, end without the destructors of C++ libraries.

    Kineto has a thread as soon as a profiler ran. A forked child has no such thread, and the
    destructor that waits for it never returns, or aborts (torch 2.13). What C wrote to its
    streams is still flushed. Does nothing where the C library lacks `on_exit` (not glibc).
    """
    library = ctypes.CDLL(None)
    for name in ("on_exit", "__cxa_atexit", "fflush", "_exit"):
        if not hasattr(library, name):
            return
    # Handlers run in reverse: the streams first, then `_exit`, which gets the exit status.
    library.on_exit(ctypes.cast(library._exit, ctypes.c_void_p), None)
    library["__cxa_atexit"](ctypes.cast(library.fflush, ctypes.c_void_p), None, None)


_PENDING_CALL = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p)


def call_in_main_thread(work: Callable[[], None]) -> object:
    """Have the main thread call `work` between two bytecodes, as it does with signal handlers.

    Keep what is returned until then. Does nothing where the interpreter has no room for it.
    """

    def call(_nothing: object) -> int:
        with contextlib.suppress(Exception):
            work()
        return 0

    entry = _PENDING_CALL(call)
    ctypes.pythonapi.Py_AddPendingCall(entry, None)
    return entry
