"""Trains a perceptron with DistributedDataParallel over gloo, on CPU, started as torchrun does.

One rank's loader can be made slow, and the gradients' exchange can be left out.
"""

import argparse
import contextlib
import os
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset


class Vectors(Dataset):
    """Random vectors; every item takes `sleep_s` to come."""

    def __init__(self, count: int, width: int, sleep_s: float):
        self.vectors = torch.randn(count, width)
        self.sleep_s = sleep_s

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, index: int) -> torch.Tensor:
        if self.sleep_s:
            time.sleep(self.sleep_s)
        return self.vectors[index]


def build_model(width: int, depth: int) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def batches(loader: DataLoader, steps: int):
    done = 0
    while done < steps:
        for batch in loader:
            yield batch
            done += 1
            if done == steps:
                return


def train(args: argparse.Namespace, rank: int) -> None:
    sleep_s = args.sleep_ms / 1000 if rank == args.slow_loader_rank else 0.0
    dataset = Vectors(args.batch_size * 8, args.width, sleep_s / args.batch_size)
    loader = DataLoader(dataset, batch_size=args.batch_size, shuffle=True)
    model = DistributedDataParallel(build_model(args.width, args.depth))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    exchange = model.no_sync if args.no_sync else contextlib.nullcontext
    for step, batch in enumerate(batches(loader, args.steps)):
        started = time.perf_counter()
        optimizer.zero_grad()
        with exchange():
            loss = nn.functional.mse_loss(model(batch), batch)
            loss.backward()
        optimizer.step()
        if rank == 0 and (step % 20 == 0 or step == args.steps - 1):
            elapsed_ms = (time.perf_counter() - started) * 1000
            print(f"step {step:4d}  loss {loss.item():.6f}  {elapsed_ms:.1f} ms", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--slow-loader-rank", type=int, default=-1)
    parser.add_argument("--sleep-ms", type=float, default=100.0, help="per batch, on that rank")
    parser.add_argument("--no-sync", action="store_true", help="never exchange the gradients")
    args = parser.parse_args()

    rank = int(os.environ["RANK"])
    torch.manual_seed(args.seed)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    dist.init_process_group("gloo")
    try:
        train(args, rank)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
