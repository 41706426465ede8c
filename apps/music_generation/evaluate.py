"""Measure an exported model of music.

    python -m apps.music_generation.evaluate saved_models/music_generation --data tunes.abc --split test

Tunes: bits per character, compared with an order-n character model counted on the training split; and of tunes that the export
generates, what `apps.music_generation.tunes.judge` says. Piano rolls: nats per frame. The last line is one JSON object.
"""

import argparse

from apps.common import cli
from apps.common.evaluation import SPLIT_HELP, choose_split, warn_of_training_rows
from apps.common.export.saved_model import load_export
from apps.music_generation.config import TEMPERATURE, TOP_P
from apps.music_generation.rolls.evaluate import evaluate as evaluate_rolls
from apps.music_generation.shared import generates_tunes, print_metrics, refuse_flags
from apps.music_generation.tunes.evaluate import evaluate as evaluate_tunes
from data_pipelines.piano_rolls import load_rolls
from data_pipelines.tunes import load_tunes


def main() -> None:
    parser = argparse.ArgumentParser("python -m apps.music_generation.evaluate", allow_abbrev=False)
    parser.add_argument("export", help="a version folder, or the folder above it for the newest version")
    parser.add_argument("--data", required=True, help="as for training")
    parser.add_argument("--split", default=None, help=SPLIT_HELP)
    group = parser.add_argument_group("models of tunes")
    of_tunes = [
        group.add_argument("--validation-tunes", help="as for training"),
        group.add_argument("--num-samples", type=cli.number_type(int, "[0, inf)"), default=200, help="tunes to judge; 0: none"),
        group.add_argument("--max-new-tokens", type=cli.number_type(int, "[1, inf)"), default=800, help="of a tune"),
        group.add_argument("--temperature", type=cli.number_type(float, "[0, 1000]"), default=TEMPERATURE, help="of these tunes"),
        group.add_argument("--top-p", type=cli.number_type(float, "(0, 1]"), default=TOP_P, help="of these tunes"),
        group.add_argument("--seed", type=cli.number_type(int, "[0, 4294967296)"), default=0, help="of these tunes"),
    ]
    group = parser.add_argument_group("models of piano rolls")
    of_rolls = [
        group.add_argument("--frame-beats", type=cli.number_type(float, "(0, inf)"), default=0.25, help="as for training")
    ]
    arguments = parser.parse_args()
    served = load_export(arguments.export, "music_generation")
    if generates_tunes(served):
        refuse_flags(of_rolls, arguments, "tunes")
        places = arguments.validation_tunes
        tunes, split = choose_split(
            lambda whole: load_tunes(arguments.data, places, whole and places is None), arguments.data, arguments.split
        )
        warn_of_training_rows(arguments.export, tunes.rows(split), split)
        names = ("num_samples", "max_new_tokens", "temperature", "top_p", "seed")
        metrics = evaluate_tunes(served, tunes, [split], **{name: getattr(arguments, name) for name in names})
    else:
        refuse_flags(of_tunes, arguments, "piano rolls")
        rolls, split = choose_split(
            lambda whole: load_rolls(arguments.data, arguments.frame_beats, whole), arguments.data, arguments.split
        )
        warn_of_training_rows(arguments.export, rolls.rows(split), split)
        metrics = evaluate_rolls(served, rolls, [split])
    print_metrics(metrics)
    print(cli.as_json({"split": split, **metrics.pop(split), **metrics}))


if __name__ == "__main__":
    cli.run(main)
