"""gzip files of several members, and damaged ones: everything before the damage is read."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from pathlib import Path

import pytest

from boundscope.profiler.trace import source
from boundscope.profiler.trace.notes import Notes
from boundscope.profiler.trace.source import blocks


def unpacked(folder: Path, packed: bytes) -> tuple[bytes, set[str]]:
    path = folder / "t.json.gz"
    path.write_bytes(packed)
    notes = Notes()
    data = b"".join(blocks(path, notes))
    return data, {slug for slug, _, _ in notes.take()}


def text(seed: int, size: int) -> bytes:
    rng = random.Random(seed)
    return json.dumps([rng.random() for _ in range(size)]).encode()


@pytest.mark.parametrize("rest", [0, 1, 2])
def test_members_are_read_wherever_a_read_of_the_file_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rest: int
) -> None:
    first, second, third = (text(seed, 300) for seed in range(3))
    members = [gzip.compress(part) for part in (first, second, third)]
    # so many bytes of the second member are in the read that ends the first
    monkeypatch.setattr(source, "_COMPRESSED_BYTES", len(members[0]) + rest)

    assert unpacked(tmp_path, b"".join(members)) == (first + second + third, set())


@pytest.mark.parametrize("padding", [b"", b"\0" * 1000])
def test_padding_behind_the_last_member_is_nothing(tmp_path: Path, padding: bytes) -> None:
    assert unpacked(tmp_path, gzip.compress(b"[]") + padding) == (b"[]", set())


def test_other_bytes_behind_the_last_member_are_said(tmp_path: Path) -> None:
    found = unpacked(tmp_path, gzip.compress(b"[]") + b"rubbish")

    assert found == (b"[]", {"trailing-bytes"})


def test_what_comes_before_the_damage_is_read(tmp_path: Path) -> None:
    data = text(1, 20_000)
    packed = bytearray(gzip.compress(data))
    packed[len(packed) // 2] ^= 0xFF

    found, slugs = unpacked(tmp_path, bytes(packed))

    # As far as zlib itself comes if it gets the bytes one by one.
    single, expected = zlib.decompressobj(31), b""
    try:
        for byte in packed:
            expected += single.decompress(bytes([byte]))
    except zlib.error:
        pass
    common = next(
        (i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b),
        min(len(found), len(expected)),
    )
    assert common >= len(expected) - 300  # zlib itself keeps up to 258 bytes back
    assert len(found) <= len(expected) + 300
    assert slugs <= {"gzip-damaged", "gzip-truncated"}


def test_a_false_check_sum_loses_next_to_nothing(tmp_path: Path) -> None:
    data = text(2, 5_000)
    packed = bytearray(gzip.compress(data))
    packed[-6] ^= 0xFF  # of the CRC-32 at the end of the member (RFC 1952)

    found, slugs = unpacked(tmp_path, bytes(packed))

    assert slugs == {"gzip-damaged"}
    assert found == data[: len(found)]
    assert len(found) >= len(data) - 1
