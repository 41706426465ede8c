"""The files of checkpoints: `step-N.npz`, arrays and one JSON text, then a SHA-256 of all that. No pickle."""

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.files import write_whole

Arrays = dict[str, list[np.ndarray]]  # by group


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}.npz"


def newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.npz"), reverse=True)


def write_checkpoint(folder: Path, arrays: Arrays, state: dict[str, Any], keep: int) -> None:
    """Write the checkpoint of `state["step"]` whole or not at all, and leave the last `keep` in the folder.

    Raises:
        OSError: the disk is full, say; the files before it are as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    flat = {f"{group}/{i}": array for group, values in arrays.items() for i, array in enumerate(values)}
    np.savez(buffer, **{"state": np.array(json.dumps(state)), **flat})  # type: ignore[arg-type]
    write_whole(checkpoint_path(folder, state["step"]), buffer.getvalue() + hashlib.sha256(buffer.getbuffer()).digest())
    for old in newest_first(folder)[keep:]:
        old.unlink()


def read_checkpoint(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """The arrays and the state of a checkpoint.

    Raises:
        ValueError, or what else a file can cause that is not as `write_checkpoint` wrote it.
    """
    data = path.read_bytes()
    content, digest = data[:-32], data[-32:]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError("its checksum is wrong: it was changed or cut off")
    with zipfile.ZipFile(io.BytesIO(content)) as members:  # nothing larger than the file, before anything is allocated
        if any(m.compress_type != zipfile.ZIP_STORED or m.file_size > len(content) for m in members.infolist()):
            raise ValueError("it is compressed")
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        flat = {name: file[name] for name in file.files}
    state = json.loads(str(flat.pop("state")))
    if type(state["step"]) is not int or state["step"] < 0:
        raise ValueError("its step is not a number")
    groups: Arrays = {"best": []}
    for name in sorted(flat, key=lambda name: int(name.split("/")[1])):
        groups.setdefault(name.split("/")[0], []).append(flat[name])
    return groups, state
