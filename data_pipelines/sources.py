"""Where examples come from: `embedded`, `tfds:NAME[/config]`, or a path to the user's own files.

All applications find, open and check their files here. Whatever is wrong with the input raises `DataError`, whose
message is one line that names the file, the row and the remedy.
"""

import codecs
import contextlib
import gzip
import itertools
import random
import re
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.parts import part_of, trail

SPLIT_NAMES = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}


SPLIT_SEED = 0  # not that of a run: another seed must not move training rows into the test
BOMB_BYTES, BOMB_RATIO = 200_000_000, 20  # text packs to a tenth; what unpacks beyond both of these is a zip bomb
PIECE = 1 << 20


class DataError(ValueError):
    """The input can't be used; the message says where it is wrong and what to do."""


# What a terminal obeys or shows in another order: control characters, and marks that turn the direction of writing.
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """A text of a user with such characters escaped, line breaks apart.

    >>> print(visible("a\\x1b[2Jb"))
    a\\x1b[2Jb
    """
    return _OBEYED.sub(lambda match: match[0] if match[0] == "\n" else match[0].encode("unicode_escape").decode(), text)


def check_name(name: str, where: str) -> None:
    """Raise if a label or a language can't stand in a line of a list, a card or a terminal.

    Raises:
        DataError: it has such a character.
    """
    if _OBEYED.search(name):
        raise DataError(f"{where}{name!r} has a control character. Take it out of the name.")


def find_splits(folder: Path, suffixes: Sequence[str], whole: bool = False) -> dict[str, Path]:
    """The files of a folder by split: `train.*`, `dev.*` or `val.*` or `valid.*`, `test.*`, optionally `.gz`.

    With `whole` there need be no `train.*`.
    """
    splits: dict[str, Path] = {}
    for split, names in SPLIT_NAMES.items():
        candidates = [folder / f"{name}{suffix}{gz}" for name in names for suffix in suffixes for gz in ("", ".gz")]
        candidates += [folder / f"{name}-00000-of-00001{suffix}" for name in names for suffix in suffixes]  # of Hugging Face
        found = [path for path in candidates if path.is_file()]
        if len(found) > 1:
            raise DataError(
                f"{folder}: the {split} split is there more than once: {', '.join(p.name for p in found)}. Keep one of them."
            )
        if found:
            splits[split] = found[0]
    if "train" not in splits and not (whole and splits):
        raise DataError(
            f"{folder}: no file train{{{','.join(suffixes)}}}[.gz]. Name the training file so, or pass the path of one file."
        )
    return splits


def _pieces(path: Path) -> Iterator[bytes]:
    """The bytes of a file, unpacked, some at a time."""
    with path.open("rb") as packed, gzip.open(packed) if path.suffix == ".gz" else contextlib.nullcontext(packed) as file:
        head, place = part_of(path)
        if place.offset:
            yield file.read(head.offset)
            file.seek(place.offset)
        size = 0
        while piece := file.read(PIECE):
            size += len(piece)
            limit = max(BOMB_BYTES, BOMB_RATIO * packed.tell())  # of what was read so far: a bomb goes off early
            if size > limit:
                raise DataError(
                    f"{path}: unpacks to more than {limit:,} bytes, {BOMB_RATIO} times its size. Unpack it if you trust it."
                )
            yield piece


