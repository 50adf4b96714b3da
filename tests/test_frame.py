"""The frame holds: who may import whom, what is packaged and exported, and how long code may be.

All of it is read off the syntax trees; nothing of the project is imported but its public names.
"""

from __future__ import annotations

import ast
import functools
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("collectors", "profiler", "dashboard", "sample_traces")
CODE_FOLDERS = (*FOLDERS, "tests", "benchmarks", "examples", "scripts")
LONGEST_FUNCTION = 100
LONGEST_FILE = 500

MAY_IMPORT = {
    "boundscope.collectors": ("boundscope.collectors",),
    "boundscope.profiler": ("boundscope.profiler", "boundscope.collectors", "boundscope"),
    "boundscope.dashboard": (
        "boundscope.dashboard",
        "boundscope.profiler",
        "boundscope.collectors.records",
        "boundscope.sample_traces",
    ),
    "boundscope.sample_traces": (),
    "boundscope": ("boundscope.profiler",),
}
STARTS_COLLECTORS = (
    "boundscope.profiler.launch",
    "boundscope.profiler.environment",
    "boundscope.profiler.machine",
    "boundscope.profiler.commands",
)
"""What of the profiler works with the collectors themselves; the rest sees their records only."""
RUN_FOLDER_FORMATS = (
    "boundscope.collectors.records",
    "boundscope.collectors.pyspy",
    "boundscope.collectors.origins",
)
"""What a run folder holds: records, and py-spy's own files where the run was killed; and whose code
the files are that its frames name."""
MAY_SPEAK = (
    "boundscope.profiler.cli",
    "boundscope.profiler.commands",
    "boundscope.profiler.report",
)
PLOTTING = ("plotly", "matplotlib", "altair", "seaborn", "bokeh", "streamlit")
ABSOLUTE_IMPORTS = ("boundscope.__main__", "boundscope.__init__", "boundscope.dashboard.app")
BOOTSTRAP = "boundscope.collectors.inject.sitecustomize"
"""Python imports it by its bare name, outside of any package, so it can't import relatively."""

PUBLIC_NAMES = {"boundscope": {"__version__", "diagnose", "step"}}


def module_name(path: Path) -> str:
    """Return the import name of a file, e.g. profiler/_root/__main__.py: boundscope.__main__."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[:2] == ["profiler", "_root"]:
        parts = parts[2:]
    return ".".join(["boundscope", *parts])


@functools.cache
def package_files() -> list[tuple[str, ast.Module]]:
    """Return the import name and the syntax tree of every file of the package."""
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return [(module_name(path), ast.parse(path.read_text())) for path in paths]


def imports_of(name: str, tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield the absolute name of what each import names, and how many dots it was written with."""
    package = name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((f"{module}.{alias.name}", node.level) for alias in node.names)


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def folder_of(name: str) -> str:
    """Return which row of the import table a module belongs to."""
    for folder in FOLDERS:
        if within(name, (f"boundscope.{folder}",)):
            return f"boundscope.{folder}"
    return "boundscope"


def is_allowed(importer: str, imported: str) -> bool:
    allowed = MAY_IMPORT[folder_of(importer)]
    # "boundscope" itself stands for its public names, not for everything below it.
    if folder_of(imported) == "boundscope":
        return "boundscope" in allowed or folder_of(importer) == "boundscope"
    return within(imported, tuple(one for one in allowed if one != "boundscope"))


def test_every_folder_imports_only_what_the_design_allows() -> None:
    # Given
    files = package_files()

    # When
    wrong = [
        f"{name} imports {imported}"
        for name, tree in files
        for imported, _ in imports_of(name, tree)
        if within(imported, ("boundscope",)) and not is_allowed(name, imported)
    ]

    # Then
    assert len(files) > 10
    assert wrong == []


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("boundscope.collectors.inside.guest", "boundscope.profiler.errors.X", False),
        ("boundscope.collectors.writer", "boundscope.__version__", False),
        ("boundscope.profiler.launch", "boundscope.collectors.supervisor.Supervisor", True),
        ("boundscope.profiler.launch", "boundscope.__version__", True),
        ("boundscope.profiler.launch", "boundscope.dashboard.charts.bar", False),
        ("boundscope.dashboard.charts", "boundscope.collectors.records.Sample", True),
        ("boundscope.dashboard.charts", "boundscope.collectors.writer.Clock", False),
        ("boundscope.sample_traces.x", "boundscope.profiler.errors.X", False),
        ("boundscope.__main__", "boundscope.profiler.cli.main", True),
    ],
)
def test_the_import_table_tells_right_from_wrong(
    importer: str, imported: str, allowed: bool
) -> None:
    # Given an importer and what it imports

    # When
    answer = is_allowed(importer, imported)

    # Then
    assert answer == allowed


