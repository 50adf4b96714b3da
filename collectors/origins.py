"""Whose code a file of a recorded frame is, by its path: ours, torch's, a package's, the user's.

No folder's name alone tells: who clones this project runs scripts in a folder `boundscope`, and a
user's project may be called `torch`.
"""

from __future__ import annotations

import re
from functools import lru_cache

TORCH_PARTS = (
    r"torch/(?:nn|optim|utils|autograd|distributed|cuda|_\w+|serialization\.py|storage\.py"
    r"|functional\.py|fx|jit|amp|profiler|multiprocessing|csrc|backends|ao|export|library\.py"
    r"|_tensor\.py|__init__\.py)(?![\w-])"
)
"""What torch's own folder holds, wherever it was built: a regular expression."""

_OWN = re.compile(r"/collectors/(?:inside|inject)/")
_STANDARD = re.compile(r"/lib(?:64)?/python3(?:\.\d+)?t?/(?!(?:site|dist)-packages/)")
_INSTALLED = re.compile(
    rf"/(?:site|dist)-packages/|/{TORCH_PARTS}|<frozen|<string>|/torchinductor_|/lib/python3"
)


@lru_cache(maxsize=4096)
def is_own(file: str) -> bool:
    """Whether a file is of what boundscope runs in the training process."""
    return _OWN.search(f"/{file}") is not None


@lru_cache(maxsize=4096)
def is_standard(file: str) -> bool:
    """Whether a file is of Python's standard library."""
    return file.startswith("<frozen") or _STANDARD.search(file) is not None


@lru_cache(maxsize=4096)
def is_user(file: str) -> bool:
    """Whether a file is the user's own: of no library, no installed package, and not ours."""
    return bool(file) and _INSTALLED.search(f"/{file}") is None and not is_own(file)
