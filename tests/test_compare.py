"""Two runs compared: hand-worked step times, and the command as CI uses it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boundscope.collectors.records import Header, Manifest, Spans
from boundscope.profiler.cli import main
from boundscope.profiler.commands.compare import parse_limit
from boundscope.profiler.compare import Comparison, compare
from boundscope.profiler.errors import UnusableData, UsageError
from boundscope.profiler.library import derive_path
from boundscope.profiler.run.manifest import read_manifest, write_manifest

MS = 1_000_000
STEPS = 60


def record(
    folder: Path, *, loader_ms: int, step_ms: int, jitter_ms: int = 0, save: int = 0
) -> Path:
    """Write a run of `STEPS` steps of `step_ms`, of which the loader takes `loader_ms`.

    Every second step is longer by `jitter_ms`; every tenth has a checkpoint of `save` ms more.
    """
    import msgspec

    start = 10**15
    kinds, starts, durations = "", [], []
    at = 0
    for step in range(STEPS):
        kinds += "l"
        starts.append(at)
        durations.append(loader_ms * MS)
        length = step_ms + (jitter_ms if step % 2 else 0)
        if save and step % 10 == 9:
            kinds += "s"
            starts.append(at + loader_ms * MS)
            durations.append(save * MS)
            length += save
        kinds += "o"
        at += length * MS
        starts.append(at - MS)
        durations.append(MS)
    spans = Spans(start, kinds, starts, durations, [0] * len(kinds))
    header = Header(1, "steps", "host", 7, 0, start, rank=0, world_size=1)
    rank = folder / "rank-0-7"
    rank.mkdir(parents=True)
    lines = [msgspec.json.encode(record) for record in (header, spans)]
    (rank / "steps.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    write_manifest(
        folder,
        Manifest(
            schema=1,
            id=folder.name,
            name=folder.name,
            command=["python", "train.py"],
            cwd="/",
            started_ns=start,
            status="finished",
            launcher_pid=1,
            launcher_start_ticks=1,
            host="host",
            version="0",
            ended_ns=start + at,
            exit_code=0,
            environment={"hardware": {"cpu": "one"}, "git": {"commit": folder.name}},
        ),
    )
    return folder


def compared(base: Path, new: Path) -> Comparison:
    return compare(derive_path(base), derive_path(new))


def test_a_slower_loader_is_told_by_its_slot_and_its_milliseconds(tmp_path: Path) -> None:
    # Given: 20 ms of 100 wait for input, then 70 of 150
    base = record(tmp_path / "base", loader_ms=20, step_ms=100)
    new = record(tmp_path / "new", loader_ms=70, step_ms=150)

    # When
    found = compared(base, new)

    # Then
    assert found.change == pytest.approx(0.5)
    assert found.slots[0].slot == "input"
    assert (found.slots[0].base_ms, found.slots[0].new_ms) == pytest.approx((20, 70), rel=0.01)
    told = "50 % slower: 100 ms to 150 ms a step on average, most of it input"
    assert found.headline.startswith(told)
    assert found.is_certain


def test_slots_sum_to_the_change_of_the_step(tmp_path: Path) -> None:
    base = record(tmp_path / "base", loader_ms=20, step_ms=100, save=30)
    new = record(tmp_path / "new", loader_ms=30, step_ms=90, jitter_ms=4)

    found = compared(base, new)

    change = sum(slot.change_ms for slot in found.slots)
    assert change == pytest.approx(found.new.step_ms - found.base.step_ms, abs=0.01)


def test_checkpoints_count_though_the_median_step_does_not_see_them(tmp_path: Path) -> None:
    # Given
    base = record(tmp_path / "base", loader_ms=20, step_ms=100)
    new = record(tmp_path / "new", loader_ms=20, step_ms=100, save=200)

    # When
    found = compared(base, new)

    # Then: 200 ms in every tenth step
    assert found.new.median_ms == pytest.approx(found.base.median_ms)
    assert found.change == pytest.approx(0.2, abs=0.02)
    assert found.slots[0].slot == "storage"


def test_a_change_within_the_noise_is_not_claimed(tmp_path: Path) -> None:
    base = record(tmp_path / "base", loader_ms=20, step_ms=100)
    new = record(tmp_path / "new", loader_ms=20, step_ms=103)

    found = compared(base, new)

    assert not found.is_certain
    assert found.headline.startswith("No difference beyond the noise")


def test_findings_and_environment_are_compared(tmp_path: Path) -> None:
    # Given
    base = record(tmp_path / "base", loader_ms=0, step_ms=100)
    new = record(tmp_path / "new", loader_ms=70, step_ms=170)
    manifest = read_manifest(new)
    import msgspec

    hardware = {**manifest.environment, "hardware": {"cpu": "another"}}
    write_manifest(new, msgspec.structs.replace(manifest, environment=hardware))

    # When
    found = compared(base, new)

    # Then
    assert found.gained
    assert all(finding.title for finding in found.gained)
    changed = {(d.group, d.name): (d.base, d.new) for d in found.environment}
    assert changed["git", "commit"] == ("base", "new")
    assert any("different processors" in caution for caution in found.cautions)


def test_the_other_way_round_what_was_gained_is_lost(tmp_path: Path) -> None:
    base = record(tmp_path / "base", loader_ms=0, step_ms=100)
    new = record(tmp_path / "new", loader_ms=70, step_ms=170)

    there, back = compared(base, new), compared(new, base)

    assert there.gained == back.lost
    assert back.change == pytest.approx(1 / 1.7 - 1, abs=1e-3)


def test_ops_that_moved_most_come_first(tmp_path: Path) -> None:
    # Given: the same op in both, twice as long in the new run
    from boundscope.profiler.trace.host import OpTime

    base = derive_path(record(tmp_path / "base", loader_ms=20, step_ms=100))
    rows = [OpTime("aten::mm", "gemm", "compute", 1, 10e6, 10e6), OpTime("x", "", "host", 1, 1, 1)]
    longer = [replace(rows[0], self_ns=20e6), rows[1]]
    sides = []
    for ops in (rows, longer):
        (rank,) = base.ranks
        work = {**rank.phase_ms, "rest": 100.0}
        sides.append(replace(base, ranks=[replace(rank, ops=ops, window_ms=100.0, phase_ms=work)]))

    # When
    found = compare(*sides)

    # Then
    first = found.ops[0]
    assert first.name == "aten::mm"
    assert first.new_ms == pytest.approx(2 * first.base_ms)
    assert np.isfinite(first.change_ms)


def test_kernels_that_moved_are_told_apart_by_their_own_names(tmp_path: Path) -> None:
    # Given: one op whose kernel became another one, twice as long
    from boundscope.profiler.trace.host import OpTime

    base = derive_path(record(tmp_path / "base", loader_ms=20, step_ms=100))
    sides = []
    for kernel, ms in (("sgemm_128x128", 10), ("simt_gemm", 20)):
        ops = [OpTime("aten::mm", "gemm", "compute", 1, ms * 1e6, ms * 1e6, kernel=kernel)]
        (rank,) = base.ranks
        work = {**dict.fromkeys(rank.phase_ms, 0.0), "rest": 100.0}
        sides.append(replace(base, ranks=[replace(rank, ops=ops, window_ms=100.0, phase_ms=work)]))

    # When
    found = compare(*sides)

    # Then: the window is one step long
    moved = {kernel.name: (kernel.base_ms, kernel.new_ms) for kernel in found.kernels}
    assert moved == {"sgemm_128x128": (10.0, 0.0), "simt_gemm": (0.0, 20.0)}
    assert [op.name for op in found.ops] == ["aten::mm"]


def test_a_training_of_the_cpu_has_no_kernels(tmp_path: Path) -> None:
    base = record(tmp_path / "base", loader_ms=20, step_ms=100)
    new = record(tmp_path / "new", loader_ms=20, step_ms=150)

    assert compared(base, new).kernels == []


def test_runs_on_different_gpus_are_compared_with_a_caution(tmp_path: Path) -> None:
    # Given
    import msgspec

    base = record(tmp_path / "base", loader_ms=20, step_ms=100)
    new = record(tmp_path / "new", loader_ms=20, step_ms=150)
    for folder, gpu in ((base, "NVIDIA A100-SXM4-80GB"), (new, "NVIDIA H100 80GB HBM3")):
        hardware = {"hardware": {"cpu": "one", "gpus": gpu}}
        write_manifest(folder, msgspec.structs.replace(read_manifest(folder), environment=hardware))

    # When
    found = compared(base, new)

    # Then
    assert "the runs were made on different GPUs" in found.cautions
    assert not any("processors" in caution for caution in found.cautions)


def test_each_run_is_diagnosed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given
    from boundscope.profiler import compare as module

    seen = []
    judged = module.diagnose_features
    monkeypatch.setattr(
        module, "diagnose_features", lambda features: seen.append(features) or judged(features)
    )
    base = record(tmp_path / "base", loader_ms=20, step_ms=100)
    new = record(tmp_path / "new", loader_ms=20, step_ms=150)

    # When
    compared(base, new)

    # Then
    assert len(seen) == 2


def test_a_run_without_steps_cannot_be_compared(tmp_path: Path) -> None:
    base = record(tmp_path / "base", loader_ms=20, step_ms=100)
    new = record(tmp_path / "new", loader_ms=20, step_ms=100)
    shutil.rmtree(new / "rank-0-7")

    with pytest.raises(UnusableData, match="no steady step") as raised:
        compared(base, new)
    assert raised.value.slug == "no-steps"


@pytest.mark.parametrize(
    ("limit", "code"), [("", 0), ("5%", 1), ("60%", 0), ("0.05", 1), ("49 %", 1)]
)
def test_the_exit_code_is_1_past_the_limit(tmp_path: Path, limit: str, code: int) -> None:
    base = record(tmp_path / "base", loader_ms=20, step_ms=100)
    new = record(tmp_path / "new", loader_ms=70, step_ms=150)
    option = ["--fail-over", limit] if limit else []

    assert main(["compare", str(base), str(new), *option]) == code


def test_a_faster_run_never_fails(tmp_path: Path) -> None:
    base = record(tmp_path / "base", loader_ms=70, step_ms=150)
    new = record(tmp_path / "new", loader_ms=20, step_ms=100)

    assert main(["compare", str(base), str(new), "--fail-over", "0%"]) == 0


@pytest.mark.parametrize("text", ["five", "-1%", "nan", "", "%"])
def test_a_limit_that_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_limit(text)


def test_the_json_is_what_was_compared(tmp_path: Path, capsys: Any) -> None:
    # Given
    base = record(tmp_path / "base", loader_ms=20, step_ms=100)
    new = record(tmp_path / "new", loader_ms=70, step_ms=150)

    # When
    main(["compare", str(base), str(new), "--json"])

    # Then
    shown = json.loads(capsys.readouterr().out)
    found = compared(base, new)
    assert shown["change"] == found.change
    assert shown["slots"][0] == {"slot": "input", "base_ms": 20.0, "new_ms": 70.0}
