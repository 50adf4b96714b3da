"""The cases: a family, a planted cause and its strength, as arguments of the family's script."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["planted", "healthy", "two-causes", "growth", "bad-input"]
STRENGTHS = ("weak", "medium", "strong")

STEPS = 100
"""Of a wrapped run; a plain one takes fewer (see measure.py)."""
GROWING_STEPS = 800
"""Memory is read once a second: growth shows after several, in steps of 13 ms and more."""

UNTUNED_FAMILIES = frozenset(
    {"transformer", "vae", "graph", "reinforce", "accumulate", "ddp-attention"}
)
"""Held out: chosen before any rule was tuned on this corpus, with every class on both sides. No
threshold may be set by looking at their results."""

LINELESS = frozenset(
    {
        "threads",
        "dense-embedding",
        "fresh-pages",
        "update",
        "wide",
        "uneven",
        "bandwidth",
        "small-messages",
        "plain",
    }
)
"""Causes without a line of their own: a setting, a size, the link. The others have their lines
marked with `# planted: CAUSE` in the scripts."""


@dataclass(frozen=True)
class Case:
    """One row of the table.

    `arguments` go to the family's script; `removals` are those that are measured, the planted
    cause's own first. `only_host`: what the host costs is measured, too, by leaving nothing else.
    `bound` is what was planted ("" where nothing was, or where it takes no time), `needs` what the
    machine must offer ("link": namespaces and tc).
    """

    family: str
    cause: str
    strength: str
    bound: str
    arguments: tuple[str, ...]
    removals: tuple[str, ...]
    script: str
    steps: int = STEPS
    needs: str = ""
    quick: bool = False
    kind: Kind = "planted"
    only_host: bool = False

    @property
    def name(self) -> str:
        """Unique, and fit for a folder's name."""
        return "-".join(part for part in (self.family, self.cause, self.strength) if part)

    @property
    def within(self) -> dict[str, str]:
        """Removals that take another one with them: that one, by the larger."""
        return INCLUDED.get(self.family, {})

    @property
    def tuned(self) -> bool:
        """Whether rules may be tuned on it."""
        return self.family not in UNTUNED_FAMILIES


@dataclass(frozen=True)
class Planted:
    """A cause of one family: an option and its values from weak to strong."""

    family: str
    cause: str
    bound: str
    values: dict[str, str]
    quick: str = ""
    removals: tuple[str, ...] | None = None


RIVALS = {
    "mlp": ("compute",),
    "cnn": ("compute",),
    "transformer": ("compute", "memory"),
    "recurrent": ("host",),
    "recommender": ("compute", "memory"),
    "vae": ("compute", "memory"),
    "graph": ("compute", "memory"),
    "reinforce": ("host", "input"),
    "accumulate": ("compute",),
    "ddp": ("compute", "network"),
    "ddp-attention": ("compute", "network"),
}
"""What else is measured beside the planted cause, so that the best one is best by measurement and
not by intention. The exchange over loopback and the update of a small model are no rivals of what
is planted elsewhere, and are left out there. Where hundreds of tiny ops run, the touching ops that
stand in for the arithmetic cost more calls than they save, so compute is not removed there."""


INCLUDED = {"reinforce": {"input": "host"}}
"""Poles that stand still need no Python either: what goes with the Python alone is the host's, and
`input` saves what goes beyond."""


def _strengths(option: str, *values: str) -> dict[str, str]:
    names = {1: ("strong",), 2: ("medium", "strong"), 3: STRENGTHS}[len(values)]
    return {name: option.format(value) for name, value in zip(names, values, strict=True)}


_COLLECTED = "--index 50000 --collect-every {}"
_SLOW_STORE = "--slow-rank 1 --latency-ms {}"
_SLOW_PYTHON = "--slow-rank 1 --report {}"
_SLOW_DECODE = "--slow-rank 1 --packed-bytes {}"
_UNEVEN = "--width 64 --depth 6 --batch 3072 --share {}"
_UNEVEN_ATTENTION = "--width 32 --depth 4 --batch 1024 --share {}"
_SMALL = "--bucket-mb 0.0001 --width 64 --batch 64 --depth {}"

