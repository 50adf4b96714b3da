"""Trains six steps, with a checkpoint, a flush to disk and a collection of garbage between them.

Prints when each began and ended, by the monotonic clock, and the line that it was called from.
"""

import gc
import io
import json
import os
import sys
import time

import torch
from torch import nn

BALLAST = torch.zeros(4_000_000)


class Node:
    """Part of a cycle, so that only the collector frees it."""

    def __init__(self):
        self.other = self


def noted(function, *arguments):
    begin = time.monotonic_ns()
    function(*arguments)
    return [begin, time.monotonic_ns(), sys._getframe(0).f_lineno - 1]


gc.collect()
gc.disable()
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
told = {}
with open("flushed", "wb", buffering=0) as file:
    for step in range(6):
        model(torch.randn(1, 4)).sum().backward()
        optimizer.step()
        if step == 1:
            told["save"] = noted(torch.save, BALLAST, io.BytesIO())
        if step == 2:
            file.write(bytes(10_000_000))
            told["fsync"] = noted(os.fsync, file.fileno())
        if step == 3:
            kept = [Node() for _ in range(300_000)]
            told["collect"] = noted(gc.collect)
print(json.dumps(told))
