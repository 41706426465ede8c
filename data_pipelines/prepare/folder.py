"""The folder that is prepared: begun, gone on with, and given its name when all is in it."""

import contextlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

from data_pipelines.files import lock_folder, write_whole
from data_pipelines.prepare.kinds import Kind
from data_pipelines.prepare.progress import say
from data_pipelines.prepared import MANIFEST, Prepared, partial_folder, read_manifest
from data_pipelines.remote import RECORD, shown
from data_pipelines.sources import DataError

STATE = "state.json"
REPLACED = "replaced"  # what --overwrite replaces, until the new folder has its name
OWN_FILES = re.compile(
    r"train-\d{5,}\.((ids|offsets|hashes)\.npy|images\.jsonl|json)|lengths\.npy|(joint|source|target|vocabulary)\.(model|json)"
    rf"|words\.json|(validation|test)\.jsonl|skipped\.tsv|{MANIFEST}|{STATE}|\.lock|{re.escape(RECORD)}|\.writing-.*|{REPLACED}"
)


def is_there(folder: Path, key: dict[str, Any], overwrite: bool) -> bool:
    """Whether a folder holds what is to be prepared.

    Raises:
        DataError: it holds something else, which stays; with `overwrite` files of others.
    """
    replaced = partial_folder(folder) / REPLACED
    if replaced.is_dir() and not folder.exists():  # killed in the midst of `_publish`
        replaced.rename(folder.resolve())
    if not folder.exists():
        return False
    if not (folder / MANIFEST).is_file():
        if not folder.is_dir() or any(folder.iterdir()):
            raise DataError(f"{folder}: is there, and no prepared data. Name a new folder.")
        return False
    if overwrite:
        _refuse_others(folder)
        return False
    manifest = read_manifest(folder)
    if not _follows_from(manifest, key):
        raise DataError(f"{folder}: holds data of another source or other flags. Name a new folder, or pass --overwrite.")
    return True


def _follows_from(made: dict[str, Any], key: dict[str, Any]) -> bool:
    """Whether a manifest is of these flags and of a source with this content; when its files were written does not matter."""

    def without_times(source: dict[str, Any]) -> dict[str, Any]:
        return {path: (facts["bytes"], facts["sha256"]) for path, facts in source.items()}

    others = {name: made.get(name) for name in key if name != "source"}
    return others == {name: key[name] for name in others} and without_times(made["source"]) == without_times(key["source"])


def _refuse_others(folder: Path) -> None:
    """Raise if what is about to be removed holds files that no `prepare` wrote."""
    others = sorted(path.name for path in folder.iterdir() if not OWN_FILES.fullmatch(path.name))
    if others:
        raise DataError(
            f"{folder}: would be removed, but {others[0]} in it is none of prepared data. Move that, or name a new folder."
        )


def begin(folder: Path, key: dict[str, Any]) -> Path:
    """The folder that is written to, held by this process; what is there of the same source and flags stays.

    It has a manifest only if all else is there.
    """
    partial = partial_folder(folder)
    partial.mkdir(parents=True, exist_ok=True)
    try:
        holder = lock_folder(partial)
    except OSError as error:
        print(f"{'warning':<12}{partial} can't be locked ({error.strerror}); don't prepare it twice at once")
    else:
        if holder:
            raise DataError(f"{partial}: {holder} prepares this folder. Wait for its end, or name another with --to.")
    with contextlib.suppress(OSError, ValueError, AttributeError, KeyError, TypeError):
        state = json.loads((partial / (MANIFEST if (partial / MANIFEST).is_file() else STATE)).read_text())
        if _follows_from(state, key):
            say("goes on", f"with what is in {partial}")
            for path in partial.glob(".writing-*"):  # of a process that was killed
                path.unlink()
            return partial
    _refuse_others(partial)
    stale = [path for path in partial.iterdir() if path.name != ".lock"]
    if stale:
        say("anew", f"{partial} was of another source or other flags")
    for path in stale:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_whole(partial / STATE, json.dumps(key))
    return partial


def publish(folder: Path, partial: Path, kind: Kind) -> Prepared:
    """Give the folder its name; one that is there moves into it until then. After a kill at any point, one of both is there."""
    manifest, place = read_manifest(partial), folder.resolve()
    for name in [STATE, *(f"{facts['name']}.json" for facts in manifest["shards"])]:
        (partial / name).unlink(missing_ok=True)
    if place.exists():
        shutil.rmtree(partial / REPLACED, ignore_errors=True)
        place.rename(partial / REPLACED)
    partial.rename(place)
    shutil.rmtree(place / REPLACED, ignore_errors=True)
    (place / ".lock").unlink(missing_ok=True)  # last: until here nobody else writes
    skipped = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in manifest["left_out"].items() if count)
    rows, shards, tokens = manifest["rows"], len(manifest["shards"]), manifest["tokens"]
    say(
        "prepared", f"{shown(folder)}: {rows:,} training {kind.trained_on or kind.unit} in {shards:,} shard(s), {tokens:,} tokens"
    )
    say("left out", skipped or "nothing")
    say("train by", f"python -m apps.{kind.application}.train --data {shown(folder)}")
    return Prepared.open(str(folder), kind.application)
