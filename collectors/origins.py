"""Whose code a file of a recorded frame is, by its path: ours, torch's, a package's, the user's.

No folder's name alone tells: who clones this project runs scripts in a folder `boundscope`, and a
user's project may be called `torch`.
"""

from __future__ import annotations

import re
from functools import lru_cache

TORCH_PARTS = (
    r"torch/(?:(?:nn|optim|utils|autograd|distributed|distributions|cuda|xpu|mps|mtia|sparse|fft"
    r"|linalg|nested|masked|special|func|fx|jit|compiler|amp|profiler|multiprocessing|csrc|backends"
    r"|ao|quantization|onnx|export|package|testing|futures|signal|monitor|contrib)(?=/|$)"
    r"|(?:serialization|storage|functional|library|overrides|random|quasirandom|hub|types|torch_version|return_types|__init__)\.py(?![\w-])"
    r"|_\w+(?:\.py)?(?![\w.-]))"
)
"""What torch's own folder holds, wherever it was built: a regular expression."""

_OWN = re.compile(r"/collectors/(?:inside|inject)/|/boundscope/collectors/")
_PYTHON, _SITE = r"/lib(?:64)?/python3(?:\.\d+)?t?(?=/)", r"/(?:site|dist)-packages(?=/)"
_PACKAGES = re.compile(f"{_PYTHON}|{_SITE}")
_STANDARD = re.compile(f"{_PYTHON}(?!{_SITE})")
_INSTALLED = re.compile(rf"{_PYTHON}|{_SITE}|/{TORCH_PARTS}|<frozen|<string>|/torchinductor_")


@lru_cache(maxsize=4096)
def is_own(file: str) -> bool:
    """Whether a file is of what boundscope runs in the training process."""
    return _OWN.search(f"/{file}") is not None


@lru_cache(maxsize=4096)
def is_standard(file: str) -> bool:
    """Whether a file is of Python's standard library."""
    return file.startswith("<frozen") or _STANDARD.search(f"/{file}") is not None


@lru_cache(maxsize=4096)
def is_user(file: str) -> bool:
    """Whether a file is the user's own: of no library, no installed package, and not ours."""
    return bool(file) and _INSTALLED.search(f"/{file}") is None and not is_own(file)


@lru_cache(maxsize=4096)
def packaged(file: str) -> str:
    """A library's file from its package on ("/torch/nn/modules/module.py"); "" for the user's own.

    Whatever folders lead to it: an environment may lie in a project that is called as a library.
    """
    if is_user(file):
        return ""
    whole = file if file.startswith(("/", "<")) else f"/{file}"
    ends = [match.end() for match in _PACKAGES.finditer(whole)]
    return whole[ends[-1] :] if ends else whole
