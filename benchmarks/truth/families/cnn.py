"""Trains a small convolutional classifier on images of 32 x 32."""

from __future__ import annotations

import torch
from job import Job, options
from removals import without_arithmetic
from samples import sample_maker
from torch import nn
from torch.nn import functional

SIDE, CLASSES, BATCH = 32, 10, 32


def network(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, CLASSES),
    )


def main() -> None:
    args = options(__doc__).parse_args()
    job = Job(args)
    core = network(max(1, int(32 * args.size)))
    if job.without("compute"):
        without_arithmetic(core)
    model = job.surround(core)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    make = sample_maker(torch.randn(1024, 3, SIDE, SIDE), torch.randint(CLASSES, (1024,)))
    for step, (images, labels, *_) in enumerate(job.batches(make, BATCH)):
        loss = functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        job.end_of_step(step, model, loss, lambda x=images: model(x))
    job.close()


if __name__ == "__main__":
    main()
