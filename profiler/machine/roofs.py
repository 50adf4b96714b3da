"""The roofs of one machine or device: how fast it can calculate and move data at best."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

RoofSource: TypeAlias = Literal["measured", "catalogue", "estimate"]

UNFUSED_SHARE = 0.5
"""Peak figures count a fused multiply-add as two; an add or a multiplication alone is one."""

CACHE_LEVELS = ("l1", "l2", "l3")


class Roofs(msgspec.Struct, frozen=True, omit_defaults=True):
    """Arithmetic and bandwidth roofs.

    `flops`: FLOP/s per dtype for matrix products ("fp64", "fp32", "tf32", "bf16", "fp16", "fp8",
    "int8"), and "special": FLOP/s of exponentials and the like in the weights of
    `trace.costs_elementwise`. Where matrix units do more than the vector units in one dtype, they
    are "fp32_matrix" and "fp64_matrix". `flops_1` holds the same at one thread (CPU only).
    `bandwidth`: bytes/s, reads and writes added: "dram_copy" and "dram_triad", or "dram" where only
    a data sheet is known; "l2", "l3". The first-level cache is left out: what fits into it takes
    less time than the dispatch of an op.
    `cache_bytes`: bytes of each cache level ("l1", "l2", "l3") that the threads reach together.
    `dispatch_ns`: time of one tiny op, almost all of it dispatch; 0 where not known.
    `fresh_page_ns`: what a page of memory costs more to write where it is handed out anew and given
    back than where it is kept, all threads at it; 0 where not known. `page_bytes`: of such a page.
    `threads`: the threads that these roofs hold for; 0 for a device.
    """

    flops: dict[str, float]
    bandwidth: dict[str, float]
    cache_bytes: dict[str, int] = {}
    dispatch_ns: float = 0.0
    fresh_page_ns: float = 0.0
    page_bytes: int = 4096
    threads: int = 0
    source: RoofSource = "estimate"
    device: str = ""
    flops_1: dict[str, float] = {}
    key: str = ""
    notes: list[str] = []

    @property
    def memory_bandwidth(self) -> float:
        """Bytes/s of main or device memory; 0 where not known."""
        return max(
            (rate for name, rate in self.bandwidth.items() if name.startswith("dram")), default=0.0
        )

    def bandwidth_for(self, working_set_bytes: float) -> float:
        """Bytes/s for data of this size: that of the smallest cache level that holds it.

        Falls back to main memory's; 0 where nothing is known.
        """
        for level in CACHE_LEVELS:
            size, rate = self.cache_bytes.get(level, 0), self.bandwidth.get(level, 0.0)
            if rate > 0 and working_set_bytes <= size:
                return max(rate, self.memory_bandwidth)
        return self.memory_bandwidth

    def flops_for(self, dtype: str, *, matrix: bool) -> float:
        """FLOP/s for arithmetic in `dtype`; 0 where not known.

        Matrix products run on what the dtype has. Other arithmetic runs on the vector units,
        narrow types widened to fp32 in registers, and is not made of fused multiply-adds.
        """
        if not matrix:
            wide = self.flops.get("fp64", 0.0) if dtype == "fp64" else 0.0
            return (wide or self.flops.get("fp32", 0.0)) * UNFUSED_SHARE
        for name in (f"{dtype}_matrix", dtype, "fp32_matrix", "fp32"):
            if self.flops.get(name):
                return self.flops[name]
        return 0.0

    def special_flops(self, *, serial: bool = False) -> float:
        """FLOP/s of exponentials and the like; `serial`: of one thread, where it was measured.

        Falls back to the rate of other element-wise arithmetic.
        """
        one = self.flops_1.get("special", 0.0) if serial else 0.0
        return one or self.flops.get("special", 0.0) or self.flops_for("fp32", matrix=False)

    def with_measured(self, measured: Roofs) -> Roofs:
        """These roofs with what was measured in the place of what a data sheet says.

        Measured are matrix products: where matrix units do FP32 and FP64 too, the rate is theirs.
        """
        flops = dict(self.flops)
        for dtype, rate in measured.flops.items():
            flops[f"{dtype}_matrix" if f"{dtype}_matrix" in flops else dtype] = rate
        bandwidth = measured.bandwidth if measured.memory_bandwidth else self.bandwidth
        return msgspec.structs.replace(
            self,
            flops=flops,
            bandwidth=bandwidth,
            source=measured.source,
            device=measured.device,
            notes=[*self.notes, *measured.notes],
        )

    def ridge(self, dtype: str) -> float:
        """Roofline ridge point, FLOP/byte: less intensity than this is bound by memory."""
        bandwidth = self.memory_bandwidth
        return self.flops_for(dtype, matrix=True) / bandwidth if bandwidth else 0.0
