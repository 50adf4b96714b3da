"""Compresses the traces of a run after the training, when the machine is idle again."""

from __future__ import annotations

import gzip
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

LEVEL = 1
"""A trace shrinks to about a tenth at level 1; level 6 saves a little more and takes far longer."""
CHUNK_BYTES = 1 << 20


def compress_traces(run_folder: Path) -> list[Path]:
    """Turn every rank-*/trace-*.json into .json.gz, several at once; return those left as they are.

    zlib releases the interpreter lock, so threads are enough. A trace is left when the disk is
    full; an interrupted one leaves no half file under the final name.
    """
    traces = sorted(run_folder.glob("rank-*/trace-*.json"))
    if not traces:
        return []
    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        done = pool.map(_compress, traces)
        return [trace for trace, compressed in zip(traces, done, strict=True) if not compressed]


def _compress(trace: Path) -> bool:
    part = trace.with_name(trace.name + ".gz.part")
    try:
        # "x": several launchers of one job may come by at the same time.
        with trace.open("rb") as plain, gzip.open(part, "xb", compresslevel=LEVEL) as packed:
            shutil.copyfileobj(plain, packed, CHUNK_BYTES)
        part.replace(trace.with_name(trace.name + ".gz"))
        trace.unlink()
    except (FileExistsError, FileNotFoundError):
        return False
    except OSError:
        part.unlink(missing_ok=True)
        return False
    return True
