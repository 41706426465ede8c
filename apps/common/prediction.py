"""Predictions for the rows of a file: rows are read, predicted and written in batches, however many there are."""

import argparse
import csv
import gzip
import io
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any, NoReturn

from apps.common import cli
from data_pipelines.files import replacing
from data_pipelines.remote import local
from data_pipelines.sources import DataError, encoding_of
from data_pipelines.tables import parquet_rows

Row = dict[str, Any]

INPUTS, OUTPUTS = (".csv", ".tsv", ".jsonl", ".parquet"), (".csv", ".jsonl")
PLOTS = (".png", ".jpg", ".pdf", ".svg")
ROWS = 1_024  # in memory at once
LONGEST_ROW = 2**24  # bytes, which is what an export takes


def batches_by_length(texts: Sequence[str], rows: int, size: int) -> Iterator[list[int]]:
    """The places of the texts in batches, the shortest first, as texts of one length pad least.

    Args:
        rows: of a batch, at most.
        size: bytes of a batch, padding counted, at most; a longer text is alone.

    >>> list(batches_by_length(["ccc", "a", "bb", "dddddddd"], rows=2, size=6))
    [[1, 2], [0], [3]]
    """
    sizes = [len(text.encode()) for text in texts]
    batch: list[int] = []
    for place in sorted(range(len(texts)), key=lambda i: sizes[i]):
        if batch and (len(batch) == rows or (len(batch) + 1) * sizes[place] > size):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


# -- the command


