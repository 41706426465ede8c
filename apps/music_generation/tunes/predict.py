"""Tunes of an exported model, as text and files."""

from pathlib import Path
from typing import Any

from apps.music_generation.tunes.evaluate import sample_tunes
from apps.music_generation.tunes.scores import write_tune
from data_pipelines.sources import DataError, read_text

NO_LIMIT = 10_000  # new tokens; the export has its own limit


def predict(
    served: Any,
    prompt: str,
    out: Path | None,
    *,
    max_new_tokens: int | None,
    temperature: float,
    top_p: float,
    seed: int,
    constrained: bool,
) -> dict[str, Any]:
    """Continue a prompt: ABC, in which `\\n` ends a line, or an .abc file. With `out` write files, too."""
    text = read_text(Path(prompt)) if prompt.endswith(".abc") else prompt.replace("\\n", "\n")
    abc = sample_tunes(served, 1, max_new_tokens or NO_LIMIT, temperature, top_p, seed, constrained, text)[0]
    return {"abc": abc, "files": [str(file) for file in write_tune(abc, out)] if out else []}


def write_example(served: Any, path: Path) -> list[Path]:
    """A constrained tune, as files."""
    abc = sample_tunes(served, 1, NO_LIMIT, 0.8, 0.95, 1, constrained=True)[0]
    try:
        return write_tune(abc, path)
    except DataError as error:  # of a poorly trained model
        print(error)
        return [path.with_suffix(".abc")]
