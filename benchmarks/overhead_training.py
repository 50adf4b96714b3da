"""The training whose cost `overhead.py` measures; it times its own steps and knows nothing else.

The log has the end of each step (nanoseconds since the epoch, on the monotonic clock) and the
peak resident memory of the process.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

SIZES = {"20ms": (160, 58, 160), "1ms": (96, 5, 96)}
"""Width, depth and batch size whose step takes about that long on two cores. No tensor is as large
as the C library's threshold for mapped memory, 128 KiB: beyond it a process is faster or slower by
several percent for as long as it lives, by where its blocks happen to lie."""


class Batches(Dataset[torch.Tensor]):
    """Ready batches, so that the step is the model's work and the loader's own."""

    def __init__(self, count: int, batch_size: int, width: int) -> None:
        self.count = count
        self.batches = torch.randn(8, batch_size, width)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.batches[index % 8]


class Training:
    """A model, its optimizer and its loader, one step at a time."""

    def __init__(self, size: str, steps: int) -> None:
        width, depth, batch_size = SIZES[size]
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [nn.Linear(width, width), nn.ReLU()]
        self.model = nn.Sequential(*layers)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self.loader = DataLoader(Batches(steps, batch_size, width), batch_size=None)

    def step(self, batch: torch.Tensor) -> None:
        """Forward pass, backward pass and update."""
        loss = self.model(batch).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def train(size: str, steps: int) -> list[int]:
    """Return the end of each step, ns since the epoch."""
    training = Training(size, steps)
    offset_ns = time.time_ns() - time.monotonic_ns()
    ends = []
    for batch in training.loader:
        training.step(batch)
        ends.append(time.monotonic_ns() + offset_ns)
    return ends


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("size", choices=sorted(SIZES))
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--log", type=Path, required=True)
    args = parser.parse_args()
    torch.manual_seed(0)
    ends = train(args.size, args.steps)
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    args.log.write_text(json.dumps({"ends_ns": ends, "peak_bytes": peak_kb * 1024}))


if __name__ == "__main__":
    main()
