"""Folders of object stores and other file systems, `gs://bucket/folder` say, by `tf.io.gfile`.

Each URL has a mirror, `runs/.remote/gs/bucket/folder`: what is read is fetched there first, what is written is written there and
pushed. A mirror remembers what both sides were like when they were last equal, so only what changed is moved, and what
another machine changed is seen:

    changed here          pushed, or kept until it can be
    changed there         fetched
    changed on both sides a fetch moves aside what is here, and takes what is there; a push is refused
"""

import contextlib
import json
import os
import posixpath
import re
import socket
import sys
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from data_pipelines.files import is_held, locked, replacing
from data_pipelines.sources import DataError

MIRRORS = Path("runs/.remote")
RECORD = ".remote.json"  # of a mirror: {name: [facts here, facts there] when they were equal; None: a push was under way}
THREADS = 16  # that ask for files at once: each waits for the network
RENAMES_FOLDERS = ("file", "hdfs", "viewfs")  # at once; object stores move one object after another, in their own order
WARNING = f"{'warning':<12}"

Facts = list[int]  # bytes and time of change of a file


class RemoteError(DataError):
    """A URL can't be reached or used; the message says why and what to do."""


def is_remote(path: object) -> bool:
    """Whether a path is a URL. (A `Path` never is: it makes one slash of two.)

    >>> [is_remote(path) for path in ("gs://bucket/run", "file:///tmp/run", "tfds:imdb", "localhost:80", "runs/a", None)]
    [True, True, False, False, False, False]
    """
    return isinstance(path, str) and re.match(r"[A-Za-z][\w+.-]+://", path) is not None


def mirror(path: str | Path) -> Path:
    """Where the mirror of a URL is, without fetching anything; of another path itself.

    >>> print(mirror("gs://bucket/run/"), mirror("file:///tmp/run"), mirror("runs/a"))
    runs/.remote/gs/bucket/run runs/.remote/file/_/tmp/run runs/a

    Raises:
        DataError: the URL names no bucket or folder, or has a part `..`.
    """
    if not is_remote(path):
        return Path(path)
    scheme, _, rest = str(path).partition("://")
    host, *parts = rest.split("/")
    parts = [part for part in parts if part not in ("", ".")]
    if ".." in parts or not (host or parts) or host in (".", "..", "_"):
        raise DataError(f"{path}: names no folder that can be mirrored. Write {scheme}://bucket/folder, without '..'.")
    return MIRRORS.joinpath(scheme.lower(), host or "_", *parts)


def url_of(path: Path) -> str | None:
    """The URL of a path in a mirror; None: it is in none.

    >>> url_of(mirror("gs://bucket/run") / "config.json"), url_of(mirror("file:///tmp/run")), url_of(Path("runs/a"))
    ('gs://bucket/run/config.json', 'file:///tmp/run', None)
    """
    with contextlib.suppress(ValueError):
        scheme, host, *parts = path.absolute().relative_to(MIRRORS.absolute()).parts
        return f"{scheme}://" + "/".join(["" if host == "_" else host, *parts])
    return None


def above(url: str) -> str:
    """The folder that a URL is in.

    >>> above("gs://bucket/run"), above("file:///run")
    ('gs://bucket', 'file://')
    """
    return url.rpartition("/")[0]


def shown(path: Path) -> str:
    """A path as the user named it: its URL, if it is in a mirror."""
    return url_of(path) or str(path)


# -- from there to here


def local(path: str) -> str:
    """The path of a folder or file on this machine: that of the mirror of a URL, brought up to date; of another path itself.

    Shards of prepared data are left there. A name that several files begin with stands for these.

    Raises:
        RemoteError: nothing is there, or it can't be reached.
    """
    if not is_remote(path):
        return path
    url, here = path.rstrip("/"), mirror(path)
    status = _stat(url)
    if status is None or not status.is_directory:
        with _told(url):
            names = [posixpath.basename(found.rstrip("/")) for found in ([url] if status else _gfile().glob(url + "*"))]
        if not names:
            raise RemoteError(f"{url}: nothing is there. Check the name, or with the store's own command what it lists.")
        fetch(above(url), here.parent, names)
    else:
        fetch(url, here)
    return str(here)


def run_folder(path: str) -> Path:
    """The folder of a run, which need not exist: of a URL its mirror, brought up to date."""
    folder = mirror(path)
    if is_remote(path):
        fetch(path.rstrip("/"), folder)
    return folder


