"""The data of the training scripts: records in a store that can be slow, packed, or raw text."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, default_collate

RESIDENT_BATCHES = 8
"""Batches that are made beforehand and used again and again where the input is removed."""
PACKED_BLOBS = 16
VOCABULARY = {f"word{number}": number for number in range(500)}
Make = Callable[[Any], tuple[torch.Tensor, ...]]
"""The tensors of a sample by its index, or of many by a tensor of indices."""
Batch = list[torch.Tensor]


class Store:
    """Answers each request after `latency_s`, as an object store over the network does."""

    def __init__(self, latency_s: float, packed_bytes: int):
        self.latency_s = latency_s
        generator = np.random.default_rng(0)
        self.blobs = [generator.bytes(packed_bytes) for _ in range(PACKED_BLOBS)]

    def get(self, index: int) -> bytes:
        if self.latency_s:
            time.sleep(self.latency_s)  # planted: slow-store, few-workers, slow-loader
        return self.blobs[index % PACKED_BLOBS]


def unpack(data: bytes) -> bytearray:
    """Undo the delta coding of a record: each byte is the difference to the one before."""
    values, last = bytearray(len(data)), 0
    for position, delta in enumerate(data):  # planted: decode
        last = (last + delta) & 255  # planted: decode
        values[position] = last  # planted: decode
    return values


class Records(Dataset[tuple[torch.Tensor, ...]]):
    """`count` samples as `make(index)` gives them, each with its stored, packed header."""

    def __init__(self, make: Make, count: int, store: Store):
        self.make = make
        self.count = count
        self.store = store

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        header = unpack(self.store.get(index))
        return (*self.make(index), torch.tensor(header[-1] if header else 0))


class WholeBatches(Records):
    """The same, a batch at a time: one request, one op a tensor."""

    def __getitem__(self, indices: list[int]) -> tuple[torch.Tensor, ...]:  # type: ignore[override]
        self.store.get(indices[0])
        packed = [self.store.blobs[index % PACKED_BLOBS] for index in indices]
        headers = [unpack(blob) for blob in packed if blob]
        last = torch.tensor([header[-1] for header in headers] or [0] * len(indices))
        return (*self.make(torch.tensor(indices)), last)


class Tokenising:
    """A collate function that also turns each sample's text into numbers, word by word."""

    def __init__(self, words: int, whole: bool):
        self.whole = whole
        self.text = " ".join(f"word{7 * number % 600}" for number in range(words))

    def __call__(self, samples: Any) -> Batch:
        batch: Batch = list(samples) if self.whole else default_collate(samples)
        rows = []
        for _ in batch[-1]:
            rows.append([VOCABULARY.get(word, 0) for word in self.text.split()])  # planted: collate
        return [*batch, torch.tensor(rows)]


def augment(rows: torch.Tensor, passes: int) -> torch.Tensor:
    """Shift and scale every sample of a batch by itself, `passes` times, in numpy."""
    generator = np.random.default_rng(0)
    arrays = rows.numpy()
    for _ in range(passes):
        for row in arrays:
            shifted = np.roll(row, int(generator.integers(8)))  # planted: prepare
            np.clip(shifted, -4.0, 4.0, out=row)  # planted: prepare
    return torch.from_numpy(arrays)


def sample_maker(x: torch.Tensor, *targets: torch.Tensor) -> Make:
    """Samples out of whole tensors: row `index` of each."""
    tensors = (x, *targets)

    def make(index: Any) -> tuple[torch.Tensor, ...]:
        return tuple(tensor[index % len(tensor)] for tensor in tensors)

    return make


def loader_of(
    args: argparse.Namespace, make: Make, batch_size: int, whole: bool
) -> DataLoader[tuple[torch.Tensor, ...]]:
    """The loader as the options want it; `whole`: the dataset makes whole batches."""
    resident = args.remove == "input"
    samples_a_request = 1 if whole else batch_size
    latency_s = 0.0 if resident else args.latency_ms / 1000 / samples_a_request
    store = Store(latency_s, 0 if resident else args.packed_bytes)
    workers = 0 if resident else args.workers
    words = 0 if resident else args.words
    dataset = (WholeBatches if whole else Records)(make, 64 * batch_size, store)
    common: dict[str, Any] = {
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "collate_fn": Tokenising(words, whole) if words else None,
    }
    if whole:
        batches = BatchSampler(RandomSampler(dataset), batch_size, drop_last=True)
        return DataLoader(dataset, sampler=batches, batch_size=None, **common)
    return DataLoader(dataset, batch_size=batch_size, shuffle=True, drop_last=True, **common)


def batches_of(
    args: argparse.Namespace, make: Make, batch_size: int, whole: bool
) -> Iterator[Batch]:
    """Batches without end, through a DataLoader; a few resident ones where input is removed.

    `args.latency_ms` is per batch: of its one request, or spread over its samples.
    """
    loader = loader_of(args, make, batch_size, whole)
    if args.remove == "input":
        kept = [list(batch) for batch in islice(loader, RESIDENT_BATCHES)]
        while True:
            yield from kept
    while True:
        for taken in loader:
            batch = list(taken)
            if args.augment and batch[0].is_floating_point():
                batch[0] = augment(batch[0], args.augment)
            yield batch
