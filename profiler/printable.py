"""Text from recordings made harmless for terminals: names come from strangers."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

MAX_TEXT = 4_000
"""Characters of one text that are shown: real names stay below 2,000 (C++ kernel names)."""

_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters: escape sequences begin with them
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # they turn the direction of what follows
    "\ud800-\udfff]"  # halves of characters, which no terminal can be sent
)

T = TypeVar("T", bound=msgspec.Struct)


def printable(text: str) -> str:
    """Return `text` without what a terminal would obey; what is taken out shows as U+FFFD."""
    return _UNPRINTABLE.sub("\ufffd", text[:MAX_TEXT])


def printable_struct(value: T) -> T:
    """Return a record with every text in it printable."""
    return msgspec.convert(_cleaned(msgspec.to_builtins(value)), type(value))


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    if isinstance(value, dict):
        return {printable(key): _cleaned(item) for key, item in value.items()}
    return value
