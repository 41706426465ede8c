"""Tables of the user: rows by named columns, from `.tsv`, `.csv` (any of , ; and tab between columns), `.txt`, `.jsonl`, `.json`
(a list of objects, or one a line) and `.parquet`; the texts gzip too.
"""

import contextlib
import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.languages import name_languages
from data_pipelines.parts import Place, part_of, trail
from data_pipelines.sources import BOMB_BYTES, BOMB_RATIO, DataError, note_lines, read_lines, read_pieces, read_text, visible

SUFFIXES = (".tsv", ".csv", ".jsonl", ".json", ".parquet")
csv.field_size_limit(2**31 - 1)  # a novel is no broken quote; `read_text` bounds the file


class Column(NamedTuple):
    """A column that is looked for: by the name `given` to its flag, else by its usual names, ours first; in any letter case."""

    flag: str
    names: tuple[str, ...]
    given: str | None = None

    @property
    def wanted(self) -> str:
        return self.names[0] if self.given is None else self.given

    def find(self, header: Sequence[str], path: Path) -> int | None:
        """Its place in a header; None: it isn't there.

        Raises:
            DataError: several columns may be it.
        """
        usual = {name.lower() for name in ((self.given,) if self.given is not None else self.names)}
        exact = [i for i, name in enumerate(header) if name == self.wanted]
        found = exact or [i for i, name in enumerate(header) if name.strip().lower() in usual]
        if len(found) > 1:
            both = " and ".join(repr(header[i]) for i in found)
            raise DataError(
                f"{path}: row 1: {both} may each be the column {self.wanted}. Pass one as {self.flag}, or rename one."
            )
        return found[0] if found else None


def read_table(path: Path, columns: Sequence[Column], may_lack_header: bool = False) -> Iterator[tuple[int, list[str]]]:
    """The rows of a table as `(row number, values of the columns)`. Columns that were guessed are printed.

    Args:
        path: what it holds follows from its suffix; row 1 of a `.tsv`, `.csv` or `.txt` is the header.
        columns: which ones.
        may_lack_header: a `.tsv` or `.txt` that has none of the columns in row 1, nor names of languages, has no header: its
            first columns are taken, or those whose numbers (1, 2, …) are given.

    Raises:
        DataError: no such file or column, a row that can't be read.
    """
    suffix = _suffix(path)
    if suffix == ".parquet":
        return _from_records(path, parquet_rows(path), columns)
    if suffix in (".jsonl", ".ndjson", ".json"):
        return _from_records(path, _json_rows(path), columns)
    return _from_lines(path, suffix, columns, may_lack_header)


def is_table(path: Path) -> bool:
    """By its ending, in any letter case.

    >>> is_table(Path("reviews.CSV.gz")), is_table(Path("novel.txt"))
    (True, False)
    """
    return _suffix(path) in (*SUFFIXES, ".ndjson")


def _suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _places(path: Path, header: Sequence[str], columns: Sequence[Column], kind: str = "header") -> list[int]:
    places = [column.find(header, path) for column in columns]
    missing = [column for column, place in zip(columns, places) if place is None]
    if missing:
        names, flags = " and ".join(repr(c.wanted) for c in missing), " and ".join(c.flag for c in missing)
        raise DataError(
            f"{path}: row 1: no column {names} in the {kind} {_shortened(header)}. Name the columns so, or pass {flags}."
        )
    found = [place for place in places if place is not None]
    guesses = [f"{header[p]!r} is read as {c.names[0]}" for c, p in zip(columns, found) if header[p] != c.wanted]
    if guesses:
        flags = ", ".join(column.flag for column in columns)
        _say(f"{path}: the column {', '.join(guesses)}. To take another: {flags}")
    return found


_said: ContextVar[set[str] | None] = ContextVar("said", default=None)


@contextlib.contextmanager
def saying_once() -> Iterator[None]:
    """What is guessed of a table that is read again and again is printed once."""
    token = _said.set(set())
    try:
        yield
    finally:
        _said.reset(token)


def _say(line: str) -> None:
    said = _said.get()
    if said is not None and line in said:
        return
    if said is not None:
        said.add(line)
    print(visible(line).replace("\n", " "), file=sys.stderr)


# -- lines


def _from_lines(path: Path, suffix: str, columns: Sequence[Column], may_lack_header: bool) -> Iterator[tuple[int, list[str]]]:
    tabs = suffix == ".tsv" or (suffix != ".csv" and "\t" in next(read_lines(path), ""))
    kinds = [_split(path)] if tabs else [csv.reader(_lines_of_csv(path), delimiter=d, strict=True) for d in ",;\t"]
    number = 0
    try:
        headers = [next(rows, []) for rows in kinds]
        if not any(headers):
            raise DataError(f"{path}: row 1 is empty; expected a header or a row. Give a file with rows.")
        complete = [all(column.find(header, path) is not None for column in columns) for header in headers]
        best = complete.index(True) if any(complete) else max(range(len(kinds)), key=lambda i: len(headers[i]))
        rows, header = kinds[best], headers[best]
        numbers = all(column.given is None or column.given.isdecimal() for column in columns)
        named = name_languages(header) or any(column.find(header, path) is not None for column in columns)
        if tabs and may_lack_header and numbers and not named:
            places = _numbered(path, header, columns)
            yield 1, [header[place] for place in places]
        else:
            places = _places(path, header, columns)
        number, quoted = 1, places if tabs else []
        for number, row in enumerate(rows, start=2):
            if not row or row == [""]:
                continue
            if len(row) != len(header):
                raise DataError(
                    f"{path}: row {number}: {len(row)} columns; row 1 has {len(header)}. "
                    "Remove stray separators, or quote the value in a .csv."
                )
            quoted = [place for place in quoted if len(row[place]) > 1 and row[place][0] == row[place][-1] == '"']
            yield number, [row[place] for place in places]
        if quoted and number > 1:
            numbered = " and ".join(str(place + 1) for place in quoted)
            _say(f"{path}: each text of column {numbered} is in quotes, which are kept. To remove them name the file .csv.")
    except csv.Error as error:
        raise DataError(f"{path}: row {number + 1}: {error}. Mend the quotes.") from None


