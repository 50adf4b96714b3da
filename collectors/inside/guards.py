"""Keeps what fails or takes too long in the guest's methods out of the training."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from .manners import raised_by_signal_handler

if TYPE_CHECKING:
    from .guest import Guest

SLOW_NS = 250_000_000
SLOW_CALLS = 3
"""A method of ours that takes so long so many times in a row is stopped: the training waits for it.
The slowest that is known, starting a profiler on a GPU for the first time, is one call."""

Method = TypeVar("Method", bound=Callable[..., Any])


def guarded(method: Method) -> Method:
    """Keep failures of ours out of the training, and whatever takes too long; both are named."""
    name = method.__name__

    @functools.wraps(method)
    def wrapper(self: Guest, *args: Any) -> Any:
        start = time.monotonic_ns()
        try:
            return method(self, *args)
        except Exception as error:
            if raised_by_signal_handler(error) is not None:
                raise
            self.disable(name)
            return None
        finally:
            took = time.monotonic_ns() - start
            if took > SLOW_NS or name in self.slow_calls:
                self.took(name, took)

    return wrapper  # type: ignore[return-value]
