"""The poles of `reinforce.py` in compiled code: the same mechanics without Python."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

SOURCE = Path(__file__).with_suffix(".c")
FLAGS = ("-O3", "-march=native", "-ffast-math", "-shared", "-fPIC")
Advance = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def compiled_poles(substeps: int) -> Advance:
    """Compile the mechanics; the result moves states (poles, 4) by actions (poles) one time step.

    Needs a C compiler, `cc`. Without one the script ends.
    """
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "poles.so"
        command = ["cc", *FLAGS, "-o", str(library), str(SOURCE), "-lm"]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except OSError as error:
            raise SystemExit(f"--remove host needs a C compiler, cc: {error}") from error
        code = ctypes.CDLL(str(library)).advance
    code.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int] * 2
    code.restype = None

    def advance(states: torch.Tensor, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        following, actions = states.clone(), actions.contiguous()
        rewards = torch.empty(len(states))
        addresses = (t.data_ptr() for t in (following, actions, rewards))
        code(*addresses, len(states), substeps)
        return following, rewards

    return advance
