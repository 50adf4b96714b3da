"""The rules: one file a bound, each with a function `find`; found by listing the folder."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import TypeAlias

from ..diagnosis import Finding
from .base import Evidenced

Rule: TypeAlias = Callable[[Evidenced], list[Finding]]

HELPERS = frozenset({"base"})


def discover() -> dict[str, Rule]:
    """Rule name (its module's) to its `find` function."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in HELPERS)
    return {name: importlib.import_module(f"{__name__}.{name}").find for name in names}
