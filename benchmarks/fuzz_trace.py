"""Damage traces at random and read them: whatever comes must be figures or an error with a slug.

    python benchmarks/fuzz_trace.py [TRACE…] [--seconds 60] [--seed 0] [--keep FOLDER]

Without traces a small one is made. An input that ends in any other exception, takes too long, or
gives impossible figures is kept in FOLDER and the exit code is 1.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import sys
import tempfile
import time
from pathlib import Path

from boundscope.profiler.errors import BoundscopeError
from boundscope.profiler.trace.device import device_time
from boundscope.profiler.trace.health import check
from boundscope.profiler.trace.reader import read_trace
from boundscope.profiler.trace.steps import find_steps

SLOW_S_PER_MB = 3.0  # event by event with repairs takes about 0.3 s a MB
SLOW_S = 2.0


def small_trace() -> bytes:
    events: list[dict[str, object]] = []
    for i in range(400):
        at = 10.0 * i + 0.125
        args = {"External id": i, "Input Dims": [[i, 2], []], "Input type": ["float", ""]}
        host = {"pid": 1, "tid": 1}
        events += [
            {"ph": "X", "cat": "cpu_op", "name": "aten::mm", "ts": at, "dur": 5, "args": args}
            | host,
            {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "ts": at + 1, "dur": 1}
            | host
            | {"args": {"correlation": i}},
            {"ph": "s", "id": i, "ts": at + 1, "cat": "ac2g", "name": "ac2g"} | host,
            {"ph": "X", "cat": "kernel", "name": 'gemm<"x">', "ts": at + 3, "dur": 4}
            | {"pid": 0, "tid": 7, "args": {"device": 0, "stream": 7, "correlation": i}},
        ]
    head = {"schemaVersion": 1, "deviceProperties": [{"id": 0, "name": "GPU"}]}
    return json.dumps(
        head | {"traceEvents": events, "baseTimeNanoseconds": 1_700_000_000_000_000_000}, indent=1
    ).encode()


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Return `data` with one to four faults: cut, flipped, dropped, doubled, inserted or moved."""
    for _ in range(rng.randint(1, 4)):
        if not data:
            break
        at = rng.randrange(len(data))
        size = min(len(data) - at, int(rng.paretovariate(0.5)))
        fault = rng.randrange(7)
        if fault == 0:
            data = data[:at]
        elif fault == 1:
            data = data[at:]
        elif fault == 2:
            data = data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
        elif fault == 3:
            data = data[:at] + data[at + size :]
        elif fault == 4:
            data = data[: at + size] + data[at:]
        elif fault == 5:
            junk = rng.choice([b"{", b"}", b"[", b"]", b'"', b",", b"\\", b"\0", b"NaN", b"1e999"])
            data = data[:at] + junk + data[at:]
        else:
            data = data[at:] + data[:at]
    return data


def fault_of(path: Path) -> str | None:
    """Read and look at a trace; return what was wrong with the answer, None where nothing."""
    begin = time.perf_counter()
    try:
        trace = read_trace(path)
        steps = find_steps(trace)
        check(trace)
        device = device_time(trace)
    except BoundscopeError as error:
        return None if error.slug else "an error without a slug"
    except Exception as error:  # noqa: BLE001 - this is what is looked for
        return f"{type(error).__name__}: {error}"
    events = trace.events
    faults = {
        "negative durations": bool((events.duration_ns < 0).any()),
        "not sorted": bool((events.start_ns[1:] < events.start_ns[:-1]).any()),
        "a step that ends before it begins": bool((steps.end_ns < steps.start_ns).any()),
        "busier than the window": device is not None
        and not 0 <= device.busy_ns <= device.window_ns,
        # gzip holds ten times the size of the file
        "slow": time.perf_counter() - begin > SLOW_S + SLOW_S_PER_MB * path.stat().st_size / 1e5,
    }
    return next((text for text, found in faults.items() if found), None)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("traces", nargs="*", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"))
    options = parser.parse_args()
    rng = random.Random(options.seed)
    sources = [(path.name, path.read_bytes()) for path in options.traces]
    sources = sources or [("small.json", small_trace())]
    tried = failed = 0
    end = time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end:
            name, data = rng.choice(sources)
            if data[:2] == b"\x1f\x8b" and rng.random() < 0.8:
                data = gzip.decompress(data)
            data = damaged(data, rng)
            if rng.random() < 0.1:
                data = damaged(gzip.compress(data, 1), rng)
            path = Path(folder) / "input.json"
            path.write_bytes(data)
            tried += 1
            fault = fault_of(path)
            if fault is not None:
                failed += 1
                options.keep.mkdir(exist_ok=True)
                kept = options.keep / f"{options.seed}-{tried}-{name}"
                kept.write_bytes(data)
                print(f"{kept}: {fault}")
    print(f"{tried} damaged traces read, {failed} faults")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
