"""Numbers among recorded facts, which are text: in a stranger's run they may be anything."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

MAX_CORES = 1 << 14
"""Twice what Linux can have (NR_CPUS): a longer list of cores is no list of cores."""

MAX_LIST = 1 << 17
"""Characters of such a list that are read."""

_COUNT = re.compile(r"[0-9]{1,18}", re.ASCII)


def is_count(text: str) -> bool:
    """Whether the text is a whole number of ordinary size, and no more than that."""
    return _COUNT.fullmatch(text) is not None


def count_in(facts: Mapping[str, str], name: str, default: int = 0) -> int:
    """Return the count that a fact states; `default` where it is absent or states none."""
    text = facts.get(name, "")
    return int(text) if is_count(text) else default


def first_number(text: str) -> float:
    """Return the number that a text begins with ("2.5 of 8"); 0 where it is none, or negative."""
    try:
        number = float(text.split(maxsplit=1)[0])
    except (ValueError, IndexError):
        return 0.0
    return number if math.isfinite(number) and number > 0 else 0.0


def cores_in(text: str) -> set[int]:
    """Return the numbers of the cores that a list names, as the kernel writes it: "0-3,8".

    None where it names more than there can be.
    """
    found: set[int] = set()
    named = 0
    for part in text[:MAX_LIST].split(","):
        first, _, last = part.strip().partition("-")
        last = last or first
        if not is_count(first) or not is_count(last):
            continue
        named += max(0, int(last) - int(first) + 1)
        if named > MAX_CORES:
            return set()
        found.update(range(int(first), int(last) + 1))
    return found
