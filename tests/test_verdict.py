"""From slots to the verdict: causes followed across ranks, ties, and what does not suffice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boundscope.collectors.records import Manifest, Window
from boundscope.profiler.diagnose import diagnose_features
from boundscope.profiler.diagnosis import SLOTS, Diagnosis, Finding, Saving, Warning_
from boundscope.profiler.features import Features, RankFeatures
from boundscope.profiler.rules.base import Evidenced, follow
from boundscope.profiler.run.load import RankData, Run, SpanTable
from boundscope.profiler.timeline import PHASES, Timeline
from boundscope.profiler.trace.host import HostWindow, OpTime
from boundscope.profiler.verdict import judge
from boundscope.profiler.whatif import Lane, Replay

EMPTY = np.empty(0, np.int64)
STEP_NS = 10_000_000


def make_rank(number: int, steps: int, **shares: float) -> RankFeatures:
    full = {**dict.fromkeys(SLOTS, 0.0), **shares}
    full["other"] += 1.0 - sum(full.values())
    spans = SpanTable(np.empty(0, np.uint8), EMPTY, EMPTY, EMPTY)
    data = RankData(number, 1, "h", Path("r"), spans, [], [], None, [], [])
    start = np.arange(steps, dtype=np.int64) * STEP_NS
    nothing = {phase: np.zeros(steps) for phase in PHASES}
    line = Timeline(
        rank=number,
        source="optimizer",
        start_ns=start,
        end_ns=start + STEP_NS,
        phase_ns={**nothing, "rest": np.full(steps, float(STEP_NS))},
        phase_intervals=dict.fromkeys(PHASES, (EMPTY, EMPTY)),
        steady=np.ones(steps, np.bool_),
        profiled=np.zeros(steps, np.bool_),
        first_ns=0,
    )
    return RankFeatures(
        data=data,
        timeline=line,
        shares=full,
        block_shares=np.array([[full[slot] for slot in SLOTS]]),
        phase_ms={phase: float(values.mean()) * 1e-6 for phase, values in line.phase_ns.items()},
        ops=[],
        window_ms=0.0,
        event_overhead_ns=0.0,
        collectives=[],
    )


def make_features(*ranks: RankFeatures, **manifest: Any) -> Features:
    facts: dict[str, Any] = {
        "schema": 1,
        "id": "id",
        "name": "n",
        "command": [],
        "cwd": "",
        "started_ns": 0,
        "status": "finished",
        "launcher_pid": 0,
        "launcher_start_ticks": 0,
        "host": "h",
        "version": "",
    }
    run = Run(Path("r"), Manifest(**{**facts, **manifest}), "finished")
    known = {"ranks": [rank.data for rank in ranks], "metrics": [], "stacks": {}}
    run.__dict__.update({**known, "processes": [], "gaps": [], "_node_files": []})
    shares = {slot: float(np.mean([r.shares[slot] for r in ranks])) for slot in SLOTS}
    return Features(run, list(ranks), shares, {})


def judged(*ranks: RankFeatures) -> Diagnosis:
    return diagnose_features(make_features(*ranks))


WINDOW = Window(0, 0, STEP_NS, 0, 1, "trace-0.json")


def with_windows(rank: RankFeatures, *, read: bool) -> RankFeatures:
    """A rank that recorded a window, whose trace could be read or not."""
    divided = [(WINDOW, HostWindow({}, [], [], 0, STEP_NS))] if read else []
    return replace(rank, data=replace(rank.data, windows=[WINDOW]), windows=divided)


@pytest.mark.parametrize(
    ("rank", "slug", "reason"),
    [
        (make_rank(0, 50), "", "no torch-profiler window of steady steps was recorded."),
        (with_windows(make_rank(0, 50), read=False), "", "could not be used."),
        (with_windows(make_rank(0, 50), read=True), "", "do not show what happened in it."),
        (with_windows(make_rank(0, 50), read=True), "device-not-recorded", "but not what it did."),
    ],
    ids=["no-window", "unreadable", "seen", "device"],
)
def test_time_that_could_not_be_attributed_has_its_real_reason(
    rank: RankFeatures, slug: str, reason: str
) -> None:
    features = make_features(rank)
    warnings = [Warning_(slug, "said by the trace")] if slug else []

    verdict = diagnose_features(replace(features, warnings=warnings)).verdict

    assert verdict.bound == "unknown"
    assert verdict.headline.startswith("Unknown: 100 % of the time could not be attributed")
    assert verdict.headline.endswith(reason)


def test_the_largest_slot_is_the_bound_and_the_next_the_runner_up() -> None:
    diagnosis = judged(make_rank(0, 50, compute=0.7, memory=0.2, host=0.1))

    assert diagnosis.verdict.bound == "compute"
    assert diagnosis.verdict.runner_up == "memory"


def test_a_wait_for_a_rank_with_a_slow_loader_is_charged_to_input() -> None:
    late = make_rank(1, 50, input=0.8, compute=0.2)
    waiting = make_rank(0, 50, compute=0.2, imbalance=0.78, input=0.02)

    blame = follow(make_features(waiting, late))
    diagnosis = judged(waiting, late)

    assert blame.rank == 1
    assert blame.charged["input"] == pytest.approx(0.39)
    assert diagnosis.verdict.bound == "input"
    assert diagnosis.breakdown["imbalance"] == pytest.approx(0.39)


def test_a_rank_with_more_arithmetic_makes_the_job_compute_bound() -> None:
    diagnosis = judged(
        make_rank(0, 50, compute=0.4, imbalance=0.5, host=0.1),
        make_rank(1, 50, compute=0.9, host=0.1),
    )

    assert diagnosis.verdict.bound == "compute"


def test_uneven_work_is_named_with_the_late_rank_and_what_even_work_would_save() -> None:
    diagnosis = judged(
        make_rank(0, 50, compute=0.4, imbalance=0.5, host=0.1),
        make_rank(1, 50, compute=0.9, host=0.1),
    )

    late = next(finding for finding in diagnosis.findings if finding.id == "late-rank")
    # Evenly divided each rank has 0.65 of arithmetic and 0.1 of host: a quarter goes.
    assert late.saving.mid == pytest.approx(0.25)
    assert [place.rank for place in late.where] == [1]
    excess = {e.quantity: e.value for e in late.evidence}["imbalance.excess_compute"]
    assert excess == pytest.approx(0.5)
    assert [fix.title for fix in late.fixes] == ["Give every rank the same work"]
    assert diagnosis.verdict.headline.endswith("; the other ranks wait for rank 1.")


@pytest.mark.parametrize("slot", ["input", "host", "memory", "storage"])
def test_whatever_makes_a_rank_late_the_headline_says_who_waits(slot: str) -> None:
    late = make_rank(1, 50, **{slot: 0.9, "compute": 0.1})
    waiting = make_rank(0, 50, compute=0.1, imbalance=0.9)

    diagnosis = judged(waiting, late)

    assert diagnosis.verdict.bound == slot
    assert diagnosis.verdict.headline.endswith("; the other ranks wait for rank 1.")


def test_more_work_of_every_kind_is_imbalance() -> None:
    diagnosis = judged(
        make_rank(0, 50, compute=0.12, memory=0.16, host=0.12, imbalance=0.6),
        make_rank(1, 50, compute=0.33, memory=0.36, host=0.31),
    )

    assert diagnosis.verdict.bound == "imbalance"
    assert diagnosis.findings[0].id == "late-rank"
    assert [place.rank for place in diagnosis.findings[0].where] == [1]


def test_a_late_rank_with_a_slow_loader_and_some_more_work_is_charged_to_input() -> None:
    waiting = make_rank(0, 50, compute=0.2, memory=0.1, imbalance=0.7)
    late = make_rank(1, 50, compute=0.3, memory=0.15, input=0.55)

    assert set(follow(make_features(waiting, late)).charged) == {"input"}


def test_in_a_tie_the_avoidable_slot_is_named_also_where_it_is_the_larger() -> None:
    diagnosis = judged(make_rank(0, 50, compute=0.40, input=0.42, host=0.18))

    assert diagnosis.verdict.bound == "input"


def test_without_a_wait_nobody_is_said_to_wait() -> None:
    diagnosis = judged(*(make_rank(i, 50, compute=0.9, host=0.1) for i in (0, 1)))

    assert "wait for rank" not in diagnosis.verdict.headline
    assert "late-rank" not in {finding.id for finding in diagnosis.findings}


def test_ranks_that_are_late_in_turn_are_imbalance() -> None:
    ranks = [make_rank(i, 50, compute=0.3, imbalance=0.5, host=0.2) for i in (0, 1)]

    diagnosis = judged(*ranks)

    assert diagnosis.verdict.bound == "imbalance"
    assert diagnosis.findings[0].id == "late-rank"
    assert diagnosis.findings[0].where == []  # nothing tells either from the other


def test_two_avoidable_slots_that_are_as_large_are_balanced() -> None:
    diagnosis = judged(make_rank(0, 50, host=0.42, input=0.40, compute=0.18))

    assert diagnosis.verdict.bound == "balanced"


def test_in_a_tie_with_arithmetic_the_avoidable_slot_is_named() -> None:
    diagnosis = judged(make_rank(0, 50, compute=0.42, input=0.40, host=0.18))

    assert diagnosis.verdict.bound == "input"


def test_in_a_tie_with_arithmetic_memory_is_named_where_less_data_can_be_moved() -> None:
    case = Evidenced(make_features(make_rank(0, 50, compute=0.44, memory=0.43, host=0.13)))

    def bound(low: float) -> str:
        finding = Finding(
            "elementwise-bandwidth", "memory", Saving(low, 0.3, 0.4), 1.4, [], [], [], ""
        )
        return judge(case, [finding]).bound

    assert bound(0.2) == "memory"
    assert bound(0.05) == "balanced"  # what can go may be next to nothing
    assert judge(case, []).bound == "balanced"


@pytest.mark.parametrize(("memory", "host"), [(0.44, 0.42), (0.42, 0.44)])
def test_in_a_tie_with_memory_the_avoidable_slot_is_named_whatever_memory_may_save(
    memory: float, host: float
) -> None:
    case = Evidenced(make_features(make_rank(0, 50, memory=memory, host=host, compute=0.14)))
    saving = Saving(0.2, 0.3, 0.4)
    finding = Finding("elementwise-bandwidth", "memory", saving, 1.4, [], [], [], "")

    verdict = judge(case, [finding])

    assert verdict.bound == "host"
    assert "Moving data" not in verdict.headline


@pytest.mark.parametrize(
    ("reached", "promised", "bound"),
    [
        (0.1, 0.10, "compute"),
        (0.1, 0.30, "memory"),  # what can go is as much as arithmetic
        (0.9, 0.10, "memory"),  # limited by bandwidth, whatever can go
        (None, 0.10, "memory"),
    ],
    ids=["far-from-the-roof", "much-can-go", "near-the-roof", "roof-not-known"],
)
def test_traffic_far_from_its_roof_that_has_to_stay_is_not_what_binds(
    reached: float | None, promised: float, bound: str
) -> None:
    # Given: half of each step in copies, a third in products
    rank = make_rank(0, 50, memory=0.50, compute=0.34, host=0.16)
    copies = OpTime(
        "aten::index", "copy", "memory", 1, 1e6, 1e6, attainable_ns=1e6 * (reached or 0.0)
    )
    case = Evidenced(make_features(replace(rank, ops=[copies])))
    findings = [
        Finding("at-the-roof", "compute", Saving(0.3, 0.34, 0.4), 1.5, [], [], [], ""),
        Finding("copy-bandwidth", "memory", Saving(0.05, promised, 0.4), 1.1, [], [], [], ""),
    ]

    verdict = judge(case, findings)

    assert verdict.bound == bound
    told = "Moving data takes 50 %, but only 10 % could go." in verdict.headline
    assert told is (bound == "compute")


def test_a_slot_that_does_not_stand_out_is_not_named_for_traffic_that_has_to_stay() -> None:
    rank = make_rank(0, 50, memory=0.60, compute=0.25, host=0.15)
    copies = OpTime("aten::index", "copy", "memory", 1, 1e6, 1e6, attainable_ns=1e5)
    case = Evidenced(make_features(replace(rank, ops=[copies])))
    finding = Finding("at-the-roof", "compute", Saving(0.2, 0.25, 0.3), 1.3, [], [], [], "")

    assert judge(case, [finding]).bound == "memory"


def test_what_a_full_memory_costs_is_no_data_traffic() -> None:
    case = Evidenced(make_features(make_rank(0, 50, compute=0.44, memory=0.43, host=0.13)))
    saving = Saving(0.15, 0.3, 0.4)
    finding = Finding("allocator-retries", "memory", saving, 1.4, [], [], [], "")

    assert judge(case, [finding]).bound == "balanced"


def test_many_small_slots_are_balanced() -> None:
    shares = {"compute": 0.28, "memory": 0.2, "host": 0.18, "input": 0.17, "storage": 0.17}

    assert judged(make_rank(0, 50, **shares)).verdict.bound == "balanced"


def test_few_steps_are_unknown_and_say_so() -> None:
    diagnosis = judged(make_rank(0, 4, compute=1.0))

    assert diagnosis.verdict.bound == "unknown"
    assert diagnosis.verdict.confidence == 0.0
    assert "4 steady steps" in diagnosis.verdict.headline


def test_time_that_nothing_explains_is_unknown() -> None:
    assert judged(make_rank(0, 50, compute=0.3)).verdict.bound == "unknown"


def test_a_measured_slot_above_the_unexplained_rest_is_still_named() -> None:
    assert judged(make_rank(0, 50, input=0.8)).verdict.bound == "input"


def test_a_run_without_ranks_is_unknown_and_divides_into_other() -> None:
    diagnosis = diagnose_features(make_features_without_ranks())

    assert diagnosis.verdict.bound == "unknown"
    assert diagnosis.breakdown["other"] == 1.0
    assert sum(diagnosis.breakdown.values()) == 1.0


def make_features_without_ranks() -> Features:
    features = make_features(make_rank(0, 1))
    features.run.__dict__["ranks"] = []
    return Features(features.run, [], {}, {})


def test_more_steps_a_clearer_lead_and_less_unexplained_raise_the_confidence() -> None:
    def confidence(steps: int, compute: float, host: float) -> float:
        return judged(make_rank(0, steps, compute=compute, host=host)).verdict.confidence

    reference = confidence(20, 0.55, 0.45)

    assert confidence(60, 0.55, 0.45) > reference
    assert confidence(20, 0.9, 0.1) > reference
    assert confidence(20, 0.45, 0.35) < reference


@pytest.mark.parametrize(
    ("slugs", "left"),
    [
        (["string-time-stamps"], 1.0),
        (["byte-order-mark"], 1.0),
        (["lost-device-records"], 0.5),
        (["lost-device-records", "truncated"], 0.5 * 0.8),
        (["too-few-steps"], 0.9),
        (["lost-device-records"] * 8, 0.5),  # the same of eight ranks
    ],
)
def test_each_thing_that_is_wrong_takes_its_weight_of_the_confidence(
    slugs: list[str], left: float
) -> None:
    sound = make_features(make_rank(0, 60, compute=0.9, host=0.1))
    warned = replace(
        sound, warnings=[Warning_(slug, f"rank {i}: ") for i, slug in enumerate(slugs)]
    )

    before, after = (diagnose_features(one).verdict.confidence for one in (sound, warned))

    assert before > 0.9
    assert after == pytest.approx(before * left, abs=0.011)


def test_shares_are_rounded_so_that_they_still_sum_to_one() -> None:
    third = 1 / 3
    diagnosis = judged(make_rank(0, 50, compute=third, memory=third, host=third))

    assert sum(diagnosis.breakdown.values()) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ("garbage-collection", "garbage collection, Python and dispatch"),
        ("cpu-throttled", "waiting for the CPU quota, Python and dispatch"),
        ("tiny-ops", "every step is Python and dispatch"),
    ],
)
def test_a_host_bound_headline_names_what_holds_the_host_up(found: str, words: str) -> None:
    case = Evidenced(make_features(make_rank(0, 50, host=0.8, compute=0.2)))
    saving = Saving(0.6, 0.7, 0.8)
    finding = Finding(found, "host", saving, 3.3, [], [], [], title="")

    assert words in judge(case, [finding]).headline


@pytest.mark.parametrize(
    ("workers_ms", "bound", "runner_up"), [(9.9, "input", "compute"), (3.0, "compute", "input")]
)
def test_what_would_take_as_long_without_the_largest_slot_is_the_bound(
    workers_ms: float, bound: str, runner_up: str
) -> None:
    # Given: 5.8 ms of arithmetic, under which the loader's workers make the next batch
    case = Evidenced(make_features(make_rank(0, 50, compute=0.58, input=0.28, host=0.14)))
    row = [{"compute": 5.8, "input": 2.8, "host": 1.4}.get(slot, 0.0) for slot in SLOTS]
    replay = Replay([Lane(np.array([row] * 3), workers_ms=workers_ms)])
    case.__dict__.update(replay=replay, profiled=replay)

    verdict = judge(case, [])

    assert (verdict.bound, verdict.runner_up) == (bound, runner_up)
