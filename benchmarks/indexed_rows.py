"""What choosing rows by `x[index]` costs beside `index_select`, gradient included, on this CPU.

Both choose the same rows of a table, forward and backward, by turns. `kept` is the share of the
time that is left with `index_select`: `INDEXED_KEPT` in profiler/rules/memory.py is its middle.

    python benchmarks/indexed_rows.py [--turns 40]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

SHAPES = (
    (512, 256, 2_048),
    (512, 64, 2_048),
    (10_000, 64, 4_096),
    (100_000, 128, 8_192),
    (512, 1_024, 2_048),
    (4_096, 16, 65_536),
    (50_000, 1, 50_000),
)
"""Rows and width of the table, and how many rows are chosen."""
WARM_UP = 5


def both_ways(rows: int, width: int, chosen: int) -> dict[str, Callable[[], None]]:
    """Forward and backward by each way to choose."""
    table = torch.randn(rows, width, requires_grad=True)
    index = torch.randint(rows, (chosen,))
    gradient = torch.randn(chosen, width)

    def by_index() -> None:
        table.grad = None
        table[index].backward(gradient)

    def by_select() -> None:
        table.grad = None
        table.index_select(0, index).backward(gradient)

    return {"x[index]": by_index, "index_select": by_select}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=40)
    args = parser.parse_args()
    torch.manual_seed(0)
    print(f"{'table':>16} {'chosen':>8} {'x[index] ms':>12} {'index_select ms':>16} {'kept':>6}")
    kept = []
    for rows, width, chosen in SHAPES:
        ways = both_ways(rows, width, chosen)
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(WARM_UP + args.turns):
            for way, choose in ways.items():
                began = time.perf_counter()
                choose()
                times[way].append(1000 * (time.perf_counter() - began))
        before, after = (statistics.median(each[WARM_UP:]) for each in times.values())
        kept.append(after / before)
        table = f"{rows} x {width}"
        print(f"{table:>16} {chosen:>8} {before:>12.3f} {after:>16.3f} {kept[-1]:>6.2f}")
    print(f"kept: {min(kept):.2f} to {max(kept):.2f}, median {statistics.median(kept):.2f}")


if __name__ == "__main__":
    main()
