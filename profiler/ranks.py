"""Finds the training processes of this host among the rank folders of a run."""

from __future__ import annotations

import json
import os
import re
import socket
from pathlib import Path

RANK_FOLDER = re.compile(r"rank-(\d+)-(\d+)(?:-\d+)?$")
LOOKS_AFTER_A_CHANGE = 8
"""A folder's time stamp moves in steps of up to 10 ms, and a rank's first file comes a moment after
its folder: so this many more looks follow each change."""


class RankWatch:
    """Keeps `ranks`, pid to rank number, of the processes of this host that are alive.

    Cheap to ask four times a second: the folder is listed only after its time stamp moved, which
    matters on a shared file system with a thousand ranks.
    """

    def __init__(self, run_folder: Path) -> None:
        self._folder = run_folder
        self._host = socket.gethostname()
        self._changed_ns = -1
        self._looks = 0
        self._known: dict[str, bool] = {}
        self.ranks: dict[int, int] = {}

    def look(self) -> dict[int, int]:
        """Return the ranks of this host that are alive now."""
        try:
            changed_ns = os.stat(self._folder).st_mtime_ns
        except OSError:
            return self.ranks
        if changed_ns != self._changed_ns:
            self._changed_ns = changed_ns
            self._looks = LOOKS_AFTER_A_CHANGE
        if self._looks:
            self._looks -= 1
            self._find()
        # A new dict each time: collectors read it from threads of their own.
        self.ranks = {pid: rank for pid, rank in self.ranks.items() if _alive(pid)}
        return self.ranks

    def _find(self) -> None:
        found = dict(self.ranks)
        for name in _names(self._folder):
            match = RANK_FOLDER.match(name)
            if match is None or name in self._known:
                continue
            host = _host_of(self._folder / name)
            if host is None:
                continue
            self._known[name] = host == self._host
            if self._known[name]:
                found[int(match[2])] = int(match[1])
        self.ranks = found


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _host_of(rank_folder: Path) -> str | None:
    """Return the host in the first whole header line of the rank's files, None when none stands."""
    for name in _names(rank_folder):
        if not name.endswith(".jsonl"):
            continue
        try:
            with open(rank_folder / name, "rb") as file:
                line = file.readline()
            header = json.loads(line) if line.endswith(b"\n") else {}
        except (OSError, ValueError):
            continue
        host = header.get("host") if isinstance(header, dict) else None
        if isinstance(host, str):
            return host
    return None


def _alive(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")
