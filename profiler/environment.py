"""The facts of a run's environment that its manifest keeps: an allow-list, never a whole dump.

Every function returns text by name and leaves out what it cannot find out; none raises for a
missing file, program or driver. Units stand in the names.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ..collectors.cgroups import ControlGroups
from .command_line import CommandLine

Facts = dict[str, str]

GIT_TIMEOUT_S = 1.0
LAUNCHER_VARIABLES = (
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OMP_PROC_BIND",
    "KMP_AFFINITY",
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_DEVICE_MAX_CONNECTIONS",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "TORCH_DISTRIBUTED_DEBUG",
    "TORCH_NCCL_ENABLE_TIMING",
    "TORCH_NCCL_BLOCKING_WAIT",
    "NCCL_DEBUG",
    "NCCL_ALGO",
    "NCCL_PROTO",
    "NCCL_IB_DISABLE",
    "NCCL_P2P_DISABLE",
    "NCCL_SHM_DISABLE",
    "NCCL_SOCKET_IFNAME",
    "GLOO_SOCKET_IFNAME",
)
"""Variables that change how fast torch trains (torch's and NCCL's lists of them)."""
SCHEDULER_VARIABLES = (
    "SLURM_JOB_ID",
    "SLURM_STEP_ID",
    "SLURM_NTASKS",
    "SLURM_JOB_NUM_NODES",
    "SLURM_NODEID",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_CPUS_PER_TASK",
    "SLURM_CPUS_ON_NODE",
    "SLURM_GPUS_ON_NODE",
    "SLURM_MEM_PER_NODE",
    "SLURM_RESTART_COUNT",
    "PBS_JOBID",
    "PBS_NP",
    "LSB_JOBID",
    "LSB_DJOB_NUMPROC",
)
RANKS_OPTION = re.compile(r"--(nproc[-_]per[-_]node|nnodes|num[-_]processes|num[-_]gpus)(?:=(.+))?")
CONTAINER_MARKS = ("docker", "kubepods", "libpod", "containerd", "lxc")


def environment(command: CommandLine, version: str) -> dict[str, Facts]:
    """Return all groups of facts about this machine and `command`; takes up to a second."""
    groups: dict[str, Callable[[], Facts]] = {
        "python": lambda: python_facts(version),
        "hardware": hardware_facts,
        "limits": limit_facts,
        "scheduler": scheduler_facts,
        "git": lambda: git_facts(command.script.parent if command.script else Path.cwd()),
        "launcher": lambda: launcher_facts(command),
    }
    found = {}
    for group, describe in groups.items():
        try:
            facts = describe()
        except Exception as error:  # noqa: BLE001 - a strange machine must not cost the run
            facts = {"error": f"{type(error).__name__}: {error}"}
        if facts:
            found[group] = facts
    return found


def python_facts(version: str) -> Facts:
    """Return the versions of boundscope's own interpreter; the training's is its own record."""
    facts = {
        "python": ".".join(str(part) for part in sys.version_info[:3]),
        "implementation": sys.implementation.name,
        "boundscope": version,
        "kernel": os.uname().release,
        "machine": os.uname().machine,
    }
    try:
        facts["libc"] = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):  # musl does not know the name
        facts["libc"] = ""
    release = re.search(r'^PRETTY_NAME="?([^"\n]+)', _text("/etc/os-release"), re.MULTILINE)
    facts["os"] = release[1] if release else ""
    return _filled(facts)


def hardware_facts() -> Facts:
    """Return CPU, caches, memory, NUMA nodes and GPUs."""
    cpuinfo = _text("/proc/cpuinfo")
    model = re.search(r"^(?:model name|Model|cpu model)\s*:\s*(.+)", cpuinfo, re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB", _text("/proc/meminfo"), re.MULTILINE)
    numa = list(Path("/sys/devices/system/node").glob("node[0-9]*"))
    return _filled(
        {
            "cpu": model[1].strip() if model else "",
            "cpus_logical": str(os.cpu_count() or ""),
            "cpus_physical": _physical_cores(cpuinfo),
            **_caches(Path("/sys/devices/system/cpu/cpu0/cache")),
            "memory_bytes": str(int(memory[1]) * 1024) if memory else "",
            "numa_nodes": str(len(numa)) if numa else "",
            **_gpus(),
        }
    )


def _physical_cores(cpuinfo: str) -> str:
    """Count the distinct pairs of socket and core; "" where the kernel does not tell them."""
    sockets = re.findall(r"^physical id\s*:\s*(\d+)", cpuinfo, re.MULTILINE)
    cores = re.findall(r"^core id\s*:\s*(\d+)", cpuinfo, re.MULTILINE)
    pairs = set(zip(sockets, cores, strict=False))
    return str(len(pairs)) if pairs else ""


def _caches(folder: Path) -> Facts:
    """Return sizes by level, e.g. {"cache_l1_data": "32K", "cache_l3": "32768K"}."""
    facts = {}
    for index in sorted(folder.glob("index*")):
        level, kind, size = (_text(index / name).strip() for name in ("level", "type", "size"))
        if level and size:
            suffix = "" if kind == "Unified" else f"_{kind.lower()}"
            facts[f"cache_l{level}{suffix}"] = size
    return facts


def _gpus() -> Facts:
    """Return the GPUs' names and the driver as NVML tells them; nothing without a driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # noqa: BLE001 - no library, no driver, no permission: no GPUs to name
        return {}
    try:
        names = [
            _decoded(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(index)))
            for index in range(pynvml.nvmlDeviceGetCount())
        ]
        return {
            "gpus": ", ".join(names),
            "gpu_driver": _decoded(pynvml.nvmlSystemGetDriverVersion()),
        }
    finally:
        pynvml.nvmlShutdown()


