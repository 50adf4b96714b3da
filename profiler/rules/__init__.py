"""The rules: one file a bound or a family of causes, found by listing the folder.

Each has a function `find` and names in `FINDINGS` the ids that it may give; each id has a page in
docs/findings. Files that begin with an underscore, and `base`, are what rules share.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from types import ModuleType
from typing import TypeAlias

from ..diagnosis import Finding
from .base import Evidenced

Rule: TypeAlias = Callable[[Evidenced], list[Finding]]

HELPERS = frozenset({"base"})


def discover() -> dict[str, Rule]:
    """Rule name (its module's) to its `find` function."""
    return {name: module.find for name, module in _modules().items()}


def finding_ids() -> dict[str, str]:
    """Every id that a finding can have, to the name of the rule that gives it."""
    return {id_: name for name, module in _modules().items() for id_ in module.FINDINGS}


def _modules() -> dict[str, ModuleType]:
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    rules = [name for name in names if name not in HELPERS and not name.startswith("_")]
    return {name: importlib.import_module(f"{__name__}.{name}") for name in rules}
