"""Piano rolls as files: MIDI, a picture and sound."""

from pathlib import Path

import numpy as np

from apps.common.training.plots import new_figure, save_figure
from apps.music_generation.sound import write_wav
from data_pipelines.piano_rolls import LOWEST, midi_bytes


def write_roll(frames: np.ndarray, path: Path, frame_beats: float, prompted: int = 0) -> list[Path]:
    """Write `path` with the endings .mid, .wav and .png; return them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    midi = midi_bytes(frames, frame_beats)
    files = [path.with_name(path.name + ending) for ending in (".mid", ".png")]
    files[0].write_bytes(midi)
    draw_roll(frames, files[1], frame_beats, prompted)
    return [*files, write_wav(midi, path)]


def draw_roll(frames: np.ndarray, path: Path, frame_beats: float, prompted: int = 0) -> None:
    """A piano-roll picture: time to the right, pitch upwards; the prompt is grey."""
    frames = np.asarray(frames)
    keys = np.flatnonzero(frames.any(axis=0))
    low, high = (keys[0] - 2, keys[-1] + 3) if len(keys) else (27, 64)
    figure, axis = new_figure(1, 1, width=10.0, height=3.2)
    shown = np.zeros((high - low, len(frames)))
    for row in range(high - low):
        if 0 <= low + row < frames.shape[1]:
            shown[row] = frames[:, low + row]
    shown[:, :prompted] *= 0.4
    extent = (0, len(frames) * frame_beats, low + LOWEST - 0.5, high + LOWEST - 0.5)
    axis.imshow(shown, aspect="auto", origin="lower", cmap="Blues", vmin=0, vmax=1, extent=extent, interpolation="nearest")
    octaves = [note for note in range(low + LOWEST, high + LOWEST) if note % 12 == 0]
    axis.set(xlabel="quarter notes", ylabel="pitch", yticks=octaves, yticklabels=[f"C{note // 12 - 1}" for note in octaves])
    axis.grid(axis="y", alpha=0.4)
    save_figure(figure, path)
