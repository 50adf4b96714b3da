"""From `Features` to the lanes that `whatif` replays."""

from __future__ import annotations

import numpy as np

from .features import Features, RankFeatures
from .trace.intervals import total
from .whatif import Lane, Replay
from .workers import worker_time


def replay_of(features: Features, *, with_profiler: bool = False) -> Replay:
    """The job as lanes, one a rank; `with_profiler`: its cost stays in the host's own path."""
    return Replay([_lane(features, rank, with_profiler) for rank in features.ranks])


def _lane(features: Features, rank: RankFeatures, with_profiler: bool) -> Lane:
    blocks = rank.block_shares
    step = float(np.mean(rank.step_ms)) if len(rank.step_ms) else 0.0
    lengths = rank.block_ms if len(rank.block_ms) == len(blocks) else np.full(len(blocks), step)
    slots_ms = blocks * lengths[:, None]
    mean = float(lengths.mean()) if len(lengths) else 0.0
    time = worker_time(features.run, rank)
    cost = 0.0 if with_profiler else rank.facts.profiler_share
    return Lane(
        slots_ms=slots_ms,
        workers_ms=0.0 if time is None else time.busy_share * mean,
        host_ms=max(0.0, rank.facts.host_path - cost) * mean,
        hidden_ms=_hidden_ms(rank, mean),
    )


def _hidden_ms(rank: RankFeatures, step_ms: float) -> float:
    """Communication of a step that ran under the rank's own work, ms."""
    if not rank.collectives or not rank.window_ms:
        return 0.0
    communication = rank.per_step(total(rank.communicating) * 1e-6)
    exposed = (rank.shares["network"] + rank.shares["imbalance"]) * step_ms
    return float(np.clip(communication - exposed, 0.0, step_ms))
