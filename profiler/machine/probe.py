"""Measures roofs with torch: run as a script by any interpreter that has torch, prints JSON lines.

It needs nothing of ours, since the interpreter of the training may not have it installed. Each
line is one object and each figure may come several times: the best one counts, since a roof is a
maximum. The figures are taken in rounds of short repeats, so that a machine that is busy for a
moment does not spoil any of them, until a round brings nothing new or the time is up. What was
printed before a time limit stands on its own.

Arguments: one JSON object with "threads" (0 for torch's own choice), "cache_bytes" (level to
bytes), "memory_bytes", "full" and "device" ("cpu" or "cuda:0").
"""

from __future__ import annotations

import glob
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

QUICK_SLICE_S = 0.008
FULL_SLICE_S = 0.1
QUICK_SECONDS = 0.8
FULL_SECONDS = 12.0
MIN_RUNS = 3
MIN_ROUNDS = 2
SLOW_SLICES = 10
"""A call that takes so many slices is taken once: bfloat16 without instructions for it reaches 1
GFLOP/s (AVX2), and the largest product would take 13 s."""
NEWS = 1.05
"""A round that betters no figure by more than 5 % is the last one."""

# 2·512³ FLOP take 3 ms on one core at 100 GFLOP/s; measured within 5 % of the rate at 2048.
GEMM_SIZE = 512
FULL_GEMM_SIZES = (512, 1024, 2048)
DEVICE_GEMM_SIZES = (4096, 8192)

# Arrays four times the last cache keep its share of the traffic small (McCalpin's rule for STREAM).
DRAM_OVER_CACHE = 4
QUICK_DRAM_BYTES = 128 << 20
FULL_DRAM_BYTES = 1 << 30
MIN_DRAM_BYTES = 64 << 20
CACHE_FILL = 0.5
REPEAT_BYTES = 2 << 20
"""Smaller arrays are passed over several times in one repeat, so that the clock is fine enough."""

FRESH_BYTES = 40 << 20
"""More than the C library keeps (its largest threshold for mapped memory is 32 MiB): the system
hands it out anew, page by page."""

# 64k elements a thread: twice what torch gives a thread at least (at::internal::GRAIN_SIZE).
SPECIAL_ELEMENTS = 1 << 16
DISPATCH_RUNS = 200


class Figure(NamedTuple):
    """One thing to measure: `amount` of work a call, `calls` a repeat, at `threads` threads."""

    group: str
    name: str
    threads: int
    amount: float
    run: Callable[[], Any]
    calls: int = 1


def best_seconds(run: Callable[[], Any], slice_s: float, calls: int = 1) -> float:
    """Seconds of the fastest call: as many repeats of `calls` calls as fit into `slice_s`."""
    clock = time.perf_counter
    start = clock()
    run()
    first = clock() - start
    if first > SLOW_SLICES * slice_s > 0:
        return first
    best = float("inf")
    end = clock() + slice_s
    repeats = 0
    while repeats < MIN_RUNS or clock() < end:
        start = clock()
        for _ in range(calls):
            run()
        best = min(best, clock() - start)
        repeats += 1
    return best / calls


def gemm(torch: Any, group: str, dtype: str, size: int, threads: int) -> Figure:
    """A square matrix product, FLOP/s."""
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}[dtype]
    a, b = (torch.ones(size, size).to(kind) for _ in range(2))
    out = torch.empty_like(a)
    return Figure(group, dtype, threads, 2.0 * size**3, lambda: torch.mm(a, b, out=out))


