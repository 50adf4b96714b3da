"""What to do about the time of the optimizer's update."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..diagnosis import Fix
from ..features import RankFeatures
from ..trace.host import OpTime

FUSED_SINCE = {
    "Adam": ((2, 4), (2, 0)),
    "AdamW": ((2, 4), (2, 0)),
    "SGD": ((2, 4), (2, 3)),
    "Adagrad": ((2, 4), (2, 8)),
}
"""The torch release from which `fused=True` works on a CPU, and on CUDA (pytorch/pytorch pull
requests 123074, 123629, 124905; 94791, 153038)."""

NOT_COMPILED = frozenset({"LBFGS", "SparseAdam"})
"""Optimizers that torch.compile does not take (PyTorch's recipe on compiling the optimizer)."""

_FEWER_PASSES = "The separate passes read and write every parameter several times."

_RARER = Fix(
    "Update less often: a larger batch, or the gradients of several batches together",
    "An update costs the same for however many samples it is.",
)


def update_fixes(rank: RankFeatures, ops: Sequence[OpTime]) -> list[Fix]:
    """Fixes for the rank's own optimizer, as far as its torch has them."""
    sites = [site for site in rank.data.sites if site.what == "optimizer"]
    fused = any("_fused_" in op.name for op in ops)
    fused = fused or any(site.facts.get("fused") == "True" for site in sites)
    if fused:
        return [_RARER]
    classes = list(dict.fromkeys(site.facts.get("class", "") for site in sites))
    return [*_one_pass(rank, [name for name in classes if name]), _RARER]


def _one_pass(rank: RankFeatures, classes: list[str]) -> list[Fix]:
    title = "Update the parameters in one fused pass"
    if not classes:
        known = ", ".join(FUSED_SINCE)
        snippet = f"torch.optim.{next(iter(FUSED_SINCE))}(parameters, ..., fused=True)"
        detail = f"{_FEWER_PASSES} {known} can do it in one."
        return [Fix(title, detail, f"{snippet}  # or your own of these")]
    able = [name for name in classes if _can_fuse(rank, name)]
    if able:
        calls = [f"torch.optim.{name}(parameters, ..., fused=True)" for name in able]
        return [Fix(title, _FEWER_PASSES, "\n".join(calls))]
    if set(classes) <= NOT_COMPILED:
        return []
    compiler = "" if rank.device else " It needs a C++ compiler."
    return [
        Fix(
            "Compile the optimizer's step into one pass",
            f"{_FEWER_PASSES} {classes[0]} has no fused form here.{compiler}",
            "update = torch.compile(optimizer.step)",
        )
    ]


def _can_fuse(rank: RankFeatures, name: str) -> bool:
    since = FUSED_SINCE.get(name)
    return since is not None and _release(rank) >= since[bool(rank.device)]


def _release(rank: RankFeatures) -> tuple[int, ...]:
    text = rank.data.process.torch if rank.data.process else ""
    found = re.match(r"(\d+)\.(\d+)", text)
    return tuple(int(part) for part in found.groups()) if found else (0, 0)
