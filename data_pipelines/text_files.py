"""The files of pairs of sentences and of passages. This module needs no TensorFlow: processes that prepare start at once."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from data_pipelines.sources import SPLIT_NAMES, DataError, check_name, find_splits, read_lines
from data_pipelines.tables import SUFFIXES, Column, is_table, read_table


class Pair(NamedTuple):
    source: str
    target: str

    @property
    def complete(self) -> bool:
        return bool(self.source.strip() and self.target.strip())


class PairFiles(NamedTuple):
    """A table, or two files line by line."""

    files: tuple[Path, ...]
    columns: Sequence[Column] = ()

    def read(self) -> Iterator[Pair]:
        """The pairs, some lines at a time."""
        if self.columns:
            return _from_table(self.files[0], self.columns)
        return _aligned(self.files[0].parent, *self.files)


def check_languages(*languages: str) -> None:
    if languages[0] == languages[1]:
        raise DataError(f"--source-lang and --target-lang are both {languages[0]!r}. Name two columns or files of the data.")
    for language in languages:
        check_name(language, "language ")


def translation_files(
    path: Path, source_lang: str, target_lang: str, whole: bool = False, columns: Sequence[str | None] = (None, None)
) -> tuple[dict[str, PairFiles], bool]:
    """The files of each split of a path; and is it one file, or one pair of files?

    The arguments and errors are those of `translations.load_translations`.
    """
    languages = (source_lang, target_lang)
    check_languages(*languages)
    of_table = [
        Column(flag, (lang,), given) for flag, lang, given in zip(("--source-column", "--target-column"), languages, columns)
    ]
    if not path.is_dir():
        one = Path(str(path).removesuffix(".gz"))
        prefix = path if not path.exists() else one.with_suffix("") if one.suffix[1:] in languages else None
        if prefix and (sides := _sides(prefix, languages)):
            return {"train": PairFiles(tuple(sides))}, True
        return {"train": PairFiles((path,), of_table)}, True
    splits = [name for names in SPLIT_NAMES.values() for name in names] if whole else ["train"]
    if any(Path(file.name.removesuffix(".gz")).suffix in SUFFIXES for name in splits for file in path.glob(f"{name}[.-]*")):
        return {name: PairFiles((file,), of_table) for name, file in find_splits(path, SUFFIXES, whole).items()}, False
    if sides := None if any(path.glob("train.*")) else _only_pair(path, languages):
        return {"train": PairFiles(tuple(sides))}, True
    files = [find_splits(path, (f".{language}",), whole) for language in languages]
    for name in files[0] | files[1]:
        for language, of in zip(languages, files):
            if name not in of:
                raise DataError(f"{path}: the {name} split has no .{language} file. Add it, or remove the other language's.")
    return {name: PairFiles((files[0][name], files[1][name])) for name in files[0]}, False


def _sides(prefix: Path, languages: Sequence[str]) -> list[Path] | None:
    """The two files of a prefix, as in `Books.en-fr` for `Books.en-fr.en` and `Books.en-fr.fr`."""
    found = [[p for gz in ("", ".gz") if (p := Path(f"{prefix}.{language}{gz}")).is_file()] for language in languages]
    return [files[0] for files in found] if all(found) else None


def _only_pair(folder: Path, languages: Sequence[str]) -> list[Path] | None:
    """The two files of a folder that holds one pair, whatever its name; not one named as a split."""
    names = {file.name.removesuffix(".gz") for file in folder.iterdir()}
    prefixes = sorted({name.removesuffix(f".{languages[0]}") for name in names if name.endswith(f".{languages[0]}")})
    pairs = {p: sides for p in prefixes if (sides := _sides(folder / p, languages))}
    if any(p in known for p in pairs for known in SPLIT_NAMES.values()):
        return None
    if len(pairs) > 1:
        raise DataError(
            f"{folder}: several pairs of files: {', '.join(pairs)}. Pass one of them, {folder / next(iter(pairs))} say."
        )
    return next(iter(pairs.values()), None)


def _aligned(folder: Path, *files: Path) -> Iterator[Pair]:
    """Line n of the one file with line n of the other."""
    sides = [read_lines(file) for file in files]
    for number, (a, b) in enumerate(itertools.zip_longest(*sides)):
        if a is None or b is None:
            counts = [number if side is None else number + 1 + sum(1 for _ in rest) for side, rest in zip((a, b), sides)]
            raise DataError(
                f"{folder}: {files[0].name} has {counts[0]} lines and {files[1].name} {counts[1]}; line n "
                "of each must belong together. Align the files anew."
            )
        yield Pair(a.strip(), b.strip())


def _from_table(path: Path, columns: Sequence[Column]) -> Iterator[Pair]:
    return (Pair(a.strip(), b.strip()) for _, (a, b) in read_table(path, columns, may_lack_header=True))


class PassageFile(NamedTuple):
    """A text with a passage a line, or a table with a column of texts."""

    path: Path
    column: str | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    def read(self) -> Iterator[tuple[str]]:
        """The passages that are not empty, some lines at a time."""
        if is_table(self.path):
            texts = (text for _, (text,) in read_table(self.path, [text_column(self.column)]))
        else:
            texts = (part for line in read_lines(self.path) for part in line.splitlines())
        return ((text,) for text in texts if text.strip())


def passage_files(path: Path, column: str | None, whole: bool = False) -> dict[str, PassageFile]:
    """The file of each split of a path; see `passages.load_passages`."""
    files = find_splits(path, (".txt", *SUFFIXES), whole) if path.is_dir() else {"train": path}
    return {name: PassageFile(file, column) for name, file in files.items()}


def text_column(name: str | None) -> Column:
    return Column("--text-column", ("text", "review", "sentence"), name)
