"""What surrounds the steps of the training scripts: options, reports, checkpoints, validation."""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from allocator import hold_memory
from samples import Batch, Make, batches_of
from torch import nn

REMOVALS = ("input", "host", "compute", "memory", "network", "imbalance", "storage", "evaluation")
"""Limits that `--remove` takes away, each by itself and all else left as it is.

What is taken away where: `input` with the batches (samples.py), `compute` with the layers
(removals.py), memory that is given back to the system with the allocator (allocator.py), `network`
and `imbalance` between the ranks (ddp.py), `host` and other `memory` in each script; the field and
what happens beside the model, here. Without its traffic the field is one loop that torch.compile
makes, with a C++ compiler.
"""
BINS = 16
"""Of the histogram."""


def options(description: str | None) -> argparse.ArgumentParser:
    """The options that all training scripts have."""
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add("--steps", type=int, default=150)
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=0, help="of torch; 0: as torch likes")
    add("--size", type=float, default=1.0, help="of the model, as the family understands it")
    add("--times", type=Path, help="write the end of each step here, seconds")
    add("--turn", type=int, default=0, help="steps after which all stop until they are continued")
    add("--first-turn", type=int, default=5, help="steps of the first turn, start-up and all")
    add("--remove", choices=REMOVALS, help="take one limit away, leave all else as it is")
    add("--latency-ms", type=float, default=0.0, help="of the store, for a whole batch")
    add("--workers", type=int, default=0)
    add("--packed-bytes", type=int, default=0, help="of a sample's header, decoded in Python")
    add("--words", type=int, default=0, help="of a sample's text, made numbers in collate")
    add("--augment", type=int, default=0, help="passes over each batch before the model")
    add("--report", type=int, default=0, help="values a step that go into the histogram")
    add("--index", type=int, default=0, help="entries of an index in memory")
    add("--collect-every", type=int, default=0, help="steps between collections of garbage")
    add("--rescan", type=int, default=0, help="values kept a step; all are read again each step")
    add("--keep-outputs", action="store_true", help="keep 2 MB of outputs of each step")
    add("--save-every", type=int, default=0)
    add("--save-mb", type=int, default=0, help="of a buffer that is saved with the model")
    add("--eval-every", type=int, default=0)
    add("--eval-batches", type=int, default=10)
    add("--give-back", action="store_true", help="freed memory to the system at once")
    add("--field-ops", type=int, default=0, help="element-wise ops over a field of 24 MB")
    return parser


