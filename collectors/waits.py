"""What a process waits for, from the kernel function that its main thread sleeps in."""

from __future__ import annotations

from collections.abc import Iterable

from .procfs import read_text

KINDS = ("lock", "network", "storage", "sleep")

_PREFIXES = {
    "lock": ("futex", "do_futex", "flock", "posix_lock", "fcntl_setlk"),
    "network": (
        "sk_wait_data",
        "tcp_",
        "inet_",
        "inet_csk",
        "wait_woken",
        "__skb_wait",
        "unix_stream",
        "unix_dgram",
        "sk_stream_wait",
    ),
    "storage": (
        "io_schedule",
        "folio_wait",
        "wait_on_page",
        "__lock_page",
        "rpc_wait",
        "nfs",
        "fuse",
        "request_wait_answer",
        "jbd2",
        "xfs_",
        "ext4_",
        "btrfs",
        "blk_",
        "balance_dirty",
        "filemap",
        "p9_client",
        "cifs",
    ),
    "sleep": ("hrtimer_nanosleep", "do_nanosleep", "common_nsleep"),
}
"""Names of the kernel's functions (Linux 4.18 to 6.x, /proc/PID/wchan). A wait in poll or in a pipe
is how a worker waits for its next index: it is no kind."""


def kind_of(wchan: str) -> str:
    """The kind of wait that a kernel function's name stands for; "" for none of them."""
    for kind, prefixes in _PREFIXES.items():
        if wchan.startswith(prefixes):
            return kind
    return ""


def wait_shares(pids: Iterable[int]) -> dict[str, float]:
    """Share of processes that wait in each of `KINDS` now; empty where none may be looked at."""
    seen = [text for text in (read_text(f"/proc/{pid}/wchan") for pid in pids) if text is not None]
    if not seen:
        return {}
    kinds = [kind_of(text.strip()) for text in seen]
    return {kind: kinds.count(kind) / len(kinds) for kind in KINDS}
