"""Trains a small recommender with a large embedding table, and saves it every other step."""

import argparse
import os
import tempfile
from pathlib import Path

import torch
from torch import nn


class Recommender(nn.Module):
    """Scores a user's history against an item: one large table, two small layers."""

    def __init__(self, items: int, width: int):
        super().__init__()
        self.table = nn.EmbeddingBag(items, width, mode="mean", sparse=True)
        self.head = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, history: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        """`history` is (batch, length), `item` (batch,); the score is (batch,)."""
        both = torch.cat([self.table(history), self.table(item[:, None])], dim=1)
        return self.head(both).squeeze(1)


def save_checkpoint(path: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer):
    """Writes beside the old checkpoint, makes sure it is on the disk, then takes its place."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        state = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def make_batch(items: int, batch_size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    history = torch.randint(items, (batch_size, 20))
    item = torch.randint(items, (batch_size,))
    liked = ((history % 7 == 0).float().mean(1) > 0.15).float()
    return history, item, liked


def train(args: argparse.Namespace, folder: Path) -> None:
    model = Recommender(args.items, args.width)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for step in range(args.steps):
        history, item, liked = make_batch(args.items, args.batch_size)
        score = model(history, item)
        loss = nn.functional.binary_cross_entropy_with_logits(score, liked)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % args.save_every == args.save_every - 1:
            save_checkpoint(folder / "last.pt", step, model, optimizer)
        if step % 20 == 0 or step == args.steps - 1:
            print(f"step {step:4d}  loss {loss.item():.6f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=260)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--save-every", type=int, default=2)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        train(args, Path(folder))


if __name__ == "__main__":
    main()
