"""Which `Category` an event has, for the category names of every year and build."""

from __future__ import annotations

import re

from .table import Category

_BY_NAME: dict[str, Category] = {
    # 2021: capitalised
    "operator": Category.CPU_OP,
    "runtime": Category.RUNTIME,
    "memcpy": Category.MEMCPY,
    "memset": Category.MEMSET,
    "dataloader": Category.LOADER,
    "python": Category.PYTHON,
    # since 2022, ActivityType.cpp of libkineto
    "cpu_op": Category.CPU_OP,
    "user_annotation": Category.ANNOTATION,
    "python_function": Category.PYTHON,
    "kernel": Category.KERNEL,
    "concurrent_kernel": Category.KERNEL,
    "gpu_memcpy": Category.MEMCPY,
    "gpu_memset": Category.MEMSET,
    "gpu_user_annotation": Category.DEVICE_ANNOTATION,
    "cuda_runtime": Category.RUNTIME,
    "cuda_driver": Category.DRIVER,
    "hip_runtime": Category.RUNTIME,
    "xpu_runtime": Category.RUNTIME,
    "xpu_driver": Category.DRIVER,
    "xpu_sync": Category.SYNC,
    "mtia_runtime": Category.RUNTIME,
    "glow_runtime": Category.RUNTIME,
    "privateuse1_runtime": Category.RUNTIME,
    "privateuse1_driver": Category.DRIVER,
    "hpu_op": Category.KERNEL,
    "mtia_workloadd": Category.KERNEL,
    "cuda_sync": Category.SYNC,
    "cuda_event": Category.SYNC,
    "collective_comm": Category.COLLECTIVE,
    "overhead": Category.OVERHEAD,
    "trace": Category.TRACE,
}

_MTIA_DEVICE = "mtia_ccp_events"
_MTIA_SYNC = ("event_wait", "event_record")
_MTIA_COPY = "dma_request"

_COMMUNICATION = re.compile(
    r"nccl|rccl|oneccl|hccl|nvshmem|msccl|deep_?ep::"  # the libraries' own kernels
    r"|cross_device_reduce|(?:one|two)_shot_all_?reduce|multimem_all"  # custom all-reduces
    r"|(?<!warp)(?<!block)(?<!warp_)(?<!block_)all_?reduce(?=.*kernel|_fusion)",
    re.IGNORECASE,
)
"""Kernel names that move bytes between devices. "warpAllReduce" and the like stay on the chip."""


def category_of(cat: str, name: str) -> Category:
    """Return what an event of category text `cat` and event name `name` is."""
    lowered = cat.lower()
    if lowered == _MTIA_DEVICE:
        if name in _MTIA_SYNC:
            return Category.SYNC
        return Category.MEMCPY if name == _MTIA_COPY else Category.KERNEL
    return _BY_NAME.get(lowered, Category.OTHER)


def depends_on_name(cat: str) -> bool:
    """Whether events of this category text need their name to be told apart."""
    return cat.lower() == _MTIA_DEVICE


def is_communication(kernel_name: str) -> bool:
    """Whether a kernel of this name moves bytes between devices (NCCL, RCCL, custom all-reduce)."""
    return _COMMUNICATION.search(kernel_name) is not None
