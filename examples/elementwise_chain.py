"""Calibrates a sensor: fits a gain and an offset for every one of its 16 million pixels.

The loss is Huber's, so that single bad readings pull little. Everything is element-wise, on
tensors of 64 MB. The buffers are made once and used again in every step, so that the loop
allocates nothing.
"""

import argparse

import torch
from torch import nn

DELTA = 0.5


class Workspace:
    """The buffers of one forward and backward pass."""

    def __init__(self, pixels: int):
        self.error = torch.empty(pixels)
        self.clipped = torch.empty(pixels)
        self.scratch = torch.empty(pixels)


class HuberFit(torch.autograd.Function):
    """Mean Huber loss of `gain * reading + offset` against what should have been seen."""

    @staticmethod
    def forward(ctx, gain, offset, reading, truth, work):
        torch.mul(gain, reading, out=work.error)
        torch.add(work.error, offset, out=work.error)
        torch.relu_(work.error)
        torch.sub(work.error, truth, out=work.error)
        torch.clamp(work.error, -DELTA, DELTA, out=work.clipped)
        torch.sub(work.error, work.clipped, alpha=0.5, out=work.scratch)
        torch.mul(work.scratch, work.clipped, out=work.scratch)
        ctx.save_for_backward(reading)
        ctx.work = work
        return work.scratch.mean()

    @staticmethod
    def backward(ctx, grad_loss):
        (reading,) = ctx.saved_tensors
        # The mean is over all pixels and each has its own parameters: the learning rate carries
        # their number. A pixel that the rectifier silenced may be pushed back up.
        to_offset = torch.mul(ctx.work.clipped, grad_loss, out=ctx.work.clipped)
        to_gain = torch.mul(to_offset, reading, out=ctx.work.scratch)
        return to_gain, to_offset, None, None, None


def make_frames(pixels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What the sensor reads, and what it should have read; both (pixels,)."""
    truth = torch.rand(pixels)
    uneven_gain = torch.rand(pixels).mul_(0.5).add_(0.75)
    reading = torch.randn(pixels).mul_(0.02).add_(truth).mul_(uneven_gain)
    return reading, truth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pixels", type=int, default=16 * 1024 * 1024)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    reading, truth = make_frames(args.pixels)
    gain = nn.Parameter(torch.ones(args.pixels))
    offset = nn.Parameter(torch.zeros(args.pixels))
    work = Workspace(args.pixels)
    optimizer = torch.optim.SGD([gain, offset], lr=0.1, momentum=0.9)
    for step in range(args.steps):
        loss = HuberFit.apply(gain, offset, reading, truth, work)
        # Zeroed, not dropped: the gradients' memory stays.
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        optimizer.step()
        if step % 20 == 0 or step == args.steps - 1:
            print(f"step {step:4d}  loss {loss.item():.6f}", flush=True)


if __name__ == "__main__":
    main()
