"""Where runs are; one process a run."""

import fcntl
import os
import socket
import time
from pathlib import Path

from data_pipelines.sources import DataError

RUNS = Path("runs")


def newest_run(application: str) -> Path | None:
    """The folder below `runs/<application>/` of the run that was started last; None: there is none."""
    files = (RUNS / application).glob("*/config.json")
    newest = max(files, key=lambda path: (path.stat().st_mtime_ns, path), default=None)
    return newest and newest.parent


_held: set[Path] = set()  # what this process has locked; the system frees it when the process ends


def lock_run(folder: Path) -> None:
    """Hold a run's folder until this process ends, however it ends; again in this process is no error. NFS has such locks
    from version 4 on.

    Raises:
        DataError: another process has it.
    """
    folder = folder.resolve()
    if folder in _held:
        return
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
        os.close(descriptor)
        raise DataError(f"{folder}: {holder} trains this run. Wait for its end, or name another folder with --run-dir.") from None
    except OSError as error:  # a file system without locks
        os.close(descriptor)
        print(f"{'warning':<12}{folder} can't be locked ({error.strerror}); don't resume this run twice at once")
        return
    os.ftruncate(descriptor, 0)
    os.pwrite(
        descriptor, f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')},".encode(), 0
    )
    _held.add(folder)