def copies(torch: Any, total_bytes: int, names: tuple[str, str], threads: int) -> Iterator[Figure]:
    """A copy (two arrays) and STREAM's triad a = b + 3 c (three), bytes/s read and written.

    The arrays take `total_bytes` together.
    """
    calls = max(1, REPEAT_BYTES // max(total_bytes, 1))
    x, y = (torch.ones(max(total_bytes // 8, 1)) for _ in range(2))
    yield Figure("bandwidth", names[0], threads, 8.0 * x.numel(), lambda: y.copy_(x), calls)
    third = max(total_bytes // 12, 1)
    a, b, c = torch.ones(third), x[:third], y[:third]
    run = lambda: torch.add(b, c, alpha=3.0, out=a)  # noqa: E731
    yield Figure("bandwidth", names[1], threads, 12.0 * third, run, calls)


def exponentials(torch: Any, name: str, threads: int) -> Figure:
    """Exponentials a second over an array that stays in the caches."""
    x = torch.ones(SPECIAL_ELEMENTS * threads)
    out = torch.empty_like(x)
    return Figure("rates", name, threads, float(x.numel()), lambda: torch.exp(x, out=out))


def fresh_page_seconds(torch: Any, threads: int) -> float:
    """What a page costs more where an op writes to memory fresh from the system, seconds.

    A cost, not a roof: the median counts. The op gives the memory back, too.
    """
    torch.set_num_threads(threads)
    source, kept = (torch.ones(FRESH_BYTES // 4) for _ in range(2))
    fresh = median_seconds(lambda: torch.add(source, 1.0))
    warm = median_seconds(lambda: torch.add(source, 1.0, out=kept))
    return max(0.0, fresh - warm) / (FRESH_BYTES // os.sysconf("SC_PAGESIZE"))


def median_seconds(run: Callable[[], Any], repeats: int = 5) -> float:
    """The median over `repeats` calls, after one that is not counted."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return sorted(times)[repeats // 2]


def dram_bytes(cache_bytes: dict[str, int], memory_bytes: int, limit: int) -> int:
    """Bytes of all arrays together of a main-memory measurement."""
    wanted = max(DRAM_OVER_CACHE * max(cache_bytes.values(), default=0), MIN_DRAM_BYTES)
    return min(wanted, limit, max(memory_bytes // 16, 1 << 20))


def cpu_figures(torch: Any, options: dict[str, Any], threads: int, dram: int) -> list[Figure]:
    """What to measure on the CPU, the most important first.

    One thread's bandwidths are lower bounds of all threads', so they go by the same name.
    """
    full = bool(options.get("full"))
    one = torch.ones(1)
    main_memory = ("dram_copy", "dram_triad")
    figures = [
        gemm(torch, "flops", "fp32", GEMM_SIZE, threads),
        *copies(torch, dram, main_memory, threads),
        Figure("rates", "dispatch", threads, 1.0, lambda: one + one, DISPATCH_RUNS),
        exponentials(torch, "exp", threads),
        gemm(torch, "flops", "bf16", GEMM_SIZE, threads),
    ]
    for level in ("l2", "l3"):
        size = int(options.get("cache_bytes", {}).get(level, 0) * CACHE_FILL)
        if size:
            figures += copies(torch, size, (level, level), threads)
            figures += copies(torch, size // threads, (level, level), 1) if threads > 1 else ()
    figures += [
        gemm(torch, "flops_1", "fp32", GEMM_SIZE, 1),
        exponentials(torch, "exp_1", 1),
        gemm(torch, "flops_1", "bf16", GEMM_SIZE, 1),
    ]
    if full:
        figures += [gemm(torch, "flops", "fp64", GEMM_SIZE, threads)]
        for dtype in ("fp32", "bf16", "fp64"):
            figures += [gemm(torch, "flops", dtype, n, threads) for n in FULL_GEMM_SIZES[1:]]
        figures += copies(torch, dram, main_memory, 1) if threads > 1 else ()
    return figures


def measure_cpu(torch: Any, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The roofs of the CPU, in rounds."""
    full = bool(options.get("full"))
    if options.get("threads"):
        torch.set_num_threads(int(options["threads"]))
    threads = torch.get_num_threads()
    caches = {str(level): int(size) for level, size in options.get("cache_bytes", {}).items()}
    limit = FULL_DRAM_BYTES if full else QUICK_DRAM_BYTES
    dram = dram_bytes(caches, int(options.get("memory_bytes", 0)) or 1 << 30, limit)
    yield {"threads": threads, "torch": torch.__version__, "dram_bytes": dram}
    end = time.perf_counter() + (FULL_SECONDS if full else QUICK_SECONDS)
    figures = cpu_figures(torch, options, threads, dram)
    began, waited = time.perf_counter(), waited_seconds()
    yield from rounds(torch, figures, FULL_SLICE_S if full else QUICK_SLICE_S, end)
    yield {"fresh_page_s": fresh_page_seconds(torch, threads)}
    share = (waited_seconds() - waited) / (time.perf_counter() - began) / threads
    yield {"waited_share": share}


def waited_seconds() -> float:
    """Seconds that our threads were ready to run but did not get a CPU (proc(5), schedstat)."""
    total = 0
    for task in glob.glob("/proc/self/task/*/schedstat"):
        try:
            with open(task, encoding="ascii") as file:
                total += int(file.read().split()[1])
        except (OSError, ValueError, IndexError):
            continue
    return total / 1e9


def rounds(
    torch: Any, figures: list[Figure], slice_s: float, end: float
) -> Iterator[dict[str, Any]]:
    """Measure all figures again and again until nothing gets better or `end` has come."""
    best: dict[tuple[str, str], float] = {}
    largest: dict[tuple[str, str], float] = {}
    finished = 0
    news = True
    while finished < MIN_ROUNDS or news:
        news = False
        for figure in figures:
            if finished and time.perf_counter() > end:
                return
            key = (figure.group, figure.name)
            if figure.amount > largest.get(key, float("inf")):
                continue
            torch.set_num_threads(figure.threads)
            seconds = best_seconds(figure.run, slice_s, figure.calls)
            rate = figure.amount / seconds
            if seconds > SLOW_SLICES * slice_s > 0:
                largest[key] = figure.amount  # a larger one would take too long
            if rate > best.get(key, 0.0):
                news = news or rate > NEWS * best.get(key, 0.0)
                best[key] = rate
                yield {figure.group: {figure.name: rate}}
        finished += 1


def device_seconds(torch: Any, run: Callable[[], Any], repeats: int = 10) -> float:
    """Seconds of one call on the device, timed by its own events; the best of `repeats`."""
    run()
    best = float("inf")
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        best = min(best, start.elapsed_time(end) / 1e3)
    return best


def measure_device(torch: Any, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The roofs of one CUDA or ROCm device."""
    device = torch.device(options["device"])
    torch.cuda.set_device(device)
    yield {"device": torch.cuda.get_device_name(device), "torch": torch.__version__, "threads": 0}
    kinds = (
        ("bf16", torch.bfloat16, False),
        ("tf32", torch.float32, True),
        ("fp32", torch.float32, False),
    )
    for name, dtype, reduced in kinds:
        torch.backends.cuda.matmul.allow_tf32 = reduced
        for size in DEVICE_GEMM_SIZES:
            a = torch.randn(size, size, device=device).to(dtype)

            def multiply(a: Any = a) -> Any:
                return torch.mm(a, a)

            yield {"flops": {name: 2.0 * size**3 / device_seconds(torch, multiply)}}
    elements = torch.cuda.get_device_properties(device).total_memory // 64
    source = torch.ones(elements, device=device)
    target = torch.empty_like(source)
    seconds = device_seconds(torch, lambda: target.copy_(source))
    yield {"bandwidth": {"dram_copy": 8 * elements / seconds}}


def main() -> None:
    """Import torch, measure, print one JSON object a line."""
    options = json.loads(sys.argv[1])
    began = time.perf_counter()
    import torch

    emit({"import_s": time.perf_counter() - began})
    measure = measure_cpu if options.get("device", "cpu") == "cpu" else measure_device
    with torch.inference_mode():
        for figure in measure(torch, options):
            emit(figure)
    emit({"done": True, "total_s": time.perf_counter() - began})


def emit(figure: dict[str, Any]) -> None:
    """Write one line at once."""
    sys.stdout.write(json.dumps(figure) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    # Our own folder must not shadow what torch imports.
    sys.path[:] = [entry for entry in sys.path if entry != os.path.dirname(__file__)]
    main()
    # Torch takes a third of a second to unload; everything is written.
    os._exit(0)
