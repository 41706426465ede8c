"""What the documents name exists: links, paths, modules, flags of commands, applications."""

import ast
import functools
import re
from pathlib import Path

import pytest

from apps.applications import APPLICATIONS

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), *ROOT.glob("apps/*/*.md")]
    if path.name != "CHANGELOG.md" and not path.relative_to(ROOT).parts[0].startswith(".")
)
FOREIGN = set(  # of pip, docker, TensorFlow Serving, Slurm, Beam
    "--require-hashes --no-deps --no-build-isolation --rm --model_config_file "
    "--enable_batching --enable_per_model_batching_parameters --batching_parameters_file --tensorflow_intra_op_parallelism "
    "--nodes --ntasks-per-node --gpus-per-task --exclusive --gpus "
    "--flink_master --sdk_container_image --environment_type".split()
)
PATHS = re.compile(r"`((?:[\w.]+/)+[\w.]+\.(?:py|md|sh|tsv|txt)|[\w.]+\.py)`")
COMMANDS = re.compile(r"python -m ([\w.]+)([^`#;|)\n]*)")


def text_of(document):
    return (ROOT / document).read_text().replace("\\\n", " ")


@functools.cache
def flags_of(file):
    """The flags that a file defines: arguments of `add_argument`, and fields of a config."""
    flags = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("add_argument", "_add_argument"):
            names = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
            flags |= {name for name in names if str(name).startswith("--")}
            if any(isinstance(arg, ast.JoinedStr) for arg in node.args):  # one for each key of a table of the module
                flags |= {f"--{key}" for key in _keys(file)}
        elif file.name == "config.py" and isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id.replace("_", "-")
            flags |= {f"--{name}", f"--no-{name}"}
    return flags


def _keys(file):
    tables = [node.value for node in ast.parse(file.read_text()).body if isinstance(node, ast.Assign)]
    return [key.value for table in tables if isinstance(table, ast.Dict) for key in table.keys if isinstance(key, ast.Constant)]


@functools.cache
def flags_of_module(module):
    """The flags of a command: of its file, and of the configs and parsers that it imports."""
    file = file_of(module)
    flags = set(flags_of(file))
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("apps", "benchmarks", "data_pipelines"):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            flags |= set().union(*(flags_of(file) for file in map(file_of, [node.module, *names]) if file))
    if module.endswith((".train", ".export")):
        flags |= flags_of(ROOT / "apps/common/config.py") | flags_of(ROOT / "apps/common/cli.py") | {"--help"}
    return flags


def file_of(module):
    path = ROOT / module.replace(".", "/")
    return next((p for p in (path.with_suffix(".py"), path / "__main__.py") if p.is_file()), None)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_paths_exist(document):
    folder = (ROOT / document).parent
    links = re.findall(r"\]\(([^)#\s]+)(?:#[\w-]+)?\)", text_of(document))
    missing = [link for link in links if "://" not in link and not (folder / link).exists()]
    for path in PATHS.findall(text_of(document)):
        tracked = any(ROOT.glob(f"[!.]*/**/{path}")) if "/" not in path else (ROOT / path).exists()
        if not tracked and not (folder / path).exists() and "NN" not in path:
            missing.append(path)
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS)
def test_anchors_exist(document):
    for path, anchor in re.findall(r"\]\(([^)#\s]*)#([\w-]+)\)", text_of(document)):
        target = (ROOT / document).parent / path if path else ROOT / document
        if "://" not in path:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, (path, anchor)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_have_these_flags(document):
    for module, rest in COMMANDS.findall(text_of(document)):
        if module.split(".")[0] in ("apps", "benchmarks", "data_pipelines", "notebooks", "tests") and "…" not in module:
            assert file_of(module), f"python -m {module}"
            known = flags_of_module(module)
            if " -- " in rest:  # a command that runs another
                rest, _, other = rest.partition(" -- ")
                unknown = set(re.findall(r"--[a-z][\w-]*", other)) - flags_of_module(other.split()[0])
                assert not unknown, other
            unknown = set(re.findall(r"--[a-z][\w-]*", rest)) - known
            assert not unknown, f"python -m {module}: {unknown}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_flags_in_the_text_exist_somewhere(document):
    sources = [
        file for package in ("apps", "benchmarks", "data_pipelines", "notebooks") for file in (ROOT / package).rglob("*.py")
    ]
    known = set().union(*(flags_of(file) for file in sources)) | FOREIGN | {"--help"}
    found = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", text_of(document)))
    assert not found - known


@pytest.mark.parametrize("document", DOCUMENTS)
def test_tests_that_are_named_exist(document):
    sources = "\n".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", text_of(document)))
    assert not named - set(re.findall(r"^def (test_\w+)", sources, re.MULTILINE))
    assert named or document != "SECURITY.md"


def test_every_application_is_in_the_registry_and_the_documents():
    assert set(APPLICATIONS) == {path.parent.name for path in ROOT.glob("apps/*/train.py")}
    for application in APPLICATIONS:
        assert (ROOT / "apps" / application / "README.md").is_file()
        for document in ("Makefile", "README.md"):
            assert f"apps.{application}.train" in (ROOT / document).read_text(), (document, application)
