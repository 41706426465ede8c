"""Rows of texts to shards of ids, by several processes, each of which reads its own part of the source."""

import argparse
import contextlib
import functools
import itertools
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.corpus import row_hashes
from data_pipelines.files import write_whole
from data_pipelines.prepare.kinds import KINDS, UNKNOWN, Encoder, Kind, Row
from data_pipelines.prepare.progress import counted
from data_pipelines.prepare.rows import Shard, TrainingRows
from data_pipelines.prepared import sha256_of, write_shard
from data_pipelines.sources import DataError

BLOCK = 5_000  # rows that are encoded at once


class Settings(NamedTuple):
    """What a process needs to know to encode; of JSON's types."""

    folder: str
    application: str
    options: dict[str, Any]
    groups: dict[str, int]
    vocabulary: str  # its SHA-256: another one in the same folder is no longer the one that is loaded

    @classmethod
    def of(cls, kind: Kind, folder: Path, groups: dict[str, int], vocabulary: str) -> "Settings":
        """Paths become absolute: other processes may have another working directory."""
        options = dict(vars(kind.options))
        for name in ("source", "validation_rows"):
            if options.get(name) is not None:
                options[name] = str(Path(options[name]).absolute())
        return cls(str(folder.absolute()), kind.application, options, groups, vocabulary)


def encode_shards(shards: Sequence[Shard], settings: Settings, workers: int) -> list[dict[str, Any]]:
    """What was written of each shard, by so many processes."""
    work, rows = functools.partial(finished_shard, settings=settings), settings.options["shard_rows"]
    if workers == 1:
        return list(counted("encoding", map(work, shards), len(shards) * rows, rows))
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker)
    try:
        finished = (future.result() for future in as_completed([pool.submit(work, shard) for shard in shards]))
        return list(counted("encoding", finished, len(shards) * rows, rows))
    except BrokenProcessPool:
        raise killed_worker(workers) from None
    finally:
        pool.shutdown(cancel_futures=True)


def killed_worker(workers: int) -> DataError:
    return DataError(
        "a process that encodes was killed: memory ran out, most likely. Repeat the command, which goes on, with fewer "
        f"--workers than {workers}."
    )


def finished_shard(shard: Shard, settings: Settings) -> dict[str, Any]:
    """What was written of a shard, before a kill or now."""
    return _written(Path(settings.folder), shard.name) or encode_shard(shard, settings)


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
def _opened(settings: str) -> tuple[TrainingRows, Encoder]:
    folder, application, options, groups, _ = json.loads(settings)
    kind = KINDS[application](argparse.Namespace(**options))
    return TrainingRows(kind, *kind.files(Path(options["source"])), groups), kind.encoder(Path(folder), options, groups)


def encode_shard(shard: Shard, settings: Settings) -> dict[str, Any]:
    """Read the rows of a shard, encode and write them; what is too long for the kind is left out."""
    of, encoder = _opened(json.dumps(settings))
    kind, folder, name = of.kind, Path(settings.folder), shard.name
    rows, empty, held_out = list[Row](), 0, {split: list[Row]() for split in of.counts if split != "train"}
    for _, row, split in of.of(shard, settings.options["shard_rows"]):
        if split != "train":
            held_out[split].append(row)
        elif kind.is_complete(row):
            rows.append(tuple(row))
        else:
            empty += 1
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
    facts = write_shard(folder, name, columns, hashes, dtype, kind.sequences if kind.by_length else 0)
    facts |= {"counts": sums, "column_tokens": [sum(of) for of in lengths], "dtype": dtype, "skipped": skipped}
    facts |= {"empty": empty, "held_out": held_out}
    if images:
        path = folder / f"{name}.images.jsonl"
        write_whole(path, "".join(f"{json.dumps(image)}\n" for image in images))
        facts["files"][path.name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    write_whole(folder / f"{name}.json", json.dumps(facts))  # last: with it the shard is whole
    return facts
