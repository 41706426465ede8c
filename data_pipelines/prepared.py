"""Prepared data: token ids in shards on disk, made once by `data_pipelines.prepare`, and read row by row in any order.

    manifest.json                 what is there, of which source, with which flags; with it the folder is complete
    train-00000.ids.npy           (tokens,) uint16 or uint32: the columns of the first row, of the second, and so on
    train-00000.offsets.npy       (rows * columns + 1,) uint32: where each of these begins
    train-00000.hashes.npy        (rows,) uint64: so that an export can tell what it was trained on
    train-00000.images.jsonl      of captions: SHA-256, path and member of each picture
    lengths.npy                   (shards, longest + 1): how many rows of each shard have each length; not of passages
    validation.jsonl, test.jsonl  the other splits, as texts
    skipped.tsv                   of captions: what can't be used
    joint.model, words.json, …    the vocabulary

The rows of a shard are sorted by length: those of a bucket, whatever its boundaries, lie together in each shard, and nothing is
kept in memory to find them. Passages for a language model keep their order.

This module needs no TensorFlow: processes that prepare start at once.
"""

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.files import replacing
from data_pipelines.remote import THREADS, RemoteFile, exists, is_remote, local, sizes, url_of
from data_pipelines.sources import DataError

FORMAT = 2
MANIFEST = "manifest.json"
NEEDED = {"application", "flags", "source", "data", "left_out", "unknown", "dtype", "columns", "sequences", "files"}
PIECE = 1 << 22
HEADER = 1 << 10  # more than that of an array has
HEADER_BYTES = 128  # of a vector that NumPy writes
MOST_HASHES = 10_000_000  # 80 MB in an export


def sha256_of(path: Path) -> str:
    """Of the content of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


def shard_files(folder: Path, name: str) -> list[Path]:
    return [folder / f"{name}.{part}.npy" for part in ("ids", "offsets", "hashes")]


def write_shard(
    folder: Path, name: str, columns: Sequence[tuple[np.ndarray, np.ndarray]], hashes: np.ndarray, dtype: str, sequences: int
) -> dict[str, Any]:
    """Write rows, the shortest first, or in their order.

    Args:
        columns: (ids of all rows, lengths of the rows) each.
        hashes: of the rows.
        dtype: of the ids.
        sequences: the longest of so many first columns is the length of a row; 0: the order is kept.

    Returns:
        For the manifest: the rows, the tokens, size and SHA-256 of each file, and `lengths`: how many rows have each length, if
        they are sorted.

    Raises:
        DataError: more tokens than an offset can count.
    """
    lengths = np.stack([lengths for _, lengths in columns], axis=1)  # (rows, columns)
    if lengths.sum() > np.iinfo(np.uint32).max:
        raise DataError(
            f"{name}: has {lengths.sum():,} tokens; expected fewer than 2^32, for offsets. Pass a smaller --shard-rows."
        )
    longest = lengths[:, :sequences].max(axis=1, initial=0)
    order = np.argsort(longest, kind="stable")
    starts = np.stack([np.cumsum(lengths) - lengths for _, lengths in columns], axis=1)
    starts += np.cumsum([0, *(len(ids) for ids, _ in columns)])[:-1]
    lengths, starts = lengths[order].ravel(), starts[order].ravel()
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    flat = np.concatenate([ids for ids, _ in columns])
    flat = flat[np.repeat(starts - offsets[:-1], lengths) + np.arange(len(flat))]
    files = {}
    arrays: list[np.ndarray] = [flat.astype(dtype), offsets.astype(np.uint32), hashes[order].astype(np.uint64)]
    for path, array in zip(shard_files(folder, name), arrays):
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.save(file, array)
            file.flush()
            os.fsync(file.fileno())
        files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    facts = {"name": name, "rows": len(order), "tokens": len(flat), "files": files}
    return facts | ({"lengths": np.bincount(longest).tolist()} if sequences else {})


def padded_rows(values: np.ndarray, starts: np.ndarray, ends: np.ndarray, width: int) -> np.ndarray:
    """The parts of `values` between starts and ends, as rows of a length, padded with 0.

    >>> padded_rows(np.array([5, 6, 7]), np.array([1, 0]), np.array([3, 1]), 3)
    array([[6, 7, 0],
           [5, 0, 0]])
    """
    places = starts[:, None] + np.arange(width)
    return np.where(places < ends[:, None], values[np.minimum(places, len(values) - 1)], 0) if len(values) else places * 0


class LocalFile:
    """A file of which parts are read."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)

    def read(self, count: int, begin: int) -> bytes:
        return os.pread(self._descriptor, count, begin)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # it could not be opened
            os.close(self._descriptor)


