"""The recorded arguments of an op, read tolerantly: tensors, integers, lists and flags."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from .table import Signature

# Names as `Input type` gives them: C++ type names (caffe2::TypeMeta::name) with either spelling
# of long, and the scalar-type names of hand-made traces.
DTYPES = {
    "float": "fp32",
    "Float": "fp32",
    "double": "fp64",
    "Double": "fp64",
    "c10::Half": "fp16",
    "Half": "fp16",
    "c10::BFloat16": "bf16",
    "BFloat16": "bf16",
    "c10::Float8_e4m3fn": "fp8",
    "c10::Float8_e4m3fnuz": "fp8",
    "c10::Float8_e5m2": "fp8",
    "c10::Float8_e5m2fnuz": "fp8",
    "c10::Float8_e8m0fnu": "fp8",
    "c10::Float4_e2m1fn_x2": "fp4",
    "c10::complex<float>": "complex64",
    "c10::complex<double>": "complex128",
    "c10::complex<c10::Half>": "complex32",
    "long int": "int64",
    "long": "int64",
    "long long": "int64",
    "__int64": "int64",
    "int": "int32",
    "short int": "int16",
    "short": "int16",
    "signed char": "int8",
    "char": "int8",
    "unsigned char": "uint8",
    "bool": "bool",
    "c10::quint8": "uint8",
    "c10::qint8": "int8",
    "c10::qint32": "int32",
    "unsigned short": "uint16",
    "unsigned int": "uint32",
    "unsigned long": "uint64",
}
ITEM_BYTES = {
    "fp64": 8.0,
    "fp32": 4.0,
    "fp16": 2.0,
    "bf16": 2.0,
    "fp8": 1.0,
    "fp4": 1.0,  # the type holds two values: one byte an element of the recorded shape
    "complex128": 16.0,
    "complex64": 8.0,
    "complex32": 4.0,
    "int64": 8.0,
    "int32": 4.0,
    "int16": 2.0,
    "int8": 1.0,
    "uint8": 1.0,
    "uint16": 2.0,
    "uint32": 4.0,
    "uint64": 8.0,
    "bool": 1.0,
}
LIST_DTYPE = "fp32"
"""Traces do not record the element type of a tensor list; such a cost is marked not exact."""

# c10::ScalarType, the numbers that `Concrete Inputs` shows for a dtype argument.
SCALAR_TYPES = {
    0: "uint8",
    1: "int8",
    2: "int16",
    3: "int32",
    4: "int64",
    5: "fp16",
    6: "fp32",
    7: "fp64",
    8: "complex32",
    9: "complex64",
    10: "complex128",
    11: "bool",
    15: "bf16",
    23: "fp8",
    24: "fp8",
    25: "fp8",
    26: "fp8",
}

LIST_TYPES = ("TensorList", "GenericList")
Shape: TypeAlias = tuple[int, ...]

_INTEGER = re.compile(r"^\s*[+-]?\d+\s*$")


@dataclass(frozen=True)
class Tensor:
    """One tensor argument: its shape, its dtype ("fp32", …), its strides where recorded."""

    shape: Shape
    dtype: str
    strides: Shape | None = None
    exact: bool = True

    @property
    def elements(self) -> float:
        """How many elements the shape spans, expanded dimensions included."""
        return float(math.prod(self.shape))

    @property
    def item_bytes(self) -> float:
        """Bytes an element."""
        return ITEM_BYTES.get(self.dtype, 4.0)

    @property
    def bytes(self) -> float:
        """Bytes that are really there: an expanded (stride 0) dimension counts once."""
        shape: Iterable[int] = self.shape
        if self.strides is not None and len(self.strides) == len(self.shape) and self.elements:
            shape = (n for n, stride in zip(self.shape, self.strides, strict=True) if stride != 0)
        return float(math.prod(shape)) * self.item_bytes

    @property
    def is_floating(self) -> bool:
        """Whether the elements are real floating-point numbers."""
        return self.dtype.startswith(("fp", "bf"))

    @property
    def is_complex(self) -> bool:
        """Whether the elements are complex numbers."""
        return self.dtype.startswith("complex")


@dataclass(frozen=True)
class Work:
    """What a formula gives: FLOP, compulsory bytes, the dtype that the arithmetic runs in.

    `special` is the part of `flop` that stands for exponentials, logarithms and the like.
    """

    flop: float
    bytes: float
    dtype: str = ""
    exact: bool = True
    special: float = 0.0


class Arguments:
    """The arguments of one op; every accessor gives None for what is absent or odd."""

    def __init__(self, name: str, signature: Signature) -> None:
        self.name = name
        self.in_place = name.endswith("_") and not name.endswith("__")
        self._dims = _sequence(signature.dims)
        self._types = _sequence(signature.types)
        self._strides = _sequence(signature.strides)
        self._concrete = _sequence(signature.concrete)

    def __len__(self) -> int:
        return len(self._dims)

    def tensor(self, index: int) -> Tensor | None:
        """The tensor at `index`, None when that argument is something else."""
        if not 0 <= index < min(len(self._dims), len(self._types)):
            return None
        dtype = DTYPES.get(str(self._types[index]))
        shape = _shape(self._dims[index])
        if dtype is None or shape is None:
            return None
        strides = _shape(self._strides[index]) if index < len(self._strides) else None
        return Tensor(shape, dtype, strides)

    def tensor_list(self, index: int) -> list[Tensor] | None:
        """The tensors of a list argument; None when it is no list or was too long to record."""
        if not 0 <= index < min(len(self._dims), len(self._types)):
            return None
        if str(self._types[index]) not in LIST_TYPES:
            return None
        items = _sequence(self._dims[index])
        strides = _sequence(self._strides[index]) if index < len(self._strides) else ()
        tensors = []
        for place, item in enumerate(items):
            shape = _shape(item)
            if shape is None:
                return None
            stride = _shape(strides[place]) if len(strides) == len(items) else None
            tensors.append(Tensor(shape, self._list_dtype(), stride, exact=False))
        return tensors or None

    def _list_dtype(self) -> str:
        first = next((t for t in self.tensors() if t.is_floating and t.shape), None)
        return first.dtype if first else LIST_DTYPE

    def tensors(self) -> list[Tensor]:
        """All plain tensor arguments, in order."""
        found = (self.tensor(index) for index in range(len(self._dims)))
        return [tensor for tensor in found if tensor is not None]

    def is_list(self, index: int) -> bool:
        """Whether the argument at `index` is a list of tensors, recorded or not."""
        return 0 <= index < len(self._types) and str(self._types[index]) in LIST_TYPES

    def text(self, index: int) -> str:
        """The concrete value at `index` as recorded; empty where none is."""
        if not 0 <= index < len(self._concrete):
            return ""
        return str(self._concrete[index]).strip()

    def integers(self, index: int) -> Shape | None:
        """A list of integers, or one integer as a list of one."""
        text = self.text(index).strip("[]()")
        if not self.text(index):
            return None
        parts = [part for part in text.split(",") if part.strip()]
        if any(not _INTEGER.match(part) or len(part) > 20 for part in parts):
            return None
        return tuple(int(part) for part in parts)

    def integer(self, index: int) -> int | None:
        """One integer."""
        values = self.integers(index)
        return values[0] if values and len(values) == 1 else None

    def flag(self, index: int) -> bool | None:
        """A boolean; older traces show 0 and 1."""
        return {"True": True, "1": True, "true": True, "False": False, "0": False}.get(
            self.text(index)
        )

    def flags(self, index: int) -> list[bool] | None:
        """A list of booleans such as an output mask."""
        words = [word.strip() for word in self.text(index).strip("[]()").split(",")]
        if not words or any(word not in ("True", "False", "0", "1") for word in words):
            return None
        return [word in ("True", "1") for word in words]

    def dtype(self) -> str:
        """The dtype that the arithmetic runs in: the first floating tensor's, else the first's."""
        tensors = self.tensors()
        ranked = [t for t in tensors if t.shape] or tensors
        for wanted in ("is_floating", "is_complex"):
            for tensor in ranked:
                if getattr(tensor, wanted):
                    return tensor.dtype
        return ranked[0].dtype if ranked else LIST_DTYPE


Formula: TypeAlias = Callable[[Arguments], "Work | None"]
Table: TypeAlias = dict[str, tuple[str, Formula]]
"""Op name without namespace to (family, formula)."""


def promoted(tensors: Sequence[Tensor]) -> str:
    """The result dtype of an element-wise op: torch's type promotion, in short.

    A tensor without dimensions counts only where none has any or none of those is floating.
    """
    order = ("complex128", "complex64", "complex32", "fp64", "fp32", "bf16", "fp16", "fp8")
    for group in ([t for t in tensors if t.shape], list(tensors)):
        present = {t.dtype for t in group}
        if "bf16" in present and "fp16" in present:
            return "fp32"
        for dtype in order:
            if dtype in present:
                return dtype
    sized = [t for t in tensors if t.shape] or list(tensors)
    widest = max(sized, key=lambda t: t.item_bytes, default=None)
    return widest.dtype if widest else LIST_DTYPE


def broadcast(shapes: Iterable[Shape]) -> Shape | None:
    """The common shape, None where the shapes do not broadcast."""
    result: list[int] = []
    for shape in shapes:
        longer = max(len(result), len(shape))
        left = [1] * (longer - len(result)) + result
        right = [1] * (longer - len(shape)) + list(shape)
        result = []
        for a, b in zip(left, right, strict=True):
            if a != b and 1 not in (a, b):
                return None
            result.append(b if a == 1 else a)
    return tuple(result)


def item_bytes(dtype: str) -> float:
    """Bytes an element of `dtype`."""
    return ITEM_BYTES.get(dtype, 4.0)


def total_bytes(tensors: Iterable[Tensor | None]) -> float:
    """Bytes of all that are there."""
    return sum(tensor.bytes for tensor in tensors if tensor is not None)


def words(text: str) -> list[str]:
    """The words of `text`: a table of names that stays readable."""
    return text.split()


def nothing(_: Arguments) -> Work:
    """Views and allocations: no arithmetic, no traffic."""
    return Work(0.0, 0.0)


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (tuple, list)) else ()


def _shape(value: Any) -> Shape | None:
    if not isinstance(value, (tuple, list)):
        return None
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in value):
        return None
    return tuple(value)
