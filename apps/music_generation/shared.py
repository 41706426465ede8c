"""Is it tunes or piano rolls? And what both share."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from apps.common import cli
from data_pipelines.files import write_whole
from data_pipelines.piano_rolls import SCORES
from data_pipelines.remote import local
from data_pipelines.sources import DataError

DESCRIPTION = (
    "Generates music in the style of its training data, unconditionally or from a prompt. It knows no other style, and may "
    "repeat passages of its training data: check before you publish what it generates."
)


def kind_of_data(source: str) -> Literal["tunes", "rolls"]:
    """`rolls` where there are MIDI files, MusicXML or arrays, else `tunes`."""
    path = Path(local(source))
    files = [path] if path.is_file() else path.rglob("*") if path.is_dir() else []
    return "rolls" if any(file.suffix.lower() in (*SCORES, ".npz") for file in files) else "tunes"


def generates_tunes(served: Any) -> bool:
    """Is the export a model of tunes? Else it is one of piano rolls."""
    return "constrained" in served.signatures


def refuse_flags(flags: Sequence[argparse.Action], arguments: argparse.Namespace, what: str) -> None:
    """Refuse the flags of the other model.

    Raises:
        DataError: one of them was given.
    """
    for flag in flags:
        if getattr(arguments, flag.dest) != flag.default:
            raise DataError(
                f"{flag.option_strings[0]}: has no meaning for this export, which is a model of {what}. Leave it out."
            )


def print_metrics(metrics: dict[str, dict[str, float]]) -> None:
    names = list(dict.fromkeys(name for values in metrics.values() for name in values))
    rows = [[name, *(values.get(name, "") for values in metrics.values())] for name in names]
    print("\n" + cli.table(rows, ["metric", *metrics]))


def report(metrics: dict[str, dict[str, float]], folder: Path) -> None:
    """Print, and write `metrics.json`."""
    print_metrics(metrics)
    write_whole(folder / "metrics.json", cli.as_json(metrics))


def seeds_from(first: int, count: int) -> list[int]:
    """So many seeds in sequence; 0 follows on the largest one that an export takes.

    >>> seeds_from(2**31 - 2, 3), seeds_from(3_000_000_000, 1)
    ([2147483646, 2147483647, 0], [852516352])
    """
    return [seed % 2**31 for seed in range(first, first + count)]
