"""Started by every Python below `boundscope run`: waits for torch, then starts the guest.

It does nothing without BOUNDSCOPE_RUN, imports only `os` and `sys` until torch is imported, and
hands over to the user's own `sitecustomize` where there is one.
"""

import os
import sys


class _TorchWatcher:
    """A meta-path finder that arms the guest once torch is imported.

    It stays until an import succeeds: `importlib.util.find_spec("torch")` asks and never loads,
    and a failed import may be tried again with another path.
    """

    def __init__(self, run_folder):  # type: ignore[no-untyped-def]
        self.run_folder = run_folder

    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        if name != "torch":
            return None
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            if finder is self or find is None:
                continue
            spec = find(name, path, target)
            if spec is not None:
                self._arm_after_loading(spec.loader)
                return spec
        return None

    def _arm_after_loading(self, loader):  # type: ignore[no-untyped-def]
        execute = getattr(loader, "exec_module", None)

        def exec_module(module):  # type: ignore[no-untyped-def]
            try:
                execute(module)
            except BaseException:
                _hide_import_frames()
                raise
            loader.exec_module = execute
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                _arm(self.run_folder)

        try:
            if execute is not None:
                loader.exec_module = exec_module
        except AttributeError:
            pass


def _hide_import_frames():  # type: ignore[no-untyped-def]
    """Let a failed import of torch print the traceback that it prints without us.

    The interpreter cuts the import machinery's frames from a traceback only where no frame of
    somebody else's stands between them.
    """
    previous = sys.excepthook
    ours = (_hide_import_frames.__code__.co_filename, "<frozen importlib")

    def excepthook(kind, error, trace):  # type: ignore[no-untyped-def]
        kept = []
        while trace is not None:
            if not trace.tb_frame.f_code.co_filename.startswith(ours):
                kept.append(trace)
            trace = trace.tb_next
        for entry in reversed(kept):
            trace = type(entry)(trace, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
        error.__traceback__ = trace
        previous(kind, error, trace)

    sys.excepthook = excepthook


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


def _watch(run_folder):  # type: ignore[no-untyped-def]
    if "torch" in sys.modules:  # a .pth file imported it
        _arm(run_folder)
    else:
        sys.meta_path.insert(0, _TorchWatcher(run_folder))


def _chain_load():  # type: ignore[no-untyped-def]
    """Run the `sitecustomize` that would have run without us; its errors stay its own."""
    here = os.path.dirname(__file__)
    sys.path[:] = [entry for entry in sys.path if entry != here]
    sys.path_importer_cache.pop(here, None)
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
    _watch(os.environ["BOUNDSCOPE_RUN"])
_chain_load()
