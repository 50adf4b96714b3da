"""Keeps recorded runs small and nameless in sample_traces/: the evidence that tests score anew.

A run is one zip file: the records with the machine's names and paths taken out, and as many trace
windows as fit, their events without what the reader leaves unread. Beside it lies `truth.json`:
what was planted, what each removal saved, and the score as it was stored.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import socket
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .cases import Case
from .judge import judge_folder, planted_lines, recorded, step_times
from .measure import ROOT, Timing
from .score import Row, row_of, savings

SAMPLES = ROOT / "sample_traces"
MAX_TRACE_BYTES = 90_000
"""Of all traces of a run, packed. A hundred runs then stay below 15 MB."""
MAX_RUN_BYTES = 300_000
"""Of a stored run. A window is kept whole, and one of thousands of tiny ops is larger: such a run
stands in the table, but is not stored."""
UNREAD = frozenset({"Ev Idx", "Record function id", "Sequence number", "Fwd thread id"})
"""Arguments of events that no reader of ours asks for."""
UNREAD_PHASES = frozenset({"s", "f", "t"})
UNREAD_CONCRETE = 64
"""Longer lists of concrete inputs are addresses and offsets, not sizes."""
PRIVATE_GROUPS = ("git", "scheduler")
HOST = "host"
DIGITS = 5
MACHINE = ("hardware", "limits")


class Scrubber:
    """Replaces this machine's folders, its name and its users by neutral words."""

    def __init__(self) -> None:
        home, host = str(Path.home()), socket.gethostname()
        packages = sysconfig.get_path("purelib")
        standard = sysconfig.get_path("stdlib")
        folders = {
            f"{ROOT}/": "",
            str(ROOT): ".",
            packages: "site-packages",
            standard: "lib/python3",
            sys.prefix: "environment",
            sys.base_prefix: "python",
            home: "home",
        }
        ordered = sorted(folders.items(), key=lambda item: -len(item[0]))
        self.folders = [(old, new) for old, new in ordered if len(old) > 1]
        self.host = host
        self.temporary = re.compile(rf"{re.escape(tempfile.gettempdir())}/[^\"\s,]*")
        self.named = re.compile(rf'("(?:host|host_name|hostname)"\s*:\s*)"{re.escape(host)}"')

    def __call__(self, text: str) -> str:
        for old, new in self.folders:
            text = text.replace(old, new)
        text = self.temporary.sub("temporary", text)
        return self.named.sub(rf'\1"{HOST}"', text)

    def leaks(self, text: str) -> list[str]:
        """What of this machine a text still shows."""
        shown = [old for old, _ in self.folders if len(old) > 4 and old in text]
        return shown + ([self.host] if f'"{self.host}"' in text else [])


def store(cases: list[Case], rows: list[Row], timings: dict[str, list[Timing]], runs: Path) -> str:
    """Store every scored case; says how many and how large they are."""
    scored = {row.case for row in rows}
    sizes = {
        case.name: store_case(case, timings[case.name], runs)
        for case in cases
        if case.name in scored
    }
    left_out = [name for name, size in sizes.items() if not size]
    stored = f"stored {len(sizes) - len(left_out)} runs, {sum(sizes.values()) / 1e6:.1f} MB"
    return stored + (f"; too large: {', '.join(left_out)}" if left_out else "")


def store_case(case: Case, timings: list[Timing], runs: Path) -> int:
    """Pack one run and write what is true of it; returns the bytes of both, 0 if too large.

    Where it is too large, a smaller one that was stored before stays.
    """
    wrapped = recorded(timings)
    assert wrapped is not None
    target = SAMPLES / case.name
    archive = target / "run.zip"
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "run.zip"
        pack(runs / wrapped.run, made)
        if made.stat().st_size > MAX_RUN_BYTES:
            return 0
        target.mkdir(exist_ok=True)
        shutil.move(made, archive)
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder)
        answer, named = judge_folder(Path(folder))
        machine = machine_of(Path(folder))
    # The row is made from what is stored, so that a test comes to the same score.
    row = row_of(
        case, savings(step_times(timings), case.within), answer, named, planted_lines(case)
    )
    truth = json.dumps(truth_of(case, row, machine), indent=1) + "\n"
    (target / "truth.json").write_text(truth)
    return archive.stat().st_size + len(truth)


