"""Causes that only the training thread's stacks show: compiling, recomputing, writing logs."""

from __future__ import annotations

from collections.abc import Callable

from ..diagnosis import Evidence, Finding, Fix, Slot
from ..sampled import (
    Frames,
    SampledShare,
    compiles,
    in_files,
    sampled_share,
    sure,
    writes_log,
)
from ..text import percent
from .base import Evidenced, place

FINDINGS = ("recompilation", "recomputation", "log-in-loop")

_checkpoint = in_files("torch/utils/checkpoint.py")
_AGAIN = ("unpack_hook", "recompute_fn", "backward", "recompute")


def recomputes(frames: Frames) -> bool:
    """Whether activations are calculated again for the backward pass."""
    return _checkpoint(frames) and any(
        "torch/utils/checkpoint.py" in frame.file and frame.function.rpartition(".")[2] in _AGAIN
        for frame in frames
    )


def find(case: Evidenced) -> list[Finding]:
    """A finding for each of the three that takes more than a twentieth of the samples."""
    return [*_recompilation(case), *_recomputation(case), *_log(case)]


def _worst(case: Evidenced, matches: Callable[[Frames], bool]) -> tuple[int, SampledShare] | None:
    found = [
        (rank.rank, share)
        for rank in case.features.ranks
        if (share := sampled_share(case.features.run, rank, matches)) is not None
    ]
    if not found:
        return None
    rank, share = max(found, key=lambda item: item[1].share)
    return (rank, share) if sure(share) else None


def _sampled(  # noqa: PLR0913 - the parts of a finding, by keyword
    case: Evidenced,
    found: tuple[int, SampledShare],
    *,
    id: str,
    bound: Slot,
    title: str,
    what: str,
    fixes: list[Fix],
) -> Finding:
    rank, share = found
    return case.held_back(
        id=id,
        bound=bound,
        title=title,
        saving=share.saving(),
        evidence=[
            Evidence(
                f"{share.matching} of {share.samples} stack samples of the training thread "
                f"({percent(share.share)}) {what}",
                "host.sampled_share",
                round(share.share, 4),
                "share",
                "stacks",
            )
        ],
        where=[place(line, rank) for line in share.lines],
        fixes=fixes,
    )


def _recompilation(case: Evidenced) -> list[Finding]:
    found = _worst(case, compiles)
    if found is None:
        return []
    fixes = [
        Fix(
            "Find what changes from call to call",
            "Shapes, Python numbers and module attributes are compiled in; each new value compiles "
            "again.",
            "TORCH_LOGS=recompiles python train.py",
        ),
        Fix(
            "Compile for any size, or pad to a few sizes",
            snippet="model = torch.compile(model, dynamic=True)",
        ),
    ]
    title = "torch.compile compiles again in the steady state"
    return [
        _sampled(
            case,
            found,
            id="recompilation",
            bound="host",
            title=title,
            what="compile",
            fixes=fixes,
        )
    ]


def _recomputation(case: Evidenced) -> list[Finding]:
    found = _worst(case, recomputes)
    if found is None:
        return []
    fixes = [
        Fix(
            "Checkpoint fewer layers, as far as the memory allows",
            "Recomputing trades time for memory: keep the activations of the layers that are "
            "expensive to calculate and small to keep.",
        )
    ]
    return [
        _sampled(
            case,
            found,
            id="recomputation",
            bound="compute",
            title="Activations are calculated again in the backward pass",
            what="recompute activations",
            fixes=fixes,
        )
    ]


def _log(case: Evidenced) -> list[Finding]:
    found = _worst(case, writes_log)
    if found is None:
        return []
    fixes = [
        Fix(
            "Log every hundredth step",
            "Or keep the values and write them together.",
            "if step % 100 == 0:\n    log(...)",
            round(found[1].share * 0.99, 4),
        )
    ]
    return [
        _sampled(
            case,
            found,
            id="log-in-loop",
            bound="storage",
            title="The loop writes its log in every step",
            what="are in a logging library",
            fixes=fixes,
        )
    ]
