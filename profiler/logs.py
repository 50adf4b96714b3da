"""Whether a stack writes a log: logging libraries at work, and not merely around the training."""

from __future__ import annotations

from ..collectors.origins import is_user, packaged
from ..collectors.records import Frame
from .hot_lines import plain_name, stack_phase

HANDLERS = ("/logging/__init__.py", "/loguru/")
"""Libraries that call the user's code for nothing but handlers, filters and formatters."""

TRACKERS = (
    "/tensorboard/",
    "/tensorboardX/",
    "/wandb/",
    "/mlflow/",
    "/comet_ml/",
    "/tqdm/",
)
"""Libraries that also wrap what the user runs: a progress bar its loader, autologging its fit()."""

_AROUND = frozenset({"__iter__", "__next__"})
"""Functions of a progress bar that stand on the stack while the next item is made."""

_WRITES_CSV = frozenset({"writerow", "writerows", "writeheader"})

_FORMATS = ("/torch/_tensor.py", "/torch/_tensor_str.py", "/torch/utils/tensorboard/")
"""Torch's own part in writing a log: printing a tensor, and its writer of event files."""

_TRAINS = (
    "/torch/",
    "/lightning/",
    "/pytorch_lightning/",
    "/lightning_fabric/",
    "/transformers/",
    "/accelerate/",
    "/ignite/",
    "/fastai/",
    "/deepspeed/",
    "/sklearn/",
    "/keras/",
)
"""Libraries that carry a training out."""


def writes_log(frames: list[Frame]) -> bool:
    """Whether a logging library is at work in the innermost part of a stack, outermost frame first.

    It is not where the training goes on inside it (a loop over `tqdm(loader)`, a `fit` that MLflow
    has wrapped), nor while the loader makes a batch.
    """
    last = max((i for i, frame in enumerate(frames) if _logs(frame)), default=-1)
    if last < 0 or stack_phase(frames, worker=False) == "input":
        return False
    handler = _in(frames[last], HANDLERS)
    return not any(_trains(frame, handler=handler) for frame in frames[last + 1 :])


def _logs(frame: Frame) -> bool:
    if is_user(frame.file):
        return False
    if frame.file.endswith("/csv.py"):
        return plain_name(frame) in _WRITES_CSV
    if _in(frame, ("/tqdm/",)) and plain_name(frame) in _AROUND:
        return False
    return _in(frame, HANDLERS) or _in(frame, TRACKERS)


def _trains(frame: Frame, *, handler: bool) -> bool:
    if is_user(frame.file):
        return not handler
    return _in(frame, _TRAINS) and not _in(frame, _FORMATS)


def _in(frame: Frame, parts: tuple[str, ...]) -> bool:
    return any(part in packaged(frame.file) for part in parts)
