"""The collectors beside the training, one file each, found by listing this folder."""

from __future__ import annotations

import importlib
import pkgutil

from ..base import Collector

_ATTRIBUTES = ("name", "period_s", "effect", "metrics", "probe", "start", "sample", "stop")


def discover() -> list[type[Collector]]:
    """Every collector class of this folder, ordered by name."""
    found: list[type[Collector]] = []
    for module_info in pkgutil.iter_modules(__path__):
        if module_info.name.startswith("_"):
            continue
        module = importlib.import_module(f".{module_info.name}", __name__)
        found.extend(
            value
            for value in vars(module).values()
            if isinstance(value, type)
            and value.__module__ == module.__name__
            and all(hasattr(value, attribute) for attribute in _ATTRIBUTES)
        )
    return sorted(found, key=lambda collector: collector.name)
