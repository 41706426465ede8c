"""Imports go one way: apps -> data_pipelines, layers; an application imports no other one; nothing imports in a circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from apps.applications import APPLICATIONS

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "layers": {"data_pipelines", "apps", "tests", "benchmarks", "tensorflow", "jax"},
    "data_pipelines": {"layers", "apps", "tests", "benchmarks"},
    "apps": {"tests", "benchmarks"},
}


def imports(tree, top_level_only):
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_go_one_way(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        tree = ast.parse(file.read_text())
        everywhere = FORBIDDEN[package] - {"tensorflow", "jax"}  # layers import a backend only where they need it
        assert not set(imports(tree, False)) & everywhere, file
        assert not set(imports(tree, True)) & FORBIDDEN[package], file


def modules(package):
    """Module -> the names that it imports at the top, and all modules they may be."""
    graph = {}
    for file in (ROOT / package).rglob("*.py"):
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        froms = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ImportFrom) and node.module]
        graph[name] = {f"{node.module}.{alias.name}" for node in froms for alias in node.names} | {node.module for node in froms}
    return graph


@pytest.mark.parametrize("package", FORBIDDEN)
def test_no_module_imports_itself_by_others(package):
    graph = modules(package)
    TopologicalSorter({name: found & graph.keys() - {package} for name, found in graph.items()}).prepare()  # raises CycleError


@pytest.mark.parametrize("application", APPLICATIONS)
def test_the_export_command_knows_the_classes_of_its_models(application):
    graph, known, new = modules("apps"), set(), {f"apps.{application}.export"}
    while new := {found for name in new for found in graph[name] if found in graph} - known:
        known |= new
    registering = [n for n in graph if n.startswith(f"apps.{application}.") and n.endswith(".model")]
    registering += ["apps.common.language_model"] if application == "language_model" else []
    assert registering and set(registering) <= known


def test_applications_import_no_other_application():
    for name, found in modules("apps").items():
        others = {f"apps.{application}" for application in APPLICATIONS if application not in name}
        if any(application in name for application in APPLICATIONS):
            assert not [target for target in found if target.startswith(tuple(others))], name
