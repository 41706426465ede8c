"""What a start computed from a large text, kept for the next one with the same text and flags.

A cache is never needed: one that can't be read or written is left alone, with a line, and all is computed.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from data_pipelines.files import replacing

FEW_ROWS = 20_000  # so many are encoded as soon as they would be found
KEPT = 8  # of one application
PACKAGES = ("sentencepiece", "tensorflow-text")  # that ids follow from

T = TypeVar("T")


def cache_folder(root: Path, rows: int, key: dict[str, Any]) -> Path | None:
    """The folder for what follows from `key`, made if need be; None for few rows, or where none can be made.

    Args:
        root: that holds the caches; those used last are kept.
        rows: of the text.
        key: all that the result depends on: a hash of the text, and flags. The packages that make ids are added.
    """
    if rows < FEW_ROWS:
        return None
    key = {**key, "packages": {name: importlib.metadata.version(name) for name in PACKAGES}}
    folder = root / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
        others = sorted((path for path in root.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime, reverse=True)
        for old in others[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        print(f"{'warning':<12}{folder}: nothing is kept there for the next start ({error.strerror})")
        return None
    return folder


def cached_arrays(path: Path | None, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of an `.npz`, or what `make` gives, which is written there."""
    if path is None:
        return make()
    broken = (OSError, ValueError, EOFError, zipfile.BadZipFile)
    with contextlib.suppress(*broken), path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}  # each has a checksum
    arrays = make()
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        print(f"{'warning':<12}{path}: not kept for the next start ({error.strerror})")
    return arrays


def cached_files(path: Path, save: Callable[[Path], None], load: Callable[[Path], T]) -> T:
    """What `load` reads in a folder to which `save` wrote, now or at an earlier start, which left all files in an `.npz`."""

    def arrays() -> dict[str, np.ndarray]:
        with tempfile.TemporaryDirectory() as place:
            save(Path(place))
            return {file.name: np.frombuffer(file.read_bytes(), np.uint8) for file in Path(place).iterdir()}

    with tempfile.TemporaryDirectory() as place:
        for name, data in cached_arrays(path, arrays).items():
            Path(place, name).write_bytes(data.tobytes())
        return load(Path(place))
