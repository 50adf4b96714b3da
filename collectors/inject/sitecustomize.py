"""Started by every Python below `boundscope run`: waits for torch, then starts the guest.

It does nothing without BOUNDSCOPE_RUN, imports only `os` and `sys` until torch is imported, and
hands over to the user's own `sitecustomize` where there is one. It is short because interpreters
that may not keep bytecode compile it at every start.
"""

import os
import sys

RUN_FOLDER = os.environ.get("BOUNDSCOPE_RUN")


class _TorchWatcher:
    """A meta-path finder that arms the guest once torch is imported.

    It stays until an import succeeds: `importlib.util.find_spec("torch")` asks and never loads,
    and a failed import may be tried again with another path.
    """

    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        if name != "torch":
            return None
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            spec = None if finder is self or find is None else find(name, path, target)
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
                _trouble("hide_import_frames", exec_module.__code__.co_filename)
                raise
            loader.exec_module = execute
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                _arm()

        try:
            if execute is not None:
                loader.exec_module = exec_module
        except AttributeError:
            pass


def _arm():  # type: ignore[no-untyped-def]
    try:
        from boundscope.collectors.inside.guest import arm

        arm(RUN_FOLDER)
    except Exception as error:
        _trouble("report_gap", RUN_FOLDER, error)


def _trouble(name, *arguments):  # type: ignore[no-untyped-def]
    try:
        from importlib.util import module_from_spec, spec_from_file_location

        path = os.path.join(os.path.dirname(__file__), "trouble.py")
        spec = spec_from_file_location("boundscope_trouble", path)
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        getattr(module, name)(*arguments)
    except Exception:
        pass


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


if RUN_FOLDER:
    if "torch" in sys.modules:  # a .pth file imported it
        _arm()
    else:
        sys.meta_path.insert(0, _TorchWatcher())
_chain_load()
