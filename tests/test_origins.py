"""Whose code a file is, by its path."""

from __future__ import annotations

import pytest

from boundscope.collectors.origins import is_own, is_standard, is_user, packaged

USERS = [
    "/home/ada/boundscope/examples/slow_store.py",
    "/home/ada/torch/train.py",
    "/home/ada/torch/utils.py",
    "/home/ada/torch/my_model/layers.py",
    "/home/ada/lib/model.py",
    "train.py",
    "…/train/data.py",
]
PACKAGES = [
    "/opt/venv/lib/python3.12/site-packages/torch/nn/modules/module.py",
    "/usr/lib/python3/dist-packages/numpy/__init__.py",
    "…/site-packages/torch/_tensor.py",
    "site-packages/torch/_tensor.py",
    "/build/pytorch/torch/autograd/graph.py",
    "/build/pytorch/torch/_tensor.py",
    "/build/pytorch/torch/distributions/normal.py",
    "/build/pytorch/torch/overrides.py",
    "/opt/target/torch/_dynamo/eval_frame.py",
    "/tmp/torchinductor_ada/xy/c.py",
    "<string>",
]
STANDARD = [
    "/usr/lib/python3.11/threading.py",
    "/usr/lib64/python3.9/threading.py",
    "lib/python3/threading.py",
    "/opt/python/lib/python3.13t/shutil.py",
    "…/lib/python3.11/shutil.py",
    "<frozen runpy>",
]
OURS = [
    "/home/ada/boundscope/collectors/inside/patches.py",
    "/opt/venv/lib/python3.12/site-packages/boundscope/collectors/inside/guards.py",
    "/opt/venv/lib/python3.12/site-packages/boundscope/collectors/writer.py",
    "/home/ada/boundscope/collectors/writer.py",
    "…/boundscope/collectors/inject/sitecustomize.py",
    "collectors/inside/guards.py",
]


@pytest.mark.parametrize("file", USERS)
def test_scripts_are_the_user_s_whatever_their_folder_is_called(file: str) -> None:
    assert is_user(file)
    assert not is_own(file)
    assert not is_standard(file)


@pytest.mark.parametrize("file", [*PACKAGES, *STANDARD, *OURS, ""])
def test_packages_the_standard_library_and_we_are_not_the_user(file: str) -> None:
    assert not is_user(file)


@pytest.mark.parametrize("file", OURS)
def test_what_runs_in_the_training_is_ours(file: str) -> None:
    assert is_own(file)


@pytest.mark.parametrize("file", STANDARD)
def test_the_standard_library_is_known_by_where_python_lies(file: str) -> None:
    assert is_standard(file)


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("/home/ada/mlflow/.venv/lib/python3.11/site-packages/torch/nn/a.py", "/torch/nn/a.py"),
        ("/home/ada/torch/.venv/lib/python3.11/json/encoder.py", "/json/encoder.py"),
        ("site-packages/wandb/run.py", "/wandb/run.py"),
        ("/build/pytorch/torch/optim/sgd.py", "/build/pytorch/torch/optim/sgd.py"),
        ("/home/ada/requests/dataset.py", ""),
    ],
)
def test_a_library_is_known_by_its_package_and_not_by_what_leads_to_it(
    file: str, part: str
) -> None:
    assert packaged(file) == part
