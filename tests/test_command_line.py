"""What the words after `boundscope run` are taken for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from boundscope.profiler.command_line import isolation, resolve, safe_name
from boundscope.profiler.commands.run import parse
from boundscope.profiler.environment import container


@pytest.fixture(autouse=True)
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.py").write_text("")
    (tmp_path / "start").write_text("#!/usr/bin/python3 -Es\n")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("python", "torchrun", "accelerate", "deepspeed", "srun"):
        (tools / name).write_text("#!/bin/sh\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("words", "launcher", "name"),
    [
        ("train.py --lr 1", "python", "train"),
        ("-m package.train", "python", "package.train"),
        ("python train.py", "python", "train"),
        ("torchrun --nproc-per-node 2 train.py", "torchrun", "train"),
        ("python -m torch.distributed.run --nnodes=2 train.py", "torchrun", "train"),
        ("-m torch.distributed.launch train.py", "torchrun", "train"),
        ("accelerate launch train.py", "accelerate", "train"),
        ("deepspeed --num_gpus 2 train.py", "deepspeed", "train"),
        ("srun -N 2 python train.py", "srun", "train"),
        ("bin/python", "python", "python"),
    ],
)
def test_launcher_and_name_are_recognised(words: str, launcher: str, name: str) -> None:
    command = resolve(words.split())

    assert (command.launcher, command.name) == (launcher, name)
    assert command.given == tuple(words.split())


@pytest.mark.parametrize(
    ("words", "argv"),
    [
        ("train.py -x", [sys.executable, "train.py", "-x"]),
        ("-m package.train -x", [sys.executable, "-m", "package.train", "-x"]),
        ("start -x", [sys.executable, "start", "-x"]),
        ("torchrun train.py", ["torchrun", "train.py"]),
    ],
)
def test_only_scripts_and_modules_get_an_interpreter(words: str, argv: list[str]) -> None:
    assert list(resolve(words.split()).argv) == argv


@pytest.mark.parametrize(
    ("words", "isolated"),
    [
        ("python train.py", False),
        ("python -u -X dev -W error train.py -I", False),
        ("python -Xdev train.py -S", False),
        ("python -c pass -I", False),
        ("python -m module -E", False),
        ("python -I train.py", True),
        ("/usr/bin/python3.11 -uE train.py", True),
        ("python -W error -S train.py", True),
        ("python -WS train.py", False),
        ("python3.13t -BI -m module", True),
        ("srun -N 2 python -I train.py", True),
        ("env A=1 python -s train.py", False),
        ("pythonic -I", False),
        ("sh -E", False),
    ],
)
def test_options_that_keep_a_sitecustomize_out_are_seen(words: str, isolated: bool) -> None:
    assert bool(isolation(words.split())) is isolated


def test_the_options_of_a_scripts_first_line_are_seen_too(tmp_path: Path) -> None:
    (tmp_path / "start").chmod(0o755)

    assert "-E" in resolve(["./start"]).isolation


@pytest.mark.parametrize(
    ("words", "command", "output", "name"),
    [
        ("train.py -o x", "train.py -o x", "", ""),
        ("-o x train.py", "train.py", "x", ""),
        ("--output=x --name=y train.py", "train.py", "x", "y"),
        ("-o x -- -m y", "-m y", "x", ""),
        ("-o x -m y -o z", "-m y -o z", "x", ""),
        ("-- -- x", "-- x", "", ""),
    ],
)
def test_our_options_end_at_the_first_other_word(
    words: str, command: str, output: str, name: str
) -> None:
    request = parse(words.split())

    assert " ".join(request.command) == command
    assert (request.output, request.name) == (output, name)


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("train", "train"),
        ("my run/ä", "my-run"),
        ("../..", "run"),
        ("", "run"),
        ("x" * 99, "x" * 60),
    ],
)
def test_names_are_fit_for_a_folder(text: str, safe: str) -> None:
    assert safe_name(text) == safe


def test_containers_are_told_by_marks_and_cgroups(tmp_path: Path) -> None:
    nothing = container("0::/user.slice", tmp_path)
    kubernetes = container("0::/kubepods/burstable/pod1", tmp_path)
    (tmp_path / ".dockerenv").touch()

    assert (nothing, kubernetes) == ("", "kubepods")
    assert container("0::/", tmp_path) == "docker"