class _Array:
    """The parts of a one-dimensional `.npy` file, there of a mirror if they are not here. They are read, not mapped: what the
    system keeps of the file is no memory of this process."""

    def __init__(self, path: Path, dtype: str) -> None:
        self.path, self.dtype = path, np.dtype(dtype)
        url = None if path.is_file() else url_of(path)
        self._bytes: Any = RemoteFile(url) if url else LocalFile(path)
        header = io.BytesIO(self._bytes.read(HEADER, 0))
        np.lib.format.read_magic(header)
        np.lib.format.read_array_header_1_0(header)
        self.begin = header.tell()

    def read(self, start: int, count: int) -> np.ndarray:
        size = self.dtype.itemsize
        data = self._bytes.read(count * size, self.begin + start * size)
        if len(data) < count * size:
            raise DataError(f"{self.path}: was cut off while it was read. Prepare the data anew.")
        return np.frombuffer(data, self.dtype)


class PreparedRows:
    """The rows of all shards, see `batching.Rows`.

    Args:
        folder: with the shards.
        names: of the shards.
        columns: of a row.
        sequences: so many of them, the first ones; the others hold a number each.
        dtype: of the ids on disk.
    """

    def __init__(self, folder: Path, names: Sequence[str], columns: int, sequences: int, dtype: str) -> None:
        self.folder, self.names, self.columns, self.sequences, self.dtype = folder, names, columns, sequences, dtype
        self.kinds = [(2 if i < sequences else 1, "int32") for i in range(columns)]
        self.lengths = np.load(folder / "lengths.npy").astype(np.int64)
        self._opened = lru_cache(maxsize=200)(self._open)  # two files each, of the 1,000 that a process may have open
        self._map: Any = ThreadPoolExecutor(THREADS).map if url_of(folder) else map
        self._bucket = lru_cache(maxsize=64)(self._find_bucket)

    def counts(self) -> np.ndarray:
        return self.lengths.sum(axis=0)

    def lengths_of(self, shortest: int, longest: int, places: np.ndarray) -> np.ndarray:
        """How long the columns of rows are, (rows, columns)."""
        return np.diff(self._bounds(shortest, longest, places)[1])

    def read(self, shortest: int, longest: int, places: np.ndarray) -> tuple[np.ndarray, ...]:
        flat, bounds = self.read_flat(shortest, longest, places)
        return tuple(
            padded_rows(flat, bounds[:, i], bounds[:, i + 1], longest) if i < self.sequences else flat[bounds[:, i]]
            for i in range(self.columns)
        )

    def read_flat(self, shortest: int, longest: int, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The ids of such rows, one after another, and where their columns begin there and the last one ends."""
        shards, bounds = self._bounds(shortest, longest, places)
        begins, ends = bounds[:, 0].tolist(), bounds[:, -1].tolist()
        parts = list(self._map(lambda shard, begin, end: self._opened(shard)[0].read(begin, end - begin), shards, begins, ends))
        lengths = bounds[:, -1] - bounds[:, 0]
        bounds += (np.cumsum(lengths) - lengths - bounds[:, 0])[:, None]
        return np.concatenate(parts).astype(np.int32), bounds

    def _bounds(self, shortest: int, longest: int, places: np.ndarray) -> tuple[list[int], np.ndarray]:
        """The shard of each row, and where its columns begin there and the last one ends, (rows, columns + 1)."""
        first, before = self._bucket(shortest, longest)
        shards = np.searchsorted(before, places, side="right") - 1
        rows = first[shards] + places - before[shards]
        found = self._map(
            lambda shard, row: self._opened(shard)[1].read(row * self.columns, self.columns + 1), shards.tolist(), rows.tolist()
        )
        return shards.tolist(), np.array(list(found), np.int64)

    def _find_bucket(self, shortest: int, longest: int) -> tuple[np.ndarray, np.ndarray]:
        """Where the rows of such lengths begin in each shard, and how many the shards before it have."""
        rows = self.lengths[:, shortest : longest + 1].sum(axis=1)
        return self.lengths[:, :shortest].sum(axis=1), np.cumsum(rows) - rows

    def _open(self, shard: int) -> tuple[_Array, _Array]:
        ids, offsets, _ = shard_files(self.folder, self.names[shard])
        return _Array(ids, self.dtype), _Array(offsets, "uint32")


class PreparedText:
    """The passages of all shards, see `token_streams.Text`.

    Args:
        folder: with the shards.
        shards: of the manifest.
        dtype: of the ids on disk.
        unknown: the share of the tokens that is unknown.
    """

    def __init__(self, folder: Path, shards: Sequence[dict[str, Any]], dtype: str, unknown: float) -> None:
        self.folder, self.dtype, self.unknown = folder, dtype, unknown
        self.names, self.rows = [shard["name"] for shard in shards], [shard["rows"] for shard in shards]
        self.tokens = np.array([shard["tokens"] for shard in shards], np.int64)
        self._opened = lru_cache(maxsize=200)(self._open)

    def offsets(self, shard: int) -> np.ndarray:
        return _Array(shard_files(self.folder, self.names[shard])[1], "uint32").read(0, self.rows[shard] + 1)

    def read(self, shard: int, begin: int, end: int) -> np.ndarray:
        return self._opened(shard).read(begin, end - begin).astype(np.int32)

    def first_passages(self, tokens: int) -> list[np.ndarray]:
        """The first passages of the source, up to so many tokens."""
        found, count = list[np.ndarray](), 0
        for shard in range(len(self.names)):
            offsets = self.offsets(shard)
            stop = int(np.searchsorted(offsets, tokens - count, side="right")) - 1
            ids = self.read(shard, 0, int(offsets[stop]))
            found += np.split(ids, offsets[1:stop]) if stop else []
            count += len(ids)
            if stop < len(offsets) - 1:
                break
        return found or [self.read(0, 0, min(tokens, int(self.tokens[0])))]

    def _open(self, shard: int) -> "_Array":
        return _Array(shard_files(self.folder, self.names[shard])[0], self.dtype)


# -- the folder


def prepared_flags(path: str, application: str) -> dict[str, Any]:
    """The flags with which a folder was prepared; none if the path is no such folder.

    Raises:
        DataError: it was prepared for another application.
    """
    if is_remote(path):
        url = f"{path.rstrip('/')}/{MANIFEST}"
        folder = Path(local(url)).parent if exists(url) else None
    else:
        folder = Path(path)
    if folder is None or not _has_manifest(folder):
        return {}
    return _check_application(folder, read_manifest(folder), application)["flags"]


def _check_application(folder: Path, manifest: dict[str, Any], application: str) -> dict[str, Any]:
    if manifest["application"] != application:
        raise DataError(f"{folder}: was prepared for {manifest['application']}, not for {application}. Pass other data.")
    return manifest


def is_prepared(path: str) -> bool:
    """Whether a path of `--data` is a folder that `prepare` wrote, or began to write."""
    return _has_manifest(Path(path)) or (partial_folder(Path(path)).is_dir() and not Path(path).exists())


def _has_manifest(folder: Path) -> bool:
    """Whether there is one, if broken; another program's `manifest.json` has no shards."""
    with contextlib.suppress(ValueError):
        return (folder / MANIFEST).is_file() and "shards" in json.loads((folder / MANIFEST).read_bytes())
    return True


def partial_folder(folder: Path) -> Path:
    """Where a folder is prepared, until it is complete."""
    folder = folder.resolve() if folder.name in ("", "..") or folder.is_symlink() else folder
    return folder.parent / f"{folder.name}.partial"


@dataclass(frozen=True)
class Prepared:
    """A folder that was prepared, checked.

    Attributes:
        folder: the place.
        manifest: what `prepare` wrote.
    """

    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: str, application: str) -> "Prepared":
        """Read the manifest, and see that all files are there as it says. The content of shards is not read again.

        Args:
            path: of the folder.
            application: what it must have been prepared for.

        Raises:
            DataError: it is not complete, of another version or application, or a file differs; the source changed since.
        """
        folder = Path(path)
        if not (folder / MANIFEST).is_file():
            raise DataError(f"{folder}: is not prepared to its end. Repeat the command that prepares it: it goes on.")
        opened = cls(folder, _check_application(folder, read_manifest(folder), application))
        opened._check_files()
        opened._check_source()
        return opened

    @property
    def languages(self) -> tuple[str, str]:
        return self.manifest["flags"]["source_lang"], self.manifest["flags"]["target_lang"]

    @cached_property
    def rows(self) -> PreparedRows:
        """Those of the training split."""
        names = [shard["name"] for shard in self.manifest["shards"]]
        return PreparedRows(self.folder, names, self.manifest["columns"], self.manifest["sequences"], self.manifest["dtype"])

    @cached_property
    def text(self) -> PreparedText:
        """Of the training split, whose rows keep their order."""
        return PreparedText(self.folder, self.manifest["shards"], self.manifest["dtype"], self.manifest["unknown"])

    def hashes(self) -> np.ndarray:
        """Of all training rows; none if they would make an export large, which is said."""
        if self.manifest["rows"] > MOST_HASHES:
            print(
                f"{'warning':<12}more than {MOST_HASHES:,} training rows: the export has no hashes of them; evaluate can't warn"
            )
            return np.empty(0, np.uint64)
        shards = [(shard_files(self.folder, shard["name"])[2], shard["rows"]) for shard in self.manifest["shards"]]
        return np.concatenate([_Array(path, "uint64").read(0, rows) for path, rows in shards])

    def _check_files(self) -> None:
        files = dict(self.manifest["files"])
        for shard in self.manifest["shards"]:
            files |= shard["files"]
        there = sizes(self.folder, [name for name in files if not (self.folder / name).is_file()])
        for name, facts in files.items():
            path = self.folder / name
            size = path.stat().st_size if path.is_file() else there.get(name)
            if size != facts["bytes"]:
                found = "is missing" if size is None else f"has {size:,} bytes, {facts['bytes']:,} were written"
                raise DataError(f"{path}: {found}. Prepare the data anew, or put back the file.")
            if name in self.manifest["files"] and sha256_of(path) != facts["sha256"]:
                raise DataError(f"{path}: is not what was prepared: its SHA-256 differs. Prepare the data anew, or put it back.")

    def _check_source(self) -> None:
        """A source that is gone is fine: the shards are the data."""
        for name, facts in self.manifest["source"].items():
            path = Path(name)
            if path.is_file() and changed(path, facts):
                raise DataError(
                    f"{path}: changed since {self.folder} was prepared from it. Prepare it again with --overwrite; or move the "
                    "file away to train on what was prepared."
                )

    def check_flags(self, config: Any, initial: Path | None = None) -> None:
        """Refuse flags of a training that the data were not prepared with.

        Args:
            config: of the training.
            initial: the run that it begins with: its vocabulary must be that of the data.

        Raises:
            DataError: the first one.
        """
        for name, wanted in self.manifest["flags"].items():
            value = getattr(config, name, wanted)
            if value != wanted:
                raise DataError(
                    f"--{name.replace('_', '-')} {value}: {self.folder} was prepared with {wanted}. Leave the flag out, or "
                    "prepare the data anew."
                )
        if epochs := getattr(config, "sequence_epochs", 0):
            raise DataError(
                f"--sequence-epochs {epochs}: reads the references as texts, and {self.folder} holds token ids. Pass --data with "
                "the texts."
            )
        if getattr(config, "data_service", None):
            raise DataError(f"--data-service {config.data_service}: {self.folder} is prepared already. Leave the flag out.")
        for name, facts in self.manifest["files"].items():
            if (
                initial
                and (name.endswith(".model") or name == "vocabulary.json")
                and not ((initial / name).is_file() and sha256_of(initial / name) == facts["sha256"])
            ):
                raise DataError(
                    f"--init-from {initial}: {self.folder} was prepared with another vocabulary. Prepare the data with "
                    f"--vocabulary-from {initial}."
                )


