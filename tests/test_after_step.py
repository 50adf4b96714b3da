"""What comes behind the optimizer's step in a loop without a loader, by the order of its lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from boundscope.collectors.records import Frame, Site
from boundscope.profiler.after_step import path_to, place_of

from .rule_material import MS, Recording, named

MAIN = ("/u/train.py", "main", 30)
"""Calls the function whose loop is looked at."""
STEP = ("/u/train.py", "train", 20)


def stack(*frames: tuple[str, str, int]) -> list[Frame]:
    return [Frame(i, function, file, line) for i, (file, function, line) in enumerate(frames)]


SAVE = ("/x/site-packages/torch/serialization.py", "save", 1)
TORCH = ("/x/site-packages/torch/optim/sgd.py", "step", 9)


@pytest.mark.parametrize(
    ("frames", "place"),
    [
        ([MAIN, ("/u/train.py", "train", 21), ("/u/train.py", "metrics", 3)], "after"),
        ([MAIN, ("/u/train.py", "train", 25)], "after"),
        ([MAIN, ("/u/train.py", "train", 14), ("/u/data.py", "make", 80)], "before"),
        ([MAIN, STEP, TORCH], "at"),
        ([("/u/train.py", "main", 31), ("/u/train.py", "validate", 5)], "after"),
        ([MAIN, ("/u/other.py", "train", 99)], "elsewhere"),
    ],
)
def test_a_stack_stands_before_or_behind_the_step_by_its_lines(
    frames: list[tuple[str, str, int]], place: str
) -> None:
    path = path_to(STEP, [(stack(MAIN, STEP, TORCH), 3)])

    assert path == [MAIN, STEP]
    assert place_of(stack(*frames), path)[0] == place


def test_without_a_sample_of_the_step_its_function_tells() -> None:
    path = path_to(STEP, [])

    assert place_of(stack(MAIN, ("/u/train.py", "train", 22)), path) == ("after", 1)
    assert place_of(stack(MAIN, ("/u/train.py", "train", 12)), path) == ("before", 1)
    assert place_of(stack(MAIN), path) == ("elsewhere", 0)


def test_of_two_ways_to_the_step_neither_is_behind_it() -> None:
    """A warm-up that calls the same function, or a helper that steps two optimizers."""
    second = ("/u/train.py", "main", 60)
    path = path_to(STEP, [(stack(MAIN, STEP), 90), (stack(second, STEP), 3)])

    assert path == [second, STEP]
    assert place_of(stack(MAIN, ("/u/train.py", "train", 25)), path)[0] == "before"
    assert place_of(stack(second, ("/u/train.py", "train", 25)), path)[0] == "after"


def loop(folder: Path, *, loader: bool = False) -> Recording:
    """60 steps of 100 ms: 60 until the model is called, 20 forward, 19 backward, 1 the update."""
    recording = Recording(folder)
    recording.sites.append(Site("optimizer", 0, *STEP[:1], STEP[2], STEP[1]))
    for step in range(61):
        begin = step * 100 * MS
        if loader:
            recording.spans.append(("l", begin + 49 * MS, MS, 0))
        recording.spans += [
            ("f", begin + 60 * MS, 20 * MS, 0),
            ("b", begin + 80 * MS, 19 * MS, 0),
            ("o", begin + 99 * MS, MS, 0),
        ]
    return recording


def sampled(recording: Recording, behind: str, line: int) -> Recording:
    """20 samples a second: 10 behind the step, 2 in the making of the batch, the rest at work."""
    recording.sampled(10, MAIN, ("/u/train.py", "train", line), ("/u/train.py", behind, 3))
    recording.sampled(2, MAIN, ("/u/train.py", "train", 12), ("/u/train.py", "make", 8))
    recording.sampled(4, MAIN, ("/u/train.py", "train", 14))
    recording.sampled(4, MAIN, ("/u/train.py", "train", 18))
    return recording


def test_work_behind_the_step_is_not_called_preparation(tmp_path: Path) -> None:
    found = sampled(loop(tmp_path / "r"), "metrics", 21).diagnose()

    # 50 of the 60 ms before the model's call are behind the step; no trace says what they are.
    assert found.breakdown["input"] == pytest.approx(0.10, abs=0.02)
    assert found.breakdown["other"] == pytest.approx(0.90, abs=0.02)


def test_what_stands_above_the_step_is_preparation(tmp_path: Path) -> None:
    found = sampled(loop(tmp_path / "r"), "make", 11).diagnose()

    assert found.breakdown["input"] == pytest.approx(0.60, abs=0.02)
    assert named(found, "batch-prepared-in-loop").saving.mid == pytest.approx(0.6, abs=0.02)


def test_the_rest_of_a_function_that_writes_checkpoints_is_storage(tmp_path: Path) -> None:
    recording = loop(tmp_path / "r")
    recording.sites.append(Site("save", 0, "/u/train.py", 2, "save_checkpoint"))
    recording.spans += [("s", step * 100 * MS + 5 * MS, 20 * MS, 0) for step in range(61)]

    found = sampled(recording, "save_checkpoint", 21).diagnose()

    # 20 ms a step are seen to be written, 50 are spent in the function.
    assert found.breakdown["storage"] == pytest.approx(0.50, abs=0.02)
    assert found.breakdown["input"] == pytest.approx(0.10, abs=0.02)


@pytest.mark.parametrize(
    ("site", "frames"),
    [
        (
            ("train", 23),
            [MAIN, ("/u/train.py", "train", 23), ("/x/torch/serialization.py", "s", 1)],
        ),
        (("save_it", 5), [("/u/train.py", "main", 31), ("/u/train.py", "save_it", 5)]),
    ],
    ids=["in the loop", "behind the function with the loop"],
)
def test_a_checkpoint_that_is_measured_takes_nothing_of_the_preparation(
    tmp_path: Path, site: tuple[str, int], frames: list[tuple[str, str, int]]
) -> None:
    recording = loop(tmp_path / "r")
    recording.sites.append(Site("save", 0, "/u/train.py", site[1], site[0]))
    recording.spans += [("s", step * 100 * MS + 5 * MS, 30 * MS, 0) for step in range(61)]
    recording.sampled(6, *frames)
    recording.sampled(6, MAIN, ("/u/train.py", "train", 12), ("/u/train.py", "make", 8))
    recording.sampled(4, MAIN, ("/u/train.py", "train", 14))
    recording.sampled(4, MAIN, ("/u/train.py", "train", 18))

    found = recording.diagnose()

    assert found.breakdown["storage"] == pytest.approx(0.30, abs=0.02)
    assert found.breakdown["input"] == pytest.approx(0.30, abs=0.02)


def test_a_second_optimizer_below_the_first_is_no_work_behind_it(tmp_path: Path) -> None:
    recording = loop(tmp_path / "r")
    torch = ("/x/site-packages/torch/optim/sgd.py", "SGD.step", 9)
    recording.sampled(10, MAIN, ("/u/train.py", "train", 23), torch)
    recording.sampled(6, MAIN, ("/u/train.py", "train", 12), ("/u/train.py", "make", 8))
    recording.sampled(4, MAIN, ("/u/train.py", "train", 18))

    assert recording.diagnose().breakdown["input"] == pytest.approx(0.60, abs=0.02)


def test_where_a_loader_marks_the_batch_nothing_is_moved(tmp_path: Path) -> None:
    found = sampled(loop(tmp_path / "r", loader=True), "metrics", 21).diagnose()

    # From the batch's arrival, 50 ms after the step's start, to the model's call; the wait itself.
    assert found.breakdown["input"] == pytest.approx(0.11, abs=0.02)
