"""Trains three steps and saves after each, with a library imported in the order asked for."""

import os
import sys

how = sys.argv[1]
if how == "library first":  # which itself imports torch
    from safetensors.torch import save_file

import torch  # noqa: E402 - the order is what is tried
from torch import nn  # noqa: E402

if how == "torch first":
    from safetensors.torch import save_file
elif how.startswith("distributed"):
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp

    if how.endswith("async"):
        group = f"file://{os.getcwd()}/group"
        dist.init_process_group("gloo", init_method=group, rank=0, world_size=1)


def save(step):
    weights = {"weight": model.weight.detach()}
    if how == "distributed":
        dcp.save(weights, checkpoint_id=f"checkpoint-{step}")
    elif how.endswith("async"):
        dcp.async_save(weights, checkpoint_id=f"checkpoint-{step}").result()
    else:
        save_file(weights, f"checkpoint-{step}")


model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for step in range(3):
    model(torch.randn(1, 4)).sum().backward()
    optimizer.step()
    save(step)
