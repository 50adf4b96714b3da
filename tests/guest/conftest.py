"""Runs real scripts with the guest inside, and reads what it recorded."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from boundscope.collectors import inject
from boundscope.collectors.records import SCHEMA, Manifest
from boundscope.profiler.run.load import Run

SCRIPTS = Path(__file__).parent / "scripts"
INJECT = str(Path(inject.__file__).resolve().parent)


@dataclass(frozen=True)
class Done:
    """One finished script: its streams, and the run folder that its guest wrote."""

    code: int
    stdout: str
    stderr: str
    folder: Path

    @property
    def run(self) -> Run:
        """The recorded run; no launcher wrote its manifest here."""
        manifest = Manifest(
            schema=SCHEMA,
            id="test",
            name="test",
            command=[],
            cwd="",
            started_ns=0,
            status="finished",
            launcher_pid=0,
            launcher_start_ticks=0,
            host="",
            version="",
        )
        return Run(self.folder, manifest, "finished")

    @property
    def rank_folders(self) -> list[str]:
        """The names of the rank folders."""
        return sorted(path.name for path in self.folder.glob("rank-*"))


def guest_environment(folder: Path, **more: str) -> dict[str, str]:
    """The environment that `boundscope run` gives to a command."""
    path = os.pathsep.join(filter(None, [INJECT, more.pop("PYTHONPATH", "")]))
    return plain_environment(BOUNDSCOPE_RUN=str(folder), PYTHONPATH=path, **more)


def plain_environment(**more: str) -> dict[str, str]:
    """This environment without anything of ours."""
    hidden = ("PYTHONPATH", "BOUNDSCOPE_RUN", "RANK", "WORLD_SIZE", "LOCAL_RANK")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return {**kept, "OMP_NUM_THREADS": "1", **more}


Runner = Callable[..., Done]


@pytest.fixture(scope="module")
def guest_run(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Run a script of `scripts/` under the guest, or without it when `plain`."""

    def run(
        script: str,
        *words: str,
        plain: bool = False,
        executable: str = sys.executable,
        timeout: float = 120,
        environment: dict[str, str] | None = None,
    ) -> Done:
        base = tmp_path_factory.mktemp("run")
        folder = base / "run"
        make = plain_environment if plain else lambda **more: guest_environment(folder, **more)
        done = subprocess.run(
            [executable, str(SCRIPTS / script), *words],
            cwd=base,
            env=make(**(environment or {})),
            stdin=subprocess.DEVNULL,
            text=True,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr, folder)

    return run