def truth_of(case: Case, row: Row, machine: dict[str, str]) -> dict[str, Any]:
    """What was planted, what was measured, and what was answered when it was stored."""
    return {
        "schema": 1,
        "case": case.name,
        "family": case.family,
        "tuned": case.tuned,
        "kind": case.kind,
        "planted": {"cause": case.cause, "strength": case.strength, "bound": case.bound},
        "command": ["python", case.script, *case.arguments],
        "lines": sorted(
            [name, line]
            for cause in case.cause.split("+")
            for name, line in planted_lines(case).get(cause, set())
        ),
        "savings": {
            bound: {"mid": s.mid, "low": s.low, "high": s.high, "moments": s.moments}
            for bound, s in row.measured.items()
        },
        "expected": row.truth,
        "stored": {
            "bound": row.answer.bound,
            "right": row.right,
            "regret": None if row.regret is None else round(row.regret, 4),
            "error": None if row.error is None else round(row.error, 4),
            "false_alarm": row.false_alarm,
        },
        "machine": machine,
    }


def machine_of(folder: Path) -> dict[str, str]:
    environment = json.loads((folder / "manifest.json").read_bytes()).get("environment", {})
    return {key: value for group in MACHINE for key, value in environment.get(group, {}).items()}


def pack(run: Path, archive: Path) -> None:
    """Write the run folder's records and traces, scrubbed and thinned, as one zip file."""
    scrub = Scrubber()
    chosen = choose_traces(run, scrub)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
        for name, data in [*texts(run, scrub), *chosen.items()]:
            # A fixed date: the same run packs to the same bytes.
            entry = zipfile.ZipInfo(name.replace(f"node-{socket.gethostname()}", f"node-{HOST}"))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            packed.writestr(entry, data)


def texts(run: Path, scrub: Scrubber) -> Iterator[tuple[str, bytes]]:
    """Name and content of the manifest, the roofs and every file of records."""
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.name == "manifest.json":
            yield name, scrub(json.dumps(nameless_manifest(path), indent=1)).encode()
        elif path.name == "roofs.json":
            yield name, path.read_bytes()
        elif path.suffix == ".jsonl":
            lines = (rounded(line) for line in scrub(path.read_text()).splitlines())
            yield name, ("\n".join(lines) + "\n").encode()


def nameless_manifest(path: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(path.read_bytes())
    for group in PRIVATE_GROUPS:
        manifest.get("environment", {}).pop(group, None)
    return {**manifest, "host": HOST, "cwd": ".", "launcher_pid": 0, "launcher_start_ticks": 0}


def rounded(line: str) -> str:
    """A sample with its values to five digits; any other line as it is."""
    if '"t":"sample"' not in line:
        return line
    record = json.loads(line)
    record["values"] = {
        key: float(f"{value:.{DIGITS}g}") for key, value in record["values"].items()
    }
    return json.dumps(record, separators=(",", ":"))


def choose_traces(run: Path, scrub: Scrubber) -> dict[str, bytes]:
    """The trace windows that fit, the same windows of every rank, those of most steps first."""
    windows: dict[str, list[Path]] = {}
    for path in sorted(run.glob("rank-*/trace-*.json.gz")):
        windows.setdefault(path.name, []).append(path)
    packed = {
        name: {str(path.relative_to(run)): thin(path, scrub) for path in paths}
        for name, paths in windows.items()
    }
    chosen: dict[str, bytes] = {}
    # The first window only probes how many events a step has.
    for name in sorted(packed, key=lambda name: (name == "trace-0.json.gz", name)):
        size = sum(map(len, packed[name].values()))
        if not chosen or sum(map(len, chosen.values())) + size <= MAX_TRACE_BYTES:
            chosen.update(packed[name])
    return chosen


def thin(path: Path, scrub: Scrubber) -> bytes:
    """A trace without what is not read."""
    with gzip.open(path, "rt") as file:
        document = json.load(file)
    document["traceEvents"] = list(thin_events(document["traceEvents"]))
    document.pop("traceName", None)
    text = scrub(json.dumps(document, separators=(",", ":")))
    return gzip.compress(text.encode(), 9, mtime=0)


def thin_events(events: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for event in events:
        if event.get("ph") in UNREAD_PHASES:
            continue
        args = event.get("args")
        if isinstance(args, dict):
            kept = {key: value for key, value in args.items() if key not in UNREAD}
            if len(str(kept.get("Concrete Inputs", ""))) > UNREAD_CONCRETE:
                kept.pop("Concrete Inputs")
            event["args"] = kept
        yield event


def leaks_of(archive: Path) -> list[str]:
    """Names of this machine that a stored run still shows."""
    scrub, found = Scrubber(), set()
    with zipfile.ZipFile(archive) as packed:
        for name in packed.namelist():
            data = packed.read(name)
            text = gzip.decompress(data).decode() if name.endswith(".gz") else data.decode()
            found.update(scrub.leaks(text))
            found.update([os.fspath(name)] if socket.gethostname() in name.split("-") else [])
    return sorted(found)
