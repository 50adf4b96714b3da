"""Trains on two ranks with DistributedDataParallel over gloo; one rank can be made the slower."""

from __future__ import annotations

import argparse
import contextlib
import os

import torch
import torch.distributed as dist
from job import Job, options, without_pauses
from removals import without_arithmetic
from samples import sample_maker
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from transformer import HEADS, Block

ROWS = 2048


class Tower(nn.Module):
    """Vectors through many layers, with a norm after each, so that all slots have their part."""

    def __init__(self, width: int, depth: int):
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [nn.Linear(width, width), nn.LayerNorm(width), nn.GELU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).mean(1)  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Sequences of 16 vectors through attention blocks."""

    def __init__(self, width: int, depth: int):
        super().__init__()
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sequence = x.view(len(x) // 16, 16, x.shape[1])
        return self.blocks(sequence).flatten(0, 1).mean(1)  # type: ignore[no-any-return]


def rows_of(args: argparse.Namespace, rank: int, even: bool) -> int:
    """How many rows of a batch this rank gets; imbalance removed: as many as the other."""
    if even or args.share == 0.5:
        return int(args.batch)
    share = args.share if rank == 1 else 1 - args.share
    return max(16, round(2 * args.batch * share / 16) * 16)


def only_where_it_is_slow(args: argparse.Namespace, rank: int) -> None:
    """What is planted on one rank is not done on the other."""
    if args.slow_rank >= 0 and rank != args.slow_rank:
        args.latency_ms, args.report, args.packed_bytes = 0.0, 0, 0


def take_times_of_the_slower(job: Job) -> None:
    """The step ends of the rank that took longer: without an exchange no rank waits for it."""
    of_all: list[tuple[list[float], list[tuple[float, float]]]] = [([], [])] * dist.get_world_size()
    dist.all_gather_object(of_all, (job.ends, job.pauses))
    _, job.pauses = of_all[0]
    moving = [(ends, without_pauses(ends, job.pauses)) for ends, _ in of_all]
    job.ends, _ = max(moving, key=lambda both: both[1][-1] - both[1][0])


def train(args: argparse.Namespace, rank: int) -> None:
    job = Job(args)
    model_class = Encoder if args.attention else Tower
    width = max(1, int(args.width * args.size) // HEADS) * HEADS
    core = model_class(width, args.depth)
    if job.without("compute"):
        without_arithmetic(core)
    model = DistributedDataParallel(core, bucket_cap_mb=args.bucket_mb)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    exchange = model.no_sync if job.without("network") else contextlib.nullcontext
    make = sample_maker(torch.randn(ROWS, width), torch.randn(ROWS))
    rows = rows_of(args, rank, job.without("imbalance"))
    for step, (x, y, *_) in enumerate(job.batches(make, rows, whole=True)):
        with exchange():
            loss = functional.mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        job.end_of_step(step, model, loss, lambda x=x: core(x))
    take_times_of_the_slower(job)
    if rank:
        args.times = None
    job.close()


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--attention", action="store_true")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--batch", type=int, default=256, help="rows a rank")
    parser.add_argument("--share", type=float, default=0.5, help="of both batches, for rank 1")
    parser.add_argument("--slow-rank", type=int, default=-1, help="the only one that is slowed")
    parser.add_argument("--bucket-mb", type=float, default=25.0)
    args = parser.parse_args()
    rank = int(os.environ["RANK"])
    only_where_it_is_slow(args, rank)
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    try:
        train(args, rank)
        dist.barrier()
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
