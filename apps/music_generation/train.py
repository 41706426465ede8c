"""Train a language model on tunes, or a model of piano rolls, measure it, and export it.

    python -m apps.music_generation.train --data tunes.abc
    python -m apps.music_generation.train --data midi/

The training itself is in `apps.music_generation.tunes.train` and `apps.music_generation.rolls.train`.
"""

import argparse
import dataclasses
from typing import Any

from apps.common import cli
from apps.common.cells import check_dropout
from apps.music_generation.config import APPLICATION, CONFIGS, MusicConfig, RollConfig, TuneConfig, preset
from apps.music_generation.rolls.train import train as train_rolls
from apps.music_generation.shared import kind_of_data
from apps.music_generation.tunes.train import train as train_tunes
from data_pipelines.sources import DataError


def main() -> None:
    config = parse()
    if config.irnn and config.cell != "simple_rnn":
        raise DataError(f"--irnn is for --cell simple_rnn; the cell is {config.cell}. Pass that cell, or leave --irnn out.")
    check_dropout(config)
    if isinstance(config, TuneConfig):
        train_tunes(config)
    elif isinstance(config, RollConfig):
        train_rolls(config)


def parse() -> MusicConfig:
    """The flags of tunes or rolls: --music decides, or else --data; typed, of the file of --config, or of the run to resume."""
    program = "python -m apps.music_generation.train"
    first = argparse.ArgumentParser(program, add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for flag in ("--music", "--data", "--config", "--run-dir", "--strategy"):
        first.add_argument(flag)
    first.add_argument("--resume", action=argparse.BooleanOptionalAction)
    typed = vars(first.parse_known_args()[0])
    resumed = cli.run_flags(APPLICATION, typed) if typed.get("resume") else {}
    flags = {**resumed, **(cli.read_flags(typed["config"]) if "config" in typed else {}), **typed}
    music, data = (str(flags.get(name, getattr(MusicConfig, name))) for name in ("music", "data"))
    kind: Any = kind_of_data(data) if music == "auto" else music
    config_class = CONFIGS.get(kind, TuneConfig)  # one that doesn't exist is refused below
    return dataclasses.replace(cli.parse_config(config_class, program, preset), music=kind)


if __name__ == "__main__":
    cli.run(main)
