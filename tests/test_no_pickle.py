"""No data of ours or of strangers is ever run: no pickle, no torch.load, no eval."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("profiler", "collectors", "dashboard", "sample_traces", "benchmarks", "scripts")
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
CALLS = {"eval", "exec", "torch.load", "pandas.read_pickle", "pd.read_pickle"}


def sources() -> list[Path]:
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def loads_objects(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.partition(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in MODULES:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            if ast.unparse(node.func) in CALLS:
                found.append(ast.unparse(node.func))
            found += [
                "allow_pickle"
                for word in node.keywords
                if word.arg == "allow_pickle" and ast.unparse(word.value) != "False"
            ]
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_source_file_loads_no_objects_from_data(path: Path) -> None:
    assert loads_objects(ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "text",
    ["import pickle", "from marshal import loads", "import torch\ntorch.load(f)", "eval('1')",
     "numpy.load(f, allow_pickle=True)"],
)  # fmt: skip
def test_the_check_sees_what_it_looks_for(text: str) -> None:
    assert loads_objects(ast.parse(text))
