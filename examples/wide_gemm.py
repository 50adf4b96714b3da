"""Trains a wide multi-layer perceptron to imitate a fixed random one."""

import argparse

import torch
from torch import nn


class WideNet(nn.Module):
    """`depth` linear layers of `width`, with a rectifier between them."""

    def __init__(self, width: int, depth: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x)


def make_data(count: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and what the teacher says to them, both (count, width)."""
    teacher = WideNet(width, depth=2)
    inputs = torch.randn(count, width)
    with torch.no_grad():
        targets = teacher(inputs)
    return inputs, targets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=768)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    inputs, targets = make_data(count=4 * args.batch_size, width=args.width)
    model = WideNet(args.width, args.depth)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(args.steps):
        start = (step % 4) * args.batch_size
        batch = slice(start, start + args.batch_size)
        loss = nn.functional.mse_loss(model(inputs[batch]), targets[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0 or step == args.steps - 1:
            print(f"step {step:4d}  loss {loss.item():.6f}", flush=True)


if __name__ == "__main__":
    main()