PLANTED = (
    # input
    Planted("mlp", "slow-store", "input", _strengths("--latency-ms {}", "6", "25", "70"), "medium"),
    Planted("mlp", "few-workers", "input", _strengths("--workers 1 --latency-ms {}", "70")),
    Planted(
        "cnn", "decode", "input", _strengths("--packed-bytes {}", "3000", "9000", "25000"), "strong"
    ),
    Planted("cnn", "prepare", "input", _strengths("--augment {}", "25", "100")),
    Planted("recommender", "decode", "input", _strengths("--packed-bytes {}", "1200")),
    Planted("transformer", "collate", "input", _strengths("--words {}", "8000", "30000", "60000")),
    Planted("transformer", "slow-store", "input", _strengths("--latency-ms {}", "20", "60")),
    Planted("vae", "slow-store", "input", _strengths("--latency-ms {}", "25", "60")),
    Planted("graph", "prepare", "input", _strengths("--augment {}", "12", "30", "90")),
    Planted(
        "accumulate", "few-workers", "input", _strengths("--workers 1 --latency-ms {}", "20", "40")
    ),
    # host
    Planted(
        "mlp", "tiny-ops", "host", _strengths("--members {}", "120", "300"), "medium", ("host",)
    ),
    Planted(
        "mlp",
        "python-loop",
        "host",
        _strengths("--report {}", "60000", "350000"),
    ),
    Planted("mlp", "garbage", "host", _strengths(_COLLECTED, "10", "2")),
    Planted("mlp", "threads", "host", _strengths("--threads {}", "6", "16")),
    Planted("recurrent", "tiny-ops", "host", _strengths("--length {}", "30", "80", "160")),
    Planted("transformer", "drift", "host", _strengths("--rescan {}", "10000", "40000")),
    Planted("vae", "python-loop", "host", _strengths("--report {}", "250000", "600000")),
    Planted(
        "graph",
        "tiny-ops",
        "host",
        _strengths("--one-by-one --graphs {}", "16", "64"),
        "medium",
        ("host",),
    ),
    Planted("reinforce", "environment", "host", _strengths("--poles {}", "48", "128", "384")),
    Planted("accumulate", "garbage", "host", _strengths(_COLLECTED, "3")),
    # compute
    Planted("mlp", "wide", "compute", _strengths("--size {}", "1.5", "2.5")),
    Planted("cnn", "wide", "compute", _strengths("--size {}", "1.5", "2"), "strong"),
    Planted("transformer", "wide", "compute", _strengths("--size {}", "1.5", "2")),
    Planted("accumulate", "wide", "compute", _strengths("--size {}", "1.5", "2.5")),
    # memory
    Planted("cnn", "field", "memory", _strengths("--field-ops {}", "3", "8", "16"), "strong"),
    Planted("mlp", "field", "memory", _strengths("--field-ops {}", "12")),
    Planted(
        "recommender",
        "dense-embedding",
        "memory",
        _strengths("--rows {}", "40000", "150000"),
    ),
    Planted("cnn", "fresh-pages", "memory", {"strong": "--field-ops 3 --give-back"}),
    Planted("recommender", "fresh-pages", "memory", {"medium": "--rows 40000 --give-back"}),
    Planted("vae", "field", "memory", _strengths("--field-ops {}", "6", "16")),
    Planted("vae", "fresh-pages", "memory", {"strong": "--field-ops 3 --give-back"}),
    Planted(
        "transformer", "update", "memory", _strengths("--vocabulary {}", "15000", "45000"), "strong"
    ),
    # storage
    Planted(
        "mlp",
        "checkpoint",
        "storage",
        _strengths("--save-every 5 --save-mb {}", "30", "90", "250"),
    ),
    Planted(
        "transformer",
        "checkpoint",
        "storage",
        _strengths("--save-every 10 --save-mb {}", "150", "400"),
    ),
    Planted(
        "accumulate",
        "checkpoint",
        "storage",
        _strengths("--save-every 5 --save-mb {}", "90", "250"),
        "strong",
    ),
    # evaluation
    Planted(
        "cnn",
        "evaluation",
        "evaluation",
        {
            "weak": "--eval-every 20 --eval-batches 20",
            "medium": "--eval-every 10 --eval-batches 25",
            "strong": "--eval-every 5 --eval-batches 40",
        },
    ),
    Planted(
        "recurrent",
        "evaluation",
        "evaluation",
        {
            "medium": "--eval-every 10 --eval-batches 30",
            "strong": "--eval-every 5 --eval-batches 40",
        },
    ),
    Planted(
        "accumulate",
        "evaluation",
        "evaluation",
        {
            "medium": "--eval-every 10 --eval-batches 100",
            "strong": "--eval-every 5 --eval-batches 150",
        },
        "medium",
    ),
    # two ranks
    Planted("ddp", "slow-loader", "input", _strengths(_SLOW_STORE, "15", "40", "100")),
    Planted("ddp", "python-loop", "host", _strengths(_SLOW_PYTHON, "200000", "600000")),
    Planted("ddp", "uneven", "imbalance", _strengths(_UNEVEN, "0.7", "0.9"), "strong"),
    Planted(
        "ddp", "bandwidth", "network", _strengths("--rate {}mbit", "800", "400", "200"), "strong"
    ),
    Planted("ddp", "small-messages", "network", _strengths(_SMALL, "30", "80")),
    Planted("ddp-attention", "slow-loader", "input", _strengths(_SLOW_STORE, "30", "90")),
    Planted("ddp-attention", "decode", "input", _strengths(_SLOW_DECODE, "2000", "8000")),
    Planted("ddp-attention", "uneven", "imbalance", _strengths(_UNEVEN_ATTENTION, "0.8", "0.95")),
    Planted(
        "ddp-attention",
        "bandwidth",
        "network",
        _strengths("--rate {}mbit", "400", "200", "100"),
        "medium",
    ),
)

