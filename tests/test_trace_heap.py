"""Columns that grow and heap that is kept while a trace is read."""

from __future__ import annotations

import platform
import resource

import numpy as np
import pytest

from boundscope.profiler.trace.growing import GrowingTable
from boundscope.profiler.trace.heap import give_back_heap, kept_heap

KINDS = {"start_ns": np.int64, "name": np.int32, "bytes": np.int64}


def filled(
    chunks: int, rows: int, table: GrowingTable | None = None
) -> tuple[GrowingTable, dict[str, np.ndarray]]:
    table = table or GrowingTable(KINDS, sparse=("bytes",), narrow=("name",))
    random = np.random.default_rng(7)
    parts = [
        {
            "start_ns": random.integers(0, 1 << 60, rows),
            "name": random.integers(0, 1 << (10 if chunk < chunks // 2 else 20), rows),
            "bytes": np.full(rows, -1) if chunk < 2 else random.integers(-1, 1 << 40, rows),
        }
        for chunk in range(chunks)
    ]
    for part in parts:
        table.append(part)
    return table, {name: np.concatenate([part[name] for part in parts]) for name in KINDS}


def test_columns_grow_without_losing_a_row() -> None:
    table, expected = filled(40, 9_000)
    for name, values in expected.items():
        np.testing.assert_array_equal(table.column(name), values)


def test_a_column_somebody_still_looks_at_grows_too_and_their_view_stays() -> None:
    table, before = filled(3, 20_000)
    view = table.column("start_ns")
    _, more = filled(12, 20_000, table)
    np.testing.assert_array_equal(view, before["start_ns"])
    expected = np.concatenate([before["start_ns"], more["start_ns"]])
    np.testing.assert_array_equal(table.column("start_ns"), expected)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the heap of glibc")
def test_memory_that_comes_and_goes_is_faulted_in_once_while_the_heap_is_kept() -> None:
    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(20):
            held = [np.ones(1 << 17) for _ in range(8)]  # 1 MiB each
            held.clear()
            del held
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    with kept_heap():
        faults()
        kept = faults()
        give_back_heap()
        again = faults()
    assert kept < again / 4
