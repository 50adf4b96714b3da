"""Causes that only stacks show: compiling, recomputing, writing logs."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ..diagnosis import Evidence, Finding, Fix, Saving, Slot
from ..features import RankFeatures
from ..hot_lines import plain_name
from ..logs import writes_log
from ..sampled import (
    Frames,
    SampledShare,
    compiles,
    in_files,
    sampled_share,
    sure,
)
from ..text import percent
from ._exposed import beside_device, recomputed
from .base import MIN_SHARE, Evidenced, place

FINDINGS = ("recompilation", "recomputation", "log-in-loop")

_checkpoint = in_files("torch/utils/checkpoint.py")
_AGAIN = ("unpack_hook", "recompute_fn", "backward", "recompute")


def recomputes(frames: Frames) -> bool:
    """Whether activations are calculated again for the backward pass."""
    return _checkpoint(frames) and any(
        "torch/utils/checkpoint.py" in frame.file and plain_name(frame) in _AGAIN
        for frame in frames
    )


def find(case: Evidenced) -> list[Finding]:
    """A finding for each of the three that takes more than a twentieth of the samples."""
    return [*_recompilation(case), *_recomputation(case), *_log(case)]


Found = tuple[RankFeatures, SampledShare]


def _worst(
    case: Evidenced, matches: Callable[[Frames], bool], *, in_backward: bool = False
) -> Found | None:
    """The rank that most samples match on; `in_backward`: in the threads of autograd, too."""
    run = case.features.run
    shares = [
        (rank, sampled_share(run, rank, matches, all_threads=in_backward and bool(rank.device)))
        for rank in case.features.ranks
    ]
    found = [(rank, share) for rank, share in shares if share is not None]
    if not found:
        return None
    rank, share = max(found, key=lambda item: item[1].share)
    return (rank, share) if sure(share) else None


def _sampled(  # noqa: PLR0913 - the parts of a finding, by keyword
    case: Evidenced,
    found: Found,
    *,
    id: str,
    bound: Slot,
    title: str,
    what: str,
    fixes: list[Fix],
    exposed: Callable[[RankFeatures, Saving], Saving] = beside_device,
) -> list[Finding]:
    """The finding; nothing where a device hides what the host does."""
    rank, share = found
    saving = exposed(rank, share.saving())
    if saving.mid < MIN_SHARE:
        return []
    if rank.device:  # the fix can save no more than its cause
        fixes = [msgspec.structs.replace(f, saving=min(f.saving, saving.mid)) for f in fixes]
    finding = case.held_back(
        id=id,
        bound=bound,
        title=title,
        saving=saving,
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
        where=[place(line, rank.rank) for line in share.lines],
        fixes=fixes,
    )
    return [finding]


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
    return _sampled(
        case,
        found,
        id="recompilation",
        bound="host",
        title="torch.compile compiles again in the steady state",
        what="compile",
        fixes=fixes,
    )


def _recomputation(case: Evidenced) -> list[Finding]:
    found = _worst(case, recomputes, in_backward=True)
    if found is None:
        return []
    fixes = [
        Fix(
            "Checkpoint fewer layers, as far as the memory allows",
            "Recomputing trades time for memory: keep the activations of the layers that are "
            "expensive to calculate and small to keep.",
        )
    ]
    return _sampled(
        case,
        found,
        id="recomputation",
        bound="compute",
        title="Activations are calculated again in the backward pass",
        what="recompute activations",
        fixes=fixes,
        exposed=recomputed,
    )


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
    return _sampled(
        case,
        found,
        id="log-in-loop",
        bound="storage",
        title="The loop writes its log in every step",
        what="are in a logging library",
        fixes=fixes,
    )
