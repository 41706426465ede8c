"""Piano rolls of an exported model, as files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from apps.music_generation.rolls.pictures import write_roll
from apps.music_generation.shared import seeds_from
from data_pipelines.piano_rolls import KEYS, LOWEST, read_midi
from data_pipelines.sources import DataError


def predictions(
    served: Any,
    prompts: Sequence[str] = ("",),
    *,
    count: int = 1,
    new_frames: int = 128,
    frame_beats: float = 0.25,
    temperature: float = 0.8,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Continue each .mid file, or begin a piece ("") `count` times, by the seeds from `seed` on: `prompt`, `seed`, the MIDI
    pitches of each frame, `frames`, and how many of these are the prompt's, `prompt_frames`."""
    results = []
    for prompt in prompts:
        try:
            frames = read_midi(Path(prompt), frame_beats) if prompt else np.zeros((0, KEYS), np.uint8)
        except ValueError as error:
            raise DataError(f"{prompt}: {error}. Pass a .mid file.") from None
        for number in seeds_from(seed, count):
            roll = continue_roll(served, frames, new_frames, temperature, number)
            pitches = [(np.flatnonzero(frame) + LOWEST).tolist() for frame in roll]
            results.append({"prompt": prompt, "seed": number, "frames": pitches, "prompt_frames": len(frames)})
    return results


def write(result: dict[str, Any], out: Path, frame_beats: float) -> list[Path]:
    """Write what `predictions` gave as files."""
    frames = np.zeros((len(result["frames"]), KEYS), np.uint8)
    for frame, pitches in zip(frames, result["frames"]):
        frame[np.array(pitches, int) - LOWEST] = 1
    return write_roll(frames, out, frame_beats, prompted=result["prompt_frames"])


def continue_roll(served: Any, frames: np.ndarray, new_frames: int, temperature: float, seed: int) -> np.ndarray:
    """The frames and `new_frames` more."""
    return served.signatures["serving_default"](
        frames=tf.constant(frames[None]),
        new_frames=tf.constant(new_frames),
        temperature=tf.constant(temperature, tf.float32),
        seed=tf.constant(seed),
    )["frames"].numpy()[0]


def write_example(served: Any, piece: np.ndarray, path: Path, frame_beats: float) -> list[Path]:
    """A continuation of the beginning of a piece, as files."""
    prompt = piece[:32]
    return write_roll(continue_roll(served, prompt, 96, 1.0, 0), path, frame_beats, prompted=len(prompt))