def add_file_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of a `predict` command that takes texts from a file."""
    parser.add_argument("--data", help=f"a file with texts, instead of typed ones: {', '.join(INPUTS)}; gzip too")
    parser.add_argument("--column", default="text", help="of --data, in which the texts are (default: text)")
    add_output_flags(parser, "rows of --data with their predictions")


def add_output_flags(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--output", type=Path, help=f"{' or '.join(OUTPUTS)} file that gets the {what}")
    parser.add_argument("--overwrite", action="store_true", help="replace the file of --output")


def check_flags(arguments: argparse.Namespace, parser: argparse.ArgumentParser, typed_only: Sequence[str] = ("json",)) -> None:
    """Refuse flags that don't go together, and typed texts that are names of files.

    Args:
        typed_only: the flags of typed texts only.

    Raises:
        DataError: the first of them.
    """
    alone = typed_only if arguments.data else ("column", "overwrite")
    for name in alone:
        if getattr(arguments, name) != parser.get_default(name):
            how = "without --data: its predictions go to --output" if arguments.data else "with --data"
            raise DataError(f"--{name.replace('_', '-')}: goes {how}. Leave it out.")
    if arguments.data is None:
        if not arguments.input:
            raise DataError("no text. Type some, '-' to read standard input, or --data FILE --output FILE.")
        if arguments.output:
            raise DataError(f"--output {arguments.output}: goes with --data FILE. For typed texts: --json > {arguments.output}.")
        for text in arguments.input:
            _refuse_file_name(text)
    elif arguments.input:
        raise DataError(
            f"--data {arguments.data}: goes without typed texts, but there is {arguments.input[0]!r}. Drop one of them."
        )
    elif arguments.output is None:
        raise DataError(f"--data {arguments.data}: where to? Pass --output FILE{OUTPUTS[0]}, say.")
    else:
        check_output("--output", arguments.output, arguments.overwrite)


def _refuse_file_name(text: str) -> None:
    suffix = Path(text.removesuffix(".gz")).suffix.lower()
    is_file = False
    with suppress(OSError):  # it is too long for a name
        is_file = Path(text).is_file()
    if is_file or (suffix in (*INPUTS, ".txt") and len(text.split()) == 1):
        remedy = f"--data {text} --output predictions.csv" if suffix in INPUTS else f"- < {text}"
        what = "is a file, not a text" if is_file else "is no text but the name of a file, which is not there"
        raise DataError(f"{text}: {what}. To predict its rows: {remedy}. To predict these very words: echo {text} | … -")


def check_output(flag: str, path: Path, overwrite: bool, formats: Sequence[str] = OUTPUTS) -> None:
    """Refuse an output that can't be written, before any work is done.

    Raises:
        DataError: its format is unknown, its folder is missing, or it is there.
    """
    if path.suffix not in formats:
        raise DataError(f"{flag} {path}: the format {path.suffix!r} is unknown; expected {' or '.join(formats)}. Rename it.")
    if not os.access(path.parent, os.W_OK):
        raise DataError(f"{flag} {path}: nothing can be written into the folder {path.parent}. Make it, or name another.")
    if path.exists() and not overwrite:
        raise DataError(f"{flag} {path}: is there already. Pass --overwrite to replace it, or another name.")


def predict_file(arguments: argparse.Namespace, predict: Callable[[list[str]], Sequence[Row]]) -> None:
    """Write `--output`: the rows of `--data` in their order, with more columns from their texts.

    Args:
        arguments: the flags of `add_file_flags`, checked.
        predict: texts -> the new columns of each.
    """
    path, column = Path(local(arguments.data)), arguments.column

    def predicted() -> Iterator[Row]:
        rows, done = read_rows(path, column), 0
        while batch := list(islice(rows, ROWS)):
            for (number, row), new in zip(batch, predict([row[column] for _, row in batch]), strict=True):
                if taken := [name for name in new if name in row]:
                    raise DataError(f"{path}: row {number}: has a column {taken[0]!r} already. Rename it, as predictions get it.")
                yield {**row, **new}
            done += len(batch)
            if sys.stderr.isatty():
                print(f"\r{done:,} rows", end="", file=sys.stderr, flush=True)
        if sys.stderr.isatty():
            print(file=sys.stderr)
        if not done:
            raise DataError(f"{path}: has no rows. Add some, or pass another file.")

    print(f"{write_rows(arguments.output, predicted()):,} rows  {arguments.output}")


# -- files


def read_rows(path: Path, column: str) -> Iterator[tuple[int, Row]]:
    """Row by row what a `.csv`, `.tsv` (no quoting), `.jsonl` or `.parquet` file holds, with the number of its (last) line.

    Raises:
        DataError: no such file, format or column, or a row that can't be read.
    """
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower().replace(".ndjson", ".jsonl")
    if suffix not in INPUTS:
        raise DataError(f"--data {path}: the format {suffix!r} is unknown; expected {', '.join(INPUTS)}. Convert it.")
    lines = _Lines(path)
    if suffix == ".parquet":
        rows = lines.count(parquet_rows(path))
    else:
        rows = _objects(lines) if suffix == ".jsonl" else _cells(lines, suffix == ".csv", column)
    for row in rows:
        if column not in row:
            lines.refuse(f"no column {column!r} among {sorted(map(str, row))[:20]}. Pass --column NAME")
        if not isinstance(row[column], str):
            lines.refuse(f"{column!r} is {str(row[column])[:50]}; expected a text. Put it in quotes")
        yield lines.number, row
        lines.taken = 0


class _Lines:
    """The lines of a file in UTF-8, or in UTF-16 with a byte order mark, one at a time, as `csv.reader` takes them."""

    def __init__(self, path: Path) -> None:
        self.path, self.number, self.taken = path, 0, 0
        self._lines = self._read()

    def __iter__(self) -> Iterator[str]:
        return self._lines

    def _read(self) -> Iterator[str]:
        try:
            with gzip.open(self.path) if self.path.suffix == ".gz" else self.path.open("rb") as file:
                encoding = encoding_of(file.read(4))
                wide = encoding != "utf-8-sig"
                file.seek(0)
                source: Any = io.TextIOWrapper(file, encoding, newline="") if wide else file
                while line := source.readline(LONGEST_ROW + 1):
                    self.number, self.taken = self.number + 1, self.taken + len(line)
                    if self.taken > LONGEST_ROW:
                        self.refuse(f"more than {LONGEST_ROW:,} bytes in a row. Shorten it, or close its quotes")
                    yield line if wide else line.decode("utf-8-sig" if self.number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            self.refuse(f"not UTF-8 (byte 0x{error.object[error.start]:02x}). Convert it: iconv -f latin1 -t utf-8")
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{self.path}: not a readable gzip file ({error}). Compress it anew.") from None
        except OSError as error:
            raise DataError(f"{self.path}: can't be read ({error.strerror}). Check the path.") from None

    def count(self, rows: Iterable[tuple[int, Row]]) -> Iterator[Row]:
        """Rows of a file without lines, which have numbers."""
        for self.number, row in rows:
            yield row

    def refuse(self, problem: str) -> NoReturn:
        raise DataError(f"{self.path}: row {self.number}: {problem}.") from None


def _cells(lines: _Lines, is_csv: bool, column: str) -> Iterator[Row]:
    first = next(iter(lines), "")
    both = chain([first], lines)
    delimiter = _delimiter(first, column)
    rows = csv.reader(both, delimiter=delimiter, strict=True) if is_csv else (line.rstrip("\r\n").split("\t") for line in both)
    header: list[str] = []
    try:
        for cells in rows:
            if not header:
                header = cells
                if len(set(header)) < len(header):
                    lines.refuse(f"two columns have one name: {header}. Rename one")
            elif cells and (cells != [""] or len(header) == 1):  # else an empty line
                if len(cells) != len(header):
                    lines.refuse(
                        f"{len(cells)} columns; the header has {len(header)}. Quote the value, or remove stray separators"
                    )
                yield dict(zip(header, cells))
    except csv.Error as error:
        lines.refuse(f"{error}. Mend the quotes")


def _delimiter(header: str, column: str) -> str:
    """What separates the columns of a .csv: what finds the column, else what finds most.

    >>> _delimiter("id;text", "text"), _delimiter("text", "text"), _delimiter("a;b, c", "x")
    (';', ',', ',')
    """
    found = {delimiter: header.rstrip("\r\n").replace('"', "").split(delimiter) for delimiter in ",;\t"}
    return next((d for d, names in found.items() if column in names), max(found, key=lambda d: len(found[d])))


def _objects(lines: _Lines) -> Iterator[Row]:
    for line in lines:
        if line.strip():
            try:
                row = json.loads(line)
                json.dumps(row, ensure_ascii=False).encode()  # no half of a surrogate pair
            except (ValueError, RecursionError) as error:
                lines.refuse(f"not JSON ({error}). Write one object a line")
            if not isinstance(row, dict):
                lines.refuse(f'{line.strip()[:50]}; expected an object, {{"text": …}}')
            yield row


def write_rows(path: Path, rows: Iterable[Row], columns: Sequence[str] = ()) -> int:
    """Write rows as `.csv` or `.jsonl`, whole or not at all; return how many.

    Args:
        columns: of a `.csv`; none: those of the first row.

    Raises:
        DataError: a row of a `.csv` has another column.
    """
    rows, count = iter(rows), 0
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        first = next(rows, None)
        writer = csv.DictWriter(file, columns or list(first or {}), lineterminator="\n")
        if path.suffix == ".csv":
            writer.writeheader()
        for count, row in enumerate(chain([first] if first else [], rows), start=1):
            if path.suffix == ".jsonl":
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            elif new := [name for name in row if name not in writer.fieldnames]:
                raise DataError(f"{path}: row {count}: has {new[0]!r}, which the first row has not. Take {path.stem}.jsonl.")
            else:
                writer.writerow({name: _as_text(value) for name, value in row.items()})
    return count


def _as_text(value: Any) -> Any:
    return cli.as_json(value) if isinstance(value, dict | list) else value
