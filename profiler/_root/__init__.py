"""boundscope: says what a PyTorch training run is bound by, proves it, and says what to do."""

import sys as _sys

TYPE_CHECKING = False  # for type checkers it is True; importing `typing` would cost 3 ms
if TYPE_CHECKING:
    import os as _os

    from boundscope.profiler.diagnosis import Diagnosis as _Diagnosis

__version__ = "0.1.0"

__all__ = ["__version__", "diagnose", "step"]


def diagnose(path: "str | _os.PathLike[str]", *more: "str | _os.PathLike[str]") -> "_Diagnosis":
    """Say what a recorded run, a torch-profiler trace or a folder of traces is bound by.

    Several traces, or traces and the run that they are of, are diagnosed together. The fields of
    the result are those of `boundscope diagnose --json`. Raises
    `boundscope.profiler.errors.BoundscopeError` with a slug when a path cannot be used.
    """
    from pathlib import Path

    from boundscope.profiler.diagnose import diagnose_paths

    return diagnose_paths([Path(path), *map(Path, more)])


def step() -> None:
    """Say that a training step ends here; from now on only such marks end steps.

    Steps are found without it. It does nothing outside of `boundscope run`.
    """
    guest = getattr(_sys.modules.get("torch"), "_boundscope_guest", None)
    if guest is not None:
        guest.user_step()
