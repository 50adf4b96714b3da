"""Launchers of one job: `srun boundscope run -o SHARED …` starts one on each node or for each rank.

They join one run folder. The first one makes it and writes `manifest.json`; every other one whose
job and command agree keeps its own part in `node-<host>/launcher-<pid>.json`. On each host one
launcher alone, the one that made `node-<host>`, collects beside the training.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path

from ..collectors.records import Manifest
from .errors import BoundscopeError
from .run.manifest import FILE_NAME, read_manifest, read_members
from .run.status import effective_status

APPEARS_S = 2.0
"""How long a manifest that another host just linked into place may stay unseen (NFS caches)."""
MEMBERS_END_S = 5.0
"""How long the first launcher waits for the others before the report: ranks end together."""
POLL_S = 0.1


def job_key(environment: Mapping[str, str]) -> str:
    """What all launchers of one job see and no other job does; "" where there is no such thing.

    A SLURM step has a number of its own; what torchrun, MPI or a user's script starts has the
    address and port of its rendezvous in common.
    """
    job, step = environment.get("SLURM_JOB_ID"), environment.get("SLURM_STEP_ID")
    if job and step:
        return f"slurm {job}.{step}.{environment.get('SLURM_RESTART_COUNT', '0')}"
    address, port = environment.get("MASTER_ADDR"), environment.get("MASTER_PORT")
    if address and port:
        return f"master {address}:{port} {environment.get('TORCHELASTIC_RUN_ID', '')}".strip()
    return ""


def joinable(folder: Path, key: str, command: list[str]) -> Manifest | None:
    """The manifest of the run that goes on in `folder`, if it is of the same job and command."""
    if not key:
        return None
    deadline = time.monotonic() + APPEARS_S
    while True:
        with contextlib.suppress(BoundscopeError):
            manifest = read_manifest(folder)
            same = manifest.job == key and manifest.command == command
            running = effective_status(manifest, folder) == "running"
            return manifest if same and running else None
        if not folder.exists() or time.monotonic() > deadline:
            return None
        time.sleep(POLL_S)


def await_members(folder: Path) -> None:
    """Wait a little until every launcher that joined has written how its command ended."""
    deadline = time.monotonic() + MEMBERS_END_S
    while any(effective_status(part) == "running" for part in read_members(folder)):
        if time.monotonic() > deadline:
            return
        time.sleep(POLL_S)


def holds_manifest(folder: Path | None) -> bool:
    """Whether a run was begun in `folder`."""
    return folder is not None and (folder / FILE_NAME).exists()
