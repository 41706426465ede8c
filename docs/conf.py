"""The documentation as a site, `make docs`: every README where it lies, the notebooks, and the docstrings of `layers`."""

import ast
import inspect
import re
import sys
from pathlib import Path
from typing import Any

from docutils.nodes import SkipNode
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

ROOT = Path(__file__).parents[1]
ELSEWHERE = re.compile(r"<(?:script|img|iframe|source|link)\b[^>]* (?:src|href)=[\"']?(?:https?:)?//[^>]*>")
sys.path.insert(0, str(ROOT))

project = html_title = "Unfold"
copyright = "the authors of Unfold, Apache-2.0"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
root_doc = "README"
include_patterns = ["*.md", "*/*.md", "apps/*/*.md", "benchmarks/results/*.md", "notebooks/*.ipynb", "docs/layers/*"]
exclude_patterns = [".*", "runs", "build", "saved_models/*/*"]  # made, not written
html_theme = "furo"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"  # which browsers show without a script
html_copy_source = html_show_sourcelink = False
html_theme_options = {"light_css_variables": {"font-stack": "system-ui, sans-serif"}}
default_role = "code"  # in docstrings
highlight_language = "none"  # of equations and commands
nitpicky = True
nb_execution_mode = "off"  # they are stored with their output
myst_enable_extensions = ["dollarmath", "linkify"]
myst_linkify_fuzzy_links = False
myst_heading_anchors = 4
autodoc_typehints = "none"
napoleon_custom_sections = [("Call arguments", "params_style")]
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# The READMEs are written for GitHub, so their tables of contents are here: page -> the pages below it.
CONTENTS = {
    "README": [
        "apps/README",
        "layers/README",
        "data_pipelines/README",
        "notebooks/README",
        "saved_models/README",
        "docs/gpu",
        "docs/several_machines",
        "docs/guarantees",
        "SECURITY",
        "docs/results",
        "benchmarks/README",
        "CONTRIBUTING",
        "CHANGELOG",
    ],
    "apps/README": ["*/README"],
    "layers/README": [f"/docs/layers/{page}" for page in ("recurrent_layers", "attention", "cells", "functions")],
    "notebooks/README": ["[0-9]*"],
    "benchmarks/README": ["results/*"],
}


def add_contents(_app: Sphinx, name: str, source: list[str]) -> None:
    """Append a page's table of contents; title the tables that the benchmarks wrote."""
    if name in CONTENTS:
        source[0] += "\n".join(["", "```{toctree}", ":hidden:", ":glob:", "", *CONTENTS[name], "```", ""])
    if name.startswith("benchmarks/results/"):
        source[0] = f"# {Path(name).name}\n\n" + source[0]


def reference() -> dict[str, list[str]]:
    """A page's title -> the public names of `layers` on it, in the order of its modules."""
    pages: dict[str, list[str]] = {title: [] for title in ("Recurrent layers", "Attention", "Cells", "Functions")}
    for node in ast.parse((ROOT / "layers/__init__.py").read_text()).body:
        if isinstance(node, ast.ImportFrom):
            attention = node.module in ("layers.attention", "layers.multi_head_attention", "layers.positional")
            for name in sorted(alias.name for alias in node.names):
                title = "Functions" if name[0].islower() else "Cells" if name.endswith("Cell") else "Recurrent layers"
                pages["Attention" if attention else title].append(name)
    return pages


def write_reference(_app: Sphinx) -> None:
    """A page a group of names in `docs/layers/`, which git ignores."""
    folder = ROOT / "docs/layers"
    folder.mkdir(exist_ok=True)
    for title, names in reference().items():
        kinds = ["function" if name[0].islower() else "class" for name in names]
        text = "".join(f"\n.. auto{kind}:: layers.{name}\n" for kind, name in zip(kinds, names))
        (folder / f"{title.lower().replace(' ', '_')}.rst").write_text(f"{title}\n{'=' * len(title)}\n{text}")


def mark_up(_app: Sphinx, _what: str, _name: str, _value: Any, _options: Any, lines: list[str]) -> None:
    """From a docstring to reStructuredText: what is indented after a blank line is an equation; names of `layers` are links."""
    text = re.sub(r"(?<=\S)(?=\n\n {4}\S)", "\n\n::", "\n".join(lines))
    text = re.sub(r"^Args: (those of .*, and)\n", r"Args: \1\n\nArgs:\n", text, flags=re.MULTILINE)
    lines[:] = re.sub(r"`(layers\.[\w.]+)`", _link, text).split("\n")


def _link(match: re.Match[str]) -> str:
    module = (ROOT / match[1].replace(".", "/")).with_suffix(".py").exists()
    return f"`{match[1]}`\\ " if module else f":any:`{match[1]}`\\ "


def sign(_app: Sphinx, _what: str, _name: str, value: Any, *_: Any) -> tuple[str, str] | None:
    """The signature of `__init__`, which Keras hides behind a `__new__`."""
    if not inspect.isclass(value):
        return None
    _, *parameters = inspect.signature(value.__init__).parameters.values()
    plain = [parameter.replace(annotation=parameter.empty) for parameter in parameters]
    return str(inspect.Signature(plain)), ""


def mathml(display: str) -> tuple[Any, None]:
    def visit(translator: Any, node: Any) -> None:
        made = convert(node.astext(), display=display)
        translator.body.append(re.sub(r"<mi>(\w{3,})</mi>", r'<mrow><mspace width="0.2em"/><mi>\1</mi></mrow>', made))  # 2 tanh
        raise SkipNode

    return visit, None


def finish(app: Sphinx, error: Exception | None) -> None:
    """Write `index.html`, the name that readers and servers try; refuse pages that load something from another host."""
    for path in [] if error else Path(app.outdir).rglob("*.html"):
        if found := ELSEWHERE.search(path.read_text()):
            raise ExtensionError(f"{path}: {found[0]} is not on this machine. Leave it out, or put it into the site.")
    (Path(app.outdir) / "index.html").write_text('<meta http-equiv="refresh" content="0; url=README.html">\n')


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", write_reference)
    app.connect("source-read", add_contents)
    app.connect("autodoc-process-docstring", mark_up, priority=100)  # before the sections are read
    app.connect("autodoc-process-signature", sign)
    app.connect("build-finished", finish)
    app.add_html_math_renderer("mathml", mathml("inline"), mathml("block"))
