"""Starts two gloo ranks in the way that its argument says; they read with loader workers."""

import multiprocessing
import os
import sys
import tempfile

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

STEPS = 6


def train(rank, store):
    torch.set_num_threads(1)
    if rank is None:  # torchrun tells it
        dist.init_process_group("gloo")
    else:
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    model = nn.Linear(4, 1)
    loader = DataLoader(TensorDataset(torch.randn(STEPS, 4)), num_workers=1)
    for (batch,) in loader:
        model(batch).sum().backward()
        with torch.no_grad():  # an optimizer would import torch._dynamo, three seconds a rank
            dist.all_reduce(model.weight.grad)
            model.weight -= 0.01 * model.weight.grad
            model.weight.grad = None
    dist.barrier()
    dist.destroy_process_group()


def main():
    way = sys.argv[1]
    if way == "torchrun":
        train(None, "")
        return
    with tempfile.TemporaryDirectory() as folder:
        store = f"file://{folder}/store"
        if way == "torch-spawn":
            torch.multiprocessing.spawn(train, (store,), nprocs=2)
            return
        context = multiprocessing.get_context(way)
        children = [context.Process(target=train, args=(rank, store)) for rank in range(2)]
        for child in children:
            child.start()
        for child in children:
            child.join()
        sys.exit(max(child.exitcode for child in children))


if __name__ == "__main__":
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        assert (name in os.environ) == (sys.argv[1] == "torchrun")
    main()
