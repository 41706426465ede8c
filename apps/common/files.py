"""Where runs are; one process a run."""

from pathlib import Path

from data_pipelines.files import lock_folder
from data_pipelines.sources import DataError

RUNS = Path("runs")


def newest_run(application: str) -> Path | None:
    """The folder below `runs/<application>/` of the run that was started last; None: there is none."""
    files = (RUNS / application).glob("*/config.json")
    newest = max(files, key=lambda path: (path.stat().st_mtime_ns, path), default=None)
    return newest and newest.parent


def lock_run(folder: Path) -> None:
    """Hold a run's folder until this process ends, see `data_pipelines.files.lock_folder`.

    Raises:
        DataError: another process has it.
    """
    try:
        holder = lock_folder(folder)
    except OSError as error:
        print(f"{'warning':<12}{folder} can't be locked ({error.strerror}); don't resume this run twice at once")
        return
    if holder:
        raise DataError(f"{folder.resolve()}: {holder} trains this run. Wait for its end, or name another folder with --run-dir.")
