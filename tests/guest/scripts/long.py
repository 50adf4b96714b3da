"""Trains for epochs of 500 steps of 2 ms, or until a file called "stop" is there."""

import os
import sys
import time

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 3
model = nn.Linear(8, 8)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
steps = 0
for _ in range(epochs):
    for (batch,) in DataLoader(TensorDataset(torch.randn(500, 8))):
        model(batch).sum().backward()
        optimizer.step()
        steps += 1
        time.sleep(0.002)
    if os.path.exists("stop"):
        break
print(steps, "steps")