def _decoded(text: str | bytes) -> str:
    return text.decode() if isinstance(text, bytes) else text


def limit_facts() -> Facts:
    """Return what may be used of the machine; what is not limited is left out.

    `cores` is what can really be used: the smaller of the affinity mask and the cgroup's quota.
    `cores_allowed` numbers the cores of the mask, as "0-3,8".
    """
    groups = ControlGroups("self")
    allowed = os.sched_getaffinity(0)
    affinity = len(allowed)
    quota, memory = groups.cpu_limit_cores(), groups.memory_limit_bytes()
    facts = {
        "cores": f"{min(affinity, quota) if quota else affinity:g}",
        "cores_affinity": str(affinity),
        "cores_allowed": _ranges(allowed),
        "cores_quota": f"{quota:g}" if quota else "",
        "memory_bytes": str(memory) if memory else "",
    }
    try:
        # Loader workers hand batches over in shared memory; containers often have 64 MB of it.
        shared = os.statvfs("/dev/shm")  # noqa: S108 - a mount to look at, no file to make
    except OSError:
        return _filled(facts)
    return _filled({**facts, "shared_memory_bytes": str(shared.f_blocks * shared.f_frsize)})


def _ranges(numbers: set[int]) -> str:
    """Numbers as the kernel lists them: "0-3,8"."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return ",".join("-".join(str(number) for number in part) for part in parts)


def scheduler_facts() -> Facts:
    """Return what SLURM, PBS, LSF, Kubernetes or a container say, by an allow-list."""
    facts = {name: os.environ[name] for name in SCHEDULER_VARIABLES if os.environ.get(name)}
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        facts["kubernetes"] = "yes"
    facts["container"] = container(_text("/proc/1/cgroup") + _text("/proc/self/cgroup"))
    return _filled(facts)


def container(cgroup: str, root: Path = Path("/")) -> str:
    """Name the kind of container from the cgroup paths and marker files; "" outside of one."""
    for variable, name in (
        ("APPTAINER_NAME", "apptainer"),
        ("SINGULARITY_NAME", "singularity"),
        ("ENROOT_ROOTFS", "enroot"),
    ):
        if variable in os.environ:
            return name
    if (root / ".dockerenv").exists():
        return "docker"
    if (root / "run/.containerenv").exists():
        return "podman"
    return next((mark for mark in CONTAINER_MARKS if mark in cgroup), "")


def git_facts(folder: Path) -> Facts:
    """Return commit and whether tracked files differ from it, within a second; else nothing."""
    if shutil.which("git") is None:
        return {}
    deadline = time.monotonic() + GIT_TIMEOUT_S
    commit = _git(folder, deadline, "rev-parse", "HEAD")
    if not commit:
        return {}
    facts = {"commit": commit.strip()}
    changes = _git(folder, deadline, "status", "--porcelain", "--untracked-files=no")
    if changes is not None:
        facts["dirty"] = "yes" if changes.strip() else "no"
    return facts


def _git(folder: Path, deadline: float, *words: str) -> str | None:
    # No lock that the user's own git could meet; no fsmonitor, which is a program of the user's.
    command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-C", str(folder)]
    try:
        answer = subprocess.run(
            [*command, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=max(0.05, deadline - time.monotonic()),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.decode("utf-8", "replace") if answer.returncode == 0 else None


def launcher_facts(command: CommandLine) -> Facts:
    """Return how ranks are started and the variables that set threads, devices and NCCL."""
    facts = {"kind": command.launcher}
    words = command.argv
    for position, word in enumerate(words):
        option = RANKS_OPTION.fullmatch(word)
        if option:
            following = words[position + 1] if position + 1 < len(words) else ""
            facts[option[1].replace("-", "_")] = option[2] or following
    facts.update({name: os.environ[name] for name in LAUNCHER_VARIABLES if name in os.environ})
    return facts


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _filled(facts: Facts) -> Facts:
    return {name: value for name, value in facts.items() if value}
