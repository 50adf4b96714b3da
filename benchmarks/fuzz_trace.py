"""Damage traces at random and diagnose them: what comes must be figures or an error with a slug.

    python benchmarks/fuzz_trace.py [TRACE…] [--seconds 60] [--seed 0] [--keep FOLDER]

Without traces three small ones are made: of a device, of a CPU, and of a device with times of more
digits than a double has. Each input is read, diagnosed as `boundscope diagnose` does, and every
table of it is made. An input that ends in any other exception, takes too long, or gives impossible
figures stays in FOLDER, where every input lies before it is tried, and the exit code is 1. One that
hangs ends the program with the stack of where it does.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np

from boundscope.profiler.diagnose import diagnose_traces
from boundscope.profiler.errors import BoundscopeError
from boundscope.profiler.tables.trace_collectives import collective_uses
from boundscope.profiler.tables.trace_kernels import copy_rows, kernel_rows, tensor_core_use
from boundscope.profiler.tables.trace_memory import live_at_peak, memory_curves
from boundscope.profiler.tables.trace_ops import module_times, op_times
from boundscope.profiler.tables.trace_steps import step_outliers, step_parts
from boundscope.profiler.tables.trace_syncs import sync_spots
from boundscope.profiler.trace.device import device_time
from boundscope.profiler.trace.device_division import divide_device
from boundscope.profiler.trace.device_steps import device_steps
from boundscope.profiler.trace.health import check
from boundscope.profiler.trace.launch_queue import launch_queues
from boundscope.profiler.trace.memory_events import read_memory_events
from boundscope.profiler.trace.reader import read_trace
from boundscope.profiler.trace.steps import Steps, find_steps
from boundscope.profiler.trace.table import Trace

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
            *extras(i, at),
        ]
    head = {"schemaVersion": 1, "deviceProperties": [{"id": 0, "name": "NVIDIA A100-SXM4-80GB"}]}
    return json.dumps(
        head | {"traceEvents": events, "baseTimeNanoseconds": 1_700_000_000_000_000_000}, indent=1
    ).encode()


def extras(i: int, at: float) -> list[dict[str, object]]:
    """Now and then what only some traces have: steps, collectives, copies, modules, memory."""
    host = {"pid": 1, "tid": 1}
    kinds: dict[int, list[dict[str, object]]] = {
        0: [
            {"ph": "X", "cat": "user_annotation", "name": f"ProfilerStep#{i}", "ts": at, "dur": 990}
            | host
        ],
        10: [
            {"ph": "X", "cat": "kernel", "name": "ncclDevKernel_AllReduce", "ts": at, "dur": 7}
            | {"pid": 0, "tid": 20}
            | {
                "args": {
                    "device": 0,
                    "stream": 20,
                    "Collective name": "allreduce",
                    "dtype": "Float",
                }
            }
        ],
        20: [
            {"ph": "X", "cat": "gpu_memcpy", "name": "Memcpy DtoH (Device -> Pageable)", "ts": at}
            | {"dur": 6, "pid": 0, "tid": 7, "args": {"device": 0, "stream": 7, "bytes": 4096}},
            {"ph": "X", "cat": "cuda_runtime", "name": "cudaStreamSynchronize", "ts": at, "dur": 7}
            | host,
        ],
        30: [
            {"ph": "X", "cat": "python_function", "name": f"nn.Module: Net_{i % 3}", "ts": at}
            | {"dur": 60}
            | host,
            {"ph": "X", "cat": "python_function", "name": "queue.py(171): get", "ts": at, "dur": 5}
            | host,
        ],
        40: [
            {"ph": "i", "s": "t", "name": "[memory]", "ts": at}
            | host
            | {"args": {"Bytes": 512 * (1 - i % 3), "Device Type": 1, "Device Id": 0, "Addr": i}}
        ],
    }
    return kinds.get(i % 100, [])


def cpu_trace() -> bytes:
    """A small trace of a training on the CPU."""
    events: list[dict[str, object]] = []
    for i in range(300):
        at = 20.0 * i
        events += [
            {"ph": "X", "cat": "cpu_op", "name": "aten::addmm", "ts": at, "dur": 9, "pid": 1}
            | {
                "tid": 1,
                "args": {"Input Dims": [[4], [4, 8], [8, 4]], "Input type": ["float"] * 3},
            },
            {
                "ph": "X",
                "cat": "cpu_op",
                "name": "gloo:all_reduce",
                "ts": at + 8,
                "dur": 8,
                "pid": 1,
            }
            | {"tid": 2, "args": {"Input Dims": [[4096]], "Input type": ["float"]}},
        ]
        if i % 30 == 0:
            events.append(
                {"ph": "X", "cat": "user_annotation", "name": f"ProfilerStep#{i}", "ts": at}
                | {"dur": 590, "pid": 1, "tid": 1}
            )
    return json.dumps({"traceEvents": events}).encode()


def exact_trace() -> bytes:
    """The trace of a device with times in us since 1970, with decimals."""
    since_1970 = 1_712_195_495_000_000

    def placed(match: re.Match[bytes]) -> bytes:
        return b'"ts": %d.%03d' % divmod(round(1000 * float(match[1])) + 1000 * since_1970, 1000)

    text = re.sub(rb'"ts": ([\d.]+)', placed, small_trace())
    return text.replace(b'"baseTimeNanoseconds"', b'"exportedFrom"')


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


FIGURES = "figures"

ODD_VALUES: tuple[object, ...] = (
    *(None, "", "x", [], {}, [[]], True, -1, 0, 1, 2**31, 2**63, -(2**40), 1e30, -0.5, 1e-9),
    *("NaN", "7", "cpu_op", "kernel", "cuda_runtime", "ProfilerStep#1", "[memory]", [1, [2]]),
    *("1,5", [1, 2], "1712195495000007,5", "ProfilerStep#" + "9" * 30),
)


def distorted(data: bytes, rng: random.Random) -> bytes:
    """Return sound JSON whose events have odd values in odd places, doubled or left out."""
    document = json.loads(data)
    events = document["traceEvents"] if isinstance(document, dict) else document
    for _ in range(int(rng.paretovariate(0.4)) % 2000):
        event = rng.choice(events)
        args = event.get("args")
        owner = args if isinstance(args, dict) and args and rng.random() < 0.5 else event
        key = rng.choice([*owner, "dur", "ts", "tid"])
        fault = rng.randrange(4)
        if fault == 0:
            owner[key] = rng.choice(ODD_VALUES)
        elif fault == 1:
            owner.pop(key, None)
        elif fault == 2:
            owner[key] = rng.choice(events).get(key)
        elif isinstance(owner.get("dur"), (int, float)):
            owner["dur"] *= rng.choice([-1, 0, 3, 1000])
    return json.dumps(document).encode()


def fault_of(path: Path) -> str | None:
    """Diagnose a trace; return what was wrong with the answer, `FIGURES` where nothing was.

    None where the answer was an error with a slug.
    """
    begin = time.process_time()  # of our own work: a busy machine makes nothing slow
    try:
        trace = read_trace(path)
        faults = impossible(trace)
        share = sum(diagnose_traces([path]).breakdown.values())
    except BoundscopeError as error:
        return None if error.slug else "an error without a slug"
    except Exception as error:  # noqa: BLE001 - this is what is looked for
        return f"{type(error).__name__}: {error} ({where(error)})"
    faults["slots that do not sum to 1"] = abs(share - 1) > 1e-6
    # gzip holds ten times the size of the file
    limit = SLOW_S + SLOW_S_PER_MB * path.stat().st_size / 1e5
    faults["slow"] = time.process_time() - begin > limit
    return next((text for text, found in faults.items() if found), FIGURES)


def impossible(trace: Trace) -> dict[str, bool]:
    """What can never be true of a trace, each with whether it is; makes every table."""
    events, steps = trace.events, find_steps(trace)
    health, device, worked = check(trace), device_time(trace), device_steps(trace, steps)
    faults = {
        "negative durations": bool((events.duration_ns < 0).any()),
        "not sorted": bool((events.start_ns[1:] < events.start_ns[:-1]).any()),
        "a step that ends before it begins": bool((steps.end_ns < steps.start_ns).any()),
        "a step of the device that ends before it begins": bool(
            (worked.end_ns < worked.start_ns).any()
        ),
        "steps of the device that overlap": disjoint(steps) and not disjoint(worked),
        "a confidence beyond 0 to 1": not 0 <= health.confidence <= 1,
    }
    op_times(trace)
    module_times(trace)
    collective_uses({0: trace})
    memory = read_memory_events(trace)
    for curve in memory_curves(trace, memory):
        live_at_peak(trace, memory, curve)
    if device is None:
        return faults
    faults["busier than the window"] = not 0 <= device.busy_ns <= device.window_ns
    divided = divide_device(trace, device.window, None)
    assert divided is not None
    faults["a division that does not add up"] = (
        abs(sum(divided.slots_ns.values()) - divided.wall_ns) > 1 + 1e-9 * divided.wall_ns
    )
    tensor_core_use(divided.kernels)
    kernel_rows(divided.kernels)
    copy_rows(trace, divided.device)
    sync_spots(trace, divided)
    queues = launch_queues(trace)
    faults["more than nothing in a queue"] = any((queue.depth < 0).any() for queue in queues)
    parts = step_parts(trace)
    if parts is not None:
        step_outliers(parts)
        rest = np.abs(sum(parts.parts_ms.values()) - parts.duration_ms)
        faults["steps whose parts do not add up"] = bool((rest > 1e-6).any()) and disjoint(steps)
    return faults


def disjoint(steps: Steps) -> bool:
    """Whether no two steps overlap, which damage can make them."""
    return bool((steps.start_ns[1:] >= steps.end_ns[:-1]).all())


def where(error: BaseException) -> str:
    """The innermost line of ours that raised."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "profiler" in frame.filename] or frames
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("traces", nargs="*", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"))
    options = parser.parse_args()
    from fuzzing import watched  # of this folder: there only where this file is run itself

    rng = random.Random(options.seed)
    options.keep.mkdir(exist_ok=True)
    sources = [(path.name, path.read_bytes()) for path in options.traces]
    sources = sources or [
        ("device.json", small_trace()),
        ("cpu.json", cpu_trace()),
        ("exact.json", exact_trace()),
    ]
    tried = failed = figures = 0
    end = time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end:
            name, data = rng.choice(sources)
            if data[:2] == b"\x1f\x8b" and rng.random() < 0.8:
                data = gzip.decompress(data)
            sound = data[:1] in (b"{", b"[")
            data = distorted(data, rng) if sound and rng.random() < 0.5 else damaged(data, rng)
            if rng.random() < 0.1:
                data = damaged(gzip.compress(data, 1), rng)
            path = Path(folder) / "input.json"
            path.write_bytes(data)
            tried += 1
            kept = options.keep / f"{options.seed}-{tried}-{name}"
            kept.write_bytes(data)
            with watched():
                fault = fault_of(path)
            figures += fault == FIGURES
            if fault not in (FIGURES, None):
                failed += 1
                print(f"{kept}: {fault}")
            else:
                kept.unlink()
    print(f"{tried} damaged traces, {figures} gave figures, {failed} faults (seed {options.seed})")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
