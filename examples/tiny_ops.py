"""Trains a small recurrent network, its cell written by hand, to add up a long sequence."""

import argparse

import torch
from torch import nn


class GatedCell(nn.Module):
    """A gated recurrent cell; the state is (batch, hidden)."""

    def __init__(self, inputs: int, hidden: int):
        super().__init__()
        self.update = nn.Linear(inputs + hidden, hidden)
        self.reset = nn.Linear(inputs + hidden, hidden)
        self.candidate = nn.Linear(inputs + hidden, hidden)

    def forward(self, x: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        joined = torch.cat([x, state], dim=1)
        update = torch.sigmoid(self.update(joined))
        reset = torch.sigmoid(self.reset(joined))
        candidate = torch.tanh(self.candidate(torch.cat([x, reset * state], dim=1)))
        return update * state + (1 - update) * candidate


class Recurrent(nn.Module):
    """Steps the cell over time and reads the answer off the last state."""

    def __init__(self, inputs: int, hidden: int):
        super().__init__()
        self.hidden = hidden
        self.cell = GatedCell(inputs, hidden)
        self.readout = nn.Linear(hidden, 1)

    def forward(self, sequence: torch.Tensor) -> torch.Tensor:
        """`sequence` is (time, batch, inputs); the answer is (batch,)."""
        state = sequence.new_zeros(sequence.shape[1], self.hidden)
        for x in sequence:
            state = self.cell(x, state)
        return self.readout(state).squeeze(1)


def adding_problem(length: int, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers and a mask that marks some of them; the target is the mean of the marked ones."""
    numbers = torch.rand(length, batch)
    mask = (torch.rand(length, batch) < 0.1).float()
    target = (numbers * mask).sum(0) / mask.sum(0).clamp(min=1)
    return torch.stack([numbers, mask], dim=2), target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=220)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--length", type=int, default=200)
    parser.add_argument("--hidden", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=8)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    model = Recurrent(inputs=2, hidden=args.hidden)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(args.steps):
        sequence, target = adding_problem(args.length, args.batch_size)
        loss = nn.functional.mse_loss(model(sequence), target)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 20 == 0 or step == args.steps - 1:
            print(f"step {step:4d}  loss {loss.item():.6f}", flush=True)


if __name__ == "__main__":
    main()
