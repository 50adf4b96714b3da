"""What the rules share: the case they judge, savings with intervals, places, limits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..diagnosis import Evidence, Finding, Fix, Place, Saving, Slot
from ..features import Features, RankFeatures
from ..hot_lines import HotLine
from ..lanes import replay_of
from ..recorded_facts import MAX_CORES, first_number
from ..text import percent
from ..trace.host import OpTime
from ..whatif import Removal, Replay

MIN_SHARE = 0.05
"""Nothing below 5 % is claimed: one GEMM varies by up to 14 % between devices of a fleet (PRISM,
2025), and XProf calls input above 5 % moderately bound."""

MODELLED_UNCERTAINTY = 0.15
"""Relative width of the interval of shares that come from trace windows, not from every step."""

MEASURED_UNCERTAINTY = 0.02
"""Absolute width of the interval of shares that every step measures (loader, checkpoint)."""

RISKS = frozenset(
    {"memory-growth", "device-memory-growth", "fragmentation", "allocator-retries", "swapping"}
)
"""Findings that stand whatever they save today: the run ends badly."""

MEASURED_SLOTS = frozenset({"input", "storage", "evaluation"})

WARM_ROOF = 0.6
"""Undisturbed ops reach 60 to 90 % of their roof (see compute.NEAR_ROOF)."""

FOLLOWED_SLOTS = ("input", "host", "compute", "memory", "storage", "evaluation")
"""What can make a rank late."""

WORK_SLOTS = ("compute", "memory")
"""A rank with more of both has more work: taking away one of them does not end the others' wait,
even work does."""

ONE_KIND = 2 / 3
"""From this part of a rank's excess on, a single slot of work made it late: without that slot most
of the others' wait goes."""

FOLLOW_MIN = 0.5
"""A rank's lateness is charged to its causes when they explain at least half of the wait."""


@dataclass(frozen=True)
class Blame:
    """Who made the others wait and in which slots: `charged` adds to the slots' shares."""

    rank: int | None
    charged: dict[str, float]


