"""Trains for three seconds and a half, through trace windows."""

import time

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

model = nn.Linear(8, 8)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
steps = 0
for _ in range(3):
    for (batch,) in DataLoader(TensorDataset(torch.randn(500, 8))):
        model(batch).sum().backward()
        optimizer.step()
        steps += 1
        time.sleep(0.002)
print(steps, "steps")
