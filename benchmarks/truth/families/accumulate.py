"""Trains a residual perceptron with gradients accumulated over several small batches a step."""

from __future__ import annotations

import torch
from job import Job, options
from removals import without_arithmetic
from samples import sample_maker
from torch import nn
from torch.nn import functional

INPUTS, PARTS, BATCH = 512, 4, 64


class Residual(nn.Module):
    """Two layers added to their input."""

    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Linear(width, 2 * width)
        self.second = nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(torch.relu(self.first(x)))  # type: ignore[no-any-return]


def main() -> None:
    args = options(__doc__).parse_args()
    job = Job(args)
    width = int(512 * args.size)
    core = nn.Sequential(
        nn.Linear(INPUTS, width), Residual(width), Residual(width), nn.Linear(width, 1)
    )
    if job.without("compute"):
        without_arithmetic(core)
    model = job.surround(core)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    make = sample_maker(torch.randn(4096, INPUTS), torch.randn(4096))
    for part, (x, y, *_) in enumerate(job.batches(make, BATCH, whole=True)):
        loss = functional.mse_loss(model(x).squeeze(1), y) / PARTS
        loss.backward()
        if part % PARTS == PARTS - 1:
            optimizer.step()
            optimizer.zero_grad()
            job.end_of_step(part // PARTS, model, loss, lambda x=x: model(x))
    job.close()


if __name__ == "__main__":
    main()
