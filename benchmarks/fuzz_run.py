"""Damage run folders at random and look at them: figures, or an error with a slug and a sentence.

    python benchmarks/fuzz_run.py [RUN…] [--seconds 60] [--seed 0] [--keep FOLDER]

Without run folders a small one is written that has something of everything: records of two ranks
and of a node, stacks of both kinds, a recording of py-spy whose launcher was killed, roofs, a
stored diagnosis, a launcher that joined. In each input one to three files have damaged bytes, or
odd values in their fields, or are missing. It is listed, diagnosed, shown as tables and texts, and
bundled; the bundle must open. An input that ends in any other exception, or takes too long, stays
in FOLDER, and the exit code is 1.
"""

from __future__ import annotations

import gzip
import io
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from fuzz_trace import damaged, distorted
from fuzzing import distorted_json, parsed, until, watched
from rich.console import Console
from small_run import write_run

from boundscope.profiler.bundle.reading import unpack
from boundscope.profiler.bundle.writing import make_bundle
from boundscope.profiler.diagnose import diagnose_features
from boundscope.profiler.diagnosis import Diagnosis
from boundscope.profiler.errors import BoundscopeError
from boundscope.profiler.hot_lines import hot_lines
from boundscope.profiler.library import Source, derive_source, list_entries, stored_diagnosis
from boundscope.profiler.report.markdown import to_markdown
from boundscope.profiler.report.terminal import render
from boundscope.profiler.run.load import Run, load_run
from boundscope.profiler.tables.flame import flame_tree, phases_seen
from boundscope.profiler.tables.memory import device_memory, host_memory
from boundscope.profiler.tables.metrics import panels
from boundscope.profiler.tables.steps import step_series

SLOW_S = 20.0
GZIP = b"\x1f\x8b"
BUNDLED = 0.3
"""Share of the inputs of which a bundle is made: that takes as long as all else."""


def main() -> int:
    options = parsed((__doc__ or "").splitlines()[0], inputs="runs")
    rng = random.Random(options.seed)
    tried = failed = figures = 0
    options.keep.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["XDG_CACHE_HOME"] = temporary
        runs = options.runs or [write_run(Path(temporary) / "small")]
        for tried in until(options.seconds):
            folder = options.keep / f"{options.seed}-{tried}-run"
            shutil.copytree(rng.choice(runs), folder)
            damage(folder, rng)
            with watched():
                fault, good = fault_of(folder, bundle=rng.random() < BUNDLED)
            figures += good
            failed += bool(fault)
            if fault:
                print(f"{folder}: {fault}")
            else:
                shutil.rmtree(folder)
    print(
        f"{tried} damaged run folders, {figures} gave figures, {failed} faults "
        f"(seed {options.seed})"
    )
    return 1 if failed else 0


def damage(folder: Path, rng: random.Random) -> None:
    """Damage some files of a run folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in rng.sample(files, min(len(files), rng.randint(1, 3))):
        data = path.read_bytes()
        kind = rng.random()
        if data[:2] == GZIP and kind < 0.7:
            inner = gzip.decompress(data)
            path.write_bytes(gzip.compress((distorted if kind < 0.4 else damaged)(inner, rng), 1))
        elif kind < 0.6:
            path.write_bytes(distorted_json(data, rng))
        elif kind < 0.93:
            path.write_bytes(damaged(data, rng))
        elif kind < 0.96:
            path.rename(path.with_name(rng.choice(files).name))
        else:
            path.unlink()


def fault_of(folder: Path, *, bundle: bool) -> tuple[str, bool]:
    """Look at a run folder in every way; return what was wrong, and whether it has figures."""
    begin = time.process_time()
    figures = False
    for work in (listed, shown, diagnosed, *([bundled] if bundle else [])):
        try:
            figures |= work(folder)
        except BoundscopeError as error:
            if not error.slug or not error.message or "\n" in error.message:
                return f"an error without a slug or a sentence ({work.__name__})", False
        except Exception as error:  # noqa: BLE001 - this is what is looked for
            return f"{type(error).__name__}: {error} ({work.__name__}, {where(error)})", False
    slow = time.process_time() - begin > SLOW_S
    return ("slow" if slow else ""), figures


def listed(folder: Path) -> bool:
    source = Source(folder.name, folder, "run")
    list_entries([source])
    stored = stored_diagnosis(source)
    if stored is not None:
        told(stored)
    return False


def told(diagnosis: Diagnosis) -> None:
    to_markdown(diagnosis)
    render(diagnosis, Console(file=io.StringIO(), width=100))


def shown(folder: Path) -> bool:
    run = load_run(folder)
    for make in tables(run):
        make(run)
    return False


def tables(run: Run) -> Iterator[Callable[[Run], object]]:
    yield from (panels, host_memory, device_memory, lambda run: (run.gaps, run.processes))
    for rank in run.ranks:
        yield lambda run, n=rank.rank: (flame_tree(run, n, "all"), phases_seen(run, n))
        yield lambda run, pid=rank.pid: [hot_lines(run, pid, p, 5) for p in ("input", "worker")]


def diagnosed(folder: Path) -> bool:
    features = derive_source(Source(folder.name, folder, "run"))
    told(diagnose_features(features))
    for rank in features.ranks:
        step_series(rank.timeline, features.run.manifest.started_ns)
    return bool(features.ranks)


def bundled(folder: Path) -> bool:
    with tempfile.TemporaryDirectory() as place:
        made = make_bundle(folder, Path(place) / "x.boundscope.zip")
        try:
            unpack(made.path, Path(place) / "unpacked")
        except BoundscopeError as error:
            raise AssertionError(f"its bundle cannot be opened: {error}") from error
    return False


def where(error: BaseException) -> str:
    """The innermost line of ours that raised."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "profiler" in f.filename or "collectors" in f.filename] or frames
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"


if __name__ == "__main__":
    sys.exit(main())
