"""What all data have in common: examples by split, what of the source was skipped, and how a run reports both."""

import csv
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, Self, TypeVar

from data_pipelines.files import replacing
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
    """Examples by split, and what of the source was skipped."""

    splits: dict[str, list[T]]
    skipped: list[Skipped] = field(default_factory=list, kw_only=True)

    def counts(self, examples: Sequence[T]) -> dict[str, int]:
        """How many examples there are, by what they are called; and how much they hold."""
        return {"examples": len(examples)}

    def fields(self, example: T) -> tuple[Any, ...]:
        """All that an example holds."""
        return tuple(example)

    def rows(self, split: str) -> list[tuple[Any, ...]]:
        """The fields that identify duplicates."""
        return [self.fields(example) for example in self.splits[split]]

    def describe(self) -> dict[str, dict[str, Any]]:
        """What was loaded, counted and hashed, for the run's config."""
        return {
            name: {
                **self.counts(examples),
                "skipped": sum(item.split == name for item in self.skipped),
                "sha256": fingerprint(map(self.fields, examples)),
            }
            for name, examples in self.splits.items()
        }

    def summary(self) -> dict[str, str]:
        """How much was loaded and what was skipped, for a person to read."""
        parts, unit = [], ""
        for name, examples in self.splits.items():
            (unit, count), *rest = self.counts(examples).items()
            parts.append(f"{count:,} {name}" + "".join(f" ({number:,} {what})" for what, number in rest))
        facts = {unit: ", ".join(parts)}
        if self.skipped:
            more = f"; and {len(self.skipped) - 5:,} more, all in skipped.tsv" if len(self.skipped) > 5 else ""
            facts["skipped"] = f"{len(self.skipped):,}: {'; '.join(map(str, self.skipped[:5]))}{more}"
        return facts

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