def check_zip(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse a zip whose members claim to be far larger than the file."""
    size, limit = sum(m.file_size for m in archive.infolist()), max(BOMB_BYTES, BOMB_RATIO * path.stat().st_size)
    if size > limit:
        raise DataError(
            f"{path}: its members take {size:,} bytes, more than the limit of {limit:,}, {BOMB_RATIO} times its size. "
            "Unpack it if you trust it."
        )


_MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}  # first: the one of UTF-16 begins like it
_MARKS |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_NO_TEXT = {
    b"PAR1": "is a parquet file. Name it .parquet.",
    b"PK\x03\x04": "is a zip archive or an Excel file, not a text. Unpack it, or save the sheet as .csv.",
    b"\x1f\x8b": "is packed by gzip. Let its name end with .gz.",
}


def encoding_of(data: bytes) -> str:
    """The encoding of a text by its byte order mark; without one UTF-8.

    >>> encoding_of("a".encode("utf-16")), encoding_of(b"a")
    ('utf-16', 'utf-8-sig')
    """
    return next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8-sig")


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 with a byte order mark; gzip too."""
    return "".join(read_pieces(path))


def read_lines(path: Path) -> Iterator[str]:
    """The lines of such a file without their line feeds, some read at a time."""
    return note_lines(path, _lines(path), ends=1)


def note_lines(path: Path, lines: Iterator[str], ends: int) -> Iterator[str]:
    """The lines of a text; within `parts.noting`, if it is UTF-8, the places of its rows are noted; see `parts.Trail`."""
    noted, first = trail.get(), b""
    with contextlib.suppress(OSError, EOFError, zlib.error):  # the lines tell it
        first = next(_pieces(path), b"") if noted else b""
    if noted is None or encoding_of(first) != "utf-8-sig":
        return lines
    return noted.note_lines(path, lines, len(codecs.BOM_UTF8) * first.startswith(codecs.BOM_UTF8), ends)


def _lines(path: Path) -> Iterator[str]:
    parts: list[str] = []
    for piece in read_pieces(path):
        first, *lines = piece.split("\n")
        parts.append(first)
        if lines:
            yield "".join(parts)
            *lines, rest = lines
            yield from lines
            parts = [rest]
    if last := "".join(parts):
        yield last


def read_pieces(path: Path) -> Iterator[str]:
    """The text of such a file, a megabyte at a time.

    Raises:
        DataError: no such file, or no text; a byte that is none of the encoding.
    """
    try:
        pieces = _pieces(path)
        first = next(pieces, b"")
        encoding = _check_text(path, first)
        decoder, rows = codecs.getincrementaldecoder(encoding)(), 1
        for piece in itertools.chain([first], pieces):
            try:
                text = decoder.decode(piece)
            except UnicodeDecodeError as error:
                raise _undecodable(path, rows, error) from None
            rows += text.count("\n")
            yield text
        try:
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise _undecodable(path, rows, error) from None
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Check the path.") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder; expected a file.") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a readable gzip file ({error}). Compress it anew.") from None


def _check_text(path: Path, data: bytes) -> str:
    """The encoding of a file that begins so."""
    for start, remedy in _NO_TEXT.items():
        if data.startswith(start):
            raise DataError(f"{path}: {remedy}")
    encoding = encoding_of(data)
    if encoding == "utf-8-sig" and data[:400].count(0) > len(data[:400]) // 3:
        order = "be" if data[:1] == b"\0" else "le"
        raise DataError(f"{path}: UTF-16 without a byte order mark. Convert it: iconv -f utf-16{order} -t utf-8 FILE > NEW.")
    return encoding


def _undecodable(path: Path, rows: int, error: UnicodeDecodeError) -> DataError:
    encoding = error.encoding.upper().removesuffix("-SIG")
    row = rows + error.object[: error.start].count(b"\n")
    remedy = "Save it as UTF-8" if encoding != "UTF-8" else "Convert it: iconv -f latin1 -t utf-8 FILE > NEW"
    return DataError(f"{path}: row {row}: not {encoding} (byte 0x{error.object[error.start]:02x}). {remedy}.")


def split_by_seed(
    examples: Sequence[Any], shares: dict[str, float], seed: int, group: Callable[[Any], Any] = lambda example: None
) -> dict[str, list[Any]]:
    """Cut one list into splits of the given shares, each `group` (a class, say) in the same way.

    The same seed gives the same cut; examples keep their order.

    >>> split_by_seed(range(10), {"train": 0.8, "validation": 0.2}, seed=1, group=lambda i: i % 2)
    {'train': [0, 1, 3, 4, 5, 6, 8, 9], 'validation': [2, 7]}
    """
    groups: dict[Any, list[int]] = {}
    for i, example in enumerate(examples):
        groups.setdefault(group(example), []).append(i)
    split = [next(iter(shares))] * len(examples)
    generator = random.Random(seed)
    for members in groups.values():
        for name, places in _cut(len(members), shares, generator).items():
            for place in places:
                split[members[place]] = name
    return {name: [example for example, own in zip(examples, split) if own == name] for name in shares}


MANY_ROWS, HELD_OUT_ROWS = 1_000_000, 5_000  # of more rows than that, a split gets only so many besides the first


