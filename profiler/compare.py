"""Two runs compared: what got slower, by how much, and in which slot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from .diagnose import diagnose_features
from .diagnosis import SLOTS, Diagnosis, Slot
from .errors import UnusableData
from .features import Features, RankFeatures
from .shares import BLOCKS, steady_phases
from .text import milliseconds, percent
from .trace.host import OpTime

Float = npt.NDArray[np.float64]

SCHEMA = 1

NOISE_Z = 1.96
"""Half width of the interval in standard errors: 95 % of a normal distribution."""

MIN_NOISE = 0.05
"""One run of each is not claimed to differ by less, however even its steps are: one GEMM varies
by up to 14 % between devices of a fleet (PRISM, 2025), so nothing below about 5 % is said without
repeats."""

MAX_OPS = 20

IGNORED = {("git", "dirty"), ("launcher", "pid")}


class SlotChange(msgspec.Struct, frozen=True):
    """Time of one slot in a step of each run, ms."""

    slot: Slot
    base_ms: float
    new_ms: float

    @property
    def change_ms(self) -> float:
        """What it takes more; negative where it takes less."""
        return self.new_ms - self.base_ms


class OpChange(msgspec.Struct, frozen=True):
    """Own time of an op, or a kernel (all its shapes together), in a step of each run, ms; 0 where
    it is not."""

    name: str
    base_ms: float
    new_ms: float

    @property
    def change_ms(self) -> float:
        """What it takes more; negative where it takes less."""
        return self.new_ms - self.base_ms


class Named(msgspec.Struct, frozen=True):
    """A finding by its id and title."""

    id: str
    title: str


class Difference(msgspec.Struct, frozen=True):
    """One fact of the environment that differs; an empty value was not recorded."""

    group: str
    name: str
    base: str
    new: str


class Side(msgspec.Struct, frozen=True):
    """One of the runs: `step_ms` is the mean steady step with all that happens in it, checkpoints
    and evaluation included, `median_ms` the median one, as the run's own report has it."""

    id: str
    name: str
    bound: str
    step_ms: float
    median_ms: float
    steps: int
    world_size: int


class Comparison(msgspec.Struct, frozen=True):
    """What changed from `base` to `new`.

    `change` is the relative change of the mean step time, above 0 where the new run is slower,
    `low` to `high` its 95 % interval by the spread of blocks of steps, at least `MIN_NOISE` to
    either side for what differs from one start to the next. `slots` sum to the change of the step
    time.
    """

    schema: int
    base: Side
    new: Side
    change: float
    low: float
    high: float
    headline: str
    slots: list[SlotChange]
    gained: list[Named]
    lost: list[Named]
    kept: list[Named]
    ops: list[OpChange]
    environment: list[Difference]
    cautions: list[str]
    kernels: list[OpChange] = []

    @property
    def is_certain(self) -> bool:
        """Whether the change is more than the noise within the runs."""
        return self.low > 0 or self.high < 0

    def exceeds(self, limit: float) -> bool:
        """Whether the new run is slower by more than `limit`, a share of the base's step time."""
        return self.change > limit


def compare(base: Features, new: Features) -> Comparison:
    """Compare two runs by their features; raises UnusableData when one has no steady step."""
    diagnoses = [diagnose_features(features) for features in (base, new)]
    sides = [_side(*pair) for pair in zip((base, new), diagnoses, strict=True)]
    change, low, high = _change(base, new)
    slots = _slots(base, new, sides)
    gained, lost, kept = _findings(*diagnoses)
    return Comparison(
        schema=SCHEMA,
        base=sides[0],
        new=sides[1],
        change=change,
        low=low,
        high=high,
        headline=_headline(sides, change, (low, high), slots),
        slots=slots,
        gained=gained,
        lost=lost,
        kept=kept,
        ops=_moved(base, new, lambda op: op.name),
        environment=_environment(base, new),
        cautions=_cautions(base, new, sides),
        kernels=_moved(base, new, lambda op: op.kernel),
    )


def _step_times(rank: RankFeatures) -> Float:
    """Durations of the steady steps with the profiler's cost taken out, ms."""
    phases = list(steady_phases(rank.timeline).values())
    return np.asarray(np.sum(phases, axis=0) * 1e-6, np.float64)


def _job_steps(features: Features) -> Float:
    """The mean over the ranks of each steady step that all of them have, ms."""
    times = [_step_times(rank) for rank in features.ranks]
    shortest = min((len(values) for values in times), default=0)
    if not shortest:
        name = features.run.manifest.name or features.run.folder.name
        raise UnusableData(
            "no-steps",
            f"{name} has no steady step to compare.",
            "a run needs at least two optimizer steps",
        )
    return np.asarray(np.mean([values[:shortest] for values in times], axis=0), np.float64)


def _change(base: Features, new: Features) -> tuple[float, float, float]:
    """The relative change of the mean step time and its interval."""
    means, errors = [], []
    for features in (base, new):
        steps = _job_steps(features)
        blocks = [float(part.mean()) for part in np.array_split(steps, BLOCKS) if len(part)]
        spread = float(np.std(blocks, ddof=1)) / len(blocks) ** 0.5 if len(blocks) > 1 else 0.0
        means.append(float(steps.mean()))
        errors.append(spread / means[-1])
    change = means[1] / means[0] - 1
    noise = NOISE_Z * (1 + change) * float(np.hypot(errors[0], errors[1]))
    half = max(noise, MIN_NOISE)
    return round(change, 4), round(change - half, 4), round(change + half, 4)


