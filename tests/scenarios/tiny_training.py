"""A training of a few seconds: a small model, a loader that may be slow, a checkpoint."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

WIDTH = 256
BATCH = 8


class Samples(Dataset[torch.Tensor]):
    """Random samples, each after a wait."""

    def __init__(self, count: int, wait_s: float) -> None:
        self._count = count
        self._wait_s = wait_s

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> torch.Tensor:
        time.sleep(self._wait_s)
        return torch.randn(WIDTH)


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--wait-ms", type=float, default=2.0)
    given = parser.parse_args()
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loader = DataLoader(Samples(given.steps * BATCH, given.wait_ms * 1e-3), batch_size=BATCH)
    with tempfile.TemporaryDirectory() as folder:
        for step, batch in enumerate(loader):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(batch), batch)
            loss.backward()
            optimizer.step()
            if step == given.steps // 2:
                torch.save(model.state_dict(), Path(folder) / "model.pt")


if __name__ == "__main__":
    main()
