"""An estimate for the kernels that torch.compile generates, from their name and arguments.

Such an op's arguments are the buffers that the kernel reads and writes, and its name lists what
was fused ("triton_poi_fused_add_mul_silu_3"). A buffer updated in place is written too, which is
not recorded: the bytes are a lower bound. Never exact.
"""

from __future__ import annotations

from .costs_arguments import Arguments, Formula, Work, total_bytes
from .costs_elementwise import element_flop

_FAMILIES = {
    "triton_poi_": "elementwise",
    "triton_red_": "reduction",
    "triton_per_": "reduction",
}


def _generated(args: Arguments) -> Work | None:
    tensors = args.tensors()
    if not tensors:
        return None
    widest = max(tensors, key=lambda tensor: tensor.elements)
    fused = args.name.partition("_fused_")[2]
    weight = sum(element_flop(word) for word in fused.split("_"))
    return Work(widest.elements * weight, total_bytes(tensors), widest.dtype, exact=False)


def lookup(name: str) -> tuple[str, Formula] | None:
    """(family, formula) of a generated kernel's op; None for other names."""
    family = _FAMILIES.get(name[: len("triton_poi_")])
    return (family, _generated) if family is not None else None
