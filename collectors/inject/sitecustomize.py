"""Started by every Python below `boundscope run`: waits for torch, then starts the guest.

It does nothing without BOUNDSCOPE_RUN, imports only `os` and `sys` until torch is imported, and
hands over to the user's own `sitecustomize` where there is one.
"""

import os
import sys


class _TorchWatcher:
    """A meta-path finder that sees the import of torch once, and arms the guest after it."""

    def __init__(self, run_folder):  # type: ignore[no-untyped-def]
        self.run_folder = run_folder

    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            spec = find(name, path, target) if find is not None else None
            if spec is not None:
                self._arm_after_loading(spec)
                return spec
        return None

    def _arm_after_loading(self, spec):  # type: ignore[no-untyped-def]
        loader = spec.loader
        execute = getattr(loader, "exec_module", None)
        if execute is None:
            return

        def exec_module(module):  # type: ignore[no-untyped-def]
            execute(module)
            try:
                del loader.exec_module
            except AttributeError:
                pass
            _arm(self.run_folder)

        try:
            loader.exec_module = exec_module
        except AttributeError:
            pass


def _arm(run_folder):  # type: ignore[no-untyped-def]
    try:
        from boundscope.collectors.inside.guest import arm

        arm(run_folder)
    except Exception as error:
        try:
            _report_gap(run_folder, error)
        except Exception:
            pass


def _report_gap(run_folder, error):  # type: ignore[no-untyped-def]
    """Write the gap by hand: here neither boundscope nor msgspec may be importable."""
    import json
    import time

    missing = isinstance(error, ImportError)
    host = os.uname().nodename
    folder = os.path.join(run_folder, "node-" + host)
    os.makedirs(folder, exist_ok=True)
    now = time.time_ns()
    header = {
        "t": "header",
        "schema": 1,
        "collector": "process",
        "host": host,
        "pid": os.getpid(),
        "mono_ns": time.monotonic_ns(),
        "wall_ns": now,
    }
    detail = "%s: %s: %s" % (sys.executable, type(error).__name__, error)
    gap = {
        "t": "gap",
        "time_ns": now,
        "collector": "inside",
        "reason": "not-installed" if missing else "crashed",
        "detail": detail,
        "effect": "no steps, input waits or torch-profiler windows of this process",
    }
    with open(os.path.join(folder, "process-%d.jsonl" % os.getpid()), "a") as file:
        file.write(json.dumps(header) + "\n" + json.dumps(gap) + "\n")


def _chain_load():  # type: ignore[no-untyped-def]
    """Run the `sitecustomize` that would have run without us; its errors stay its own."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]
    ours = sys.modules.pop("sitecustomize", None)
    try:
        import sitecustomize  # noqa: F401
    except ImportError as error:
        if getattr(error, "name", None) != "sitecustomize":
            raise
    finally:
        if "sitecustomize" not in sys.modules and ours is not None:
            sys.modules["sitecustomize"] = ours


if os.environ.get("BOUNDSCOPE_RUN"):
    sys.meta_path.insert(0, _TorchWatcher(os.environ["BOUNDSCOPE_RUN"]))
_chain_load()
