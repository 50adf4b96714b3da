"""Each wrong command line ends in one sentence, a hint, a slug and its exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BOUNDSCOPE = str(Path(sys.executable).parent / "boundscope")


def boundscope(*words: str, cwd: Path, **more: object) -> subprocess.CompletedProcess[str]:
    command = [BOUNDSCOPE, *words]
    return subprocess.run(
        command, cwd=cwd, text=True, capture_output=True, timeout=60, check=False, **more
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text("open('started', 'w')")
    (tmp_path / "data.txt").write_text("text")
    (tmp_path / "tool").write_text("#!/bin/sh\n")
    (tmp_path / "tool").chmod(0o755)
    (tmp_path / "broken").write_text("#!/no/such/interpreter\n")
    (tmp_path / "broken").chmod(0o755)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "manifest.json").write_text("{}")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "rank-0-17").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "slug"),
    [
        (("run",), "no-command"),
        (("run", "--"), "no-command"),
        (("run", "-m"), "no-command"),
        (("run", "nowhere.py"), "script-not-found"),
        (("run", "no-such-program", "-x"), "command-not-found"),
        (("run", "tool"), "command-not-found"),
        (("run", "./data.txt"), "not-executable"),
        (("run", "old"), "not-executable"),
        (("run", "./broken"), "command-not-started"),
        (("run", "--nmae", "x", "train.py"), "bad-option"),
        (("run", "-o"), "bad-option"),
        (("run", "--without", "stakcs", "train.py"), "unknown-collector"),
        (("run", "-o", "old", "train.py"), "run-exists"),
        (("run", "-o", "half", "train.py"), "run-exists"),
        (("run", "-o", "data.txt/run", "train.py"), "output-not-writable"),
        (("run", "-o", "data.txt", "train.py"), "output-not-writable"),
        (("run", "-o", "/proc/run", "train.py"), "output-not-writable"),
        (("runs", "nowhere"), "no-such-folder"),
        (("runs", "--nope"), "bad-option"),
        (("rnu",), "unknown-command"),
        (("--nope",), "bad-option"),
    ],
)
def test_wrong_usage_is_one_sentence_with_hint_and_slug(
    folder: Path, words: tuple[str, ...], slug: str
) -> None:
    done = boundscope(*words, cwd=folder)

    error, hint = done.stderr.splitlines()
    assert error.startswith(f"error[{slug}]: ")
    assert error.endswith(".")
    assert hint.startswith("hint: ")
    assert (done.returncode, done.stdout) == (2, "")
    assert not (folder / "started").exists()


def test_what_could_not_start_leaves_no_run_behind(folder: Path) -> None:
    first = boundscope("run", "-o", "new", "./broken", cwd=folder)

    second = boundscope("run", "--no-report", "-o", "new", "train.py", cwd=folder)

    assert first.returncode == 2
    assert second.returncode == 0
    assert (folder / "started").exists()


def test_a_folder_that_may_not_be_written_is_named(folder: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere; test_wrong_usage has cases that hold for root too")
    closed = folder / "closed"
    closed.mkdir(mode=0o555)

    done = boundscope("run", "-o", "closed/run", "train.py", cwd=folder)

    assert done.stderr.startswith("error[output-not-writable]: ")
    assert done.returncode == 2


def test_only_debug_shows_a_traceback(folder: Path) -> None:
    outputs = [
        boundscope(*words, cwd=folder).stderr
        for words in (
            ("run", "nowhere.py", "--debug"),
            ("run", "--debug", "nowhere.py"),
            ("runs", "nowhere"),
            ("runs", "nowhere", "--debug"),
        )
    ]

    assert ["Traceback" in output for output in outputs] == [False, True, False, True]
    assert all(output.count("error[") >= 1 for output in outputs)


def test_options_behind_the_command_are_the_commands(folder: Path) -> None:
    (folder / "train.py").write_text("import sys; print(sys.argv[1:])")
    words = ("-o", "x", "--name", "--help", "--debug", "--", "-m")

    done = boundscope("run", "--no-report", "train.py", *words, cwd=folder)

    assert done.stdout.strip() == str(list(words))
    assert not (folder / "x").exists()


@pytest.mark.parametrize("words", [("--help",), ("run", "--help"), ("runs", "--help"), ()])
def test_help_is_shown(folder: Path, words: tuple[str, ...]) -> None:
    done = boundscope(*words, cwd=folder)

    assert done.stdout.startswith(f"Usage: {' '.join(['boundscope', *words[:-1]])} ")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_version_is_shown(folder: Path) -> None:
    done = boundscope("--version", cwd=folder)

    assert done.stdout.split()[0] == "boundscope"
    assert done.stdout.split()[1][0].isdigit()


def test_a_reader_that_goes_away_is_no_error(folder: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{BOUNDSCOPE} runs . | true"],
        cwd=folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.stderr == ""


def test_run_imports_no_heavy_package_before_the_command(folder: Path) -> None:
    heavy = ("numpy", "pandas", "streamlit", "torch", "typer", "rich", "plotly", "pyarrow")
    code = (
        "import sys; from boundscope.profiler import launch, cli\n"
        "def spawn(*_):\n"
        f"    print([name for name in {heavy} if name in sys.modules]); raise SystemExit\n"
        "launch.spawn = spawn\n"
        "cli.main(['run', 'train.py'])"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"