def test_only_what_starts_collectors_knows_more_of_them_than_their_records() -> None:
    # Given
    files = [
        (name, tree) for name, tree in package_files() if within(name, ("boundscope.profiler",))
    ]

    # When
    wrong = [
        f"{name} imports {imported}"
        for name, tree in files
        if not within(name, STARTS_COLLECTORS)
        for imported, _ in imports_of(name, tree)
        if within(imported, ("boundscope.collectors",)) and not within(imported, RUN_FOLDER_FORMATS)
    ]

    # Then
    assert wrong == []


def test_imports_between_the_folders_are_relative() -> None:
    # Given
    files = package_files()

    # When
    wrong = [
        f"{name} imports {imported}"
        for name, tree in files
        if name not in ABSOLUTE_IMPORTS and name != BOOTSTRAP
        for imported, dots in imports_of(name, tree)
        if within(imported, ("boundscope",)) and dots == 0
    ]

    # Then
    assert wrong == []


def test_the_packages_in_pyproject_are_the_folders_on_disk() -> None:
    # Given
    listed = listed_packages()

    # When
    on_disk = {
        module_name(path).removesuffix(".__init__")
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("__init__.py")
    }

    # Then
    assert sorted(listed) == sorted(on_disk)
    assert len(listed) == len(set(listed))


def listed_packages() -> list[str]:
    """Read `packages` of pyproject.toml; tomllib came with Python 3.11 only."""
    text = (ROOT / "pyproject.toml").read_text()
    start = text.index("\npackages = [") + len("\npackages = ")
    packages = ast.literal_eval(text[start : text.index("]", start) + 1])
    assert isinstance(packages, list)
    return packages


def test_every_folder_with_code_is_a_package() -> None:
    # Given
    folders = {path.parent for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}

    # When
    without = [str(folder) for folder in folders if not (folder / "__init__.py").exists()]

    # Then
    assert without == []


@pytest.mark.parametrize("package", sorted(PUBLIC_NAMES))
def test_a_public_package_exports_what_it_says(package: str) -> None:
    # Given
    module = importlib.import_module(package)

    # When
    exported = set(module.__all__)

    # Then
    assert exported == PUBLIC_NAMES[package]
    assert [name for name in exported if not hasattr(module, name)] == []


def test_nothing_prints_but_the_command_line_and_the_report() -> None:
    # Given
    silent = [(name, tree) for name, tree in package_files() if not within(name, MAY_SPEAK)]

    # When
    prints = [
        f"{name}:{node.lineno}"
        for name, tree in silent
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]

    # Then
    assert prints == []


def test_nothing_plots_but_the_dashboard() -> None:
    # Given
    others = [
        (name, tree)
        for name, tree in package_files()
        if not within(name, ("boundscope.dashboard",))
    ]

    # When
    wrong = [
        f"{name} imports {imported}"
        for name, tree in others
        for imported, _ in imports_of(name, tree)
        if within(imported, PLOTTING)
    ]

    # Then
    assert wrong == []


def test_no_function_is_longer_than_a_hundred_lines() -> None:
    # Given
    paths = [path for folder in CODE_FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]

    # When
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in paths
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > LONGEST_FUNCTION
    ]

    # Then
    assert long == []


def test_no_file_is_longer_than_five_hundred_lines() -> None:
    # Given
    paths = [path for folder in CODE_FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]

    # When
    lengths = {path: len(path.read_text().splitlines()) for path in paths}

    # Then
    assert {path: count for path, count in lengths.items() if count > LONGEST_FILE} == {}


def test_the_bootstrap_imports_only_os_and_sys_when_it_is_loaded() -> None:
    # Given
    tree = ast.parse((ROOT / "collectors/inject/sitecustomize.py").read_text())

    # When
    at_load = {name for name, _ in imports_of(BOOTSTRAP, without_functions(tree))}

    # Then
    assert at_load == {"os", "sys"}


def without_functions(tree: ast.Module) -> ast.Module:
    """What runs when a module is loaded: a class's body does, a function's doesn't."""

    class Bodies(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

    stripped = Bodies().visit(tree)
    assert isinstance(stripped, ast.Module)
    return stripped


def test_the_examples_know_nothing_of_boundscope() -> None:
    # Given
    examples = sorted((ROOT / "examples").glob("*.py"))

    # When
    mentions = [path.name for path in examples if "boundscope" in path.read_text().lower()]

    # Then
    assert len(examples) == 6
    assert mentions == []
