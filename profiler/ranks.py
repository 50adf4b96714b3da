"""Finds the training processes of this host among the rank folders of a run."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RANK_FOLDER = re.compile(r"rank-(\d+)-(\d+)(?:-\d+)?$")
LOOKS_AFTER_A_CHANGE = 8
"""A folder's time stamp moves in steps of up to 10 ms, and a rank's first file comes a moment after
its folder: so this many more looks follow each change."""
SETTLED_S = 120.0
"""A process that made its loader before its process group takes rank 0 until the group is there. So
long its file is read on; then its rank is what it is."""
HEADER = b'{"t":"header"'


@dataclass
class _Place:
    """A process of this host, its folder, and how far its records have been read."""

    pid: int
    folder: Path
    until: float
    offset: int = 0

    def newest_rank(self) -> int | None:
        """The rank in the last header since the last look; None where there is no new one."""
        try:
            with open(self.folder / "steps.jsonl", "rb") as file:
                file.seek(self.offset)
                data = file.read()
        except OSError:
            return None
        lines = data[: data.rfind(b"\n") + 1].splitlines()
        self.offset += data.rfind(b"\n") + 1
        found = [_header(line).get("rank") for line in lines if line.startswith(HEADER)]
        return next((rank for rank in reversed(found) if isinstance(rank, int)), None)


class RankWatch:
    """Keeps `ranks`, pid to rank number, of the processes of this host that are alive.

    Cheap to ask often: the folder is listed only after its time stamp moved, which
    matters on a shared file system with a thousand ranks, and only files of this host are read on.
    """

    def __init__(self, run_folder: Path) -> None:
        self._folder = run_folder
        self._host = socket.gethostname()
        self._changed_ns = -1
        self._looks = 0
        self._known: dict[str, bool] = {}
        self._places: list[_Place] = []
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
        self._read_on()
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
                until = time.monotonic() + SETTLED_S
                self._places.append(_Place(int(match[2]), self._folder / name, until))
        self.ranks = found

    def _read_on(self) -> None:
        """Take the ranks that processes found out after their folders had got their names."""
        now = time.monotonic()
        self._places = [p for p in self._places if p.until > now and p.pid in self.ranks]
        newest = {place.pid: place.newest_rank() for place in self._places}
        told = {pid: rank for pid, rank in newest.items() if rank is not None}
        self.ranks = self.ranks | told


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
        except OSError:
            continue
        host = _header(line).get("host") if line.endswith(b"\n") else None
        if isinstance(host, str):
            return host
    return None


def _header(line: bytes) -> dict[str, Any]:
    try:
        header = json.loads(line)
    except ValueError:
        return {}
    return header if isinstance(header, dict) else {}


def _alive(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")
