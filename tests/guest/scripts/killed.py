"""Forks trainings that note each step on their own, and ends them at random moments."""

import json
import os
import random
import signal
import sys
import time

import torch
import torch._dynamo
from torch import nn

KILLS = 20
AT_ONCE = max(1, min(4, os.cpu_count() or 1))
"""Each has a core of its own: a training that waits for one is not what is looked at."""


def train(end):
    """Train for ever; `end` says how to leave after a while, if the parent does not end it."""
    own = os.open(f"own-{os.getpid()}", os.O_WRONLY | os.O_CREAT, 0o644)
    model = nn.Linear(8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    leave = time.monotonic() + 1.3
    while True:
        model(torch.randn(4, 8)).sum().backward()
        optimizer.step()
        os.write(own, time.monotonic_ns().to_bytes(8, "little"))
        time.sleep(0.002)
        if end == "exit" and time.monotonic() > leave:
            os._exit(5)


def start(end):
    pid = os.fork()
    if not pid:
        try:
            train(end)
        finally:
            os._exit(99)
    return pid


def has_stepped(pid):
    own = f"own-{pid}"
    return os.path.exists(own) and os.path.getsize(own) > 0


def kill_all(ends):
    """Start one training for each end, and end them one after the other at random moments."""
    children = {start(end): end for end in ends}
    while not all(has_stepped(pid) for pid in children):
        time.sleep(0.01)
    for pid, end in children.items():
        time.sleep(random.uniform(0.05, 0.6))
        if end != "exit":
            os.kill(pid, getattr(signal, end))
        os.waitpid(pid, 0)
    return [[pid, end] for pid, end in children.items()]


random.seed(int(sys.argv[1]))
ends = ["SIGKILL"] * KILLS + ["SIGTERM", "SIGTERM", "exit", "exit"]
result = []
for first in range(0, len(ends), AT_ONCE):
    result += kill_all(ends[first : first + AT_ONCE])
print(json.dumps(result))
