"""Trains a small network on CPU with one planted cause; without one it is just a training."""

import argparse
import gc
import logging
import sys
import tempfile
import threading
import time

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

WIDTH = 256


def spin(seconds: float) -> float:
    """Work in the interpreter for so long."""
    end, value = time.perf_counter() + seconds, 0.0
    while time.perf_counter() < end:
        value += 1.0
    return value


class Vectors(Dataset):
    """Random vectors; `sleep_s` and `spin_s` are what each item costs."""

    def __init__(self, count: int, sleep_s: float = 0.0, spin_s: float = 0.0):
        self.vectors = torch.randn(count, WIDTH)
        self.sleep_s = sleep_s
        self.spin_s = spin_s

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, index: int) -> torch.Tensor:
        if self.sleep_s:
            time.sleep(self.sleep_s)
        if self.spin_s:
            spin(self.spin_s)
        return self.vectors[index]


def slow_collate(samples: list[torch.Tensor]) -> torch.Tensor:
    batch = []
    for sample in samples:
        batch.append(torch.tensor([float(value) for value in sample]))
    return torch.stack(batch)


def loader_for(cause: str, batch_size: int) -> DataLoader:
    count = batch_size * 20
    if cause == "workers-waiting":
        data = Vectors(count, sleep_s=0.03 / batch_size)
        return DataLoader(data, batch_size, num_workers=1, persistent_workers=True)
    if cause == "workers-cpu-bound":
        data = Vectors(count, spin_s=0.04 / batch_size)
        return DataLoader(data, batch_size, num_workers=1, persistent_workers=True)
    if cause == "workers-restarted":
        return DataLoader(Vectors(batch_size * 8), batch_size, num_workers=2)
    if cause == "slow-collate":
        return DataLoader(Vectors(count), batch_size, collate_fn=slow_collate)
    return DataLoader(Vectors(count), batch_size)


def batches(loader: DataLoader, steps: int):
    done = 0
    while done < steps:
        for batch in loader:
            yield batch
            done += 1
            if done == steps:
                return


class Node:
    """Part of a cycle, so that only the collector frees it."""

    def __init__(self) -> None:
        self.other = self


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cause", default="")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=64)
    args = parser.parse_args()
    cause = args.cause

    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(WIDTH, WIDTH) for _ in range(4)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    kept: list = []
    handler = logging.FileHandler(tempfile.mktemp()) if cause == "log-in-loop" else None
    log = logging.getLogger("train")
    if handler:
        log.setLevel(logging.INFO)
        log.addHandler(handler)
        log.propagate = False
    if cause == "garbage-collection":
        kept += [Node() for _ in range(300_000)]
    # More than the largest block that glibc keeps, 32 MiB: each result is mapped anew.
    field = torch.ones(2**24 if cause == "fresh-pages" else 0)
    if cause == "lock-contention":
        threading.Thread(target=lambda: [spin(1.0) for _ in range(60)], daemon=True).start()
    for step, batch in enumerate(batches(loader_for(cause, args.batch_size), args.steps)):
        if cause == "garbage-collection":
            gc.collect()
        if cause == "drift" and step > args.steps // 2:
            spin(0.01)
        if cause == "step-outliers" and step % 10 == 9:
            spin(0.2)
        if cause == "memory-growth":
            kept.append(torch.ones(1024, 512))
            time.sleep(0.03)
        loss = nn.functional.mse_loss(model(batch), batch)
        if len(field):
            loss = loss * (field * 2 + 1).clamp(max=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if handler:
            for number in range(300):
                log.info("step %d layer %d loss %.6f", step, number, loss.item())
        if step % 50 == 0:
            print(f"step {step:4d}  loss {loss.item():.6f}", flush=True)
    sys.exit(0)


if __name__ == "__main__":
    main()
