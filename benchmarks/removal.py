"""What each example gains when the cause that bounds it is taken away, all else left equal.

The strongest test of a label: the example is run as it is and with its cause removed, in
interleaved pairs, each in a process of its own; the figure is the mean steady step of each run,
then the median over the runs. A run that other programs disturbed is taken again; `others` is
how many cores they still used in the worst of those kept.

    python benchmarks/removal.py [--pairs 3] [--only NAME]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from quiet import Pace, quietest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
START_UP_STEPS = 5
"""Steps left out at the beginning: the first optimizer and the first kernels are set up there."""
RESIDENT_BATCHES = 8
TRIES = 3
KEEPING = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**33)}
"""What is freed is kept: otherwise tensors that a step makes are handed out anew, page by page."""


def resident_batches(module: ModuleType) -> None:
    """Input removed: a few batches are made beforehand and used again and again."""
    loader_class = module.DataLoader

    def resident(dataset: Any, **options: Any) -> list[Any]:
        batches = []
        for batch in loader_class(dataset, **options):
            batches.append(batch)
            if len(batches) == RESIDENT_BATCHES:
                break
        return batches

    vars(module)["DataLoader"] = resident


def linear_without_products(module: ModuleType) -> None:
    """Compute removed: a linear layer reads and writes the same bytes and multiplies nothing."""
    import torch

    class Touch(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, weight: Any, bias: Any) -> Any:
            ctx.save_for_backward(x, weight)
            return x + bias + weight.sum()

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            x, weight = ctx.saved_tensors
            return grads[0] + weight.sum(), weight + x.sum(), grads[0].sum(0)

    class Linear(torch.nn.Linear):
        def forward(self, x: Any) -> Any:
            return Touch.apply(x, self.weight, self.bias)  # type: ignore[no-untyped-call]

    # The example builds its teacher, too, from this class: its cost is outside the steps.
    vars(module)["nn"].Linear = Linear


def one_call_for_all_times(module: ModuleType) -> None:
    """Host removed: the same operations on the same sizes, one call for all of the time steps."""

    class Unrolled(module.Recurrent):  # type: ignore[misc, name-defined]
        def forward(self, sequence: Any) -> Any:
            times, batch, _ = sequence.shape
            state = sequence.new_zeros(times * batch, self.hidden)
            state = self.cell(sequence.flatten(0, 1), state)
            return self.readout(state.view(times, batch, -1)[-1]).squeeze(1)

    vars(module)["Recurrent"] = Unrolled


def one_loop(module: ModuleType) -> None:
    """Memory removed: forward and backward are one compiled loop each, the update is one pass, and
    gradients are handed over instead of zeroed and added."""
    import torch

    @torch.compile
    def loss(gain: Any, offset: Any, reading: Any, truth: Any) -> Any:
        predicted = torch.relu(gain * reading + offset)
        return torch.nn.functional.huber_loss(predicted, truth, delta=module.DELTA)

    class Fused:
        @staticmethod
        def apply(gain: Any, offset: Any, sensor: Any) -> Any:
            return loss(gain, offset, sensor.reading, sensor.truth)

    class Updated(torch.optim.SGD):
        def __init__(self, parameters: Any, **options: Any) -> None:
            super().__init__(parameters, fused=True, **options)

        def zero_grad(self, set_to_none: bool = True) -> None:  # noqa: ARG002
            super().zero_grad(set_to_none=True)

    vars(module)["HuberFit"] = Fused
    vars(torch.optim)["SGD"] = Updated


def nothing(_module: ModuleType) -> None:
    """The removal is in the arguments."""


@dataclass(frozen=True)
class Removal:
    """How one example's cause is removed: a patch and arguments."""

    bound: str
    what: str
    patch: Callable[[ModuleType], None]
    arguments: tuple[str, ...] = ()


REMOVALS = {
    "slow_store": Removal("input", "resident batches", resident_batches),
    "decode_in_main": Removal("input", "resident batches", resident_batches),
    "wide_gemm": Removal("compute", "same bytes, no products", linear_without_products),
    "elementwise_chain": Removal(
        "memory", "forward, backward and update in one pass each", one_loop
    ),
    "tiny_ops": Removal("host", "same operations, 1 call instead of 200", one_call_for_all_times),
    "checkpoint_often": Removal("storage", "no checkpoint", nothing, ("--save-every", "1000000")),
}


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_here(name: str, removed: bool) -> float:
    """Mean steady step of one run in this process, ms."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    ends: list[float] = []
    register_optimizer_step_post_hook(lambda *_: ends.append(time.perf_counter()))
    removal = REMOVALS[name]
    module = load(name)
    sys.argv = [name]
    if removed:
        removal.patch(module)
        sys.argv += removal.arguments
    with contextlib.redirect_stdout(io.StringIO()):
        module.main()
    steady = ends[START_UP_STEPS:]
    return 1000 * (steady[-1] - steady[0]) / (len(steady) - 1)


def run_apart(name: str, removed: bool) -> float:
    command = [sys.executable, __file__, "--here", name, *(["--removed"] if removed else [])]
    kept = {**os.environ, **KEEPING}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=kept)
    return float(json.loads(done.stdout))


def compare(name: str, pairs: int) -> None:
    removal = REMOVALS[name]
    times: dict[bool, list[float]] = {False: [], True: []}
    noise = []
    pace = Pace()
    for _ in range(pairs):
        for removed in (False, True):
            taken = quietest(partial(run_apart, name, removed), TRIES, pace)
            times[removed].append(taken.result)
            noise.append(taken.cores)
    before, after = statistics.median(times[False]), statistics.median(times[True])
    print(
        f"{name:18} {removal.bound:8} {before:9.1f} {after:9.1f} {before / after:8.1f}x"
        f" {100 * (1 - after / before):7.0f} % {max(noise):7.2f}   {removal.what}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--only", choices=sorted(REMOVALS))
    parser.add_argument("--here", help=argparse.SUPPRESS)
    parser.add_argument("--removed", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        print(json.dumps(run_here(args.here, args.removed)))
        return
    print(
        f"{'example':18} {'bound':8} {'step ms':>9} {'removed':>9} {'speed-up':>9} {'saved':>9}"
        f" {'others':>7}"
    )
    for name in [args.only] if args.only else REMOVALS:
        compare(name, args.pairs)


if __name__ == "__main__":
    main()
