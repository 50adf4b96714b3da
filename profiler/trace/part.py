"""A part of a trace as one reader saw it, and how the parts of several readers become one."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

_K = TypeVar("_K", bound=Hashable)

SignatureKey: TypeAlias = tuple[bytes, bytes, bytes, bytes]
"""JSON text of dims, types, strides and concrete inputs."""

Array: TypeAlias = npt.NDArray[Any]

NUMBERED = ("name", "thread", "signature", "args")
"""Columns that hold a reader's own numbers."""


@dataclass
class Part:
    """Columns of some events, with the numbers that one reader gave.

    The lists hold what that reader saw for the first time, in the order in which it numbered it:
    they continue those of its parts before. `notes` are (slug, text, count).
    """

    columns: dict[str, Array] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    threads: list[tuple[str, str]] = field(default_factory=list)
    thread_names: list[tuple[str, str, str]] = field(default_factory=list)  # pid, tid, name
    signatures: list[SignatureKey] = field(default_factory=list)
    rests: list[bytes] = field(default_factory=list)  # JSON text of the rarer arguments
    notes: list[tuple[str, str, int]] = field(default_factory=list)


class Interner(dict[_K, int], Generic[_K]):
    """Numbers keys in the order first seen."""

    def __init__(self) -> None:
        super().__init__()
        self._fresh: list[_K] = []

    def __missing__(self, key: _K) -> int:
        index = self[key] = len(self)
        self._fresh.append(key)
        return index

    def take_fresh(self) -> list[_K]:
        """Return the keys numbered since the last call."""
        fresh, self._fresh = self._fresh, []
        return fresh


class Renumbering:
    """From one reader's numbers to those of the whole trace; -1 stays -1."""

    def __init__(self) -> None:
        self._to = np.array([-1], np.int32)
        self._same = True

    def extend(self, numbers: list[int]) -> None:
        """Say what the reader's next numbers are in the whole trace."""
        if numbers:
            known = len(self._to) - 1
            self._same = self._same and numbers == list(range(known, known + len(numbers)))
            self._to = np.concatenate((self._to[:-1], np.array([*numbers, -1], np.int32)))

    def __call__(self, numbers: Array) -> Array:
        """Return a column with the numbers of the whole trace."""
        return numbers if self._same else self._to[numbers]


def joined(parts: list[dict[str, Array]]) -> dict[str, Array]:
    """Return the rows of several parts' columns as one."""
    if len(parts) == 1:
        return parts[0]
    return (
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
    )
