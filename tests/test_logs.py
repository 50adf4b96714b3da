"""When a stack writes a log, and when a logging library only stands around the training."""

from __future__ import annotations

from pathlib import Path

import pytest

from boundscope.collectors.records import Frame
from boundscope.profiler.logs import writes_log

from .rule_material import FETCH, LOADER, FrameOf, Recording, loader_site, named

SITE = "/x/lib/python3.11/site-packages"
LIB = "/usr/lib/python3.11"
MAIN = ("/u/train.py", "main", 9)
TQDM = (f"{SITE}/tqdm/std.py", "tqdm.__iter__", 1181)
AUTOLOG = (f"{SITE}/mlflow/utils/autologging_utils/safety.py", "safe_patch_function", 451)
FIT = (f"{SITE}/lightning/pytorch/trainer/trainer.py", "Trainer.fit", 538)
EMIT = (f"{LIB}/logging/__init__.py", "StreamHandler.emit", 1113)
LINEAR = (f"{SITE}/torch/nn/modules/linear.py", "Linear.forward", 125)


def stack(*places: FrameOf) -> list[Frame]:
    return [Frame(i, function, file, line) for i, (file, function, line) in enumerate(places)]


@pytest.mark.parametrize(
    "places",
    [
        [MAIN, EMIT],
        [MAIN, EMIT, ("/u/train.py", "JsonHandler.emit", 4), (f"{LIB}/json/encoder.py", "e", 2)],
        [MAIN, (f"{LIB}/logging/__init__.py", "LogRecord.getMessage", 392),
         (f"{SITE}/torch/_tensor.py", "Tensor.__format__", 1063)],
        [MAIN, (f"{SITE}/tqdm/std.py", "tqdm.update", 1242)],
        [MAIN, TQDM, (f"{SITE}/tqdm/std.py", "tqdm.refresh", 1347)],
        [MAIN, (f"{SITE}/torch/utils/tensorboard/writer.py", "SummaryWriter.add_histogram", 400),
         (f"{SITE}/torch/utils/tensorboard/summary.py", "make_histogram", 500)],
        [MAIN, (f"{SITE}/wandb/sdk/wandb_run.py", "Run.log", 17), (f"{LIB}/socket.py", "send", 3)],
        [MAIN, (f"{LIB}/csv.py", "DictWriter.writerow", 154)],
        [MAIN, AUTOLOG, FIT, (f"{SITE}/mlflow/tracking/client.py", "MlflowClient.log_batch", 900),
         (f"{SITE}/requests/sessions.py", "Session.request", 589)],
    ],
)  # fmt: skip
def test_a_library_at_work_writes_a_log(places: list[FrameOf]) -> None:
    assert writes_log(stack(*places))


@pytest.mark.parametrize(
    "places",
    [
        [MAIN],
        [MAIN, TQDM],
        [MAIN, TQDM, LOADER, FETCH, ("/u/data.py", "Images.__getitem__", 12)],
        [MAIN, TQDM, ("/u/data.py", "batches", 30)],
        [MAIN, TQDM, LOADER, (f"{LIB}/multiprocessing/queues.py", "Queue.get", 113)],
        [MAIN, AUTOLOG, FIT],
        [MAIN, AUTOLOG, FIT, ("/u/train.py", "Model.training_step", 40), LINEAR],
        [MAIN, AUTOLOG, LINEAR],
        [MAIN, (f"{SITE}/wandb/agents/pyagent.py", "Agent._run_job", 300), MAIN],
        [MAIN, (f"{LIB}/csv.py", "DictReader.__next__", 110)],
        # A loader that logs holds the loop up as a loader.
        [MAIN, LOADER, FETCH, ("/u/data.py", "Images.__getitem__", 12), EMIT],
        # The user's own folder has a library's name.
        [("/home/me/mlflow/train.py", "main", 3), ("/home/me/mlflow/model.py", "Net.forward", 7)],
    ],
)  # fmt: skip
def test_a_library_around_the_training_does_not(places: list[FrameOf]) -> None:
    assert not writes_log(stack(*places))


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    return Recording(tmp_path / "run")


def test_a_wait_for_the_loader_under_a_progress_bar_is_input(recording: Recording) -> None:
    recording.sites = loader_site()
    recording.steps([100.0] * 100, input_ms=70)
    recording.sampled(7, MAIN, TQDM, LOADER, FETCH, ("/u/data.py", "Images.__getitem__", 12))
    recording.sampled(3, MAIN)

    diagnosis = recording.diagnose()

    assert "log-in-loop" not in {finding.id for finding in diagnosis.findings}
    assert diagnosis.breakdown["storage"] == 0.0
    assert diagnosis.breakdown["input"] == pytest.approx(0.7, abs=0.01)


def test_a_fit_that_autologging_wraps_is_no_log(recording: Recording) -> None:
    recording.steps([100.0] * 100)
    recording.sampled(7, MAIN, AUTOLOG, FIT)
    recording.sampled(3, MAIN, AUTOLOG, FIT, ("/u/train.py", "Model.training_step", 40), LINEAR)

    diagnosis = recording.diagnose()

    assert diagnosis.verdict.bound != "storage"
    assert diagnosis.breakdown["storage"] == 0.0


def test_the_headline_of_a_log_says_log_and_that_of_a_checkpoint_checkpoint(
    recording: Recording,
) -> None:
    recording.steps([100.0] * 100)
    recording.sampled(6, MAIN, EMIT)
    recording.sampled(4, MAIN)

    logs = recording.diagnose()

    recording.frames, recording.stacks = [], []
    recording.spans += [("s", 100 * step * 1_000_000, 70_000_000, 0) for step in range(100)]
    saves = recording.diagnose()

    assert named(logs, "log-in-loop")
    assert "writes its log" in logs.verdict.headline
    assert "checkpoint" not in logs.verdict.headline
    assert named(saves, "checkpoint-in-loop")
    assert "checkpoint" in saves.verdict.headline
