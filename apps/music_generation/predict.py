"""Let an exported model write music.

    python -m apps.music_generation.predict saved_models/music_generation --out tune [--prompt "M:6/8\\nL:1/8\\nK:D\\n"]

Tunes are printed as ABC, and with `--out` written as .abc, .mid, .wav, .svg and .png. A model of piano rolls needs
`--out`; its prompt is a .mid file.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from apps.common import cli
from apps.common.export import load_export
from apps.music_generation.evaluate import draw_tunes, writes_tunes
from apps.music_generation.scores import write_roll, write_tune
from data_pipelines.piano_rolls import KEYS, Rolls, read_midi
from data_pipelines.sources import DataError, read_text
from data_pipelines.tunes import Tunes


def main() -> None:
    parser = argparse.ArgumentParser("python -m apps.music_generation.predict", allow_abbrev=False)
    parser.add_argument("export", help="a version folder, or the folder above it for the newest version")
    parser.add_argument(
        "prompt", nargs="*", help="beginnings: ABC (\\n ends a line), an .abc or a .mid file; '-' reads ABC, one a line"
    )
    parser.add_argument("--out", type=Path, help="name of the files, without ending")
    parser.add_argument("--length", type=int, help="tokens or frames; default: until the tune ends, 128 frames")
    parser.add_argument("--temperature", type=float, default=0.8, help="1: the model's own distribution; lower: safer")
    parser.add_argument("--top-p", type=float, default=0.95, help="draw from the most probable tokens with this share")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same tune")
    parser.add_argument("--in-metre", action="store_true", help="keep every bar as long as the metre says")
    parser.add_argument("--frame-beats", type=float, default=0.25, help="of piano rolls, as in training")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    arguments = parser.parse_intermixed_args()
    served = load_export(arguments.export, "music_generation")
    if not 0 < arguments.top_p <= 1 or arguments.temperature < 0:
        raise DataError(
            f"--top-p {arguments.top_p}, --temperature {arguments.temperature}; expected 0 < top-p <= 1, temperature >= 0."
        )
    prompts = cli.read_inputs(arguments.prompt) or [""]
    for number, prompt in enumerate(prompts):
        out = arguments.out if arguments.out is None or len(prompts) == 1 else Path(f"{arguments.out}_{number + 1}")
        result = (_tune if writes_tunes(served) else _roll)(served, prompt, out, arguments)
        if arguments.json:
            print(json.dumps({"prompt": prompt, **result}, ensure_ascii=False))
        else:
            print("\n".join([*([result["abc"]] if "abc" in result else []), *result["files"]]))


def _tune(served: Any, prompt: str, out: Path | None, arguments: argparse.Namespace) -> dict[str, Any]:
    text = read_text(Path(prompt)) if prompt.endswith(".abc") else prompt.replace("\\n", "\n")
    length = arguments.length or 10_000  # the export has its own limit
    drawing = (arguments.temperature, arguments.top_p, arguments.seed, length, arguments.constrained)
    abc = draw_tunes(served, 1, *drawing, prompt=text)[0]
    return {"abc": abc, "files": [str(file) for file in write_tune(abc, out)] if out else []}


def _roll(served: Any, prompt: str, out: Path | None, arguments: argparse.Namespace) -> dict[str, Any]:
    if out is None:
        raise DataError("--out is missing; a piano roll is written as files. Pass --out NAME.")
    try:
        frames = read_midi(Path(prompt), arguments.frame_beats) if prompt else np.zeros((0, KEYS), np.uint8)
    except ValueError as error:
        raise DataError(f"{prompt}: {error}. Pass a .mid file.") from None
    written = continue_roll(served, frames, arguments.length or 128, arguments.temperature, arguments.seed)
    files = write_roll(written, out, arguments.frame_beats, prompted=len(frames))
    return {"frames": len(written), "files": [str(file) for file in files]}


def continue_roll(served: Any, frames: np.ndarray, length: int, temperature: float, seed: int) -> np.ndarray:
    """The frames and `length` more."""
    return served.signatures["serving_default"](
        frames=tf.constant(frames[None]), length=tf.constant(length), temperature=tf.constant(temperature), seed=tf.constant(seed)
    )["frames"].numpy()[0]


def write_example(served: Any, music: Tunes | Rolls, path: Path, frame_beats: float) -> list[Path]:
    """A tune in metre, or a piece that goes on from the beginning of a held-out one; as files."""
    if isinstance(music, Tunes):
        abc = draw_tunes(served, 1, 0.8, 0.95, 1, 10_000, constrained=True)[0]
        try:
            return write_tune(abc, path)
        except DataError as error:  # of a model that has learned little
            print(error)
            return [path.with_suffix(".abc")]
    prompt = music.splits["validation"][0][:32]
    written = continue_roll(served, prompt, 96, 1.0, 0)
    return write_roll(written, path, frame_beats, prompted=len(prompt))


if __name__ == "__main__":
    cli.run(main)
