"""`boundscope doctor`: which collectors can work here, which can't, why, and what mends it."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...collectors.beside import discover
from ...collectors.cgroups import ControlGroups
from ...collectors.procfs import key_values, read_text
from ..errors import EXIT_CHECK_FAILED

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA = 1
OLDEST_TORCH = (2, 2)
"""The oldest torch that boundscope is tested with."""
LOW_DISK_BYTES = 1e9
"""A run of an hour with its trace windows stays well below this."""
LOW_SHARED_MEMORY_BYTES = 1e9
"""Containers often have 64 MB, in which a few batches of images do not fit."""
_CAP_SYS_PTRACE = 19  # capabilities(7), linux/capability.h
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - not a temporary file of ours: its size is asked
_ESSENTIAL = ("host", "network", "storage", "torch", "disk")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `effect` and `mend` are empty where it works."""

    name: str
    works: bool
    reason: str = ""
    detail: str = ""
    effect: str = ""
    mend: str = ""


@dataclass(frozen=True)
class Findings:
    """What doctor found: the collectors beside the training, then the machine."""

    collectors: list[Check]
    machine: list[Check]

    @property
    def good(self) -> bool:
        """Whether everything works without which there is no verdict."""
        every = self.collectors + self.machine
        return all(check.works for check in every if check.name in _ESSENTIAL)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> int:
    """Say which collectors can work here, which can't, why, and the line that mends it."""
    from rich.console import Console

    findings = examine(Path.cwd())
    if as_json:
        import msgspec

        body = {"schema": SCHEMA, "good": findings.good, **asdict(findings)}
        Console(soft_wrap=True).out(msgspec.json.format(msgspec.json.encode(body)).decode())
    else:
        show(findings, Console())
    return 0 if findings.good else EXIT_CHECK_FAILED


def examine(folder: Path) -> Findings:
    """Look at every collector and at the machine; `folder` is where runs would be written."""
    return Findings(
        collectors=[_collector(cls) for cls in discover()],
        machine=[
            _torch(),
            _ptrace(),
            _limits(),
            _pressure(),
            _traffic_control(),
            _disk(folder),
            _shared_memory(),
        ],
    )


def _collector(cls: type) -> Check:
    collector = cls()
    found = collector.probe()
    if found.works:
        return Check(collector.name, True)
    return Check(
        collector.name,
        False,
        found.reason or "not-supported",
        found.detail,
        collector.effect,
        found.mend,
    )


def _torch() -> Check:
    effect = "no steps, no phases, no traces: only figures of the machine"
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        detail = "this interpreter has no torch"
        return Check("torch", False, "not-installed", detail, effect, "pip install torch")
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if numbers < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        detail = f"torch {version} is older than {oldest}"
        mend = f"pip install 'torch>={oldest}'"
        return Check("torch", False, "not-supported", detail, effect, mend)
    return Check("torch", True, detail=f"torch {version}")


def _ptrace() -> Check:
    """Whether a process may look into one that is not its child (ptrace(2), access checks)."""
    effect = "py-spy can't sample ranks: they are sampled from inside, loader workers not at all"
    status = read_text("/proc/self/status") or ""
    match = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    if match is not None and int(match[1], 16) >> _CAP_SYS_PTRACE & 1:
        return Check("ptrace", True, detail="this process has CAP_SYS_PTRACE")
    scope = (read_text("/proc/sys/kernel/yama/ptrace_scope") or "0").strip()
    if scope == "0":
        return Check("ptrace", True, detail="processes of the same user may be looked into")
    detail = f"kernel.yama.ptrace_scope is {scope}: only children may be looked into"
    mend = "sudo sysctl kernel.yama.ptrace_scope=0"
    return Check("ptrace", False, "no-permission", detail, effect, mend)


def _limits() -> Check:
    groups = ControlGroups("self")
    cores, memory = groups.cpu_limit_cores(), groups.memory_limit_bytes()
    affinity = len(os.sched_getaffinity(0))
    detail = f"{affinity} cores by affinity, "
    detail += f"quota of {cores:g} cores" if cores is not None else "no CPU quota"
    detail += f", memory limit {_gb(memory)}" if memory is not None else ", no memory limit"
    if cores is not None and cores < affinity:
        effect = "threads beyond the quota are held back: torch starts one for each core it sees"
        mend = f"export OMP_NUM_THREADS={max(1, int(cores))}"
        return Check("limits", False, "not-supported", detail, effect, mend)
    return Check("limits", True, detail=detail)


def _pressure() -> Check:
    if read_text("/proc/pressure/cpu") is not None:
        return Check("pressure", True, detail="/proc/pressure is there")
    return Check(
        "pressure",
        False,
        "not-supported",
        "/proc/pressure is not there: it needs psi=1 on the kernel's command line",
        "contention for CPU, memory and disk is judged by weaker signs",
        "sudo grubby --update-kernel=ALL --args=psi=1 && sudo reboot",
    )


def _traffic_control() -> Check:
    if shutil.which("tc") is not None:
        return Check("tc", True, detail="traffic shaping can be read")
    return Check(
        "tc",
        False,
        "not-installed",
        "the program tc is not on PATH",
        "a link that is shaped below its nominal speed is not known",
        "sudo apt-get install -y iproute2",
    )


def _disk(folder: Path) -> Check:
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Check("disk", False, "no-permission", f"{folder}: {error.strerror}", "no run folder")
    detail = f"{_gb(free)} free in this folder"
    if free >= LOW_DISK_BYTES:
        return Check("disk", True, detail=detail)
    mend = "boundscope run -o /a/folder/with/space train.py"
    return Check("disk", False, "not-supported", detail, "a run may be cut short", mend)


def _shared_memory() -> Check:
    try:
        size = shutil.disk_usage(_SHARED_MEMORY).total
    except OSError:
        size = key_values(read_text("/proc/meminfo")).get("MemTotal", 0) * 1024
    detail = f"{_SHARED_MEMORY} holds {_gb(size)}"
    if size >= LOW_SHARED_MEMORY_BYTES:
        return Check("shared memory", True, detail=detail)
    effect = "loader workers hand batches over in there and fail when it is full"
    mend = "docker run --shm-size 8g IMAGE"
    return Check("shared memory", False, "not-supported", detail, effect, mend)


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


def show(findings: Findings, console: Console) -> None:
    """Print both tables, then for everything that is missing the line that mends it."""
    from rich.table import Table

    for title, checks in (("Collectors", findings.collectors), ("Machine", findings.machine)):
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for column in ("", "works", "why", "what its absence costs"):
            table.add_column(column, overflow="fold")
        for check in checks:
            works = "[green]yes[/]" if check.works else "[red]no[/]"
            why = f"{check.reason}: {check.detail}" if check.reason else check.detail
            table.add_row(check.name, works, _plain(why), _plain(check.effect))
        console.print(table)
        console.print()
    mends = [check for check in findings.collectors + findings.machine if check.mend]
    if not mends:
        return
    console.print("What mends it:")
    for check in mends:
        console.print(f"  {check.name}: ", end="", highlight=False)
        console.print(check.mend, markup=False, highlight=False, soft_wrap=True)


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