def _cut(count: int, shares: dict[str, float], generator: random.Random) -> dict[str, Sequence[int]]:
    """Which of `count` rows each split but the first gets."""
    first, *others = shares
    if count > MANY_ROWS:
        drawn: Sequence[int] = generator.sample(range(count), HELD_OUT_ROWS * len(others))
        return {name: drawn[i * HELD_OUT_ROWS : (i + 1) * HELD_OUT_ROWS] for i, name in enumerate(others)}
    rows = list(range(count))
    generator.shuffle(rows)
    total = shares[first]
    chosen: dict[str, Sequence[int]] = {}
    for name in others:
        chosen[name] = rows[round(total * count) : round((total + shares[name]) * count)]
        total += shares[name]
    return chosen


def held_out_places(groups: dict[str, int], splits: Collection[str], alone: bool) -> dict[str, set[tuple[str, int]]]:
    """What `split_off` gives to other splits of a training split that is too large to be in memory: each row as (group, place in
    it).

    Args:
        groups: how many rows each has, in the order of their first rows.
        splits, alone: see `split_off`.
    """
    shares, generator = _shares(splits, alone), random.Random(SPLIT_SEED)
    found: dict[str, set[tuple[str, int]]] = {name: set() for name in [*shares][1:]}
    for group, count in groups.items():
        for name, places in (_cut(count, shares, generator) if shares else {}).items():
            found[name] |= {(group, place) for place in places}
    return found


def _shares(splits: Collection[str], alone: bool) -> dict[str, float]:
    """How the training split is cut; empty: it is not."""
    if "validation" in splits or "train" not in splits:
        return {}
    return {"train": 0.8, "validation": 0.1, "test": 0.1} if alone and "test" not in splits else {"train": 0.9, "validation": 0.1}


def split_off(
    splits: dict[str, list[Any]], alone: bool, whole: bool = False, group: Callable[[Any], Any] = lambda example: None
) -> dict[str, list[Any]]:
    """Where there is no validation split, take a tenth of the training split for it, and if that is `alone`, one for the test.

    The cut is the same in every run. With `whole` nothing is cut, and what stands alone is the split `all`.
    """
    shares = _shares(splits, alone)
    if not shares:
        return splits
    if whole:
        return {"all": splits["train"]} if alone and len(splits) == 1 else splits
    cut = split_by_seed(splits["train"], shares, SPLIT_SEED, group)
    return {**cut, **{name: examples for name, examples in splits.items() if name != "train"}}


def load_tfds(
    name: str, to_example: Callable[[dict[str, Any], Any], Any], whole: bool = False, undecoded: Sequence[str] = ()
) -> dict[str, list[Any]]:
    """The splits of a TFDS data set that is prepared on this machine, or can be downloaded.

    Args:
        name: `NAME` or `NAME/config`, as in `tfds.load`.
        to_example: makes an example from a row of NumPy values and the data set's features.
        whole: there need be no training split.
        undecoded: fields that stay the bytes of a file, images for instance.

    Raises:
        DataError: TFDS is not installed, or has no such set; no network; no training split.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise DataError("tfds: tensorflow-datasets is not installed. Run: pip install -e .") from None
    try:
        builder = tfds.builder(name)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise DataError(f"tfds:{name}: {first} Check the name, or use --data embedded or --data PATH.") from None
    if not builder.info.splits:
        _download(builder, name)
    known = {alias: split for split, aliases in SPLIT_NAMES.items() for alias in aliases}
    splits = {}
    for split in builder.info.splits:
        if split in known:
            decoders = {field: tfds.decode.SkipDecoding() for field in undecoded if field in builder.info.features}
            rows = tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False, decoders=decoders or None))
            splits[known[split]] = [to_example(row, builder.info.features) for row in rows]
    if "train" not in splits and not (whole and splits):
        raise DataError(f"tfds:{name}: has no training split but {sorted(builder.info.splits)}. Choose another data set.")
    return splits


def _download(builder: Any, name: str) -> None:
    """Prepare a data set, unless there is no network: TFDS would try for minutes."""
    import socket

    try:
        socket.create_connection(("storage.googleapis.com", 443), timeout=3).close()
        builder.download_and_prepare()
    except OSError as error:
        raise DataError(
            f"tfds:{name}: not prepared in {builder.data_dir} and cannot be downloaded ({error}). "
            "Without a network use --data embedded (the offline default) or --data PATH to your own files."
        ) from None
