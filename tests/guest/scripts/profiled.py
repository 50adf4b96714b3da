"""Uses torch.profiler itself, at once, on a schedule, and in the very step of another profiler."""

import json
import sys
import time

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, schedule

model = nn.Linear(8, 8)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
found = []


def step():
    model(torch.randn(2, 8)).sum().backward()
    optimizer.step()
    time.sleep(0.004)


def ready(profiler):
    profiler.export_chrome_trace("own.json")
    with open("own.json") as file:
        names = [event.get("name", "") for event in json.load(file)["traceEvents"]]
    steps = sorted({int(name[13:]) for name in names if name.startswith("ProfilerStep#")})
    found.append((steps, names.count("aten::linear")))


def steps_until(condition, limit_s):
    end = time.monotonic() + limit_s
    while time.monotonic() < end and not condition():
        step()
    return condition()


def scheduled(cycles):
    plan = schedule(wait=2, warmup=2, active=3, repeat=cycles)
    options = {"activities": [ProfilerActivity.CPU], "schedule": plan, "on_trace_ready": ready}
    with profile(**options) as profiler:
        for _ in range(7 * cycles + 3):
            step()
            profiler.step()


def at_once():
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    counts = [event.count for event in profiler.key_averages() if event.key == "aten::linear"]
    found.append(("at once", sum(counts)))


wrapped = "wrapped" in sys.argv
for _ in range(10):
    step()
# Its own profiler begins while another one's window is open, where there is one.
met = steps_until(lambda: torch.autograd.profiler._is_profiler_enabled, 15) if wrapped else False
print("met another window:", met, file=sys.stderr)
at_once()
scheduled(1)
scheduled(40)  # long enough for the time of a window to come between its cycles
for _ in range(150):
    step()
for line in found:
    print(line)
