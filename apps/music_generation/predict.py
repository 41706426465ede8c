"""Let an exported model generate music.

    python -m apps.music_generation.predict saved_models/music_generation "M:6/8\\nL:1/8\\nK:D\\n" --out tune

Tunes are printed as ABC, and with `--out` written as .abc, .mid, .wav, .svg and .png. A model of piano rolls needs
`--out`; its prompt is a .mid file.
"""

import argparse
import json
from pathlib import Path

from apps.common import cli
from apps.common.export.saved_model import load_export
from apps.music_generation.rolls.predict import predict as predict_roll
from apps.music_generation.shared import generates_tunes, refuse_flags
from apps.music_generation.tunes.predict import predict as predict_tune


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
        default=0.8,
        help="1: the model's own distribution; lower: safer",
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same music")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    group = parser.add_argument_group("models of tunes")
    of_tunes = [
        group.add_argument("--max-new-tokens", type=cli.number_type(int, "[1, inf)"), help="default: until the tune ends"),
        group.add_argument(
            "--top-p", type=cli.number_type(float, "(0, 1]"), default=0.95, help="of the most probable tokens with this share"
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
    options = {name: getattr(arguments, name) for name in ("temperature", "seed", *(flag.dest for flag in flags))}
    prompts = cli.read_inputs(arguments.prompt) or [""]
    for number, prompt in enumerate(prompts):
        out = arguments.out if arguments.out is None or len(prompts) == 1 else Path(f"{arguments.out}_{number + 1}")
        result = (predict_tune if is_tune_model else predict_roll)(served, prompt, out, **options)
        if arguments.json:
            print(json.dumps({"prompt": prompt, **result}, ensure_ascii=False))
        else:
            print("\n".join([*([result["abc"]] if "abc" in result else []), *result["files"]]))


if __name__ == "__main__":
    cli.run(main)
