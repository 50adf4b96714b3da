"""What to do about an exchange, by its operation: which part of a training does it tells which."""

from __future__ import annotations

from ..diagnosis import Fix
from ._exchange import Exchange

WIDE = ("", "float", "double")
"""Element types that have more than 16 bits; "" where the trace does not tell."""

LITTLE_HIDDEN = 0.2
"""With less of the communication hidden, backward and exchange run one after the other: DDP hides
all but its last bucket where the link keeps up (Li et al., VLDB 2020)."""


def fixes_of(one: Exchange, hidden: float, *, full: bool) -> list[Fix]:
    """Best first; `hidden` is the share that runs under computing, `full` whether a link is."""
    if one.operation == "all_reduce":
        return _all_reduce(one, hidden, full=full)
    if one.operation in ("all_gather", "reduce_scatter"):
        return _sharded(one)
    known = {
        "reduce": _LOGGED,
        "all_to_all": _EXPERTS,
        "broadcast": _BUFFERS,
        "send": _STAGES,
        "recv": _STAGES,
        "send_recv": _STAGES,
    }
    return [*known.get(one.operation, ()), *_ANY]


def _all_reduce(one: Exchange, hidden: float, *, full: bool) -> list[Fix]:
    """DistributedDataParallel's gradients."""
    accumulate = Fix(
        "Synchronise less often: accumulate gradients over several batches",
        "Halving the number of all-reduces halves their time. The learning rate may need to follow "
        "the larger batch.",
        "with model.no_sync():  # all but the last of the accumulated batches\n    loss.backward()",
    )
    if one.is_small and not full:
        merge = Fix(
            "Send fewer, larger messages",
            "Each call moves little and pays the latency.",
            "DistributedDataParallel(model, bucket_cap_mb=100)",
        )
        return [merge, accumulate]
    fixes = [accumulate]
    if one.main.dtype in WIDE:
        compress = Fix(
            "Send half the bytes: compress gradients to 16 bits",
            "DDP's own communication hook; check the accuracy afterwards.",
            "from torch.distributed.algorithms.ddp_comm_hooks import default_hooks\n"
            "model.register_comm_hook(None, default_hooks.bf16_compress_hook)",
        )
        fixes.insert(0, compress)
    if hidden < LITTLE_HIDDEN:
        overlap = Fix(
            "Exchange gradients while the backward pass goes on",
            "DistributedDataParallel sends a bucket as soon as its gradients are there; smaller "
            "buckets leave earlier. With the link full it hides what computing there is.",
            "model = DistributedDataParallel(model, bucket_cap_mb=5)",
        )
        fixes.insert(len(fixes) if full else 0, overlap)
    return fixes


def _sharded(one: Exchange) -> list[Fix]:
    """Parameters and gradients of FSDP or ZeRO-3."""
    prefetch = Fix(
        "Fetch the next layer's parameters while this one computes",
        "FSDP's prefetch of the backward and of the forward pass; it holds one more layer in "
        "memory.",
        "FullyShardedDataParallel(model, backward_prefetch=BackwardPrefetch.BACKWARD_PRE,\n"
        "                         forward_prefetch=True)",
    )
    wrap = Fix(
        "Shard larger units",
        "One call a unit: wrap whole transformer blocks, so that each call moves megabytes.",
        "FullyShardedDataParallel(model, auto_wrap_policy=ModuleWrapPolicy({Block}))",
    )
    keep = Fix(
        "Keep parameters after the forward pass",
        "Saves the backward pass's gathering where memory allows it.",
        "fully_shard(module, reshard_after_forward=False)",
    )
    hosts = Fix(
        "Shard within a host only",
        "Parameters then cross the fast link; between hosts only gradients do.",
        "FullyShardedDataParallel(model, sharding_strategy=ShardingStrategy.HYBRID_SHARD)",
    )
    first = [wrap, prefetch] if one.is_small else [prefetch, wrap]
    if one.operation == "all_gather":
        return [*first, keep, hosts]
    halve = Fix(
        "Send half the bytes: reduce gradients in 16 bits",
        "Check the accuracy afterwards.",
        "FullyShardedDataParallel(model, "
        "mixed_precision=MixedPrecision(reduce_dtype=torch.bfloat16))",
    )
    return [*first, *([halve] if one.main.dtype in WIDE else []), hosts]


_EXPERTS = (
    Fix(
        "Let the exchange of tokens run under computing",
        "Dispatch them in two halves: while one half is on its way, the experts compute the other.",
    ),
    Fix(
        "Keep what exchanges most on one host",
        "Place the experts so that most tokens find theirs over the devices' own links.",
    ),
)
_BUFFERS = (
    Fix(
        "Stop sending buffers before every forward pass",
        "DistributedDataParallel sends rank 0's buffers (running statistics of batch norms). "
        "Without buffers that must be the same on all ranks it need not.",
        "DistributedDataParallel(model, broadcast_buffers=False)",
    ),
)
_STAGES = (
    Fix(
        "Cut the batch into more micro-batches",
        "While one is on its way between the stages, a stage computes another.",
    ),
    Fix(
        "Balance the pipeline's stages",
        "A rank that receives waits for the stage before it to finish.",
    ),
)
_LOGGED = (
    Fix(
        "Log less often",
        "Sum the values on each rank and reduce them every hundred steps.",
    ),
)
_ANY = (
    Fix(
        "Start it early and wait late",
        "With async_op=True torch.distributed's calls return at once; compute what does not need "
        "the result before wait().",
        "work = torch.distributed.all_reduce(x, async_op=True)\n...\nwork.wait()",
    ),
)
