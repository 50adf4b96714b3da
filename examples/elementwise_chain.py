"""Calibrates a sensor: fits a gain and an offset for every one of its 16 million pixels.

The loss is Huber's, so that single bad readings pull little. Everything is element-wise, on
tensors of 64 MB. The buffers are made once and used again in every step, so that the loop
allocates nothing.
"""

import argparse

import torch
from torch import nn

DELTA = 0.5


class Sensor:
    """What was read, what should have been read, and the buffers of one pass; all (pixels,)."""

    def __init__(self, pixels: int):
        self.truth = torch.rand(pixels)
        uneven_gain = torch.rand(pixels).mul_(0.5).add_(0.75)
        self.reading = torch.randn(pixels).mul_(0.02).add_(self.truth).mul_(uneven_gain)
        self.error = torch.empty(pixels)
        self.clipped = torch.empty(pixels)
        self.scratch = torch.empty(pixels)


class HuberFit(torch.autograd.Function):
    """Mean Huber loss of `gain * reading + offset` against the truth."""

    @staticmethod
    def forward(ctx, gain, offset, sensor):
        error, clipped, scratch = sensor.error, sensor.clipped, sensor.scratch
        torch.mul(gain, sensor.reading, out=error)
        torch.add(error, offset, out=error)
        torch.relu_(error)
        torch.sub(error, sensor.truth, out=error)
        torch.clamp(error, -DELTA, DELTA, out=clipped)
        torch.sub(error, clipped, alpha=0.5, out=scratch)
        torch.mul(scratch, clipped, out=scratch)
        ctx.sensor = sensor
        return scratch.mean()

    @staticmethod
    def backward(ctx, grad_loss):
        # The mean is over all pixels and each has parameters of its own: the learning rate carries
        # their number. A pixel that the rectifier silenced may be pushed back up.
        sensor = ctx.sensor
        to_offset = torch.mul(sensor.clipped, grad_loss, out=sensor.clipped)
        to_gain = torch.mul(to_offset, sensor.reading, out=sensor.scratch)
        return to_gain, to_offset, None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pixels", type=int, default=16 * 1024 * 1024)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    sensor = Sensor(args.pixels)
    gain = nn.Parameter(torch.ones(args.pixels))
    offset = nn.Parameter(torch.zeros(args.pixels))
    optimizer = torch.optim.SGD([gain, offset], lr=0.1, momentum=0.9)
    for step in range(args.steps):
        loss = HuberFit.apply(gain, offset, sensor)
        # Zeroed, not dropped: the gradients' memory stays.
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        optimizer.step()
        if step % 20 == 0 or step == args.steps - 1:
            print(f"step {step:4d}  loss {loss.item():.3e}", flush=True)


if __name__ == "__main__":
    main()
