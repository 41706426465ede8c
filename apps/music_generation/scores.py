"""Music as files: ABC, MIDI, sheet music, sound, and piano-roll pictures."""

import re
from pathlib import Path

import numpy as np

from apps.common.training.plots import new_figure, save_figure
from apps.music_generation.engraver import engrave
from apps.music_generation.sound import notes_of, synthesize, to_wav
from data_pipelines.abc import elements
from data_pipelines.piano_rolls import LOWEST, midi_bytes
from data_pipelines.sources import DataError


def write_tune(abc: str, path: Path) -> list[Path]:
    """Write `path` with the endings .abc, .mid, .wav, .svg and .png; return them.

    Raises:
        DataError: verovio can't read the tune; the .abc file is written before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path.with_suffix(".abc")]
    files[0].write_text(abc)
    score = engrave([with_open_repeats(abc)], files=True)[0]
    if score is None:
        raise DataError(f"{files[0]}: written, but verovio can't read it as sheet music. Draw another tune, or use --in-metre.")
    files.append(path.with_suffix(".mid"))
    files[-1].write_bytes(score.midi)
    for number, svg in enumerate(score.pages, 1):
        name = path.name if len(score.pages) == 1 else f"{path.name}_{number}"
        files.append(path.with_name(f"{name}.svg"))
        files[-1].write_text(svg)
        files.append(_png(svg, path.with_name(f"{name}.png")))
    return [*files, _wav(score.midi, path)]


def with_open_repeats(abc: str) -> str:
    """The tune with every `|:` that ABC lets a writer leave out: players of MIDI files need them. What isn't ABC stays as it is.

    >>> print(with_open_repeats("X:1\\nM:2/4\\nK:D\\nabcd:|\\nefga|b4:|\\n"))
    X:1
    M:2/4
    K:D
    |:abcd:|
    |:efga|b4:|
    <BLANKLINE>
    """
    fields = re.split(r"(?m)^(K:.*\n)", abc, maxsplit=1)
    try:
        head, key, body = fields
        found = list(elements(body))
    except ValueError:  # not ABC
        return abc
    parts: list[str] = []
    section, is_open = 0, False
    for kind, match in found:
        parts.append(match[0])
        if kind == "bar":
            line = match["bar"]
            if line.startswith(":") and not is_open:
                parts.insert(section, " |:" if parts[section - 1 : section] and parts[section - 1].endswith("|") else "|:")
            if not line[-1].isdigit() and line != "|":  # an ending belongs to its section
                section, is_open = len(parts), line.endswith(":")
        elif kind == "space" and section == len(parts) - 1:
            section += 1
    return head + key + "".join(parts)


def write_roll(frames: np.ndarray, path: Path, frame_beats: float, prompted: int = 0) -> list[Path]:
    """Write `path` with the endings .mid, .wav and .png; return them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    midi = midi_bytes(frames, frame_beats)
    path.with_suffix(".mid").write_bytes(midi)
    draw_roll(frames, path.with_suffix(".png"), frame_beats, prompted)
    return [path.with_suffix(".mid"), path.with_suffix(".png"), _wav(midi, path)]


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


def _png(svg: str, path: Path) -> Path:
    import resvg_py

    path.write_bytes(bytes(resvg_py.svg_to_bytes(svg_string=svg, background="white", width=1800)))
    return path


def _wav(midi: bytes, path: Path) -> Path:
    path.with_suffix(".wav").write_bytes(to_wav(synthesize(notes_of(midi))))
    return path.with_suffix(".wav")
