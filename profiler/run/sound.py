"""Numbers in records that can be: what lies beyond was damaged, or is meant to do harm."""

from __future__ import annotations

import msgspec

from ...collectors.records import Manifest, Record, Spans, Stacks

LIMIT = 1 << 61
"""In nanoseconds until 2043: sums and differences of such times stay within 64 bits."""


def _whole_numbers(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    fields = msgspec.inspect.type_info(kind)
    assert isinstance(fields, msgspec.inspect.StructType)
    return tuple(field.name for field in fields.fields if _is_whole(field.type))


def _is_whole(kind: msgspec.inspect.Type) -> bool:
    if isinstance(kind, msgspec.inspect.UnionType):
        return any(map(_is_whole, kind.types))
    return isinstance(kind, msgspec.inspect.IntType)


MAX_RANKS = 1_000_000
"""Beyond that a record is damaged, or meant to do harm."""


def sound_world_size(said: int | None) -> int | None:
    """Return a job's number of ranks as a record says it; None where no job has so many."""
    return int(said) if said is not None and 0 < said <= MAX_RANKS else None


_FIELDS: dict[type, tuple[str, ...]] = {}


def is_sound(record: Record | Manifest) -> bool:
    """Whether all whole numbers of a record are such that they can be calculated with."""
    kind = type(record)
    names = _FIELDS.get(kind)
    if names is None:
        names = _FIELDS[kind] = _whole_numbers(kind)
    for name in names:
        value = getattr(record, name)
        if value is not None and not -LIMIT < value < LIMIT:
            return False
    if isinstance(record, Spans):
        columns = (record.start, record.duration, record.detail, record.thread)
        return all(not column or _near(column) for column in columns)
    if isinstance(record, Stacks):
        return all(-LIMIT < count < LIMIT for _, count in record.counts)
    return True


def _near(column: list[int]) -> bool:
    return min(column) > -LIMIT and max(column) < LIMIT
