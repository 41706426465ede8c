"""Which rows an export is measured on, and whether it was trained on them."""

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.corpus import row_hashes
from data_pipelines.sources import DataError

TRAINING_ROWS = "training_rows.npy"
SPLIT_HELP = (
    "train, validation or test, cut as for training; default: a lone file whole, else the test split, else the validation split"
)


def choose_split(load: Callable[[bool], Any], source: str, split: str | None) -> tuple[Any, str]:
    """The data and the name of the split to measure: a lone file as a whole, of a folder the test, else the validation split.

    Args:
        load: loads the data; True: as they are, False: cut as for training.
        source: for the message.
        split: what `--split` names; then the data are cut as for training.

    Raises:
        DataError: there is no such split.
    """
    data = load(True)
    for name in ("all", "test", "validation") if split is None else (split,):
        if name in data.splits and name != "train":
            return data, name
    data, split = load(False), split or "validation"
    if split not in data.splits:
        raise DataError(
            f"{source}: no split {split!r}; there are {', '.join(data.splits)}. Name one of them with --split, or leave it out."
        )
    return data, split


def _hashes(rows: Iterable[Sequence[Any]]) -> np.ndarray:
    return np.unique(np.frombuffer(row_hashes(rows), np.uint64))


def write_training_rows(folder: Path, run: Path, hashes: np.ndarray) -> None:
    """Write hashes of the training rows into the folders of an export and of its run."""
    for place in (folder, run):
        np.save(place / TRAINING_ROWS, np.unique(hashes))


def join_training_rows(folder: Path, runs: Sequence[Path]) -> None:
    """Write hashes of the training rows of all runs into the folder of an export."""
    known = [run / TRAINING_ROWS for run in runs if (run / TRAINING_ROWS).is_file()]
    for run in runs:
        if run / TRAINING_ROWS not in known:
            print(f"{run}: has no {TRAINING_ROWS}, so evaluate can't tell rows that it was trained on")
    if known:
        np.save(folder / TRAINING_ROWS, np.unique(np.concatenate([np.load(path) for path in known])))


def warn_of_training_rows(export: str | Path, rows: Sequence[Sequence[Any]], split: str) -> int:
    """Warn of rows that the export was trained on, and return their number."""
    folder = Path(export)
    versions = [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    path = (max(versions, key=lambda p: int(p.name)) if versions else folder) / TRAINING_ROWS
    if not path.is_file():
        return 0
    found = _hashes(rows)
    seen = int(np.isin(found, np.load(path)).sum())
    if seen:
        print(
            f"warning: {seen:,} of the {len(found):,} different rows of {split!r} were in the training split of this export; "
            "its metrics say less about new data.",
            file=sys.stderr,
        )
    return seen
