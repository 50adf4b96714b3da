"""What the guest costs inside a training process: per event, in memory, and while a window is open.

Costs per event come from one process in which the guest's wrappers are taken out and put back in
turns, so that a busy machine disturbs both alike. Memory comes from pairs of processes, without
and with the guest, at the same moments.

    python benchmarks/guest.py [--pairs 3] [--blocks 800]
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BLOCK_US = 1500.0
"""One turn: long against the clock, short against another program's turn on the core."""
STEP_ADDED_LIMIT_US = 100.0
MEMORY_ADDED_LIMIT_MB = 60.0
MOMENTS = ("import", "steps", "windows")
MB = 1e6


def resident_mb() -> float:
    """Memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / MB


class Loop:
    """A small training loop of torch's own parts."""

    def __init__(self, torch: Any) -> None:
        self.torch = torch
        self.model = torch.nn.Linear(64, 64)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3)
        self.inputs = torch.randn(256, 64)
        self.deep = torch.nn.Sequential(*[torch.nn.Identity() for _ in range(20)])
        self.batches = self.endless()

    def endless(self) -> Iterator[Any]:
        dataset = self.torch.utils.data.TensorDataset(self.torch.randn(4096, 8))
        while True:
            yield from self.torch.utils.data.DataLoader(dataset, batch_size=8)

    def fetch(self) -> None:
        next(self.batches)

    def backward(self) -> None:
        self.model(self.inputs[:1]).sum().backward()

    def modules(self) -> None:
        """A module with 20 inside it that do nothing, as in the first calls of each step."""
        self.torch._boundscope_guest.forward_left = 32
        self.deep(self.inputs)

    def step(self) -> None:
        self.optimizer.step()

    def whole(self) -> None:
        """A step of about a millisecond."""
        next(self.batches)
        for _ in range(3):
            self.model(self.inputs).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


@contextlib.contextmanager
def without_wrappers(torch: Any) -> Iterator[None]:
    """Take the guest's wrappers out for a while."""
    places = [
        (torch.utils.data.dataloader._BaseDataLoaderIter, "__next__"),
        (torch.utils.data.DataLoader, "__iter__"),
        (torch.autograd, "_engine_run_backward"),
        (torch.nn.Module, "__call__"),
        (torch.optim.Optimizer, "zero_grad"),
    ]
    module = sys.modules["torch.optim.optimizer"]
    hooks = [module._global_optimizer_pre_hooks, module._global_optimizer_post_hooks]
    wrappers = [(owner, name, getattr(owner, name)) for owner, name in places]
    kept = [dict(each) for each in hooks]
    of_collections = list(gc.callbacks)
    try:
        gc.callbacks[:] = [
            each
            for each in of_collections
            if "boundscope" not in str(getattr(each, "__module__", ""))
        ]
        for owner, name, wrapper in wrappers:
            setattr(owner, name, wrapper.__wrapped__)
        for each in hooks:
            each.clear()
        yield
    finally:
        for owner, name, wrapper in wrappers:
            setattr(owner, name, wrapper)
        for each, entries in zip(hooks, kept, strict=True):
            each.update(entries)
        gc.callbacks[:] = of_collections


def per_call_us(action: Callable[[], None], count: int) -> float:
    """Mean CPU time of one call in a block of `count`, after one that warms up."""
    action()
    start = time.thread_time_ns()
    for _ in range(count):
        action()
    return (time.thread_time_ns() - start) / count / 1e3


def added_us(torch: Any, action: Callable[[], None], blocks: int) -> tuple[float, float]:
    """Median time of a call without the guest, and what the guest adds to it.

    CPU time of the training thread: other programs on the machine change it little.
    """
    count = max(1, int(BLOCK_US / per_call_us(action, 50)))
    plain, extra = [], []
    for turn in range(blocks):
        times = {}
        for bare in (True, False) if turn % 2 else (False, True):
            with without_wrappers(torch) if bare else contextlib.nullcontext():
                times[bare] = per_call_us(action, count)
        plain.append(times[True])
        extra.append(times[False] - times[True])
    return statistics.median(plain), statistics.median(extra)


def child(blocks: int) -> dict[str, Any]:
    """Train, measure, and tell; `blocks` 0 measures memory alone."""
    import torch

    torch.set_num_threads(1)
    memory = {"import": resident_mb()}
    loop = Loop(torch)
    for _ in range(20):
        loop.whole()
    memory["steps"] = resident_mb()
    end = time.monotonic() + 2.5  # both windows after warm-up are over by then
    while time.monotonic() < end:
        loop.whole()
    memory["windows"] = resident_mb()
    result: dict[str, Any] = {"memory": memory}
    if blocks:
        actions = (loop.fetch, loop.modules, loop.backward, loop.step, loop.whole)
        result["added"] = {action.__name__: added_us(torch, action, blocks) for action in actions}
    return result


def run_child(folder: Path | None, blocks: int) -> dict[str, Any]:
    """Run `child` in a process of its own, with the guest when a run folder is given."""
    hidden = ("BOUNDSCOPE_RUN", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    if folder is not None:
        environment["BOUNDSCOPE_RUN"] = str(folder)
        environment["PYTHONPATH"] = str(ROOT / "collectors" / "inject")
    command = [sys.executable, __file__, "--child", "--blocks", str(blocks)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def windows_of(folder: Path) -> list[dict[str, Any]]:
    (path,) = folder.glob("rank-*/steps.jsonl")
    records = map(json.loads, path.read_text().splitlines())
    return [record for record in records if record["t"] == "window"]


def report_events(added: dict[str, tuple[float, float]]) -> None:
    names = {
        "fetch": "one batch of a loader",
        "modules": "a module with 20 inside it",
        "backward": "forward and backward pass",
        "step": "one optimizer step",
        "whole": "a whole step, 3 backward passes",
    }
    for name, (plain, extra) in added.items():
        print(f"{names[name]:32} {plain:9.1f} us  + {extra:6.2f} us")
    verdict = "within" if added["whole"][1] <= STEP_ADDED_LIMIT_US else "OVER"
    print(f"{'':32} {verdict} the limit of {STEP_ADDED_LIMIT_US:.0f} us a step")


def report_memory(pairs: list[tuple[dict[str, float], dict[str, float]]]) -> None:
    for moment in MOMENTS:
        extra = statistics.median(wrapped[moment] - plain[moment] for plain, wrapped in pairs)
        print(f"memory added after {moment:13} {extra:9.1f} MB")
    verdict = "within" if extra <= MEMORY_ADDED_LIMIT_MB else "OVER"
    print(f"{'':32} {verdict} the limit of {MEMORY_ADDED_LIMIT_MB:.0f} MB")


def report_windows(windows: list[dict[str, Any]]) -> None:
    for window in windows:
        costs = {name: window[f"{name}_cost_ns"] / 1e6 for name in ("start", "stop", "export")}
        print(
            f"window {window.get('reason', 'warm'):8} {window['steps']:3} steps"
            f" {window.get('events', 0):6} events: the loop stands still for"
            f" {costs['start'] + costs['stop']:.1f} ms (start {costs['start']:.1f},"
            f" stop {costs['stop']:.1f}); written beside it in {costs['export']:.1f} ms"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--blocks", type=int, default=800)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(child(arguments.blocks)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report_events(run_child(folder / "events", arguments.blocks)["added"])
        pairs = []
        for number in range(arguments.pairs):
            plain = run_child(None, 0)["memory"]
            pairs.append((plain, run_child(folder / f"memory-{number}", 0)["memory"]))
        report_memory(pairs)
        report_windows(windows_of(folder / "memory-0"))


if __name__ == "__main__":
    main()
