"""What all data have in common: examples by split, what of the source was skipped, and how a run reports both."""

import csv
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, Self, TypeVar

import numpy as np

from data_pipelines.files import replacing
from data_pipelines.prepared import Prepared
from data_pipelines.sources import DataError

T = TypeVar("T", bound=Any)


class Skipped(NamedTuple):
    """A part of the source that can't be used."""

    split: str
    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} in {self.split}: {self.reason}"


@dataclass(frozen=True)
class Corpus(Generic[T]):
    """Examples by split, and what of the source was skipped. The training split may be `prepared` on disk: then it is not among
    `splits`."""

    splits: dict[str, list[T]]
    skipped: list[Skipped] = field(default_factory=list, kw_only=True)
    prepared: Prepared | None = field(default=None, kw_only=True)

    def counts(self, examples: Sequence[T]) -> dict[str, int]:
        """How many examples there are, by what they are called; and how much they hold."""
        return {"examples": len(examples)}

    def fields(self, example: T) -> tuple[Any, ...]:
        """All that an example holds."""
        return tuple(example)

    def rows(self, split: str) -> list[tuple[Any, ...]]:
        """The fields that identify duplicates."""
        return [self.fields(example) for example in self.splits[split]]

    def facts(self, split: str) -> dict[str, Any]:
        """A split, counted and hashed."""
        examples = self.splits[split]
        skipped = sum(item.split == split for item in self.skipped)
        return {**self.counts(examples), "skipped": skipped, "sha256": fingerprint(map(self.fields, examples))}

    def describe(self) -> dict[str, dict[str, Any]]:
        """What was loaded, for the run's config."""
        train = {"train": self.prepared.manifest["data"]["train"]} if self.prepared else {}
        return train | {name: self.facts(name) for name in self.splits}

    def summary(self) -> dict[str, str]:
        """How much was loaded and what was skipped, for a person to read."""
        known = {name: self.counts(examples) for name, examples in self.splits.items()}
        if self.prepared:
            train = self.prepared.manifest["data"]["train"]
            known = {"train": {what: train[what] for what in self.counts([])}, **known}
        parts, unit = [], ""
        for name, counts in known.items():
            (unit, count), *rest = counts.items()
            parts.append(f"{count:,} {name}" + "".join(f" ({number:,} {what})" for what, number in rest))
        facts = {unit: ", ".join(parts)}
        if self.prepared:
            left_out = [
                f"{count:,} {why.replace('_', ' ')}" for why, count in self.prepared.manifest["left_out"].items() if count
            ]
            facts[unit] += "; prepared" + (f", {' and '.join(left_out)} of train left out" if left_out else "")
        if self.skipped:
            more = f"; and {len(self.skipped) - 5:,} more, all in skipped.tsv" if len(self.skipped) > 5 else ""
            facts["skipped"] = f"{len(self.skipped):,}: {'; '.join(map(str, self.skipped[:5]))}{more}"
        if seen := self.seen_in_training():
            shares = " and ".join(f"{count:,} of the {of:,} different rows of {name!r}" for name, (count, of) in seen.items())
            facts["warning"] = f"{shares} are in the training split, too; their metrics say less about new data"
        return facts

    def seen_in_training(self) -> dict[str, tuple[int, int]]:
        """How many of the different rows of each other split are in the training split, and how many there are; splits without
        such rows are left out, as is all of a training split that is prepared."""
        if "train" not in self.splits:
            return {}
        known, found = self.training_hashes(), {}
        for name in [name for name in self.splits if name != "train"]:
            rows = np.unique(np.frombuffer(row_hashes(self.rows(name)), np.uint64))
            if count := int(np.isin(rows, known).sum()):
                found[name] = count, len(rows)
        return found

    def training_hashes(self) -> np.ndarray:
        """Of all training rows, by which an export tells what it was trained on."""
        return self.prepared.hashes() if self.prepared else np.frombuffer(row_hashes(self.rows("train")), np.uint64)

    def write_skipped(self, path: Path) -> None:
        """All that was skipped, as a table."""
        with replacing(path) as temporary, temporary.open("w", newline="") as file:
            csv.writer(file, delimiter="\t").writerows([Skipped._fields, *self.skipped])

    def check_not_empty(self, source: str, remedy: str) -> Self:
        """The data, if each split has examples.

        Raises:
            DataError: a split has none.
        """
        for name, examples in self.splits.items():
            if not examples:
                why = f" ({'; '.join(map(str, self.skipped[:3]))})" if self.skipped else ""
                raise DataError(f"{source}: the {name} split has no {next(iter(self.counts([])))} to use{why}. {remedy}")
        return self


def fingerprint(examples: Iterable[Sequence[Any]]) -> str:
    """SHA-256 over the fields of the examples, so that a run can say what it was trained on."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update("\x1f".join(map(str, example)).encode())
        digest.update(b"\x1e")
    return digest.hexdigest()


def row_hashes(rows: Iterable[Sequence[Any]], size: int = 8) -> bytes:
    """The first `size` bytes of the SHA-256 of each row, one after another."""
    return b"".join(hashlib.sha256("\x1f".join(map(str, row)).encode()).digest()[:size] for row in rows)
