"""`manifest.json` of a run folder: written whole, renamed into place, read back."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import msgspec

from ...collectors.records import Manifest
from ..errors import UnusableData
from .files import read_whole
from .sound import is_sound

FILE_NAME = "manifest.json"
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
RESERVE_NAME = ".manifest.reserve"
RESERVE_BYTES = 32 * 1024
"""Room for the last manifest on a disk that filled up meanwhile; one of these is 2 to 6 KiB."""


def write_manifest(
    folder: Path, manifest: Manifest, name: str = FILE_NAME, *, first: bool = False
) -> None:
    """Write the manifest and rename it into place, so that a reader never meets half of one.

    Raises OSError when the disk is full; with `first`, FileExistsError when there is one already,
    also where two launchers try at the same moment. It is not flushed to the medium: a flush waits
    for whatever else is on its way there, a checkpoint of many gigabytes included.
    """
    path = folder / name
    part = path.with_name(f".{path.name}.{manifest.host}.{os.getpid()}")
    data = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    try:
        part.write_bytes(data)
        if first and _linked(part, path):
            part.unlink()
        else:
            part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def _linked(part: Path, path: Path) -> bool:
    """Give the file its name if nothing has it; False on a file system without hard links."""
    try:
        path.hardlink_to(part)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno in NO_LINKS:
            return False
        raise
    return True


def reserve_room(folder: Path) -> None:
    """Set room aside for the last manifest; raises OSError when the disk is full already."""
    (folder / RESERVE_NAME).write_bytes(bytes(RESERVE_BYTES))


def release_room(folder: Path) -> None:
    """Give the room back; safe to call twice."""
    (folder / RESERVE_NAME).unlink(missing_ok=True)


def member_name(host: str, pid: int) -> str:
    """Where a launcher that joined another's run keeps its part, relative to the run folder."""
    return f"node-{host}/launcher-{pid}.json"


def read_members(folder: Path) -> list[Manifest]:
    """The parts of all launchers that joined the run; one that cannot be read is left out."""
    found = []
    for path in sorted(folder.glob("node-*/launcher-*.json")):
        with contextlib.suppress(OSError, ValueError, RecursionError):
            found.append(msgspec.json.decode(read_whole(path), type=Manifest))
    return found


def read_manifest(folder: Path) -> Manifest:
    """Read a run folder's manifest; raises UnusableData when there is none or it is broken."""
    path = folder / FILE_NAME
    try:
        manifest = msgspec.json.decode(read_whole(path), type=Manifest)
        if not is_sound(manifest):
            raise ValueError("it has numbers that cannot be")
    except FileNotFoundError:
        raise UnusableData(
            "no-manifest",
            f"{folder} is not a run folder: it has no {FILE_NAME}.",
            "name the folder that boundscope run made, e.g. one under runs/",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UnusableData(
            "broken-manifest",
            f"{path} cannot be read: {error}.",
            "the run's other files may still be good: restore the manifest from a copy",
        ) from error
    return manifest
