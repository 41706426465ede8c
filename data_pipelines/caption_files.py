"""The files in which captions come: tables, Flickr8k's `name.jpg#0<TAB>caption`, COCO's JSON; and where their images lie."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.sources import SPLIT_NAMES, DataError, find_splits, read_text
from data_pipelines.tables import SUFFIXES, Column, load_json, read_table

TABLES = [f"{name}{suffix}" for name in ("captions", "metadata") for suffix in (*SUFFIXES, ".txt")]
TOKEN_FILE = re.compile(r"(?<!\.lemma)\.token(\.txt)?(\.gz)?$")
TOKEN = re.compile(r"[^\t\n]+#\d+\t")
COCO = re.compile(r"captions_((train|val|test)\w*)\.json")
FLICKR8K = ("Flickr8k_Dataset", "Flicker8k_Dataset")  # it is spelled so


class CaptionFile(NamedTuple):
    """A file with the captions of one split, or of all; or of those that are named."""

    path: Path
    images: Path
    names: frozenset[str] | None = None


def find_caption_files(source: Path, whole: bool) -> dict[str, CaptionFile]:
    """The files of captions by split.

    Raises:
        DataError: there is none, or several for one split.
    """
    if not source.is_dir():
        return _with_lists("train", source)
    files = [file for file in sorted(source.iterdir()) if file.is_file()]
    alone = [f for f in files if f.name.lower().removesuffix(".gz") in TABLES or TOKEN_FILE.search(f.name)]
    if len(alone) > 1:
        raise DataError(f"{source}: several files of captions: {', '.join(f.name for f in alone)}. Pass one of them to --data.")
    if alone:
        return _with_lists("train", alone[0])
    annotations = source / "annotations"
    coco: dict[str, list[Path]] = {}
    for file in [*files, *(sorted(annotations.iterdir()) if annotations.is_dir() else [])]:
        if match := COCO.fullmatch(file.name.removesuffix(".gz")):
            coco.setdefault(next(split for split, names in SPLIT_NAMES.items() if match[2] in names), []).append(file)
    for split, found in coco.items():
        if len(found) > 1:
            raise DataError(f"{source}: the {split} split has several files: {', '.join(map(str, found))}. Keep one of them.")
    if "train" in coco or (whole and coco):
        return {split: CaptionFile(file, find_images(file, split)) for split, (file,) in coco.items()}
    if folders := _split_folders(source, whole):
        return folders
    tables = find_splits(source, [f"_captions{suffix}" for suffix in SUFFIXES], whole)
    return {split: CaptionFile(file, find_images(file, split)) for split, file in tables.items()}


def _split_folders(source: Path, whole: bool) -> dict[str, CaptionFile]:
    """`train/metadata.csv` and so on, as Hugging Face's ImageFolder; empty: there is no such table of the training split."""
    found: dict[str, CaptionFile] = {}
    for split, names in SPLIT_NAMES.items():
        folders = [source / name for name in names if (source / name).is_dir()]
        tables = [file for folder in folders for file in sorted(folder.iterdir()) if file.name.lower() in TABLES]
        if len(tables) > 1:
            raise DataError(f"{source}: the {split} split has several tables: {', '.join(map(str, tables))}. Keep one of them.")
        if tables:
            found[split] = CaptionFile(tables[0], find_images(tables[0], split))
    return found if whole or "train" in found else {}


def name_inside(name: str, images: Path) -> str:
    """The name of an image in its folder: a table may name it with that folder, as Hugging Face's ImageFolder does.

    >>> name_inside("images/a.png", Path("photographs/images"))
    'a.png'
    """
    return name.removeprefix(f"{images.stem}/")


def _with_lists(split: str, path: Path) -> dict[str, CaptionFile]:
    """One file; beside Flickr8k's token file its lists of the images of each split."""
    images = find_images(path, split)
    lists = {"train": "train", "validation": "dev", "test": "test"}
    files = {split: path.parent / f"Flickr_8k.{name}Images.txt" for split, name in lists.items()}
    if ".token" not in path.name or not all(file.is_file() for file in files.values()):
        return {split: CaptionFile(path, images)}
    return {split: CaptionFile(path, images, frozenset(read_text(file).split())) for split, file in files.items()}


def find_images(table: Path, split: str) -> Path:
    """Where the images of a table are: a zip or a folder of the split, or of all splits, or the table's own folder."""
    stem = table.name.split("_captions.")[0] if "_captions." in table.name else split
    coco = COCO.match(table.name)
    names = [coco[1]] if coco else []
    names += [f"{stem}_images", "images", "Images", *FLICKR8K]
    folders = [table.parent, *([table.parent.parent] if table.parent.name == "annotations" else [])]
    for name in names:
        for folder in folders:
            for path in (folder / f"{name}.zip", folder / name):
                if path.exists():
                    return path
    return table.parent


def read_captions(path: Path, columns: Sequence[Column]) -> Iterator[tuple[str, str]]:
    """Pairs of an image's name and a caption.

    Raises:
        DataError: a row that can't be read.
    """
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(".json") and isinstance(coco := load_json(path), dict):
        yield from _from_coco(path, coco)
    elif name.endswith((".txt", ".token")) and TOKEN.match(text := read_text(path)):
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip() and not TOKEN.match(line):
                raise DataError(f"{path}: row {number}: {line[:80]!r}; expected name.jpg#0, a tab and a caption. Mend the row.")
            if line.strip():
                image, caption = line.split("\t", 1)
                yield image.rpartition("#")[0], caption
    else:
        for _, (image, caption) in read_table(path, columns):
            yield image, caption


def _from_coco(path: Path, coco: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """`{"images": [{"id", "file_name"}, …], "annotations": [{"image_id", "caption"}, …]}`."""
    names: dict[Any, str] = {}
    for part, keys in (("images", ("id", "file_name")), ("annotations", ("image_id", "caption"))):
        items = coco.get(part)
        if not isinstance(items, list):
            raise DataError(f"{path}: no list {part!r}, as COCO's captions_train2017.json has. Pass such a file, or a table.")
        for number, item in enumerate(items):
            where = f"{path}: {part}[{number}]"
            values = [item.get(key) for key in keys] if isinstance(item, dict) else [None, None]
            if not isinstance(values[0], int | str) or not isinstance(values[1], str):
                raise DataError(f"{where} has no {' or no '.join(keys)}. Pass a file of captions, captions_train2017.json say.")
            if part == "images":
                names[values[0]] = values[1]
            elif values[0] not in names:
                raise DataError(f"{where}: no image has the id {values[0]!r}. Add it to images, or remove the caption.")
            else:
                yield names[values[0]], values[1]
