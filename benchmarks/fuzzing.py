"""What the fuzzers share: damage of records, and an input that is kept before it is looked at."""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HANG_S = 60
"""An input that takes so long ends the fuzzer, with the stack of where it hangs."""

ODD_VALUES: tuple[object, ...] = (
    *(None, "", "x", [], {}, [[]], True, -1, 0, 1, 2**31, 2**61, 2**63, 2**64, -(2**40)),
    *(1e30, -0.5, 1e-9, "NaN", "7", "/", "../x", "\u202e\x1b[2J", "=1+1", [1, [2]], {"a": {}}),
    *("x" * 5_000, list(range(300)), [-1] * 50, 10**25),
)


def parsed(description: str, *, inputs: str = "") -> argparse.Namespace:
    """The options that all fuzzers have; `inputs` names what they may be given."""
    parser = argparse.ArgumentParser(description=description)
    if inputs:
        parser.add_argument(inputs, nargs="*", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"))
    return parser.parse_args()


@contextlib.contextmanager
def watched(seconds: int = HANG_S) -> Iterator[None]:
    """End the program where what is done within takes too long: the input lies there already."""
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def until(seconds: float) -> Iterator[int]:
    """Count inputs until the time is over."""
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end:
        number += 1
        yield number


def distorted_json(data: bytes, rng: random.Random) -> bytes:
    """Return JSON, or lines of JSON, with odd values in odd places; as it is where it is none."""
    lines = data.split(b"\n")
    whole = len([line for line in lines if line.strip()]) != sum(map(_is_json, lines))
    documents = [data] if whole else lines
    for _ in range(1 + int(rng.paretovariate(0.8)) % 40):
        index = rng.randrange(len(documents))
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(documents[index])
            documents[index] = json.dumps(_distorted(value, rng)).encode()
    if not whole and rng.random() < 0.2:
        documents.insert(rng.randrange(len(documents)), rng.choice(documents))
    return b"\n".join(documents)


def _is_json(line: bytes) -> bool:
    with contextlib.suppress(ValueError, RecursionError):
        return isinstance(json.loads(line), dict)
    return False


def _distorted(value: Any, rng: random.Random) -> Any:
    """The value with one change, somewhere in it."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        return _distorted_fields(value, rng)
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        fault = rng.randrange(5)
        repeated = [value[at]] * (rng.randint(2, 50) if fault else 0)
        changed = repeated if fault < 2 else [_distorted(value[at], rng)]
        return [*value[:at], *changed, *value[at + 1 :]]
    if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.5:
        return value * rng.choice([-1, 0, 2, 1000, 10**9]) + rng.choice([-1, 0, 1])
    return rng.choice(ODD_VALUES)


def _distorted_fields(fields: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    key = rng.choice(list(fields))
    fault = rng.randrange(6)
    if fault == 0:
        return {name: item for name, item in fields.items() if name != key}
    if fault == 1:
        return {**fields, str(rng.choice(ODD_VALUES))[:50]: fields[key]}
    if fault == 2:
        return {**fields, key: fields[rng.choice(list(fields))]}
    return {**fields, key: _distorted(fields[key], rng)}