def source_facts(path: Path) -> dict[str, Any]:
    """By which a file is known again."""
    status = path.stat()
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256_of(path)}


def changed(path: Path, facts: dict[str, Any]) -> bool:
    """Whether a file is another than `source_facts` saw; its content is read only if the time says so."""
    now = path.stat()
    if now.st_size != facts["bytes"]:
        return True
    return now.st_mtime_ns != facts["mtime_ns"] and sha256_of(path) != facts["sha256"]


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `prepare` wrote.

    Raises:
        DataError: it can't be read, or is of another version.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        version = manifest["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: can't be read ({error}). Prepare the data anew.") from None
    if version != FORMAT:
        raise DataError(f"{path}: is of format {version}; this version reads {FORMAT}. Prepare the data anew.")
    try:
        rows = sum(shard["rows"] for shard in manifest["shards"])
        names = {shard["name"] for shard in manifest["shards"]}
        whole = (rows, len(names)) == (manifest["rows"], len(manifest["shards"]))
        width = np.dtype(manifest["dtype"]).itemsize
        for shard in manifest["shards"]:
            whole &= shard["files"][f"{shard['name']}.ids.npy"]["bytes"] == HEADER_BYTES + width * shard["tokens"]
        whole &= all(file.startswith(shard["name"]) for shard in manifest["shards"] for file in shard["files"])
    except (KeyError, TypeError, AttributeError):
        whole = False
    if not whole or NEEDED - manifest.keys():
        raise DataError(f"{path}: contradicts itself: it was changed after it was written. Prepare the data anew.")
    return manifest
