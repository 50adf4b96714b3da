"""What becomes of memory that the training scripts free: kept, or given back to the system."""

from __future__ import annotations

import argparse
import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""Parameters of mallopt(3)."""
GIVEN_BACK_BYTES = 128 * 1024
"""Blocks from this size on: glibc's own threshold before it adapts."""


def hold_memory(args: argparse.Namespace) -> argparse.Namespace:
    """Let the C library keep all freed memory or, with `give_back`, give large blocks back at once.

    By itself a process does one or the other, by where its blocks happen to lie. Where memory is
    given back, to keep it is what removing `memory` means: what the arguments say then is that
    nothing else is removed. Elsewhere than beside glibc nothing is changed.
    """
    give_back = args.give_back and args.remove != "memory"
    if args.give_back and args.remove == "memory":
        args.remove = None
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return args
    mallopt(TRIM_THRESHOLD, 2**31 - 1)
    if give_back:
        mallopt(MMAP_THRESHOLD, GIVEN_BACK_BYTES)
    else:
        mallopt(MMAP_MAX, 0)
    return args
