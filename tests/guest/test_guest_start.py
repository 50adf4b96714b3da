"""The start-up hook: the user's own hooks still run, and nothing is left behind without torch."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from boundscope.collectors.records import Gap, Process
from boundscope.profiler.run.files import read_records

from .conftest import INJECT, guest_environment, plain_environment


@functools.cache
def interpreters() -> list[str]:
    """This interpreter and every other supported one that is on PATH and works."""
    found = [sys.executable]
    for minor in (10, 11, 12, 13):
        path = shutil.which(f"python3.{minor}")
        if minor == sys.version_info.minor or path is None:
            continue
        if subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            found.append(path)
    return found


def both(
    tmp_path: Path, *words: str, executable: str = sys.executable, **environment: str
) -> tuple[subprocess.CompletedProcess[str], subprocess.CompletedProcess[str]]:
    """Run Python without and with the guest."""
    run = functools.partial(
        subprocess.run, [executable, *words], cwd=tmp_path, text=True, capture_output=True,
        timeout=60, check=False,
    )  # fmt: skip
    plain = run(env=plain_environment(**environment))
    return plain, run(env=guest_environment(tmp_path / "run", **environment))


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def fake_torch(folder: Path, version: str) -> str:
    write(folder / "torch" / "__init__.py", f"__version__ = {version!r}\n")
    return str(folder)


def gaps(run: Path) -> list[Gap]:
    files = [read_records(path) for path in run.glob("node-*/process-*.jsonl")]
    return [record for file in files for record in file.records if isinstance(record, Gap)]


@pytest.mark.parametrize("executable", interpreters(), ids=lambda path: Path(path).name)
def test_the_users_own_hooks_run(tmp_path: Path, executable: str) -> None:
    own = tmp_path / "own"
    write(own / "sitecustomize.py", "import sys; print('site', __name__, sys.path[:2])")
    write(own / "usercustomize.py", "print('user', __name__)")
    text = "import sitecustomize; print(sitecustomize.__file__)"

    plain, wrapped = both(tmp_path, "-c", text, executable=executable, PYTHONPATH=str(own))

    assert plain.stdout.count("\n") >= 2
    assert "site sitecustomize" in plain.stdout
    assert (wrapped.stdout, wrapped.stderr) == (plain.stdout, plain.stderr)


def test_the_guest_starts_though_the_users_own_hook_took_its_place(tmp_path: Path) -> None:
    own = write(tmp_path / "own" / "sitecustomize.py", "import gc; gc.collect()").parent
    paths = os.pathsep.join([str(own), fake_torch(tmp_path / "fake", "1.13.1")])

    both(tmp_path, "-c", "import gc, os; os.environ.clear(); gc.collect(); import torch",
         PYTHONPATH=paths)  # fmt: skip

    assert [gap.reason for gap in gaps(tmp_path / "run")] == ["not-supported"]


def test_the_package_itself_is_light_and_its_mark_does_nothing_outside_of_a_run() -> None:
    text = """
import sys
before = set(sys.modules)
import boundscope
boundscope.step()
print(sorted(set(sys.modules) - before))
"""

    done = subprocess.run(
        [sys.executable, "-c", text], env=plain_environment(), capture_output=True, text=True,
        check=True,
    )  # fmt: skip

    assert done.stdout == "['boundscope']\n"


@pytest.mark.parametrize("executable", interpreters(), ids=lambda path: Path(path).name)
@pytest.mark.parametrize("text", ["raise ValueError('mine')", "import not_there", "1 +"])
def test_the_users_own_hook_fails_as_it_would_alone(
    tmp_path: Path, executable: str, text: str
) -> None:
    own = write(tmp_path / "own" / "sitecustomize.py", text).parent
    words = ("-c", "import sys; print('sitecustomize' in sys.modules)")

    plain, wrapped = both(tmp_path, *words, executable=executable, PYTHONPATH=str(own))

    assert plain.returncode or plain.stderr
    assert (wrapped.returncode, wrapped.stdout) == (plain.returncode, plain.stdout)
    assert wrapped.stderr == plain.stderr


def test_a_child_without_torch_has_the_same_modules_and_paths(tmp_path: Path) -> None:
    text = """
