"""The verdicts on a folder of real traces, as the table of docs/foreign-traces.md.

    python scripts/corpus_table.py [--corpus FOLDER] [--write]

The traces are public ones and no part of the project; BOUNDSCOPE_CORPUS names their folder too.
`--write` puts the table into the page; without it the table is printed. A test holds the page
against the verdicts.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

from boundscope.profiler.diagnose import diagnose_path
from boundscope.profiler.errors import BoundscopeError
from boundscope.profiler.text import percent

PAGE = Path(__file__).resolve().parents[1] / "docs" / "foreign-traces.md"
BEGIN = "<!-- table: written by python scripts/corpus_table.py --write -->"
END = "<!-- end of the table -->"
JOBS = ("param/dlrm_kineto",)
"""Folders whose files are the ranks of one job."""

MIN_SHARE = 0.05

_HAND_WRITTEN = (
    "one op, written by hand, on a device that the trace does not name: the limit follows from "
    "FLOP and bytes alone, without roofs"
)
NOT_DEFENDED = {
    "derived_corrupt/overlapping_same_stream.json.gz": (
        "the damage makes kernels longer than they were; which of the two that overlap is wrong "
        "cannot be told, so the shares are those of the damaged times"
    ),
    "derived_corrupt/truncated_gzip_60pct.json.gz": (
        "the end of the file is lost, and with it seven tenths of the device's work, but not as "
        "much of the host's"
    ),
    "gpupuzzlers/launch_queue/more_small_kernels.json.gz": (
        "its author shows the gaps, which the finding `launch-bound` names; the verdict is the "
        "larger part, and one window of 3 ms without steps says little of either"
    ),
    "gpupuzzlers/streams/blocking/blocking_streams.json.gz": (
        "its author's cause is the synchronisation after each copy: the finding "
        "`synchronising-calls` names it and promises what was measured without it (28 %), but the "
        "verdict is the arithmetic, which would save more if it could go"
    ),
    "gpupuzzlers/streams/same_priority_streams.json.gz": (
        "the file has lost its head, and with it the device: kernels are judged by their names"
    ),
    "hta/cpu_only/rank-34.full_old_commit.pt.trace.json.gz": (
        "one rank of 300: whether bytes move or a rank is late stands in the others' traces"
    ),
    "hta/critical_path/alexnet/benchmark_result_2869224_1695835535_trace.json.gz": (
        "12.8 of 12.9 s are start-up, and in the one pass that is left the allocator still takes "
        "its first memory"
    ),
    "hta/cupti_profiler/benchmark_result_924719_1679055439_trace.json.gz": (
        "no verdict: counters of ranges, but no kernel"
    ),
    "hta/mtia_inference_trace/mtia_inference_rank_0.json.gz": (
        "no verdict: the names of its kernels say nothing, and no roofs of the device are known"
    ),
    "hta/trace_diff/control/control.json.gz": (
        "one rank of eight: a fifth of the step may be transfer or waiting; and embeddings under "
        "custom autograd nodes are taken for bandwidth by their kernels' names"
    ),
    "hta/triton_example/triton_example.json.gz": "no verdict: one kernel",
    "labelled_ops/conv_04_depthwise.json": _HAND_WRITTEN,
    "labelled_ops/conv_05_pointwise_1x1.json": _HAND_WRITTEN,
    "labelled_ops/gemm_01_compute_few_tiles.json": (
        "the device is not named; that four tiles cannot fill it, the label's point, is not said"
    ),
    "labelled_ops/moe_03_top1_sparse.json": (
        "written by hand: no formula for the op, and the weights alone would take longer to read "
        "than the kernel lasts"
    ),
    "labelled_ops/sdpa_03_short_seq_overhead.json.gz": (
        "the kernel reaches an eighth of the bandwidth roof: overhead limits it more than memory "
        "does, which the verdict has no slot for"
    ),
    "param/dlrm_kineto": (
        "one step: most of the waiting is at its first collective and may come from profilers "
        "that started apart, and it is charged to the host of the rank that came last"
    ),
    "tracelens/mi210/gpu_only_trace/gpu_only_trace.json.gz": (
        "no ops, so no shapes: by kernel names alone"
    ),
    "tracelens/mi300/Qwen_Qwen1.5-0.5B-Chat__1016005.json.gz": (
        "attention over 559 positions lies between the two roofs, and three tenths of the work are "
        "judged by names: memory and compute may change places"
    ),
    "tracelens/mi300/resnet_act_checkpoint.json.gz": (
        "rank 0 of eight: network and imbalance cannot be told apart"
    ),
}
"""Verdicts that we would not yet defend, and why."""


class Row(NamedTuple):
    """One trace: its verdict, the slots with most of the time, the confidence; why it is open."""

    name: str
    bound: str
    slots: str
    confidence: str
    doubt: str


def sources(corpus: Path) -> list[str]:
    """Return what stands for one job each: a folder of ranks, or a file."""
    files = sorted(str(path.relative_to(corpus)) for path in corpus.rglob("*.json*"))
    alone = [name for name in files if not name.startswith(tuple(f"{job}/" for job in JOBS))]
    return sorted([*alone, *(job for job in JOBS if (corpus / job).is_dir())])


def row_of(corpus: Path, name: str) -> Row:
    """Diagnose one source."""
    doubt = NOT_DEFENDED.get(name, "")
    try:
        found = diagnose_path(corpus / name)
    except BoundscopeError as error:
        return Row(name, f"error[{error.slug}]", "", "", doubt)
    shares = sorted(found.breakdown.items(), key=lambda item: -item[1])
    slots = ", ".join(f"{slot} {percent(share)}" for slot, share in shares[:3] if share > MIN_SHARE)
    return Row(name, found.verdict.bound, slots, f"{found.verdict.confidence:.2f}", doubt)


def table(rows: list[Row]) -> str:
    """Return the rows in Markdown."""
    lines = ["| trace | verdict | where the time is | confidence |", "|---|---|---|---|"]
    for row in rows:
        mark = " (open)" if row.doubt else ""
        lines.append(f"| {row.name} | {row.bound}{mark} | {row.slots} | {row.confidence} |")
    lines += ["", "Verdicts that we would not yet defend:", ""]
    lines += [f"- **{row.name}**: {row.doubt}" for row in rows if row.doubt]
    return "\n".join(lines)


def rows_in(page: str) -> list[Row]:
    """Read the table of a page back."""
    body = page.partition(BEGIN)[2].partition(END)[0]
    doubts = dict(re.findall(r"^- \*\*(.+?)\*\*: (.+)$", body, re.MULTILINE))
    found = []
    for line in body.splitlines():
        if line.startswith("| ") and not line.startswith("| trace |"):
            name, bound, slots, confidence = (cell.strip() for cell in line.split("|")[1:-1])
            bound = bound.removesuffix(" (open)")
            found.append(Row(name, bound, slots, confidence, doubts.get(name, "")))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=os.environ.get("BOUNDSCOPE_CORPUS"))
    parser.add_argument("--write", action="store_true", help="put the table into the page")
    options = parser.parse_args()
    if options.corpus is None:
        parser.error("name the folder of real traces: --corpus, or BOUNDSCOPE_CORPUS")
    made = table([row_of(options.corpus, name) for name in sources(options.corpus)])
    if not options.write:
        print(made)
        return 0
    head, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}\n{made}\n{END}{rest.partition(END)[2]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
