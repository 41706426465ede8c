"""Which rows an export is measured on, and whether it was trained on them."""

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from apps.common.export.saved_model import find_version
from data_pipelines.corpus import Corpus, row_hashes
from data_pipelines.files import replacing
from data_pipelines.sources import DataError

T = TypeVar("T")
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
    return np.frombuffer(row_hashes(rows), np.uint64)


def write_training_rows(folder: Path, run: Path, hashes: np.ndarray) -> None:
    """Write hashes of the training rows into the folders of an export and of its run."""
    for place in (folder, run):
        with replacing(place / TRAINING_ROWS) as temporary, temporary.open("wb") as file:
            np.save(file, np.unique(hashes))


def join_training_rows(folder: Path, runs: Sequence[Path]) -> None:
    """Write hashes of the training rows of all runs into the folder of an export."""
    known = [run / TRAINING_ROWS for run in runs if (run / TRAINING_ROWS).is_file()]
    for run in runs:
        if run / TRAINING_ROWS not in known:
            print(f"{run}: has no {TRAINING_ROWS}, so evaluate can't tell rows that it was trained on")
    if known:
        np.save(folder / TRAINING_ROWS, np.unique(np.concatenate([np.load(path) for path in known])))


def _training_rows(export: str | Path) -> np.ndarray | None:
    path = find_version(export) / TRAINING_ROWS
    return np.load(path) if path.is_file() else None


def warn_of_training_rows(export: str | Path, rows: Sequence[Sequence[Any]], split: str) -> int:
    """Warn of rows that the export was trained on, and return their number."""
    known, found = _training_rows(export), np.unique(_hashes(rows))
    seen = 0 if known is None else int(np.isin(found, known).sum())
    if seen:
        print(
            f"warning: {seen:,} of the {len(found):,} different rows of {split!r} were in the training split of this export; "
            "its metrics say less about new data.",
            file=sys.stderr,
        )
    return seen


def training_examples(export: str | Path, data: Corpus[T]) -> list[T] | None:
    """What the export was trained on, or None where the data have not all of it."""
    known = _training_rows(export)
    if known is None or "train" not in data.splits:
        return None
    hashes = _hashes(data.rows("train"))
    is_known = np.isin(hashes, known)
    found = [example for example, kept in zip(data.splits["train"], is_known, strict=True) if kept]
    return found if len(np.unique(hashes[is_known])) == len(known) else None