def _side(features: Features, diagnosis: Diagnosis) -> Side:
    steps = _job_steps(features)
    run = diagnosis.run
    return Side(
        id=run.id,
        name=run.name or features.run.folder.name,
        bound=diagnosis.verdict.bound,
        step_ms=round(float(steps.mean()), 4),
        median_ms=run.step_ms.median if run.step_ms else round(float(np.median(steps)), 4),
        steps=run.steps,
        world_size=run.world_size,
    )


def _slots(base: Features, new: Features, sides: Sequence[Side]) -> list[SlotChange]:
    """Each slot's time a step, largest change first; those that neither run has are left out."""
    changes = [
        SlotChange(
            slot,  # type: ignore[arg-type]
            round(base.shares[slot] * sides[0].step_ms, 4),
            round(new.shares[slot] * sides[1].step_ms, 4),
        )
        for slot in SLOTS
    ]
    shown = [change for change in changes if change.base_ms or change.new_ms]
    return sorted(shown, key=lambda change: -abs(change.change_ms))


def _findings(base: Diagnosis, new: Diagnosis) -> tuple[list[Named], list[Named], list[Named]]:
    """Findings that the new run has and the base has not, the other way round, and common ones."""
    before = {finding.id: Named(finding.id, finding.title) for finding in base.findings}
    after = {finding.id: Named(finding.id, finding.title) for finding in new.findings}
    return (
        [named for key, named in after.items() if key not in before],
        [named for key, named in before.items() if key not in after],
        [named for key, named in after.items() if key in before],
    )


def _moved(base: Features, new: Features, name: Callable[[OpTime], str]) -> list[OpChange]:
    """Ops by the size of their change, told apart by a name; empty where a run has none."""
    times = [_times(features, name) for features in (base, new)]
    if not all(times):
        return []
    changes = [
        OpChange(one, round(times[0].get(one, 0.0), 4), round(times[1].get(one, 0.0), 4))
        for one in {**times[0], **times[1]}
    ]
    return sorted(changes, key=lambda change: -abs(change.change_ms))[:MAX_OPS]


def _times(features: Features, name: Callable[[OpTime], str]) -> Mapping[str, float]:
    """Own time of the ops of each name a step, ms: the mean over the ranks."""
    totals: dict[str, float] = {}
    for rank in features.ranks:
        for op in rank.ops:
            if called := name(op):
                own = rank.per_step(op.self_ns * 1e-6) / len(features.ranks)
                totals[called] = totals.get(called, 0.0) + own
    return totals


def _environment(base: Features, new: Features) -> list[Difference]:
    """Facts that differ, the torch versions and the command included."""
    facts = [_facts(features) for features in (base, new)]
    keys = sorted({*facts[0], *facts[1]} - IGNORED)
    return [
        Difference(*key, facts[0].get(key, ""), facts[1].get(key, ""))
        for key in keys
        if facts[0].get(key, "") != facts[1].get(key, "")
    ]


def _facts(features: Features) -> dict[tuple[str, str], str]:
    manifest = features.run.manifest
    facts = {
        (group, name): value
        for group, values in manifest.environment.items()
        for name, value in values.items()
    }
    facts["run", "command"] = " ".join(manifest.command)
    process = next((r.data.process for r in features.ranks if r.data.process), None)
    if process is not None:
        facts["torch", "version"] = process.torch
        facts["torch", "threads"] = process.facts.get("threads", "")
    return facts


def _cautions(base: Features, new: Features, sides: Sequence[Side]) -> list[str]:
    """What makes the comparison one of unlike things."""
    found = []
    if sides[0].world_size != sides[1].world_size:
        found.append(
            f"the base has {sides[0].world_size} ranks and the new run {sides[1].world_size}: a "
            "step may not be the same work"
        )
    hardware = [features.run.manifest.environment.get("hardware", {}) for features in (base, new)]
    for part, words in (("cpu", "processors"), ("gpus", "GPUs")):
        if hardware[0].get(part, "") != hardware[1].get(part, ""):
            found.append(f"the runs were made on different {words}")
    for words, features in (("base", base), ("new run", new)):
        if {w.slug for w in features.warnings} & {"busy-host", "overloaded-host"}:
            found.append(f"other processes took much of the CPU during the {words}")
    return found


def _headline(
    sides: Sequence[Side],
    change: float,
    interval: tuple[float, float],
    slots: Sequence[SlotChange],
) -> str:
    times = (
        f"{milliseconds(sides[0].step_ms)} to {milliseconds(sides[1].step_ms)} a step on average"
    )
    if interval[0] <= 0 <= interval[1]:
        return (
            f"No difference beyond the noise: {times} "
            f"({signed(change)}, {signed(interval[0])} to {signed(interval[1])})."
        )
    way = "slower" if change > 0 else "faster"
    words = f"{percent(abs(change))} {way}: {times}"
    towards = [slot for slot in slots if slot.change_ms * change > 0]
    if towards:
        most = towards[0]
        more = "more" if most.change_ms > 0 else "less"
        words += f", most of it {most.slot} ({milliseconds(abs(most.change_ms))} {more})"
    return words[0].upper() + words[1:] + "."


def signed(share: float) -> str:
    """Return a change as "+12 %" or "−3 %"."""  # noqa: RUF002 - a minus sign
    sign = "+" if share >= 0 else "−"  # noqa: RUF001
    return f"{sign}{percent(abs(share))}"
