"""Steps and phases of many kinds of training loops, recorded from real processes."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from boundscope.collectors.records import SpanKind
from boundscope.profiler.run.load import RankData, load_rank
from boundscope.profiler.timeline import Timeline, build_timeline

SCRIPT = "kinds_of_steps.py"


class Loop(NamedTuple):
    """A loop's recording, how many steps it took, and its validations, by its own notes."""

    rank: RankData
    steps: int
    evaluations: list[tuple[int, int, int, int]]


Loops = dict[str, Loop]


def kinds() -> list[str]:
    """The names in the script's KINDS; it is not imported here, for that would import torch."""
    tree = ast.parse((Path(__file__).parent / "scripts" / SCRIPT).read_text())
    (listed,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "KINDS"
    )
    assert isinstance(listed, ast.List)
    return [ast.unparse(name) for name in listed.elts]


@pytest.fixture(scope="module")
def loops(guest_run: Callable[..., Any]) -> Loops:
    """Each loop's recording, and what the script says of it."""
    done = guest_run(SCRIPT)
    assert done.code == 0, done.stderr
    folders = {int(path.name.split("-")[2]): path for path in done.folder.glob("rank-0-*")}
    told = json.loads(done.stdout)
    return {name: Loop(load_rank(folders[pid]), *rest) for name, (pid, *rest) in told.items()}


def timeline(loops: Loops, name: str) -> Timeline:
    line = build_timeline(loops[name].rank)
    assert line is not None
    return line


@pytest.mark.parametrize("name", kinds())
def test_every_step_of_a_loop_is_found_and_no_other(loops: Loops, name: str) -> None:
    rank, steps, _ = loops[name]

    line = build_timeline(rank)

    assert line is not None
    assert len(line) == steps - 1  # from the end of one step to the end of the next
    assert rank.closed
    assert rank.gaps == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("single", "optimizer"),
        ("marked_by_the_user", "user"),
        ("manual_update", "batch"),
        ("inference", "batch"),
        ("manual_update_of_resident_data", "backward"),
    ],
)
def test_steps_come_from_the_best_sign_that_there_is(loops: Loops, name: str, source: str) -> None:
    line = timeline(loops, name)

    assert line.source == source


def test_a_skipped_amp_step_is_told_from_one_taken(loops: Loops) -> None:
    rank = loops["skipped_by_amp"].rank

    taken, skipped = rank.spans.of(SpanKind.OPTIMIZER), rank.spans.of(SpanKind.SKIPPED)

    assert (len(taken), len(skipped)) == (9, 3)


def test_an_optimizer_inside_another_one_is_one_step(loops: Loops) -> None:
    rank = loops["wrapped_optimizer"].rank

    spans, site = rank.spans.of(SpanKind.OPTIMIZER), rank.site("optimizer", 0)

    assert len(spans) == 12
    assert site is not None
    assert site.facts == {"class": "Sharded"}
    assert (Path(site.file).name, site.function) == (SCRIPT, "train_step")


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("validation_without_gradients", 11),  # the twelfth comes after the last step
        ("validation_of_resident_data", 4),
        ("validation_by_mode", 11),
        ("validation_of_two_models", 11),
    ],
)
def test_validation_between_steps_is_evaluation(loops: Loops, name: str, count: int) -> None:
    phases = timeline(loops, name).phase_ns
    evaluation = phases["evaluation"]

    found, profiler = evaluation[evaluation > 0], phases["profiler"][evaluation > 0]

    notes = loops[name].evaluations[:count]
    least = [end - begin for _, begin, end, _ in notes]
    most = [end - begin for begin, _, _, end in notes]
    assert len(found) == len(notes) == count
    assert np.all(found + profiler >= least)  # a window of ours may end within
    assert np.all(found <= most)


@pytest.mark.parametrize(
    "name", ["frozen_teacher", "teacher_of_resident_data", "single", "inference"]
)
def test_a_frozen_teacher_or_mere_inference_is_no_evaluation(loops: Loops, name: str) -> None:
    line = timeline(loops, name)

    assert line.phase_ns["evaluation"].sum() == 0


def test_the_wait_for_a_loader_is_recorded_whatever_class_it_has(loops: Loops) -> None:
    rank = loops["loader_of_its_own"].rank

    waits = rank.spans.of(SpanKind.LOADER)

    assert len(waits) == 12
    assert np.median(waits.duration_ns) >= 5e6  # the stream sleeps 5 ms for each item
    assert rank.site("loader-facts", 0).facts["dataset"] == "Stream"


def test_a_loader_within_a_loaders_dataset_is_part_of_its_wait(loops: Loops) -> None:
    rank = loops["loader_within_a_loader"].rank

    waits = rank.spans.of(SpanKind.LOADER)

    assert len(waits) == 12
    assert len(set(waits.detail)) == 1


def test_the_phases_of_each_step_sum_to_its_duration(loops: Loops) -> None:
    for name in loops:
        line = timeline(loops, name)

        total = sum(line.phase_ns.values())

        np.testing.assert_allclose(total, line.duration_ns, rtol=0, atol=1)
