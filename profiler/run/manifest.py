"""`manifest.json` of a run folder: written whole, renamed into place, read back."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from ...collectors.records import Manifest
from ..errors import UnusableData

FILE_NAME = "manifest.json"
RESERVE_NAME = ".manifest.reserve"
RESERVE_BYTES = 32 * 1024
"""Room for the last manifest on a disk that filled up meanwhile; one of these is 2 to 6 KiB."""


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest and rename it into place, so that a reader never meets half of one.

    Raises OSError when the disk is full. It is not flushed to the medium: a flush waits for
    whatever else is on its way there, a checkpoint of many gigabytes included.
    """
    path = folder / FILE_NAME
    part = folder / f".{FILE_NAME}.{os.getpid()}"
    data = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def reserve_room(folder: Path) -> None:
    """Set room aside for the last manifest; raises OSError when the disk is full already."""
    (folder / RESERVE_NAME).write_bytes(bytes(RESERVE_BYTES))


def release_room(folder: Path) -> None:
    """Give the room back; safe to call twice."""
    (folder / RESERVE_NAME).unlink(missing_ok=True)


def read_manifest(folder: Path) -> Manifest:
    """Read a run folder's manifest; raises UnusableData when there is none or it is broken."""
    path = folder / FILE_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        raise UnusableData(
            "no-manifest",
            f"{folder} is not a run folder: it has no {FILE_NAME}.",
            "name the folder that boundscope run made, e.g. one under runs/",
        ) from None
    except (OSError, msgspec.DecodeError) as error:
        raise UnusableData(
            "broken-manifest",
            f"{path} cannot be read: {error}.",
            "the run's other files may still be good: restore the manifest from a copy",
        ) from error
