"""The catalogue of devices: what a device of a given name can do, from vendors' data sheets.

A name must match word for word: what a driver reports is split into words, and only the words
that say nothing about the model are left out. A card that is not in the catalogue, a slice of one
(MIG) or a variant (Ti, SUPER, D, Laptop) is never taken for its neighbour.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import msgspec

from .roofs import Roofs

CATALOGUE = Path(__file__).with_name("catalogue.toml")

# Brand and form words that no two devices of the catalogue differ by.
_SILENT = frozenset(
    {"nvidia", "amd", "ati", "tesla", "geforce", "quadro", "radeon", "instinct", "gpu"}
    | {"oam", "vf", "hf", "corporation"}
)
_MARKS = re.compile(r"\((?:r|tm|c)\)|[®™©]", re.IGNORECASE)
_WORDS = re.compile(r"[a-z0-9.]+")
_SIZE = re.compile(r"\b(\d+)\s+gb?\b")

# Drivers report between 0.98 and 1.075 times the size as sold (GB or GiB, less what is reserved).
MEMORY_LOW, MEMORY_HIGH = 0.9, 1.12


class Device(msgspec.Struct, frozen=True):
    """One device: figures in the units that their names say, dense, and where they come from."""

    name: str
    names: list[str]
    tflops: dict[str, float]
    memory_gb: float
    source: str
    memory_gb_per_s: float | None = None
    link_gb_per_s: dict[str, float] = {}
    other_memory_gb: list[float] = []

    def roofs(self) -> Roofs:
        """The device's roofs, in FLOP/s and bytes/s."""
        bandwidth = {"dram": self.memory_gb_per_s * 1e9} if self.memory_gb_per_s else {}
        return Roofs(
            flops={dtype: rate * 1e12 for dtype, rate in self.tflops.items()},
            bandwidth=bandwidth,
            source="catalogue",
            device=self.name,
            notes=[self.source],
        )

    def has_memory(self, memory_bytes: int) -> bool:
        """Whether a device with this much memory can be this one."""
        sizes = (self.memory_gb, *self.other_memory_gb)
        return any(MEMORY_LOW <= memory_bytes / (size * 1e9) <= MEMORY_HIGH for size in sizes)


class _Catalogue(msgspec.Struct, frozen=True):
    device: list[Device]


def lookup(device_name: str, memory_bytes: int | None = None) -> Device | None:
    """The device that a driver or a trace calls `device_name`; None where it is not certain.

    `memory_bytes`, where known, tells apart cards that were sold under one name with other memory.
    """
    device = _index().get(_words(device_name))
    if device is None or (memory_bytes and not device.has_memory(memory_bytes)):
        return None
    return device


@lru_cache(maxsize=1)
def devices() -> tuple[Device, ...]:
    """All devices of the catalogue."""
    return tuple(msgspec.toml.decode(CATALOGUE.read_bytes(), type=_Catalogue).device)


@lru_cache(maxsize=1)
def _index() -> dict[tuple[str, ...], Device]:
    found: dict[tuple[str, ...], Device] = {}
    for device in devices():
        for name in (device.name, *device.names):
            found.setdefault(_words(name), device)
    return found


def _words(name: str) -> tuple[str, ...]:
    plain = _MARKS.sub(" ", name).lower().replace(",", " ")
    plain = _SIZE.sub(r"\1gb", " ".join(_WORDS.findall(plain)))
    return _sorted(word for word in plain.split() if word not in _SILENT)


def _sorted(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(words))
