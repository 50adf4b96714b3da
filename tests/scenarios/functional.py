"""Trains a network of plain functions: its loss is the only module that is called.

With `--prepare-ms` the loop works on each batch for so long before.
"""

import argparse
import time

import torch
from torch import nn


def prepare(batch: torch.Tensor, seconds: float) -> torch.Tensor:
    """Work on the batch for so long, with ops of the network's own names."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        batch = torch.relu(batch @ torch.eye(batch.shape[1])) + batch.min()
    return batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--prepare-ms", type=float, default=0.0)
    args = parser.parse_args()

    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(args.width, args.width) * 0.04) for _ in range(6)]
    optimizer = torch.optim.SGD(weights, lr=0.01)
    loss_of = nn.CrossEntropyLoss()
    data = torch.randn(args.batch_size, args.width)
    labels = torch.randint(0, args.width, (args.batch_size,))
    for step in range(args.steps):
        batch = prepare(data, args.prepare_ms * 1e-3) if args.prepare_ms else data
        for weight in weights[:-1]:
            batch = torch.relu(batch @ weight)
        loss = loss_of(batch @ weights[-1], labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step:4d}  loss {loss.item():.6f}", flush=True)


if __name__ == "__main__":
    main()