def fetch(url: str, folder: Path, names: Collection[str] | None = None) -> None:
    """Make a mirror equal to what is there. A folder that this machine is writing a run to is left as it is.

    Args:
        url: of a folder; it need not exist.
        folder: its mirror.
        names: of files, if not all are wanted.

    Raises:
        RemoteError: it can't be reached.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if is_held(folder):
            return
        known, there = _read_record(folder), _facts_there(url, names) if names is not None else _walk(url)
        there = {name: facts for name, facts in there.items() if not _is_nested(folder, name)}
        here = {name: facts for name, facts in _files_here(folder).items() if names is None or name in names}
        mine = {name for name, facts in here.items() if facts != (known.get(name) or [None])[0]}
        theirs = {name for name, facts in there.items() if name not in known or (known[name] and known[name][1] != facts)}
        gone = {name for name, both in known.items() if both and name not in there and (names is None or name in names)}
        if mine and theirs | gone:
            aside = folder / time.strftime(".aside-%Y%m%d-%H%M%S")
            for name in mine:
                (aside / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(folder / name, aside / name)
            print(f"{WARNING}{url} was changed elsewhere; what was only here is now in {aside}", file=sys.stderr)
        elif mine:
            some = ", ".join(sorted(mine)[:3])
            print(f"{WARNING}{folder} has {len(mine):,} files that are not at {url} yet, which are used: {some}", file=sys.stderr)
        wanted = sorted(theirs | {name for name in there if not (folder / name).is_file()})

        def bring(name: str) -> None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with _told(f"{url}/{name}"), replacing(folder / name) as temporary:
                _gfile().copy(f"{url}/{name}", str(temporary), overwrite=True)
                os.utime(temporary, ns=(there[name][1], there[name][1]))
            known[name] = [_facts(folder / name), there[name]]

        try:
            with ThreadPoolExecutor(THREADS) as pool:
                list(pool.map(bring, wanted))
            for name in gone:
                (folder / name).unlink(missing_ok=True)
                del known[name]
        finally:
            _write_record(folder, known)
    if wanted:
        size = sum(there[name][0] for name in wanted)
        print(f"{'fetched':<12}{url}: {len(wanted):,} files, {size:,} bytes, to {folder}", file=sys.stderr)


def _walk(url: str) -> dict[str, Facts]:
    """All files below a URL, without shards of prepared data, and without names that begin with a dot."""
    found: dict[str, Facts] = {}
    folders = [""] if _stat(url) else []
    for prefix in folders:  # which grows
        with _told(url):
            entries = [entry.rstrip("/") for entry in _gfile().listdir(f"{url}/{prefix}".rstrip("/"))]
        skipped = _shards(url) if not prefix and "manifest.json" in entries else set()
        names = [prefix + entry for entry in entries if entry and not entry.startswith(".") and entry not in skipped]
        for name, status in _stats(url, names).items():
            if status.is_directory:
                folders.append(f"{name}/")
            else:
                found[name] = [status.length, status.mtime_nsec]
    return found


def _shards(url: str) -> set[str]:
    """The files that are read in place, by the manifest of prepared data; another program's names none."""
    with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError):
        return {name for shard in json.loads(RemoteFile(f"{url}/manifest.json").read())["shards"] for name in shard["files"]}
    return set()


def _stats(url: str, names: Iterable[str]) -> dict[str, Any]:
    """What is there of these names."""
    names = list(names)
    with ThreadPoolExecutor(THREADS) as pool:
        found = dict(zip(names, pool.map(lambda name: _stat(f"{url}/{name}"), names)))
    return {name: status for name, status in found.items() if status}


def _facts_there(url: str, names: Iterable[str]) -> dict[str, Facts]:
    return {name: [status.length, status.mtime_nsec] for name, status in _stats(url, names).items() if not status.is_directory}


def sizes(folder: Path, names: Iterable[str]) -> dict[str, int]:
    """Bytes of the files there of a mirror; none if the folder is no mirror."""
    url = url_of(folder)
    return {name: facts[0] for name, facts in _facts_there(url, names).items()} if url else {}


class RemoteFile:
    """A file that is read where it is, by several threads too."""

    def __init__(self, url: str) -> None:
        self.url, self._lock, self._file = url, threading.Lock(), _gfile().GFile(url, "rb")

    def read(self, count: int = -1, begin: int = 0) -> bytes:
        with self._lock, _told(self.url):
            self._file.seek(begin)
            return self._file.read(count)


# -- from here to there


def push(folder: Path, url: str | None = None, names: Collection[str] | None = None) -> None:
    """Bring what is new in a mirror to its URL, in the order it was written, and remove there what was removed here.

    Each file is written under another name and renamed, `saved_model.pb` after all others: a kill leaves a
    state that the folder had.

    Args:
        folder: in a mirror; of another one nothing is done.
        url: another one than that of the mirror.
        names: of files, if not all are meant.

    Raises:
        RemoteError: it can't be written; a file was changed there since it was last equal.
    """
    url = url or url_of(folder)
    if url is None:
        return
    with locked(folder):
        known, here = _read_record(folder), _files_here(folder)
        new = [name for name, facts in here.items() if facts != (known.get(name) or [None])[0] and (not names or name in names)]
        new.sort(key=lambda name: (posixpath.basename(name) == "saved_model.pb", here[name][1]))
        gone = [name for name in known if name not in here and not names]
        there = _facts_there(url, [*new, *gone]) if new or gone else {}
        for name in [*new, *gone]:
            if (known[name] and known[name][1] != there.get(name)) if name in known else name in there:
                raise RemoteError(
                    f"{url}/{name}: was changed elsewhere since it was last equal to {folder}: does another machine write there, "
                    "too? Nothing was pushed. Take another URL for one of them."
                )
        _write_record(folder, known | dict.fromkeys([*new, *gone]))
        try:
            for name in new:
                known[name] = None
                known[name] = [here[name], _upload(folder, url, name)]
            for name in gone:
                with _told(f"{url}/{name}", folder):
                    if name in there:
                        _gfile().remove(f"{url}/{name}")
                del known[name]
        finally:
            _write_record(folder, known)


