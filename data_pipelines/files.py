"""Files that are written whole or not at all, and folders that one process writes at a time."""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Another name to write a file under; it becomes `path` when the block ends well, and vanishes when it doesn't.

    After a kill or on a full disk the old file is there, or none. An error that names no file gets the name of this one.
    """
    temporary = path.with_name(f".writing-{os.getpid()}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise


def write_whole(path: Path, data: str | bytes) -> None:
    """Write a file by `replacing`, and see it on the disk before its name is there: it outlives a power cut."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())


_held: set[Path] = set()  # what this process has locked; the system frees it when the process ends


def lock_folder(folder: Path) -> str | None:
    """Hold a folder until this process ends, however it ends; again in this process is no error. NFS has such locks from
    version 4 on.

    Returns:
        None, or who holds it.

    Raises:
        OSError: its file system has no locks.
    """
    folder = folder.resolve()
    if folder in _held:
        return None
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
        os.close(descriptor)
        return holder
    except OSError:
        os.close(descriptor)
        raise
    os.ftruncate(descriptor, 0)
    holder = f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')},"
    os.pwrite(descriptor, holder.encode(), 0)
    _held.add(folder)
    return None


def is_held(folder: Path) -> bool:
    """Whether a process holds a folder by `lock_folder`, this one or another."""
    if folder.resolve() in _held:
        return True
    with contextlib.suppress(FileNotFoundError), (folder / ".lock").open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # its file system has no locks
            return False
    return False


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Wait until no other process is in such a block; the system ends it if this process is killed."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