import json, os, sys
own = [type(finder).__name__ for finder in sys.meta_path]
print(json.dumps([sorted(set(sys.modules) - {"sitecustomize"}), sys.path, own]))
"""
    words = (str(write(tmp_path / "child.py", text)),)

    plain, wrapped = both(tmp_path, *words, PYTHONPATH=str(tmp_path / "mine"))

    expected, found = json.loads(plain.stdout), json.loads(wrapped.stdout)
    assert found[0] == expected[0]
    assert found[1] == expected[1]
    assert str(tmp_path / "mine") in found[1]
    assert INJECT not in found[1]
    assert found[2] == ["_TorchWatcher", *expected[2]]
    assert not (tmp_path / "run").exists()


def test_without_its_variable_the_hook_does_nothing(tmp_path: Path) -> None:
    torch = fake_torch(tmp_path / "fake", "2.5.0")
    environment = plain_environment(PYTHONPATH=os.pathsep.join([INJECT, torch]))
    text = "import sys, torch; print('boundscope' in sys.modules, len(sys.meta_path))"

    done = subprocess.run(
        [sys.executable, "-c", text], env=environment, capture_output=True, text=True, check=True
    )
    plain, _ = both(tmp_path, "-c", text, PYTHONPATH=torch)

    assert done.stdout == plain.stdout


@pytest.mark.parametrize("executable", interpreters(), ids=lambda path: Path(path).name)
def test_an_interpreter_without_boundscope_is_named(tmp_path: Path, executable: str) -> None:
    subprocess.run([executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    bare = str(tmp_path / "bare" / "bin" / "python")
    torch = fake_torch(tmp_path / "fake", "2.5.0")
    words = ("-c", "import torch; print(torch.__version__)")

    plain, wrapped = both(tmp_path, *words, executable=bare, PYTHONPATH=torch)

    (gap,) = gaps(tmp_path / "run")
    assert (plain.returncode, wrapped.returncode) == (0, 0)
    assert (wrapped.stdout, wrapped.stderr) == (plain.stdout, plain.stderr) == ("2.5.0\n", "")
    assert (gap.collector, gap.reason) == ("inside", "not-installed")
    assert bare in gap.detail
    assert "No module named 'boundscope'" in gap.detail


def test_a_torch_that_is_too_old_is_named_and_left_alone(tmp_path: Path) -> None:
    torch = fake_torch(tmp_path / "fake", "1.13.1")
    words = ("-c", "import torch; print(sorted(vars(torch)))")

    plain, wrapped = both(tmp_path, *words, PYTHONPATH=torch)

    (gap,) = gaps(tmp_path / "run")
    assert (wrapped.stdout, wrapped.stderr) == (plain.stdout, plain.stderr)
    assert (gap.collector, gap.reason) == ("inside", "not-supported")
    assert gap.detail == "torch 1.13.1 is older than 2.2, the oldest supported version"


def test_a_torch_in_which_no_patch_fits_runs_unharmed(tmp_path: Path) -> None:
    torch = fake_torch(tmp_path / "fake", "9.0.0")
    words = ("-c", "import torch; print(torch.__version__)")

    plain, wrapped = both(tmp_path, *words, PYTHONPATH=torch)

    assert (wrapped.stdout, wrapped.stderr) == (plain.stdout, plain.stderr) == ("9.0.0\n", "")


def test_isolated_mode_keeps_the_guest_out_and_harms_nothing(tmp_path: Path) -> None:
    plain, wrapped = both(tmp_path, "-I", "-c", "import sys; print(sys.meta_path)")

    assert (wrapped.returncode, wrapped.stderr) == (0, "")
    assert "_TorchWatcher" not in wrapped.stdout
    assert plain.returncode == 0


def test_asking_for_torch_without_importing_it_does_not_use_the_watcher_up(tmp_path: Path) -> None:
    torch = fake_torch(tmp_path / "fake", "1.13.1")
    text = """
import importlib.util, sys
assert importlib.util.find_spec("torch") is not None
import torch
print([type(finder).__name__ for finder in sys.meta_path].count("_TorchWatcher"))
"""

    plain, wrapped = both(tmp_path, "-c", text, PYTHONPATH=torch)

    assert (plain.stdout, wrapped.stdout) == ("0\n", "0\n")
    assert len(gaps(tmp_path / "run")) == 1


def test_a_failed_import_of_torch_shows_the_same_traceback_and_may_be_tried_again(
    tmp_path: Path,
) -> None:
    broken = "import os\nif 'FIXED' not in os.environ: raise OSError('libcudart.so.12')\n"
    write(tmp_path / "fake" / "torch" / "__init__.py", broken + "__version__ = '1.13.1'\n")
    text = """
import os
try:
    import torch
except OSError as error:
    print(error)
os.environ["FIXED"] = "1"
import torch
print(torch.__version__)
del os.environ["FIXED"]
import sys
del sys.modules["torch"]
import torch
"""
    words = (str(write(tmp_path / "again.py", text)),)

    plain, wrapped = both(tmp_path, *words, PYTHONPATH=str(tmp_path / "fake"))

    assert plain.stdout == "libcudart.so.12\n1.13.1\n"
    assert "OSError: libcudart.so.12" in plain.stderr
    assert (wrapped.returncode, wrapped.stdout) == (plain.returncode, plain.stdout)
    assert wrapped.stderr == plain.stderr
    assert len(gaps(tmp_path / "run")) == 1


def test_a_torch_that_a_pth_file_imported_is_noticed(tmp_path: Path) -> None:
    venv.create(tmp_path / "early", with_pip=False)
    early = tmp_path / "early" / "bin" / "python"
    (packages,) = (tmp_path / "early" / "lib").glob("python*/site-packages")
    fake_torch(packages, "1.13.1")
    (packages / "early.pth").write_text("import torch\n")

    both(tmp_path, "-c", "", executable=str(early))

    (gap,) = gaps(tmp_path / "run")
    assert gap.reason == "not-installed"


def test_every_process_with_torch_is_announced_with_its_versions(tmp_path: Path) -> None:
    torch = fake_torch(tmp_path / "fake", "1.13.1")

    both(tmp_path, "-c", "import torch", "word", PYTHONPATH=torch)

    (path,) = (tmp_path / "run").glob("node-*/process-*.jsonl")
    file = read_records(path)
    (process,) = (record for record in file.records if isinstance(record, Process))
    assert file.header is not None
    assert (process.torch, process.argv) == ("1.13.1", ["-c", "word"])
    assert process.python == ".".join(str(part) for part in sys.version_info[:3])
    assert process.facts == {"executable": sys.executable}
