"""What a step would take without a cause: a small replay of ranks, loader workers and collectives.

Each rank is a lane: the time of each slot per block of steps. Ranks meet at their collectives, so a
step ends when the slowest lane is there and the bytes have moved. What was hidden behind the cause
comes to light: the loader workers' throughput, the host's own path beside a device, communication
that ran under the removed work. So a saving is what the replay without the cause saves, never the
cause's share alone (the idea is Daydream's: Zhu et al., USENIX ATC 2020).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .diagnosis import SLOTS

Float = npt.NDArray[np.float64]

NETWORK, IMBALANCE, INPUT = (SLOTS.index(slot) for slot in ("network", "imbalance", "input"))
HOST = SLOTS.index("host")
OWN = [i for i in range(len(SLOTS)) if i not in (NETWORK, IMBALANCE)]
WORKING = [SLOTS.index(slot) for slot in ("compute", "memory", "host")]
"""Slots of the work that communication can hide under."""

SPREAD = (0.1, 0.9)
"""The interval holds the inner 80 % of the blocks of steps."""


@dataclass(frozen=True)
class Lane:
    """One rank: `slots_ms` has a row a block of steps and a column a slot, ms per step.

    Floors are what a step takes at least, ms, for what is hidden today (0: not known, no floor):
    `workers_ms`, the loader workers' time for a batch over their number; `host_ms`, the host's own
    path beside a device. `hidden_ms` is communication under the rank's work.
    """

    slots_ms: Float
    workers_ms: float = 0.0
    host_ms: float = 0.0
    hidden_ms: float = 0.0


@dataclass(frozen=True)
class Removal:
    """What goes: slot to the share of its time that goes with the cause, on `rank` or on all."""

    shares: Mapping[str, float]
    rank: int | None = None

    def of(self, slot: int, lane: int) -> float:
        """The share of a slot's time that goes on a lane."""
        if self.rank is not None and lane != self.rank:
            return 0.0
        return min(1.0, max(0.0, self.shares.get(SLOTS[slot], 0.0)))


NOTHING = Removal({})


@dataclass(frozen=True)
class Saved:
    """Share of step time that goes: over all steps, and over the inner 80 % of the blocks."""

    mid: float
    low: float
    high: float


class Replay:
    """A job of one or more lanes, replayed with causes removed. Blocks are common to all lanes."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        blocks = min((len(lane.slots_ms) for lane in lanes), default=0)
        self.lanes = [_cut(lane, blocks) for lane in lanes]
        self.blocks = blocks
        measured = np.mean([lane.slots_ms.sum(axis=1) for lane in self.lanes], axis=0)
        self.measured_ms: Float = np.asarray(measured, np.float64)
        # What neither the slowest lane nor the transfer explains: lanes that are late in turn
        # within a block, which a block's mean cannot show.
        self._in_turn = np.maximum(0.0, self.measured_ms - self._met(NOTHING, floors=False))

    def step_ms(self, removal: Removal, *, floors: bool = True) -> Float:
        """Time of a step in each block without the cause; `floors`: with what comes to light."""
        turn = 1.0 - removal.of(IMBALANCE, removal.rank or 0)
        return self._met(removal, floors=floors) + self._in_turn * turn

    def saved(self, removal: Removal, *, floors: bool = True) -> Saved:
        """The share of step time that goes with the cause."""
        before = self._met(NOTHING, floors=False) + self._in_turn
        after = np.minimum(before, self.step_ms(removal, floors=floors))
        whole = float(before.sum())
        if whole <= 0:
            return Saved(0.0, 0.0, 0.0)
        each = np.divide(before - after, before, out=np.zeros(self.blocks), where=before > 0)
        low, high = np.quantile(each, SPREAD)
        mid = 1.0 - float(after.sum()) / whole
        return Saved(mid, min(float(low), mid), max(float(high), mid))

    def _met(self, removal: Removal, *, floors: bool) -> Float:
        """When the slowest lane has done its own and the bytes have moved, ms per step."""
        own = np.array([self._own(i, removal, floors=floors) for i in range(len(self.lanes))])
        moved = np.mean(
            [
                lane.slots_ms[:, NETWORK] * (1 - removal.of(NETWORK, i))
                for i, lane in enumerate(self.lanes)
            ],
            axis=0,
        )
        even = removal.of(IMBALANCE, removal.rank or 0)
        slowest = own.max(axis=0) * (1 - even) + own.mean(axis=0) * even
        return np.asarray(slowest + moved, np.float64)

    def _own(self, index: int, removal: Removal, *, floors: bool) -> Float:
        lane = self.lanes[index]
        kept = np.array([1 - removal.of(slot, index) for slot in range(len(SLOTS))])
        left = lane.slots_ms * kept
        own = left[:, OWN].sum(axis=1)
        own = own + self._uncovered(lane, left, removal.of(NETWORK, index))
        if floors:
            own = np.maximum(own, lane.workers_ms * kept[INPUT])
            # The host's own path holds its waits for the loader, too: they go with their cause.
            gone = (lane.slots_ms - left)[:, [HOST, INPUT]].sum(axis=1)
            own = np.maximum(own, lane.host_ms - gone)
        return np.asarray(own, np.float64)

    @staticmethod
    def _uncovered(lane: Lane, left: Float, network: float) -> Float:
        """Communication that hid under work which is gone, ms."""
        before = lane.slots_ms[:, WORKING].sum(axis=1)
        after = left[:, WORKING].sum(axis=1)
        gone = np.divide(before - after, before, out=np.zeros(len(before)), where=before > 0)
        return np.asarray(lane.hidden_ms * (1 - network) * gone, np.float64)


def _cut(lane: Lane, blocks: int) -> Lane:
    """A lane that recorded a block more than others (a step at the end) is cut to theirs."""
    if len(lane.slots_ms) == blocks:
        return lane
    return Lane(lane.slots_ms[:blocks], lane.workers_ms, lane.host_ms, lane.hidden_ms)


@dataclass(frozen=True)
class Pipeline:
    """A loop and its loader, ms per step: what to expect of so many workers.

    `wait_ms` is what the loop waits for one batch made by itself, of which `cpu_share` is work on a
    core; `work_ms` the rest of the step, in which `threads` threads use as many cores.
    """

    wait_ms: float
    cpu_share: float
    work_ms: float
    cores: int
    threads: int = 1

    def step_ms(self, workers: int, *, at_once: int = 1) -> float:
        """Step time with `workers` processes that read ahead; `at_once`: samples in flight each.

        The loop can be no faster than its own work, than its workers, or than the cores that both
        share.
        """
        waiting = self.wait_ms * (1 - self.cpu_share) / max(1, at_once)
        making = waiting + self.wait_ms * self.cpu_share
        if not workers:
            return self.work_ms + making
        busy = self.work_ms * min(self.threads, self.cores) + self.wait_ms * self.cpu_share
        return max(self.work_ms, making / workers, busy / max(1, self.cores))

    def saving(self, workers: int, *, at_once: int = 1) -> float:
        """Share of today's step (no workers) that goes."""
        today = self.wait_ms + self.work_ms
        return max(0.0, 1 - self.step_ms(workers, at_once=at_once) / today) if today else 0.0
