"""Reads with loader workers of every start method, persistent ones too, and trains."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def main():
    model = nn.Linear(4, 1)
    data = TensorDataset(torch.randn(6, 4))
    for method in ("fork", "spawn", "forkserver"):
        workers = 2 if method == "fork" else 1
        loader = DataLoader(
            data, num_workers=workers, multiprocessing_context=method, persistent_workers=True
        )
        for _ in range(2):
            for (batch,) in loader:
                model(batch).sum().backward()


if __name__ == "__main__":
    main()
