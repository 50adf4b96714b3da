"""Trains a perceptron on vectors; with `--members`, an ensemble of small ones."""

from __future__ import annotations

import torch
from job import Job, options
from removals import without_arithmetic
from samples import sample_maker
from torch import nn
from torch.nn import functional

INPUTS, CLASSES, BATCH = 256, 10, 256
HIDDEN = 16


class Member(nn.Module):
    """One small perceptron of an ensemble."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(INPUTS, HIDDEN)
        self.second = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.first(x))  # planted: tiny-ops
        return torch.log_softmax(self.second(hidden), dim=1)  # planted: tiny-ops


class Ensemble(nn.Module):
    """The mean answer of many small perceptrons, each on its own few rows of the batch."""

    def __init__(self, members: int):
        super().__init__()
        self.members = nn.ModuleList(Member() for _ in range(members))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answers = [member(x[:8]) for member in self.members]  # planted: tiny-ops
        return torch.stack(answers).mean(0)


class AtOnce(nn.Module):
    """Host removed: the ensemble's arithmetic in one call for all members."""

    def __init__(self, members: int):
        super().__init__()
        self.first = nn.Parameter(torch.randn(members, INPUTS, HIDDEN) / INPUTS**0.5)
        self.second = nn.Parameter(torch.randn(members, HIDDEN, CLASSES) / HIDDEN**0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(x[:8].expand(len(self.first), -1, -1) @ self.first)
        return torch.log_softmax(hidden @ self.second, dim=2).mean(0)


def perceptron(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(INPUTS, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, CLASSES),
    )


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--members", type=int, default=0)
    args = parser.parse_args()
    job = Job(args)
    if args.members:
        core = (AtOnce if job.without("host") else Ensemble)(args.members)
    else:
        core = perceptron(int(768 * args.size))
    if job.without("compute"):
        without_arithmetic(core)
    model = job.surround(core)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    make = sample_maker(torch.randn(4096, INPUTS), torch.randint(CLASSES, (4096,)))
    for step, (x, y, *_) in enumerate(job.batches(make, BATCH, whole=True)):
        answer = model(x)
        loss = functional.cross_entropy(answer, y[: len(answer)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        job.end_of_step(step, model, loss, lambda x=x: model(x))
    job.close()


if __name__ == "__main__":
    main()
