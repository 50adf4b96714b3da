"""Checkpoints and collections of garbage are recorded, when and where they were."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boundscope.collectors.records import SpanKind
from boundscope.profiler.run.files import read_records
from boundscope.profiler.run.load import RankData, load_rank
from boundscope.profiler.timeline import build_timeline

Told = dict[str, tuple[int, int, int]]

LIBRARY = """
import time
import torch
def save_file(tensors, filename):
    time.sleep(0.02)
"""


@pytest.fixture(scope="module")
def pauses(guest_run: Callable[..., Any]) -> tuple[RankData, Told]:
    """What was recorded of the script, and what it says itself, on the same clock."""
    done = guest_run("pauses.py")
    assert done.code == 0, done.stderr
    (folder,) = done.folder.glob("rank-0-*")
    header = read_records(folder / "steps.jsonl").header
    assert header is not None
    shift = header.wall_ns - header.mono_ns
    told = json.loads(done.stdout)
    return load_rank(folder), {
        name: (begin + shift, end + shift, line) for name, (begin, end, line) in told.items()
    }


@pytest.mark.parametrize("what", ["save", "fsync"])
def test_a_checkpoint_is_recorded_with_its_line(pauses: tuple[RankData, Told], what: str) -> None:
    rank, told = pauses
    begin, end, line = told[what]

    saves = rank.spans.of(SpanKind.SAVE)
    (index,) = np.flatnonzero((saves.start_ns >= begin) & (saves.end_ns <= end))

    assert len(saves) == 2
    # All but the calls around it: half is far from nothing, and near enough.
    assert saves.duration_ns[index] > 0.5 * (end - begin)
    site = rank.site("save", int(saves.detail[index]))
    assert site is not None
    assert (Path(site.file).name, site.line, site.function) == ("pauses.py", line, "noted")


def test_a_collection_of_garbage_is_recorded_with_its_generation(
    pauses: tuple[RankData, Told],
) -> None:
    rank, told = pauses
    begin, end, _ = told["collect"]

    pause = rank.spans.of(SpanKind.GC)

    assert pause.detail.tolist() == [2]
    assert begin <= pause.start_ns[0] < pause.end_ns[0] <= end
    assert pause.duration_ns[0] > 0.5 * (end - begin)


def test_they_are_the_steps_storage_and_garbage(pauses: tuple[RankData, Told]) -> None:
    line = build_timeline(pauses[0])

    assert line is not None
    assert np.flatnonzero(line.phase_ns["storage"]).tolist() == [1, 2]
    assert np.flatnonzero(line.phase_ns["garbage"]).tolist() == [3]


@pytest.mark.parametrize("order", ["torch first", "library first"])
def test_a_checkpoint_library_is_seen_whether_it_came_before_torch_or_after(
    guest_run: Callable[..., Any], tmp_path: Path, order: str
) -> None:
    """`from safetensors.torch import save_file` before `import torch` is usual, and imports it."""
    package = tmp_path / "safetensors"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "torch.py").write_text(LIBRARY)

    done = guest_run("checkpoint_library.py", order, environment={"PYTHONPATH": str(tmp_path)})

    assert done.code == 0, done.stderr
    (folder,) = done.folder.glob("rank-0-*")
    saves = load_rank(folder).spans.of(SpanKind.SAVE)
    assert len(saves) == 3
    assert (saves.duration_ns >= 20_000_000).all()


@pytest.mark.parametrize("how", ["distributed", "distributed async"])
def test_torchs_own_distributed_checkpoints_are_seen(
    guest_run: Callable[..., Any], how: str
) -> None:
    done = guest_run("checkpoint_library.py", how)

    assert done.code == 0, done.stderr
    (folder,) = done.folder.glob("rank-0-*")
    assert len(load_rank(folder).spans.of(SpanKind.SAVE)) == 3
