"""Kernels and copies of a trace: use of tensor cores by type, copies by direction and memory."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from ..trace.copies import copy_kinds, is_pageable
from ..trace.costs import MATRIX_FAMILIES
from ..trace.device import DeviceTime
from ..trace.intervals import intersect, total, union
from ..trace.kernels import KernelTime
from ..trace.table import Category, Trace

_TENSOR = re.compile(
    # NVIDIA PyProf's list (prof/tc.py), which the TensorBoard plugin uses too
    r"h884|s884|h1688|s1688|hmma|i8816|16816|c1688|dgrad_1x1_stride_2x2|first_layer_wgrad_kernel"
    r"|conv1x1|conv2d_c1_k1|direct_group|xmma_implicit_gemm|xmma_sparse_conv"
    r"|xmma_warp_specialized_implicit_gemm|xmma_gemm|xmma_sparse_gemm"
    # since: TF32 of cuDNN's xmma, CUTLASS 2 and 3, cuBLAS of Hopper and Blackwell, flash attention
    r"|xmma_\w*tf32|tensorop|wgmma|gmma|imma|qmma|tcgen05|nvjet|flash_(?:fwd|bwd)"
    # AMD: Tensile's matrix instruction, rocWMMA and CK's xdl, MIOpen's implicit GEMM on xdlops
    r"|_mi\d+x\d+x\d+|mfma|xdl|gtcx|wmma",
    re.IGNORECASE,
)
_PLAIN = re.compile(r"[sd]gemm|scudnn|dcudnn|simt|gemv|gcgemm|winograd|fft", re.IGNORECASE)
"""Names of kernels on the plain arithmetic units; what neither list knows is left open."""


@dataclass(frozen=True)
class TensorCoreUse:
    """Device time of matrix products, convolutions, attention and recurrent cells in one type, ms.

    `tensor_ms` ran on tensor or matrix cores by the kernels' names, `plain_ms` not, `unknown_ms`
    has a name that tells neither. `share` is that of all device time of kernels.
    """

    dtype: str
    tensor_ms: float
    plain_ms: float
    unknown_ms: float
    share: float

    @property
    def matrix_ms(self) -> float:
        """All of it."""
        return self.tensor_ms + self.plain_ms + self.unknown_ms


@dataclass(frozen=True)
class CopyRow:
    """Copies or memsets of one kind: times in ms, `exposed_ms` is hidden by nothing.

    `kind` as in `copy_kind`, `memory` as the trace says it ("Pageable -> Device"). `pageable` host
    memory makes a copy synchronous and slow. `bytes_per_s` is None where sizes are not recorded.
    """

    kind: str
    memory: str
    pageable: bool
    calls: int
    bytes: int
    duration_ms: float
    exposed_ms: float
    bytes_per_s: float | None


@dataclass(frozen=True)
class KernelRow:
    """Computing kernels of one name: `share` is that of all computing kernels' time.

    `limiter` is what limits most of the time ("arithmetic", "bandwidth", "latency", "unknown").
    `roof_share` is the time at the limiting roof over the time taken, of the calls whose cost is
    known; None where none is. Above 1 the kernel found its data in a cache, or did other work than
    its ops' shapes say, or the device is not the one of the roofs: `exact` is False then, and where
    no cost is known. `ops` are the ops that launch it, the longest first.
    """

    name: str
    family: str
    calls: int
    total_ms: float
    mean_us: float
    share: float
    limiter: str
    roof_share: float | None
    exact: bool
    tensor_cores: bool | None
    ops: tuple[str, ...]


def kernel_rows(kernels: list[KernelTime]) -> list[KernelRow]:
    """Computing kernels by name, longest first."""
    whole = sum(kernel.duration_ns for kernel in kernels)
    by_name: dict[str, list[KernelTime]] = defaultdict(list)
    for kernel in kernels:
        by_name[kernel.name].append(kernel)
    return sorted(
        (_kernel_row(same, whole) for same in by_name.values()), key=lambda r: -r.total_ms
    )


def _kernel_row(same: list[KernelTime], whole_ns: float) -> KernelRow:
    """One row from the kernels of one name."""
    same = sorted(same, key=lambda kernel: -kernel.duration_ns)
    time, calls = sum(k.duration_ns for k in same), sum(k.calls for k in same)
    limits: dict[str, float] = defaultdict(float)
    for kernel in same:
        limits[kernel.limiter] += kernel.duration_ns
    known = [kernel for kernel in same if kernel.attainable_ns > 0]
    taken = sum(kernel.duration_ns for kernel in known)
    at_roof = sum(kernel.attainable_ns for kernel in known)
    return KernelRow(
        name=same[0].name,
        family=same[0].family,
        calls=calls,
        total_ms=time * 1e-6,
        mean_us=time / calls * 1e-3 if calls else 0.0,
        share=time / whole_ns if whole_ns else 0.0,
        limiter=max(limits, key=lambda name: limits[name]),
        roof_share=at_roof / taken if taken else None,
        exact=bool(known) and at_roof <= taken,
        tensor_cores=uses_tensor_cores(same[0].name) if same[0].family in MATRIX_FAMILIES else None,
        ops=tuple(dict.fromkeys(kernel.op for kernel in same if kernel.op)),
    )


def uses_tensor_cores(kernel: str) -> bool | None:
    """Whether a matrix kernel of this name runs on tensor or matrix cores; None where unknown."""
    if _TENSOR.search(kernel):
        return True
    return False if _PLAIN.search(kernel) else None


def tensor_core_use(kernels: list[KernelTime]) -> list[TensorCoreUse]:
    """Use of tensor cores by the type that the ops calculate in ("" where no shapes), most first.

    A kernel counts where its op, or its own name, is a matrix product, convolution, attention or
    recurrent cell; what such an op launches beside (layout changes) counts as plain or unknown.
    """
    whole = sum(kernel.duration_ns for kernel in kernels)
    times: dict[str, dict[bool | None, float]] = defaultdict(lambda: defaultdict(float))
    for kernel in kernels:
        if kernel.family in MATRIX_FAMILIES:
            times[kernel.dtype][uses_tensor_cores(kernel.name)] += kernel.duration_ns
    rows = [
        TensorCoreUse(
            dtype,
            used[True] * 1e-6,
            used[False] * 1e-6,
            used[None] * 1e-6,
            sum(used.values()) / whole,
        )
        for dtype, used in times.items()
    ]
    return sorted(rows, key=lambda row: -row.matrix_ms)


def copy_rows(trace: Trace, device: DeviceTime) -> list[CopyRow]:
    """Copies and memsets that begin in the window of `device`, longest first."""
    events = trace.events
    chosen = events.of(Category.MEMCPY, Category.MEMSET)
    chosen &= (events.start_ns >= device.window[0]) & (events.start_ns < device.window[1])
    found = np.flatnonzero(chosen)
    groups: dict[tuple[str, int], list[int]] = defaultdict(list)
    kinds = copy_kinds(trace, found)
    for row, kind, name in zip(found.tolist(), kinds, events.name[found].tolist(), strict=True):
        groups[kind, name].append(row)
    by_memory: dict[tuple[str, str, bool], list[int]] = defaultdict(list)
    for (kind, name), same in groups.items():
        by_memory[kind, _memory(trace.names[name]), _pageable(trace.names[name])] += same
    exposed = device.exposed_copies
    rows = []
    for (kind, memory, pageable), members in by_memory.items():
        mine = np.sort(np.asarray(members, np.int64))
        start, duration = events.start_ns[mine], events.duration_ns[mine]
        size, time = events.bytes[mine], int(duration.sum())
        known = bool((size >= 0).all()) and time > 0
        rows.append(
            CopyRow(
                kind=kind,
                memory=memory,
                pageable=pageable,
                calls=len(mine),
                bytes=int(size[size > 0].sum()),
                duration_ms=time * 1e-6,
                exposed_ms=total(intersect(exposed, union(start, start + duration))) * 1e-6,
                bytes_per_s=float(size.sum()) / time * 1e9 if known else None,
            )
        )
    return sorted(rows, key=lambda row: -row.duration_ms)


def _pageable(name: str) -> bool:
    """Whether one end of a copy is host memory that is not pinned."""
    return "pageable" in name.lower() or is_pageable(name)


def _memory(name: str) -> str:
    """What the parentheses of "Memcpy HtoD (Pageable -> Device)" say."""
    found = re.search(r"\((.*)\)", name)
    return found[1] if found else ""
