"""Shapes of matrix products, from the text in which ops carry them ("[16, 512], [512, 512]")."""

from __future__ import annotations

import math
import re


def _matrices(dims: str) -> list[list[int]]:
    """Shapes of two dimensions or more; a bias is none."""
    shapes = [re.findall(r"\d+", part) for part in re.findall(r"\[[\d, ]+\]", dims)]
    return [[int(number) for number in shape] for shape in shapes if len(shape) > 1]


def sides(dims: str) -> list[int]:
    """Sides of the matrices; the number of matrices in a batched product is none."""
    return [side for shape in _matrices(dims) for side in shape[-2:]]


def rows(dims: str) -> int:
    """Rows of the first operand: samples in the batch, or positions; 0 where not known."""
    shapes = _matrices(dims)
    if not shapes:
        return 0
    first, last = shapes[0], shapes[-1]
    return math.prod(first[:-1]) if len(last) == 2 else first[-2]