@dataclass(frozen=True)
class Evidenced:
    """A case: the features, and what follows from comparing the ranks."""

    features: Features

    @cached_property
    def blame(self) -> Blame:
        """Charge the waits for a late rank to what made it late."""
        return follow(self.features)

    @cached_property
    def replay(self) -> Replay:
        """The job as lanes that meet at collectives, for savings."""
        return replay_of(self.features)

    @cached_property
    def profiled(self) -> Replay:
        """The same with the profiler's cost in the host's own path: the most that it may hide."""
        return replay_of(self.features, with_profiler=True)

    @cached_property
    def scores(self) -> dict[str, float]:
        """Slot to the share of step time that it holds, causes followed: the verdict's ground.

        A wait for a late rank is charged to what made that rank late, or stays `imbalance`.
        """
        scores = dict(self.features.shares)
        for slot, extra in self.blame.charged.items():
            scores[slot] += extra
            scores["imbalance"] -= extra
        scores["imbalance"] = max(0.0, scores["imbalance"])
        return scores

    def aftermath(self, slot: str) -> float:
        """The part of a slot's score that is slower work behind its events, mean over the ranks."""
        return float(np.mean([rank.aftermath.get(slot, 0.0) for rank in self.features.ranks]))

    def fresh_share(self, rank: RankFeatures) -> float:
        """The part of the score of `memory` that is pages handed out anew, as on this rank."""
        held = rank.shares["memory"]
        return self.scores["memory"] * min(1.0, rank.fresh.share / held) if held else 0.0

    @property
    def cores(self) -> int:
        """Cores that the job may use on a host; 1 where nothing is recorded."""
        limits = self.features.run.manifest.environment.get("limits", {})
        return max(1, math.floor(min(first_number(limits.get("cores", "")), MAX_CORES)))

    @property
    def ranks_a_host(self) -> int:
        """The most ranks on one host."""
        hosts = [rank.data.host for rank in self.features.ranks]
        return max((hosts.count(host) for host in hosts), default=1)

    @property
    def cores_a_rank(self) -> int:
        """Cores for each rank of a host; at least one."""
        return max(1, self.cores // self.ranks_a_host)

    def worst_rank(self, slot: str) -> RankFeatures:
        """The rank with the largest share of `slot`."""
        return max(self.features.ranks, key=lambda rank: rank.shares[slot])

    def saving(self, slot: str, share: float | None = None) -> Saving:
        """Share of the step that would go with `share` of it in `slot`, by replay.

        The interval: the inner 80 % of the blocks of steps, and what the way of measuring leaves
        open. The whole slot goes where `share` is left out.
        """
        held = self.scores[slot]
        part = 1.0 if share is None or held <= 0 else min(1.0, share / held)
        removal = Removal({slot: part})
        saved = self.replay.saved(removal)
        # How much of what was hidden comes to light is modelled: at worst all, at best nothing.
        high = self.replay.saved(removal, floors=False).high
        mid, low = saved.mid, min(saved.low, self.profiled.saved(removal).low)
        if slot in MEASURED_SLOTS:
            low, high = low - MEASURED_UNCERTAINTY, high + MEASURED_UNCERTAINTY
        else:
            low, high = low * (1 - MODELLED_UNCERTAINTY), high * (1 + MODELLED_UNCERTAINTY)
        bounds = (max(0.0, min(low, mid)), min(0.99, max(high, mid)))
        low, high = (round(float(bound), 4) for bound in bounds)
        return Saving(low, round(float(min(mid, 0.99)), 4), high)

    def finding(  # noqa: PLR0913 - the parts of a finding, by keyword
        self,
        *,
        id: str,
        bound: Slot,
        title: str,
        evidence: list[Evidence],
        where: list[Place],
        fixes: list[Fix],
        share: float | None = None,
        cold: RankFeatures | None = None,
    ) -> Finding:
        """A finding whose saving is the slot's score, or `share` of the step.

        `cold`: the rank whose work gets faster, too, without the wait that the finding is about.
        """
        saving = self.saving(bound, share)
        if cold is not None:
            saving = _warmed(saving, warm_gain(cold))
        return Finding(
            id=id,
            bound=bound,
            saving=saving,
            speedup=round(1 / (1 - saving.mid), 2),
            evidence=evidence,
            where=where,
            fixes=fixes,
            title=title,
        )

    def held_back(  # noqa: PLR0913 - the parts of a finding, by keyword
        self,
        *,
        id: str,
        title: str,
        saving: Saving,
        evidence: list[Evidence],
        where: list[Place],
        fixes: list[Fix],
        bound: Slot = "host",
    ) -> Finding:
        """A finding whose saving was measured otherwise than by its slot's share.

        A saving of nothing stands for a risk: the run gets no faster, but it ends badly.
        """
        speedup = round(1 / (1 - min(0.99, saving.mid)), 2)
        return Finding(id, bound, saving, speedup, evidence, where, fixes, title)


def follow(features: Features) -> Blame:
    """Find the rank that the others wait for, and the slots in which it spends more than they.

    The late rank is the one that waits least. When its excess over the others' means explains at
    least `FOLLOW_MIN` of their wait, the wait is charged to the slots of the excess in
    proportion. Ranks that are late in turn explain nothing, and more work of every kind is no
    cause but the imbalance itself: then the wait stays `imbalance`.
    """
    wait = features.shares.get("imbalance", 0.0)
    if len(features.ranks) < 2 or wait < MIN_SHARE / 2:
        return Blame(None, {})
    late = min(features.ranks, key=lambda rank: rank.shares["imbalance"])
    others = [rank for rank in features.ranks if rank is not late]
    waited = float(np.mean([rank.shares["imbalance"] for rank in others]))
    excess = {
        slot: late.shares[slot] - float(np.mean([rank.shares[slot] for rank in others]))
        for slot in FOLLOWED_SLOTS
    }
    causes = _causes({slot: value for slot, value in excess.items() if value > 0})
    explained = sum(causes.values())
    if waited <= 0 or explained < FOLLOW_MIN * waited:
        return Blame(late.rank, {})
    charged = {slot: wait * value / explained for slot, value in causes.items()}
    return Blame(late.rank, charged)


def _causes(excess: dict[str, float]) -> dict[str, float]:
    """Of a rank's excess the slots that can be called its cause: not work of all kinds."""
    work = {slot: value for slot, value in excess.items() if slot in WORK_SLOTS}
    if not work or max(work.values()) >= ONE_KIND * sum(excess.values()):
        return excess
    return {slot: value for slot, value in excess.items() if slot not in WORK_SLOTS}


def warm_gain(rank: RankFeatures) -> float:
    """The share of the rank's work that would go at most if its ops ran as near to their roofs as
    undisturbed ones do; 0 where costs or roofs are not known.

    Work that follows a long wait finds its caches cold and its threads asleep: a small network
    took 6 times as long after 70 ms of waiting as without (benchmarks/removal.py, slow_store).
    """
    known = [op for op in rank.ops if op.attainable_ns > 0 and op.slot != "network"]
    above = sum(max(0.0, op.work_ns - op.attainable_ns / WARM_ROOF) for op in known)
    return min(1.0, above / (rank.window_ms * 1e6)) if rank.window_ms and not rank.device else 0.0


def _warmed(saving: Saving, gain: float) -> Saving:
    """The saving with an upper end that lets the rest of the step get faster by `gain`."""
    high = 1 - (1 - saving.mid) * (1 - gain)
    return Saving(saving.low, saving.mid, round(min(0.99, max(saving.high, high)), 4))


def aftermath_evidence(share: float, slot: Slot, event: str) -> list[Evidence]:
    """That the work behind an event takes longer, where that shows: `share` of the step."""
    if share <= 0:
        return []
    text = (
        f"the steps behind {event} work longer than the others: "
        f"{percent(share)} of the steady time more"
    )
    return [Evidence(text, f"{slot}.aftermath_share", round(share, 4), "share", "steps")]


def removable(ops: list[OpTime], share: float) -> float:
    """The part of `share` that goes when the roof that limits `ops` is lifted.

    What the other roof asks for stays: fused element-wise ops still calculate, a smaller matrix
    product still reads its operands.
    """
    work = sum(op.work_ns for op in ops)
    floor = sum(min(op.floor_ns, op.work_ns) for op in ops)
    # Where an op runs below its roof, so it would below the other one.
    known = sum(op.work_ns for op in ops if op.attainable_ns > 0)
    attainable = sum(op.attainable_ns for op in ops)
    floor *= max(1.0, known / attainable) if attainable else 1.0
    floor = min(floor, work)
    return share * (1 - floor / work) if work else share


def place(line: HotLine, rank: int | None = None) -> Place:
    """A hot line as a finding's place."""
    return Place(rank=rank, file=line.file, line=line.line, function=line.function)
