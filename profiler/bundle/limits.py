"""What a stranger's ZIP file may be: checked before anything of it is unpacked."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ..errors import UnusableData
from . import layout

_END = b"PK\x05\x06"
_END_SIZE = 22
_ZIP64 = b"PK\x06\x07"
_ZIP64_SIZE = 20
_ENCRYPTED = 0x1
_BLOCK = 1 << 18
_GZIP_WINDOW = 31
HINT = "ask its sender for a bundle as `boundscope bundle` writes it"


def not_a_bundle(path: Path, why: str) -> UnusableData:
    """Return the error for a file that was never a bundle."""
    return UnusableData("not-a-bundle", f"{path.name} is not a bundle: {why}.", HINT)


def unsafe(path: Path, why: str) -> UnusableData:
    """Return the error for a file that a bundle can't be without harm meant."""
    return UnusableData("bundle-unsafe", f"{path.name} is not opened: {why}.", HINT)


def damaged(path: Path, why: str) -> UnusableData:
    """Return the error for a bundle that is not what it was when it was made."""
    return UnusableData("bundle-damaged", f"{path.name} is damaged: {why}.", "copy it once more")


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open the file and its list of members; raises UnusableData.

    The list is what Python reads before anything can be looked at: its size is checked in the
    file's last bytes first. A ZIP file as we write it ends there, without a comment.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            _check_end(path, file, size)
        return zipfile.ZipFile(path)
    except OSError as error:
        raise UnusableData(
            "not-a-bundle", f"{path} cannot be read: {error.strerror or error}.", HINT
        ) from error
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        raise not_a_bundle(path, "it is no ZIP file, or a damaged one") from error


def _check_end(path: Path, file: IO[bytes], size: int) -> None:
    if size > layout.MAX_FILE_BYTES:
        raise unsafe(path, f"it is larger than {layout.MAX_FILE_BYTES >> 20} MiB")
    if size < _END_SIZE:
        raise not_a_bundle(path, "it is too short")
    file.seek(max(0, size - _END_SIZE - _ZIP64_SIZE))
    tail = file.read()
    end = tail[-_END_SIZE:]
    if not end.startswith(_END):
        raise not_a_bundle(path, "it does not end like a ZIP file, or was cut short")
    if tail[:-_END_SIZE].startswith(_ZIP64):
        raise unsafe(path, "it says that it is larger than 4 GiB")
    directory = int.from_bytes(end[12:16], "little")
    if directory > layout.MAX_DIRECTORY_BYTES:
        raise unsafe(path, f"it lists more than {layout.MAX_MEMBERS:,} files")


def check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Check names, kinds, sizes and places of the members; raises UnusableData."""
    if len(members) > layout.MAX_MEMBERS:
        raise unsafe(path, f"it lists more than {layout.MAX_MEMBERS:,} files")
    seen: set[str] = set()
    for info in members:
        # Python cuts names at a null byte; what stood there is in orig_filename.
        if not layout.MEMBER.fullmatch(info.filename) or info.orig_filename != info.filename:
            raise unsafe(path, "it has a file of a name that no bundle has")
        if info.filename.lower() in seen:
            raise unsafe(path, "it has two files of one name")
        seen.add(info.filename.lower())
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG) or info.is_dir():
            raise unsafe(path, "it has a link or a device in it")
        if info.flag_bits & _ENCRYPTED:
            raise unsafe(path, "it is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise unsafe(path, "it is packed in an unusual way")
        packed = max(1, info.compress_size)
        if info.file_size > layout.SMALL_BYTES and info.file_size / packed > layout.MAX_RATIO:
            raise unsafe(path, "it would unpack to far more than it can hold")
    if sum(info.file_size for info in members) > layout.MAX_UNPACKED_BYTES:
        raise unsafe(path, f"it would unpack to more than {layout.MAX_UNPACKED_BYTES >> 20} MiB")
    _check_overlaps(path, members)


def _check_overlaps(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Members that share their packed bytes unpack to any size."""
    end = 0
    for info in sorted(members, key=lambda info: info.header_offset):
        if info.header_offset < end:
            raise unsafe(path, "its files overlap")
        end = info.header_offset + info.compress_size


def check_trace(path: Path, name: str, file: IO[bytes], budget: Budget) -> None:
    """Unpack a gzip file without keeping it, and count; raises UnusableData past the limits."""
    inflater = zlib.decompressobj(_GZIP_WINDOW)
    try:
        for piece in _inflated(file, inflater):
            budget.take(path, len(piece), piece.count(b"{"))
    except zlib.error as error:
        raise damaged(path, f"{name} cannot be unpacked") from error
    if not inflater.eof or inflater.unused_data or file.read(1):
        raise damaged(path, f"{name} does not end where it should")


def _inflated(file: IO[bytes], inflater: zlib._Decompress) -> Iterator[bytes]:
    while not inflater.eof:
        data = inflater.unconsumed_tail or file.read(_BLOCK)
        if not data:
            return
        yield inflater.decompress(data, _BLOCK)


class Budget:
    """What all traces of a bundle may take together."""

    def __init__(self) -> None:
        self._bytes = layout.MAX_UNPACKED_BYTES
        self._braces = layout.MAX_BRACES

    def take(self, path: Path, size: int, braces: int) -> None:
        """Take some of it; raises UnusableData when there is no more."""
        self._bytes -= size
        self._braces -= braces
        if self._bytes < 0 or self._braces < 0:
            raise unsafe(path, "its traces are larger than any that a bundle has")
