"""Parts of files: where rows begin is noted while a source is read once, so that other processes begin there.

The readers of rows (`sources.read_lines`, `tables.read_table`) know nothing of it. Within `noting()` the lines that they take are
watched; within `reading(...)` a file seems to consist of its head, which is its header and its first row, and of what follows a
later row. gzip is unpacked up to there; texts other than UTF-8 and lists in JSON have no such places, and are read whole.
"""

import contextlib
from collections.abc import Collection, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple


class Place(NamedTuple):
    """Where a row begins.

    Attributes:
        offset: the bytes of the file before its first line, unpacked; in a parquet file the rows before its row group.
        row: its number.
    """

    offset: int = 0
    row: int = 0


Part = tuple[Place, Place]  # where the head ends, and where the file goes on
Parts = dict[str, Part]  # by `key_of`
WHOLE = (Place(), Place())


def key_of(path: Path) -> str:
    """Other processes have other working directories."""
    return str(path.absolute())


class Trail:
    """Notes the places of rows. Who reads them counts in `rows` those that came out.

    The line that is taken next is the first one of the next row: readers take none before they need it.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._last: dict[str, tuple[int, int]] = {}
        self._heads: dict[str, Place] = {}

    def note(self, path: Path, place: Place, head: Place) -> None:
        """A row begins here; `head`: where the head of the file ends, if that is not known yet."""
        self._heads.setdefault(key_of(path), head)
        self._last[key_of(path)] = place

    def note_lines(self, path: Path, lines: Iterator[str], offset: int, ends: int) -> Iterator[str]:
        """The lines, of which those that begin rows are noted.

        Args:
            offset: of the first one.
            ends: bytes after each line that it lacks.
        """
        row, key, last = 0, key_of(path), self._last
        for line in lines:
            if self.rows != row:
                if not row:
                    self.note(path, Place(offset, self.rows), head=Place(offset, self.rows))
                row = self.rows
                last[key] = offset, row  # no `Place`: this is done for each row
            offset += len(line if line.isascii() else line.encode()) + ends
            yield line

    def parts(self, files: Collection[Path]) -> Parts:
        """From which the next row can be read, and perhaps some before it; empty: from the beginning alone."""
        found = {key: (self._heads[key], Place(*self._last[key])) for key in map(key_of, files) if key in self._last}
        same = {(head.row, place.row) for head, place in found.values()}
        return found if len(found) == len(files) and len(same) == 1 else {}


trail: ContextVar[Trail | None] = ContextVar("trail", default=None)
_parts: ContextVar[Parts | None] = ContextVar("parts", default=None)


@contextlib.contextmanager
def noting() -> Iterator[Trail]:
    """Have a trail of the files that are read meanwhile."""
    token = trail.set(noted := Trail())
    try:
        yield noted
    finally:
        trail.reset(token)


@contextlib.contextmanager
def reading(parts: Parts) -> Iterator[int]:
    """Have files consist of these parts; so many rows, then, are missing before any but those of the head."""
    token = _parts.set(parts)
    head, place = next(iter(parts.values()), WHOLE)
    try:
        yield place.row - head.row
    finally:
        _parts.reset(token)


def part_of(path: Path) -> Part:
    """What of a file is to be read."""
    return (_parts.get() or {}).get(key_of(path), WHOLE)
