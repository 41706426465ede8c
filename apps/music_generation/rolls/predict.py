"""Piano rolls of an exported model, as files."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from apps.music_generation.rolls.pictures import write_roll
from data_pipelines.piano_rolls import KEYS, read_midi
from data_pipelines.sources import DataError


def predict(
    served: Any, prompt: str, out: Path | None, *, new_frames: int, frame_beats: float, temperature: float, seed: int
) -> dict[str, Any]:
    """Continue a .mid file, or begin a piece; write files."""
    if out is None:
        raise DataError("--out is missing; a piano roll is written as files. Pass --out NAME.")
    try:
        frames = read_midi(Path(prompt), frame_beats) if prompt else np.zeros((0, KEYS), np.uint8)
    except ValueError as error:
        raise DataError(f"{prompt}: {error}. Pass a .mid file.") from None
    continued = continue_roll(served, frames, new_frames, temperature, seed)
    files = write_roll(continued, out, frame_beats, prompted=len(frames))
    return {"frames": len(continued), "files": [str(file) for file in files]}


def continue_roll(served: Any, frames: np.ndarray, new_frames: int, temperature: float, seed: int) -> np.ndarray:
    """The frames and `new_frames` more."""
    return served.signatures["serving_default"](
        frames=tf.constant(frames[None]),
        new_frames=tf.constant(new_frames),
        temperature=tf.constant(temperature),
        seed=tf.constant(seed),
    )["frames"].numpy()[0]


def write_example(served: Any, piece: np.ndarray, path: Path, frame_beats: float) -> list[Path]:
    """A continuation of the beginning of a piece, as files."""
    prompt = piece[:32]
    return write_roll(continue_roll(served, prompt, 96, 1.0, 0), path, frame_beats, prompted=len(prompt))
