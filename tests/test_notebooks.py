"""Notebooks are what their sources say, and were run from top to bottom. `make test-notebooks` runs them anew."""

from pathlib import Path

import jupytext
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
SOURCES = sorted(FOLDER.glob("[0-9]*.py"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_is_its_source_executed(source):
    wanted, found = jupytext.read(source), jupytext.read(source.with_suffix(".ipynb"))
    remedy = f"run python -m notebooks.build {source.stem[:2]}"
    assert [cell.source for cell in found.cells] == [cell.source for cell in wanted.cells], remedy
    assert [cell.metadata.get("nbmake") for cell in found.cells] == [cell.metadata.get("nbmake") for cell in wanted.cells], remedy
    code = [cell for cell in found.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), remedy
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"], remedy
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert (FOLDER / "pictures" / f"{source.stem}.png").exists(), remedy
    assert source.with_suffix(".ipynb").stat().st_size < 600_000
