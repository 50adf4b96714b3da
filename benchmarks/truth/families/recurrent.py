"""Trains a recurrent network, its gated cell written by hand and stepped in Python."""

from __future__ import annotations

import torch
from job import Job, options
from removals import without_arithmetic
from samples import sample_maker
from torch import nn
from torch.nn import functional

INPUTS, BATCH, ROWS = 4, 16, 256


class GatedCell(nn.Module):
    """A gated recurrent cell; the state is (batch, hidden)."""

    def __init__(self, hidden: int):
        super().__init__()
        self.gates = nn.Linear(INPUTS + hidden, 2 * hidden)
        self.candidate = nn.Linear(INPUTS + hidden, hidden)

    def forward(self, x: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        gates = torch.sigmoid(self.gates(torch.cat([x, state], dim=1)))  # planted: tiny-ops
        update, reset = gates.chunk(2, dim=1)  # planted: tiny-ops
        joined = torch.cat([x, reset * state], dim=1)  # planted: tiny-ops
        candidate = torch.tanh(self.candidate(joined))  # planted: tiny-ops
        return update * state + (1 - update) * candidate  # planted: tiny-ops


class Recurrent(nn.Module):
    """Reads a sequence step by step and answers from the last state."""

    def __init__(self, hidden: int, at_once: bool):
        super().__init__()
        self.hidden = hidden
        self.at_once = at_once
        self.cell = GatedCell(hidden)
        self.readout = nn.Linear(hidden, 1)

    def forward(self, sequence: torch.Tensor) -> torch.Tensor:
        """`sequence` is (batch, time, inputs); the answer is (batch,)."""
        times = sequence.transpose(0, 1)
        if self.at_once and self.training:
            # Host removed: the same operations on the same sizes, one call for all of the times.
            # Validation is a limit of its own, and stays as it is.
            state = times.new_zeros(times.shape[0] * times.shape[1], self.hidden)
            state = self.cell(times.flatten(0, 1), state).view(*times.shape[:2], -1)[-1]
        else:
            state = times.new_zeros(times.shape[1], self.hidden)
            for x in times:  # planted: tiny-ops
                state = self.cell(x, state)  # planted: tiny-ops
        return self.readout(state).squeeze(1)  # type: ignore[no-any-return]


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--length", type=int, default=60)
    args = parser.parse_args()
    job = Job(args)
    core = Recurrent(int(32 * args.size), job.without("host"))
    if job.without("compute"):
        without_arithmetic(core)
    model = job.surround(core)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    make = sample_maker(torch.rand(ROWS, args.length, INPUTS), torch.rand(ROWS))
    for step, (sequence, target, *_) in enumerate(job.batches(make, BATCH)):
        loss = functional.mse_loss(model(sequence), target)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        job.end_of_step(step, model, loss, lambda x=sequence: model(x))
    job.close()


if __name__ == "__main__":
    main()
