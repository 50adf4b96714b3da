"""Where a folder lives: its file system and its block device (proc(5), mountinfo)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .procfs import read_text

NETWORK_FILE_SYSTEMS = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "9p", "virtiofs"),
        *("lustre", "ceph", "gpfs", "beegfs", "glusterfs", "pvfs2", "panfs", "wekafs", "daos"),
        *("fuse.glusterfs", "fuse.cephfs", "fuse.daos", "fuse.sshfs", "fuse.juicefs"),
        *("fuse.s3fs", "fuse.goofys", "fuse.geesefs", "fuse.mount-s3", "fuse.rclone"),
        *("fuse.gcsfuse", "fuse.blobfuse", "fuse.blobfuse2"),
    )
)
"""File systems whose data comes from elsewhere (9p, virtiofs: the virtual machine's host)."""


@dataclass(frozen=True)
class Mount:
    """One mount: its point, file-system type, source, and the device number of its files."""

    point: str
    kind: str
    source: str
    device: str  # "major:minor"


def mount_of(folder: Path) -> Mount | None:
    """The mount that holds `folder`: the longest mount point above it, the last one mounted."""
    real = os.path.realpath(folder)
    best: Mount | None = None
    for mount in mounts(read_text("/proc/self/mountinfo") or ""):
        above = mount.point.rstrip("/") + "/"
        if (real + "/").startswith(above) and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def mounts(text: str) -> list[Mount]:
    """The mounts of a mountinfo text; octal escapes in paths are undone."""
    found = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) >= 5 and len(kind) >= 2:
            found.append(Mount(_unescape(fields[4]), kind[0], _unescape(kind[1]), fields[2]))
    return found


def disk_of(mount: Mount) -> str | None:
    """The name in /proc/diskstats of the disk below `mount`, or None where there is no one disk.

    Some file systems (btrfs, overlay) have device numbers of their own: then the mount's source
    is asked. Of a partition the whole disk is named, since that is what is busy.
    """
    folder = Path("/sys/dev/block") / mount.device
    if not folder.exists() and mount.source.startswith("/dev/"):
        try:
            number = os.stat(mount.source).st_rdev
        except OSError:
            return None
        folder = Path("/sys/dev/block") / f"{os.major(number)}:{os.minor(number)}"
    if not folder.exists():
        return None
    real = folder.resolve()
    return real.parent.name if (real / "partition").exists() else real.name


def _unescape(path: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(code, character)
    return path