def _split(path: Path) -> Iterator[list[str]]:
    return (line.rstrip("\r").split("\t") for line in read_lines(path))


def _lines_of_csv(path: Path) -> Iterator[str]:
    """The lines of a file with their ends, which may be carriage returns alone."""
    return note_lines(path, _lines_with_ends(path), ends=0)


def _lines_with_ends(path: Path) -> Iterator[str]:
    rest = ""
    for piece in read_pieces(path):
        *lines, rest = io.StringIO(rest + piece, newline="") if rest + piece else [""]
        yield from lines
    if rest:
        yield rest


def _numbered(path: Path, row: Sequence[str], columns: Sequence[Column]) -> list[int]:
    """The columns of a table without header: those of the numbers that are given, else the first ones."""
    places = [int(column.given) - 1 if column.given else i for i, column in enumerate(columns)]
    for column, place in zip(columns, places):
        if not 0 <= place < len(row):
            raise DataError(
                f"{path}: row 1: no column {place + 1} of {len(row)}, nor a header with {column.wanted!r}. Pass {column.flag}."
            )
        if column.given is None and row[place].strip().isdecimal():
            raise DataError(
                f"{path}: row 1: no header, and column {place + 1} holds numbers. Pass the number of the column of texts, as in "
                + " ".join(f"{c.flag} {2 * i + 2}" for i, c in enumerate(columns))
                + "."
            )
    read = ", ".join(f"column {p + 1} ({_shortened(row[p])}, …) is read as {c.names[0]}" for c, p in zip(columns, places))
    flags = " ".join(f"{column.flag} {place + 1}" for column, place in zip(columns, places[::-1]))
    _say(f"{path}: no header; {read}. For other columns pass, say, {flags}")
    return places


# -- records


def _from_records(path: Path, rows: Iterable[tuple[int, Any]], columns: Sequence[Column]) -> Iterator[tuple[int, list[str]]]:
    names: list[str] = []
    for number, row in rows:
        if not isinstance(row, dict):
            raise DataError(f'{path}: row {number}: {_shortened(row)}; expected an object, {{"{columns[0].wanted}": …}}.')
        inner = {key: value for group in row.values() if isinstance(group, dict) for key, value in group.items()}
        row = {**inner, **row}  # {"translation": {"en": …, "fr": …}} has columns, too
        names = names or [list(row)[place] for place in _places(path, list(row), columns, "keys")]
        yield number, [_cell(f"{path}: row {number}: ", name, row) for name in names]


def _cell(where: str, name: str, row: dict[str, Any]) -> str:
    value = row.get(name, ...)
    if value is None:
        return ""
    if value is ... or not isinstance(value, str | int | float):
        what = "is missing" if value is ... else f"holds {_shortened(value)}"
        raise DataError(f"{where}{name!r} {what}; expected a text or a number. Mend the row.")
    try:
        str(value).encode()
    except UnicodeEncodeError:
        raise DataError(f"{where}{name!r} has half of a surrogate pair. Write the character itself.") from None
    return str(value)


def load_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        DataError: it is no JSON.
    """
    return _parsed(read_text(path), f"{path}: ")


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}not JSON ({error}). Write one object a line, or a list of objects.") from None


def _json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    if next((piece for piece in read_pieces(path) if piece.strip()), "").lstrip()[:1] == "[":
        yield from enumerate(load_json(path), start=1)
    else:
        lines = enumerate(read_lines(path), start=1)
        yield from ((number, _parsed(line, f"{path}: row {number}: ")) for number, line in lines if line.strip())


def parquet_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """The rows of a parquet file with their numbers from 1, some at a time.

    Raises:
        DataError: it can't be read, or pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{path}: pyarrow, which reads parquet, is not installed. Run: pip install -e '.[parquet]'") from None
    before, size = 0, 0
    try:
        limit = max(BOMB_BYTES, BOMB_RATIO * path.stat().st_size)
        with pyarrow.parquet.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                if before < part_of(path)[1].offset:
                    before += file.metadata.row_group(group).num_rows
                    continue
                if noted := trail.get():  # no head: any row has the names
                    noted.note(path, Place(before, noted.rows), head=Place())
                for batch in file.iter_batches(batch_size=1024, row_groups=[group]):
                    size += batch.nbytes
                    if size > limit:
                        raise DataError(f"{path}: unpacks to more than {limit:,} bytes. Write it as .jsonl if you trust it.")
                    yield from enumerate(batch.to_pylist(), start=before + 1)
                    before += len(batch)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Check the path.") from None
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise DataError(f"{path}: not a readable parquet file ({reason}). Write it anew.") from None
