"""Imports go one way: apps -> data_pipelines, layers."""

import ast
from pathlib import Path

import pytest

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
