"""The rows of the training file: counted once, and then read a shard at a time, by any process."""

import contextlib
import io
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from data_pipelines.corpus import row_hashes
from data_pipelines.parts import Parts, Place, noting, reading
from data_pipelines.prepare.kinds import Kind, Row
from data_pipelines.prepare.progress import counted
from data_pipelines.sources import DataError


class Shard(NamedTuple):
    """Rows that one process reads and encodes.

    Attributes:
        name: of its files.
        first: the number of its first row.
        hash: of this row, by which another source is known.
        passed: how many rows of each group are before it.
        parts: of the files from which it can be read.
    """

    name: str
    first: int
    hash: str
    passed: dict[str, int]
    parts: Parts

    @classmethod
    def of_json(cls, values: list[Any]) -> "Shard":
        name, first, hash, passed, parts = values
        return cls(name, first, hash, passed, {path: (Place(*head), Place(*place)) for path, (head, place) in parts.items()})


def count_rows(kind: Kind, split: Any, shard_rows: int) -> tuple[dict[str, int], list[Shard]]:
    """How many rows each group has, and the shards."""
    groups, shards = Counter[str](), list[Shard]()
    with noting() as trail:
        for number, row in enumerate(counted("counting", split.read())):
            if number % shard_rows == 0:
                shard = Shard(
                    f"train-{len(shards):05d}",
                    number,
                    _hash(row),
                    dict(groups),
                    trail.parts(split.files) if kind.in_parts else {},
                )
                shards.append(shard)
            groups[kind.group(row)] += 1
            trail.rows += 1
    return dict(groups), shards


def _hash(row: Row) -> str:
    return row_hashes([row]).hex()


class TrainingRows:
    """The rows of the training file, and which split each belongs to.

    Args:
        kind: of the data.
        splits: the files, and `alone`: whether it is one, see `Kind.files`.
        groups: how many rows each group has.
    """

    def __init__(self, kind: Kind, splits: dict[str, Any], alone: bool, groups: dict[str, int]) -> None:
        self.kind, self.read, self.groups = kind, splits["train"].read, groups
        self.count = sum(groups.values())
        places = kind.held_out(groups, [*splits], alone)
        self.counts = {"train": self.count - sum(map(len, places.values())), **{name: len(of) for name, of in places.items()}}
        self.held_out = {place: name for name, of in places.items() for place in of}

    def all(self, task: str) -> Iterator[tuple[int, Row, str]]:
        """Number, row and split of each; progress is shown as that of a task."""
        return self._split(0, counted(task, self.read(), self.count), {})

    def of(self, shard: Shard, count: int) -> Iterator[tuple[int, Row, str]]:
        """Those of a shard, at most so many.

        Raises:
            DataError: the source is not the one that was counted.
        """
        with reading(shard.parts) as missing, contextlib.redirect_stderr(io.StringIO()):  # columns that were guessed are told
            rows = itertools.islice(self.read(), shard.first - missing, shard.first - missing + count)
            first = next(rows, None)
            if first is None or _hash(first) != shard.hash:
                raise DataError(f"{self.kind.options.source}: changed while it was read. Repeat the command when it is whole.")
            yield from self._split(shard.first, itertools.chain([first], rows), shard.passed)

    def _split(self, first: int, rows: Iterable[Row], passed: Mapping[str, int]) -> Iterator[tuple[int, Row, str]]:
        passed = Counter(passed)
        for number, row in enumerate(rows, start=first):
            group = self.kind.group(row)
            split = self.held_out.get(number) or self.held_out.get((group, passed[group]), "train")
            passed[group] += 1
            yield number, row, split