def _upload(folder: Path, url: str, name: str) -> Facts:
    """Bring a file there whole or not at all."""
    temporary = f"{url}/.writing-{socket.gethostname()}-{os.getpid()}"
    with _told(f"{url}/{name}", folder):
        _gfile().makedirs(above(f"{url}/{name}"))
        _gfile().copy(str(folder / name), temporary, overwrite=True)
        _gfile().rename(temporary, f"{url}/{name}", overwrite=True)
    return _facts_there(url, [name])[name]


def push_or_warn(folder: Path) -> None:
    """Push a run that goes on: what fails is tried again with the next checkpoint, and at its end."""
    try:
        push(folder)
    except RemoteError as error:
        print(f"{WARNING}not pushed yet, the run goes on in {folder}: {error}", flush=True)


def publish(folder: Path) -> None:
    """Bring a folder there that must not be seen before it is complete: it is renamed; where that takes an object after another,
    `saved_model.pb` comes last."""
    url = url_of(folder)
    if url is None:
        return
    renames = url.partition("://")[0] in RENAMES_FOLDERS
    place = f"{above(url)}/.writing-{socket.gethostname()}-{os.getpid()}-{folder.name}" if renames else url
    try:
        push(folder, place)
        if renames:
            with _told(url, folder):
                _gfile().rename(place, url)
    except BaseException:
        (folder / RECORD).unlink(missing_ok=True)
        if renames:  # else there may be files of another machine
            with contextlib.suppress(_op_error()):
                _gfile().rmtree(place)
        raise


def versions(url: str) -> list[int]:
    """The numbers of the versions that are there, complete or not, the newest first."""
    with _told(url):
        entries = [entry.rstrip("/") for entry in _gfile().listdir(url)] if _stat(url) else []
    return sorted((int(entry) for entry in entries if entry.isdecimal()), reverse=True)


def exists(url: str) -> bool:
    return _stat(url) is not None


# -- both sides


def _facts(path: Path) -> Facts:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _files_here(folder: Path) -> dict[str, Facts]:
    """The files of a mirror, without those of mirrors in it, and without names that begin with a dot."""
    found = {}
    for path, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and not (Path(path) / name / RECORD).exists()]
        for file in (Path(path) / name for name in files if not name.startswith(".")):
            found[file.relative_to(folder).as_posix()] = _facts(file)
    return found


def _is_nested(folder: Path, name: str) -> bool:
    """Whether a file belongs to a mirror in this one."""
    return any((folder / parent / RECORD).exists() for parent in list(Path(name).parents)[:-1])


def _read_record(folder: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads((folder / RECORD).read_bytes()))
    return {}


def _write_record(folder: Path, record: dict[str, Any]) -> None:
    with replacing(folder / RECORD) as temporary:
        temporary.write_text(json.dumps(record))


def _gfile() -> Any:
    import tensorflow as tf

    return tf.io.gfile


def _op_error() -> type[Exception]:
    import tensorflow as tf

    return tf.errors.OpError


def _stat(url: str) -> Any:
    """What `tf.io.gfile.stat` gives; None: nothing is there."""
    import tensorflow as tf

    with _told(url), contextlib.suppress(tf.errors.NotFoundError, tf.errors.FailedPreconditionError):  # a file is no folder
        return tf.io.gfile.stat(url)
    return None


@contextlib.contextmanager
def _told(url: str, folder: Path | None = None) -> Iterator[None]:
    """Errors of a file system as one line, with the folder that was to be pushed.

    Raises:
        RemoteError: there was one.
    """
    import tensorflow as tf

    scheme = url.partition("://")[0]
    if scheme not in tf.io.gfile.get_registered_schemes():
        with contextlib.suppress(Exception):  # it is not installed, or of another TensorFlow
            import tensorflow_io  # noqa: F401
    try:
        yield
    except tf.errors.OpError as error:
        reason = " ".join(error.message.split())[:300] or type(error).__name__
        remedy = "Check the name, the network and your rights there"
        if isinstance(error, tf.errors.UnimplementedError):
            remedy = (
                f"This TensorFlow knows no {scheme}://. Install a tensorflow-io that goes with TensorFlow {tf.__version__}, or "
                "mount the store as a folder and name that"
            )
        elif isinstance(error, tf.errors.ResourceExhaustedError):
            remedy = "Free some space"
        raise RemoteError(f"{url}: {reason}. {remedy}{f'; nothing is lost in {folder}' if folder else ''}.") from None
