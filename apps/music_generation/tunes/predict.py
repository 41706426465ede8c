"""Tunes of an exported model, as text and files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apps.music_generation.config import TEMPERATURE, TOP_P
from apps.music_generation.shared import seeds_from
from apps.music_generation.tunes.evaluate import sample_tunes
from apps.music_generation.tunes.scores import write_tune
from data_pipelines.sources import DataError, read_text

NO_LIMIT = 10_000  # new tokens; the export has its own limit


def predictions(
    served: Any,
    prompts: Sequence[str] = ("",),
    *,
    count: int = 1,
    max_new_tokens: int | None = None,
    temperature: float = TEMPERATURE,
    top_p: float = TOP_P,
    seed: int = 0,
    constrained: bool = False,
) -> list[dict[str, Any]]:
    """Continue each prompt, ABC or an .abc file, `count` times, by the seeds from `seed` on: `prompt`, `seed` and `abc`."""
    results = []
    for prompt in prompts:
        text = read_text(Path(prompt)) if prompt.lower().endswith(".abc") else prompt
        tunes = sample_tunes(served, count, max_new_tokens or NO_LIMIT, temperature, top_p, seed, constrained, text)
        results += [{"prompt": prompt, "seed": number, "abc": abc} for number, abc in zip(seeds_from(seed, count), tunes)]
    return results


def write_example(served: Any, path: Path) -> list[Path]:
    """A constrained tune, as files."""
    abc = sample_tunes(served, 1, NO_LIMIT, TEMPERATURE, TOP_P, 1, constrained=True)[0]
    try:
        return write_tune(abc, path)
    except DataError as error:  # of a poorly trained model
        print(error)
        return [path.with_name(path.name + ".abc")]
