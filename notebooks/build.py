"""Notebooks from their sources: run `NN_name.py` from top to bottom and write `NN_name.ipynb` with what came out. The figure of
the cell that is tagged `picture` is written to `pictures/`.

    python -m notebooks.build [NAME ...]      all, or those whose names begin so
"""

import base64
import sys
import time
from pathlib import Path

import jupytext
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
LIMIT_SECONDS = 600


def sources(names: list[str]) -> list[Path]:
    found = sorted(path for path in FOLDER.glob("[0-9]*.py") if not names or path.name.startswith(tuple(names)))
    if not found:
        raise SystemExit(f"no notebook begins with {' or '.join(names)}; there are {', '.join(p.stem for p in sources([]))}")
    return found


def build(source: Path) -> float:
    """Write the executed notebook; return the seconds that it took."""
    notebook = jupytext.read(source)
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    begun = time.monotonic()
    NotebookClient(notebook, timeout=LIMIT_SECONDS, resources={"metadata": {"path": str(FOLDER.parent)}}).execute()
    seconds = time.monotonic() - begun
    for number, cell in enumerate(notebook.cells):
        if "picture" in cell.metadata.get("tags", []):
            picture = next(output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {}))
            (FOLDER / "pictures" / f"{source.stem}.png").write_bytes(base64.b64decode(picture))
        cell.id = f"cell-{number}"
        cell.metadata = {"nbmake": cell.metadata["nbmake"]} if "nbmake" in cell.metadata else {}
        if "outputs" in cell:  # what TensorFlow says of the machine is no result
            noise = ("WARNING:tensorflow", "I0000", "E0000")
            cell.outputs = [
                output
                for output in cell.outputs
                if output.get("name") != "stderr" and not output.get("text", "").startswith(noise)
            ]
    jupytext.write(notebook, source.with_suffix(".ipynb"))
    return seconds


if __name__ == "__main__":
    for source in sources(sys.argv[1:]):
        print(f"{source.stem}: {build(source):.0f} s", flush=True)
