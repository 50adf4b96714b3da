"""Trains with dropout, shuffling and two loader workers; prints every loss in full."""

import hashlib
import random
import sys
import time

import numpy
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

STEPS = 240


class Noisy(Dataset):
    """Every item takes randomness of its own from three streams."""

    def __len__(self):
        return 240

    def __getitem__(self, index):
        noise = torch.randn(16) + random.random() + numpy.random.random()
        return noise.float() + index, torch.tensor(index % 3)


def fingerprint():
    """One number for the state of every random stream of the process."""
    states = (random.getstate(), numpy.random.get_state(), torch.get_rng_state().tolist())
    return hashlib.sha256(repr(states).encode()).hexdigest()


def main():
    random.seed(1)
    numpy.random.seed(2)
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    step = 0
    while step < STEPS:
        loader = DataLoader(Noisy(), batch_size=4, shuffle=True, num_workers=2)
        for inputs, targets in loader:
            loss = nn.functional.cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            print(step, repr(loss.item()))
            time.sleep(0.006)
        print("epoch", file=sys.stderr)
    print(fingerprint(), random.random(), numpy.random.random(), torch.rand(1).item())
    print("threads", torch.get_num_threads(), "modules", "pandas" in sys.modules)


main()
