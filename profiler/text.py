"""Quantities as people read them: few digits, a unit, a plain space before it."""

from __future__ import annotations

import math


def percent(share: float) -> str:
    """`0.8712` as "87 %"; shares below one percent keep one digit."""
    value = share * 100
    return f"{value:.0f} %" if value >= 1 or value == 0 else f"{value:.1f} %"


def digits(value: float) -> str:
    """Three significant digits without an exponent."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def scaled(value: float, unit: str, base: float = 1000.0) -> str:
    """`3.2e9, "FLOP/s"` as "3.2 GFLOP/s"."""
    prefixes = ("", "k", "M", "G", "T", "P")
    index = 0
    while abs(value) >= base and index < len(prefixes) - 1:
        value /= base
        index += 1
    return f"{digits(value)} {prefixes[index]}{unit}"


def duration(seconds: float) -> str:
    """Seconds as "3.1 s", "31 ms", "12 us" or "2 min 5 s"."""
    if seconds >= 120:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest} s"
    if seconds >= 1:
        return f"{digits(seconds)} s"
    if seconds >= 1e-3:
        return f"{digits(seconds * 1e3)} ms"
    return f"{digits(seconds * 1e6)} us"


def milliseconds(value: float) -> str:
    """A step time given in ms."""
    return duration(value * 1e-3)


def plural(count: int, noun: str) -> str:
    """`1, "rank"` as "1 rank", `2` as "2 ranks"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


MAX_NAME = 80


def short_name(name: str) -> str:
    """An op's or kernel's name without return type, template and call arguments."""
    return name.removeprefix("void ").split("(")[0].split("<")[0][:MAX_NAME]
