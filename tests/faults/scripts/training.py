"""Trains for a second or two and prints every loss to the last bit; `--trick` plays a trick."""

import argparse
import contextlib
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import tricks


def parsed(words):
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=220)
    parser.add_argument("--wait-ms", type=float, default=6.0)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--trick", default="nothing")
    parser.add_argument("--optimizer", action="store_true", help="torch's: 2 s to import")
    parser.add_argument("--notes", action="store_true", help="note the time of each step")
    return parser.parse_args(words)


def descend(torch, parameters):
    """Gradient descent by hand: a program's first torch optimizer imports for two seconds."""
    with torch.no_grad():
        for parameter in parameters:
            parameter -= 0.01 * parameter.grad
            parameter.grad = None


def train(given, trick):
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, Dataset

    class Samples(Dataset):
        def __len__(self):
            return given.steps * 4

        def __getitem__(self, index):
            time.sleep(given.wait_ms * 1e-3 / 4)
            return torch.randn(8) + index * 1e-3

    torch.manual_seed(1)
    torch.set_num_threads(1)
    model = tricks.prepared(nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.3), nn.Linear(16, 8)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01) if given.optimizer else None
    loader = DataLoader(Samples(), batch_size=4, shuffle=True, num_workers=given.workers)
    notes = open("notes", "wb", buffering=0) if given.notes else None
    for step, batch in enumerate(loader):
        if step == given.steps // 2:
            next(trick)
        loss = ((model(batch) - 1) ** 2).mean()
        loss.backward()
        if optimizer is None:
            descend(torch, model.parameters())
        else:
            optimizer.step()
            optimizer.zero_grad()
        if notes is not None:
            notes.write(time.monotonic_ns().to_bytes(8, "little"))
        print(step, loss.item().hex())


def main(words):
    given = parsed(words)
    trick = tricks.TRICKS[given.trick](given)
    next(trick)
    train(given, trick)
    with contextlib.suppress(StopIteration):
        next(trick)
    print("trained", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
