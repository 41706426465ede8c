"""Rows of texts to shards of ids, by several processes."""

import contextlib
import functools
import itertools
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.corpus import row_hashes
from data_pipelines.files import write_whole
from data_pipelines.prepare.kinds import KINDS, UNKNOWN, Encoder, Row
from data_pipelines.prepared import sha256_of, write_shard
from data_pipelines.sources import DataError

BLOCK = 5_000  # rows that are encoded at once


class Settings(NamedTuple):
    """What a process needs to know to encode."""

    folder: Path
    application: str
    flags: dict[str, Any]
    groups: dict[str, int]
    vocabulary: str  # its SHA-256: another one in the same folder is no longer the one that is loaded


def encode_shards(shards: Iterable[tuple[str, list[Row]]], settings: Settings, workers: int) -> Iterator[dict[str, Any]]:
    """What was written of each shard; those that are there already are kept.

    Args:
        shards: the name and the rows of each.
        settings: for the processes.
        workers: how many of them.
    """
    pool, running = None, set[Future]()
    try:
        for name, rows in shards:
            if facts := _written(settings.folder, name):
                yield facts
            elif workers == 1:
                yield encode_shard(name, rows, settings)
            else:
                pool = pool or ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker)
                running.add(pool.submit(encode_shard, name, rows, settings))
                if len(running) > workers:
                    finished, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in finished)
        yield from (future.result() for future in running)
    except BrokenProcessPool:
        raise DataError(
            "a process that encodes was killed: memory ran out, most likely. Repeat the command, which goes on, with fewer "
            f"--workers than {workers}."
        ) from None
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)


def _written(folder: Path, name: str) -> dict[str, Any] | None:
    """What was written of a shard, if it is whole."""
    with contextlib.suppress(OSError, ValueError):
        facts = json.loads((folder / f"{name}.json").read_text())
        if all(sha256_of(folder / file) == of["sha256"] for file, of in facts["files"].items()):
            return facts
    return None


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the first process
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


@functools.lru_cache(maxsize=1)
def _encoder(settings: str) -> Encoder:
    folder, application, flags, groups, _ = json.loads(settings)
    return KINDS[application].encoder(Path(folder), flags, groups)


def encode_shard(name: str, rows: Sequence[Row], settings: Settings) -> dict[str, Any]:
    """Encode some rows and write them; what is too long for the kind is left out."""
    kind = KINDS[settings.application]
    encoder = _encoder(json.dumps([str(settings.folder), *settings[1:]]))
    dtype = "uint16" if encoder.size <= 1 << 16 else "uint32"
    parts: list[list[np.ndarray]] = [[] for _ in range(kind.columns)]
    lengths: list[list[int]] = [[] for _ in range(kind.columns)]
    kept, images, skipped = list[Row](), list[tuple[str, str, str]](), list[tuple[str, str]]()
    sums: dict[str, int] = {"unknown": 0}
    for start in range(0, len(rows), BLOCK):
        block = encoder.encode(rows[start : start + BLOCK])
        kept += block.rows
        images += block.images
        skipped += block.skipped
        for part, number, column in zip(parts, lengths, block.columns):
            part.append(np.fromiter(itertools.chain.from_iterable(column), dtype))
            number += map(len, column)
        for what, count in [("unknown", int((parts[0][-1] == UNKNOWN).sum())), *block.counts.items()]:
            sums[what] = sums.get(what, 0) + count
    none = [np.empty(0, dtype)]
    columns = [(np.concatenate(none + part), np.array(number, np.int64)) for part, number in zip(parts, lengths)]
    hashes = np.frombuffer(row_hashes(kept), np.uint64)
    facts = write_shard(settings.folder, name, columns, hashes, dtype, kind.sequences if kind.by_length else 0)
    facts |= {"counts": sums, "column_tokens": [sum(of) for of in lengths], "dtype": dtype, "skipped": skipped}
    if images:
        path = settings.folder / f"{name}.images.jsonl"
        write_whole(path, "".join(f"{json.dumps(image)}\n" for image in images))
        facts["files"][path.name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    write_whole(settings.folder / f"{name}.json", json.dumps(facts))  # last: with it the shard is whole
    return facts
