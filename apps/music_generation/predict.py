"""Let an exported model generate music.

    python -m apps.music_generation.predict saved_models/music_generation "M:6/8\\nL:1/8\\nK:D\\n" --out tune [--count 5]

Tunes are printed as ABC, and with `--out` written as .abc, .mid, .wav, .svg and .png. A model of piano rolls needs
`--out`; its prompt is a .mid file.
"""

import argparse
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apps.common import cli
from apps.common.export.saved_model import load_export
from apps.music_generation.config import TEMPERATURE, TOP_P
from apps.music_generation.rolls import predict as rolls
from apps.music_generation.shared import generates_tunes, refuse_flags
from apps.music_generation.tunes import predict as tunes
from apps.music_generation.tunes.scores import write_tune
from data_pipelines.sources import DataError


def predictions(served: Any, prompts: Sequence[str] = ("",), **options: Any) -> list[dict[str, Any]]:
    """What `predictions` of `tunes.predict` or of `rolls.predict` gives, and takes as options."""
    return (tunes if generates_tunes(served) else rolls).predictions(served, prompts, **options)


def check_prompt(prompt: str, suffixes: tuple[str, ...]) -> None:
    """Refuse the name of a file that isn't for this model.

    Raises:
        DataError: it is one.
    """
    with contextlib.suppress(OSError):  # it is too long for a name
        if Path(prompt).is_file() and not prompt.lower().endswith(suffixes):
            raise DataError(
                f"{prompt}: is a file; this model continues {' and '.join(suffixes)} files. Rename it, or pass another."
            )


def main() -> None:
    parser = argparse.ArgumentParser("python -m apps.music_generation.predict", allow_abbrev=False)
    parser.add_argument("export", help="a version folder, or the folder above it for the newest version")
    parser.add_argument(
        "prompt", nargs="*", help="beginnings: ABC (\\n ends a line), an .abc or a .mid file; '-' reads ABC, one a line"
    )
    parser.add_argument("--out", type=Path, help="name of the files, without ending")
    parser.add_argument(
        "--temperature",
        type=cli.number_type(float, "[0, inf)"),
        help=f"1: the model's own distribution; lower: safer. Default: {TEMPERATURE:g} for tunes, 0.8 for piano rolls",
    )
    parser.add_argument(
        "--seed", type=cli.number_type(int, "[0, 2147483647]"), default=0, help="the same seed gives the same music"
    )
    parser.add_argument(
        "--count",
        type=cli.number_type(int, "[1, inf)"),
        default=1,
        help="pieces for each beginning, by this seed and the next ones",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    group = parser.add_argument_group("models of tunes")
    of_tunes = [
        group.add_argument("--max-new-tokens", type=cli.number_type(int, "[1, inf)"), help="default: until the tune ends"),
        group.add_argument(
            "--top-p", type=cli.number_type(float, "(0, 1]"), default=TOP_P, help="of the most probable tokens with this share"
        ),
        group.add_argument("--constrained", action="store_true", help="keep every bar as long as the metre says"),
    ]
    group = parser.add_argument_group("models of piano rolls")
    of_rolls = [
        group.add_argument("--new-frames", type=cli.number_type(int, "[1, inf)"), default=128, help="how many"),
        group.add_argument("--frame-beats", type=cli.number_type(float, "(0, inf)"), default=0.25, help="as in training"),
    ]
    arguments = parser.parse_intermixed_args()
    served = load_export(arguments.export, "music_generation")
    is_tune_model = generates_tunes(served)
    refuse_flags(of_rolls if is_tune_model else of_tunes, arguments, "tunes" if is_tune_model else "piano rolls")
    flags = of_tunes if is_tune_model else of_rolls
    options = {name: getattr(arguments, name) for name in ("temperature", "seed", "count", *(flag.dest for flag in flags))}
    if arguments.temperature is None:
        del options["temperature"]
    if not is_tune_model and arguments.out is None:
        raise DataError("--out is missing; a piano roll is written as files. Pass --out NAME.")
    prompts = cli.read_inputs(arguments.prompt) or [""]
    for prompt in prompts:
        check_prompt(prompt, (".abc",) if is_tune_model else (".mid", ".midi"))
    if is_tune_model:
        prompts = [prompt.replace("\\n", "\n") for prompt in prompts]
    number = 0
    for prompt in prompts:
        for result in predictions(served, [prompt], **options):
            number, files = number + 1, []
            if arguments.out:
                out = arguments.out if len(prompts) * arguments.count == 1 else Path(f"{arguments.out}_{number}")
                files = write_tune(result["abc"], out) if is_tune_model else rolls.write(result, out, arguments.frame_beats)
            if arguments.json:
                shown = result if is_tune_model else {**result, "frames": len(result["frames"])}
                print(json.dumps({**shown, "files": [str(file) for file in files]}, ensure_ascii=False))
            else:
                print("\n".join([*([result["abc"]] if is_tune_model else []), *map(str, files)]))


if __name__ == "__main__":
    cli.run(main)
