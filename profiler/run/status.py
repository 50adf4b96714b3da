"""How a run stands, also when its launcher never came to write it down."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Literal, TypeAlias

from ...collectors.records import Manifest

Status: TypeAlias = Literal["running", "finished", "failed", "killed"]

SILENT_AFTER_S = 60.0
"""A run of another host with no newer record than this is taken as killed: samples come every
second, and network file systems show another host's writes up to a minute late (NFS acregmax)."""


def process_start_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot (proc(5), stat field 22).

    None when there is no such process or it is a zombie. Together with the pid it names one
    process: a pid that is used again has another start.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None
    fields = text[text.rfind(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def effective_status(
    manifest: Manifest, folder: Path | None = None, *, now_ns: int | None = None
) -> Status:
    """Return the run's status; "killed" when the manifest says running but nobody runs it.

    On the launcher's own host its process is looked up. Elsewhere the age of the newest record
    file in `folder` decides; without `folder` the manifest's word is taken.
    """
    if manifest.status != "running":
        return manifest.status
    if manifest.host == socket.gethostname():
        ticks = process_start_ticks(manifest.launcher_pid)
        return "running" if ticks == manifest.launcher_start_ticks else "killed"
    if folder is None:
        return "running"
    now = time.time_ns() if now_ns is None else now_ns
    newest = max(newest_record_ns(folder), manifest.started_ns)
    return "killed" if now - newest > SILENT_AFTER_S * 1e9 else "running"


def newest_record_ns(folder: Path) -> int:
    """Return when any record file of the run was last written, ns since the epoch; 0 if none."""
    newest = 0
    for pattern in ("rank-*/*.jsonl", "node-*/*.jsonl"):
        for path in folder.glob(pattern):
            try:
                newest = max(newest, os.stat(path).st_mtime_ns)
            except OSError:
                continue
    return newest