class Field(nn.Module):
    """A field that drifts under element-wise ops, read as one number that shifts the input."""

    def __init__(self, ops: int, in_one_pass: bool):
        super().__init__()
        self.ops = ops
        self.read = torch.compile(self.average) if in_one_pass else self.average
        self.register_buffer("values", torch.rand(24 * 2**20 // 4))

    def chain(self, values: torch.Tensor) -> torch.Tensor:
        for op in range(self.ops):
            values = (values * 0.99, values + 0.01, values.clamp(0.1, 0.9))[  # planted: field
                op % 3
            ]
        return values

    def average(self) -> torch.Tensor:
        return self.chain(self.values).mean()

    def forward(self) -> torch.Tensor:
        # Memory removed: the same ops on the same values in one pass, by a loop that is compiled.
        with torch.no_grad():
            return self.read()


class Shifted(nn.Module):
    """A model whose first input is shifted by what the field says."""

    def __init__(self, model: nn.Module, field: Field):
        super().__init__()
        self.model = model
        self.field = field

    def forward(self, x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        shifted = x + 1e-3 * self.field() if x.is_floating_point() else x
        return self.model(shifted, *rest)  # type: ignore[no-any-return]


class Job:
    """One training: its options, and what happens beside forward, backward and update."""

    def __init__(self, args: argparse.Namespace):
        self.args = hold_memory(args)
        self.ends: list[float] = []
        self.pauses: list[tuple[float, float]] = []
        self.kept: list[torch.Tensor] = []
        self.history: list[float] = []
        self.outputs = torch.zeros(2**19 if args.keep_outputs else 0)
        self.folder = tempfile.TemporaryDirectory()
        self.grid = torch.linspace(0, 1, max(1, args.report))
        self.saved_buffer = torch.zeros(args.save_mb * 2**18)
        self.index = [{"row": number, "parts": [number]} for number in range(args.index)]
        torch.manual_seed(args.seed)
        if args.threads:
            own = self.without("host")
            torch.set_num_threads((os.cpu_count() or 1) if own else args.threads)

    def without(self, bound: str) -> bool:
        """Whether `bound` is removed."""
        return bool(self.args.remove == bound)

    def surround(self, model: nn.Module) -> nn.Module:
        """The model as it is trained: with its field where there is one."""
        if not self.args.field_ops:
            return model
        return Shifted(model, Field(self.args.field_ops, self.without("memory")))

    def batches(self, make: Make, batch_size: int, whole: bool = False) -> Iterator[Batch]:
        """Batches until the last step has ended; `whole`: fetched as one."""
        for batch in batches_of(self.args, make, batch_size, whole):
            yield batch
            if len(self.ends) >= self.args.steps:
                return

    def end_of_step(
        self,
        step: int,
        model: nn.Module,
        loss: torch.Tensor,
        validate: Callable[[], object] | None = None,
    ) -> None:
        """Report, collect, save and validate as the options say; then the step has ended."""
        args = self.args
        if args.keep_outputs:
            self.kept.append(self.outputs + float(loss.detach()))  # planted: growth
        if args.report:
            self.report(float(loss.detach()))
        if args.rescan:
            self.rescan(float(loss.detach()))
        if args.collect_every and step % args.collect_every == 0 and not self.without("host"):
            gc.collect()  # planted: garbage
        if args.save_every and step % args.save_every == 0 and not self.without("storage"):
            self.save(model)
        if args.eval_every and step % args.eval_every == 0 and not self.without("evaluation"):
            self.evaluate(model, validate)
        self.ends.append(time.perf_counter())
        if step % 50 == 0:
            print(f"step {step:4d}  loss {float(loss.detach()):.5f}", flush=True)
        if args.turn and len(self.ends) % args.turn == args.first_turn % args.turn:
            self.pause()

    def pause(self) -> None:
        """Stop this process and all of its group, ranks and workers, until somebody continues it.

        The first rank does it for all: where the others are in their step is as it may be.
        """
        if os.environ.get("RANK", "0") != "0":
            return
        stopped = time.perf_counter()
        os.killpg(0, signal.SIGSTOP)
        self.pauses.append((stopped, time.perf_counter()))

    def report(self, loss: float) -> None:
        """A histogram of values, one at a time; host removed: the same by one op."""
        values = self.grid + min(1.0, abs(loss)) * 1e-3
        if self.without("host"):
            torch.histc(values, BINS, 0, 1)
            return
        counts = [0] * BINS
        for value in values.tolist():  # planted: python-loop
            counts[min(BINS - 1, int(value * BINS))] += 1  # planted: python-loop

    def rescan(self, loss: float) -> None:
        """The mean of all losses so far, read again from the first; host removed: kept along."""
        if self.without("host"):
            return
        self.history += [loss] * self.args.rescan
        total = 0.0
        for value in self.history:  # planted: drift
            total += value  # planted: drift

    def save(self, model: nn.Module) -> None:
        """A checkpoint of the model and of the buffer that belongs to it."""
        state = {"model": model.state_dict(), "buffer": self.saved_buffer}
        torch.save(state, Path(self.folder.name) / "last.pt")  # planted: checkpoint

    def evaluate(self, model: nn.Module, validate: Callable[[], object] | None) -> None:
        """Validation on a few batches."""
        model.eval()  # planted: evaluation
        with torch.no_grad():
            for _ in range(self.args.eval_batches if validate else 0):
                assert validate is not None
                validate()  # planted: evaluation
        model.train()

    def close(self) -> None:
        """Write the step ends where they are wanted."""
        self.folder.cleanup()
        if self.args.times:
            self.args.times.write_text(json.dumps(without_pauses(self.ends, self.pauses)))


def without_pauses(ends: list[float], pauses: list[tuple[float, float]]) -> list[float]:
    """The same moments by a clock that stood still during the pauses, seconds."""
    return [
        end - sum(min(end, until) - since for since, until in pauses if since < end) for end in ends
    ]