HEALTHY = (
    "mlp",
    "cnn",
    "recommender",
    "transformer",
    "vae",
    "graph",
    "accumulate",
    "ddp",
    "ddp-attention",
)

TWO_CAUSES = (
    (
        "mlp",
        "slow-store+checkpoint",
        "--latency-ms 30 --save-every 5 --save-mb 60",
        ("input", "storage"),
    ),
    ("cnn", "decode+field", "--packed-bytes 6000 --field-ops 12", ("input", "memory")),
    ("transformer", "slow-store+drift", "--latency-ms 40 --rescan 8000", ("input", "host")),
    ("vae", "python-loop+field", "--report 250000 --field-ops 12", ("host", "memory")),
    (
        "accumulate",
        "garbage+evaluation",
        "--index 50000 --collect-every 5 --eval-every 5 --eval-batches 150",
        ("evaluation", "host"),
    ),
    (
        "ddp",
        "slow-loader+bandwidth",
        "--slow-rank 1 --latency-ms 30 --rate 400mbit",
        ("network", "input"),
    ),
)

BAD_INPUT = (
    ("mlp", "three-steps", "", 3, ""),
    ("cnn", "three-steps", "", 3, ""),
    ("transformer", "loaded-machine", "", STEPS, "load"),
)
"""Runs that do not bear a verdict: too short, or beside somebody else's work (`needs` "load": the
runner keeps the cores busy meanwhile)."""

QUICK_HEALTHY = "cnn"


def _script(family: str) -> tuple[str, tuple[str, ...]]:
    if family == "ddp":
        return "two_ranks.py", ()
    if family == "ddp-attention":
        return "two_ranks.py", ("--attention", "--width", "128", "--depth", "2")
    return f"{family}.py", ()


def _case(family: str, cause: str, options: str, removals: Iterable[str], **rest: Any) -> Case:
    script, first = _script(family)
    return Case(
        family=family,
        cause=cause,
        arguments=(*first, *options.split()),
        removals=tuple(dict.fromkeys(removals)),
        script=script,
        **{"needs": "link" if "--rate" in options else "", "strength": "", **rest},
    )


def _planted(one: Planted) -> list[Case]:
    worth = {"network": ("network", "imbalance")}
    rivals = [r for r in RIVALS[one.family] if one.bound in worth.get(r, (one.bound,))]
    removals = one.removals or (one.bound, *rivals)
    return [
        _case(
            one.family,
            one.cause,
            options,
            removals,
            strength=strength,
            bound=one.bound,
            quick=strength == one.quick,
        )
        for strength, options in one.values.items()
    ]


def all_cases() -> list[Case]:
    """Every case, in the order in which they are run."""
    cases = [case for one in PLANTED for case in _planted(one)]
    for family in HEALTHY:
        quick = family == QUICK_HEALTHY
        rest = {"kind": "healthy", "bound": "", "quick": quick, "only_host": True}
        cases.append(_case(family, "plain", "", (*RIVALS[family], "input"), **rest))
    for family, cause, options, bounds in TWO_CAUSES:
        removals = (*bounds, "compute")
        rest = {"kind": "two-causes", "bound": bounds[0], "quick": family == "vae"}
        cases.append(_case(family, cause, options, removals, **rest))
    for family, options in (("graph", "--keep-outputs"), ("mlp", "--keep-outputs")):
        rest = {"kind": "growth", "bound": "", "steps": GROWING_STEPS}
        cases.append(_case(family, "growth", options, RIVALS[family], **rest))
    for family, cause, options, steps, needs in BAD_INPUT:
        rest = {"kind": "bad-input", "bound": "", "steps": steps, "needs": needs}
        cases.append(
            _case(family, cause, options, (), quick=family == "mlp" and steps == 3, **rest)
        )
    return cases
