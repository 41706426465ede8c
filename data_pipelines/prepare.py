"""Turn pairs of sentences into token ids on disk, once, for data larger than memory.

    python -m data_pipelines.prepare pairs.tsv --to prepared/ --source-lang en --target-lang de
    python -m apps.translation.train --data prepared/

The source is read three times, a piece at a time: to count it, to learn the vocabulary from a sample, and to encode it by
several processes. What is finished is kept: after a kill, or on a full disk, the same command goes on. The folder gets its name
when all is in it. `data_pipelines/README.md` says what that is.
"""

import argparse
import contextlib
import errno
import functools
import itertools
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from data_pipelines.corpus import row_hashes
from data_pipelines.files import lock_folder, replacing, write_whole
from data_pipelines.pieces import Pieces
from data_pipelines.prepared import (
    FORMAT,
    MANIFEST,
    Prepared,
    changed,
    partial_folder,
    read_manifest,
    sha256_of,
    source_facts,
    write_shard,
)
from data_pipelines.sources import DataError, held_out_rows, visible

# What needs TensorFlow is imported where it is used: the processes that encode import this module, and start without it.

APPLICATION = "translation"
FLAGS = tuple(
    "source_lang target_lang source_column target_column tokenizer vocabulary vocabulary_size max_length vocabulary_sample "
    "shard_rows".split()
)
UNKNOWN, EOS = 1, 3  # of `data_pipelines.vocabulary`
SHARD_ROWS = 100_000
SAMPLE_SEED = "vocabulary"  # not that of the split: the draws would be alike
BLOCK = 5_000  # pairs that are encoded at once
STATE = "state.json"
REPLACED = "replaced"  # what --overwrite replaces, until the new folder has its name
OWN_FILES = re.compile(
    r"train-\d{5,}\.((ids|offsets|hashes)\.npy|json)|lengths\.npy|(joint|source|target)\.(model|json)|words\.json"
    rf"|(validation|test)\.jsonl|{MANIFEST}|{STATE}|\.lock|\.writing-.*|{REPLACED}"
)

T = TypeVar("T")
Pair = tuple[str, str]


def prepare(source: str, to: str, options: argparse.Namespace) -> Prepared:
    """Prepare a folder, or go on with it, and print what is done.

    Args:
        source: a path, as `--data` of training takes it.
        to: the folder.
        options: the flags of the command.

    Raises:
        DataError: a source that can't be used, or that changes meanwhile; a folder that is there; another process prepares it.
        OSError: the disk is full.
    """
    from data_pipelines.translations import translation_files

    folder, languages = Path(to), (options.source_lang, options.target_lang)
    if folder.resolve() == Path.cwd():
        raise DataError(f"--to {to}: this is the working directory. Name a folder in it.")
    if source == "embedded" or source.startswith("tfds:"):
        raise DataError(f"{source}: only files are prepared. Train with --data {source}, or pass a path.")
    splits, alone = translation_files(Path(source), *languages, columns=(options.source_column, options.target_column))
    files = [path for split in splits.values() for path in split.files]
    for path in files:
        say("source", f"{path}, {path.stat().st_size:,} bytes" if path.is_file() else path)
    key = _key(options, {str(path.absolute()): source_facts(path) for path in files if path.is_file()})
    if _is_there(folder, key, options.overwrite):
        say("prepared", f"{folder} has all this already")
        return Prepared.open(to, APPLICATION)
    partial = _begin(folder, key)
    if not (partial / MANIFEST).is_file():
        _fill(partial, source, splits, alone, key, options)
    return _publish(folder, partial)


def _fill(
    partial: Path, source: str, splits: dict[str, Any], alone: bool, key: dict[str, Any], options: argparse.Namespace
) -> None:
    """Write all files, the manifest last."""
    languages = (options.source_lang, options.target_lang)
    state = json.loads((partial / STATE).read_text())
    rows = state.get("rows") or sum(1 for _ in counted("counting", splits["train"].read()))
    write_whole(partial / STATE, json.dumps({**key, "rows": rows}))
    places_of = held_out_rows(rows, splits, alone)
    for name, places in {"train": range(rows), **places_of}.items():
        if not places:
            raise DataError(f"{source}: the {name} split has no examples to use. Add some, or give a larger file.")
    held_out = {row: name for name, places in places_of.items() for row in places}
    joint = _vocabularies(partial, splits["train"].read, held_out, rows, options)
    models = ["joint", "joint"] if joint else ["source", "target"]

    empty = 0
    with contextlib.ExitStack() as stack:
        others = {*held_out.values(), *splits} - {"train"}
        write = {name: stack.enter_context(_text_file(partial / f"{name}.jsonl", languages)) for name in others}
        for name in splits.keys() - {"train"}:
            for pair in splits[name].read():
                write[name](pair)

        def shards() -> Iterator[tuple[str, list[Pair]]]:
            nonlocal empty
            pairs = enumerate(counted("encoding", splits["train"].read(), rows))
            for number in range(-(-rows // options.shard_rows)):
                kept = []
                for row, pair in itertools.islice(pairs, options.shard_rows):
                    if row in held_out:
                        write[held_out[row]](pair)
                    elif pair.complete:
                        kept.append((pair.source, pair.target))
                    else:
                        empty += 1
                yield f"train-{number:05d}", kept

        written = sorted(_encode(shards(), partial, models, options), key=lambda facts: facts["name"])
    for name, facts in key["source"].items():
        if changed(Path(name), facts):
            raise DataError(f"{name}: changed while it was read. Repeat the command when it is whole.")
    _finish(partial, key, written, empty, options)


def _key(options: argparse.Namespace, source: dict[str, Any]) -> dict[str, Any]:
    """What the prepared data follow from."""
    if options.vocabulary_from is not None:
        run = Path(options.vocabulary_from)
        if not (run / "words.json").is_file():
            raise DataError(f"--vocabulary-from {run}: holds no vocabulary. Pass the folder of a run, or of prepared data.")
        try:
            file, part = (MANIFEST, "flags") if (run / MANIFEST).is_file() else ("config.json", "config")
            of = json.loads((run / file).read_text())[part]
            for name in ("tokenizer", "vocabulary", "vocabulary_size"):
                setattr(options, name, of[name])
        except (OSError, ValueError, KeyError, TypeError):
            raise DataError(f"--vocabulary-from {run}: is neither a run of the translator nor prepared data.") from None
        models = {path.name: sha256_of(path) for path in sorted(run.glob("*.model"))}
    else:
        models = None
    flags = {name: getattr(options, name) for name in FLAGS}
    return {"format": FORMAT, "application": APPLICATION, "flags": flags, "source": source, "vocabulary_from": models}


def _is_there(folder: Path, key: dict[str, Any], overwrite: bool) -> bool:
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
    if {name: manifest.get(name) for name in key} != key:
        raise DataError(f"{folder}: holds data of another source or other flags. Name a new folder, or pass --overwrite.")
    return True


def _refuse_others(folder: Path) -> None:
    """Raise if what is about to be removed holds files that no `prepare` wrote."""
    others = sorted(path.name for path in folder.iterdir() if not OWN_FILES.fullmatch(path.name))
    if others:
        raise DataError(
            f"{folder}: would be removed, but {others[0]} in it is none of prepared data. Move that, or name a new folder."
        )


def _begin(folder: Path, key: dict[str, Any]) -> Path:
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
    with contextlib.suppress(OSError, ValueError, AttributeError):
        state = json.loads((partial / (MANIFEST if (partial / MANIFEST).is_file() else STATE)).read_text())
        if {name: state.get(name) for name in key} == key:
            say("goes on", f"with what is in {partial}")
            for path in partial.glob(".writing-*"):  # of a process that was killed
                path.unlink()
            return partial
    _refuse_others(partial)
    stale = [path for path in partial.iterdir() if path.name != ".lock"]
    if stale:
        say("begins anew", f"what is in {partial} is of another source or other flags")
    for path in stale:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_whole(partial / STATE, json.dumps(key))
    return partial


def _vocabularies(
    partial: Path, read: Callable[[], Iterator[Any]], held_out: dict[int, str], rows: int, options: argparse.Namespace
) -> bool:
    """Have the vocabularies in the folder: those of another, or learned from a sample; return whether one is for both sides."""
    from data_pipelines.translations import Vocabularies

    if (partial / "words.json").is_file():
        vocabularies = Vocabularies.load(partial)
    elif options.vocabulary_from is not None:
        vocabularies = Vocabularies.load(Path(options.vocabulary_from))
        vocabularies.save(partial)
    else:
        some = rows > options.vocabulary_sample
        chosen = set(random.Random(SAMPLE_SEED).sample(range(rows), options.vocabulary_sample)) if some else range(rows)
        pairs = enumerate(counted("sampling", read(), rows))
        sample = [pair for row, pair in pairs if row in chosen and row not in held_out and pair.complete]
        if not sample:
            raise DataError(f"{options.source}: the train split has no examples to use. Add some, or give a larger file.")
        say("learning", f"the vocabulary, from {len(sample):,} of {rows:,} pairs")
        vocabularies = Vocabularies.train(sample, options.tokenizer, options.vocabulary_size, options.vocabulary == "joint")
        vocabularies.save(partial)
    sizes = [vocabularies.source.size, vocabularies.target.size][vocabularies.joint :]
    say("vocabulary", f"{' and '.join(f'{size:,}' for size in sizes)} {options.tokenizer}, {options.vocabulary}")
    return vocabularies.joint


@contextlib.contextmanager
def _text_file(path: Path, languages: Sequence[str]) -> Iterator[Callable[[Pair], None]]:
    """What writes pairs to a file, a JSON object a line."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        yield lambda pair: print(json.dumps(dict(zip(languages, pair)), ensure_ascii=False), file=file)


def _finish(partial: Path, key: dict[str, Any], shards: list[dict[str, Any]], empty: int, options: argparse.Namespace) -> None:
    """Write the manifest."""
    from data_pipelines.translations import load_translations

    longest = max(len(facts["lengths"]) for facts in shards)
    lengths = [np.pad(facts.pop("lengths"), (0, longest - n)) for facts in shards for n in [len(facts["lengths"])]]
    with replacing(partial / "lengths.npy") as temporary, temporary.open("wb") as file:
        np.save(file, np.array(lengths, np.uint32))
    too_long, rows = (sum(facts[name] for facts in shards) for name in ("too_long", "rows"))
    if not rows:
        raise DataError(f"{options.source}: no pair has at most {options.max_length} tokens a side. Pass a larger --max-length.")
    data = {}
    if any(partial.glob("*.jsonl")):
        data = load_translations(str(partial), options.source_lang, options.target_lang, whole=True).describe()
    digest = "".join(file["sha256"] for facts in shards for file in facts["files"].values())
    train = {"examples": rows + too_long, "skipped": 0, "sha256": row_hashes([(digest,)], 32).hex(), "empty_pairs": empty}
    others = {path for path in partial.iterdir() if path.suffix in (".npy", ".model", ".jsonl", ".json") and path.stem != "state"}
    others -= {partial / name for facts in shards for name in (*facts["files"], f"{facts['name']}.json")}
    manifest = {
        **key,
        "data": {"train": train, **data},
        "rows": rows,
        "tokens": sum(facts["tokens"] for facts in shards),
        "left_out": {"empty": empty, "too_long": too_long},
        "unknown": sum(facts.pop("unknown") for facts in shards) / max(1, sum(facts.pop("source_tokens") for facts in shards)),
        "dtype": shards[0]["dtype"],
        "columns": 2,
        "files": {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in sorted(others)},
        "shards": shards,
        "versions": _versions(),
    }
    write_whole(partial / MANIFEST, json.dumps(manifest, indent=1))


def _publish(folder: Path, partial: Path) -> Prepared:
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
    skipped = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in manifest["left_out"].items())
    rows, shards, tokens = manifest["rows"], len(manifest["shards"]), manifest["tokens"]
    say("prepared", f"{folder}: {rows:,} training pairs in {shards:,} shards, {tokens:,} tokens; {skipped}")
    say("train by", f"python -m apps.{APPLICATION}.train --data {folder}")
    return Prepared.open(str(folder), APPLICATION)


def _versions() -> dict[str, str]:
    import sentencepiece

    return {"python": sys.version.split()[0], "numpy": np.__version__, "sentencepiece": sentencepiece.__version__}


# -- encoding, by several processes


def _encode(
    shards: Iterable[tuple[str, list[Pair]]], partial: Path, models: Sequence[str], options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """What was written of each shard; those that are there already are kept."""
    settings = (partial, models, options.max_length)
    pool, running = None, set[Future]()
    try:
        for name, pairs in shards:
            if facts := _written(partial, name):
                yield facts
            elif options.workers == 1:
                yield encode_shard(name, pairs, *settings)
            else:
                pool = pool or ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn"), _start_worker)
                running.add(pool.submit(encode_shard, name, pairs, *settings))
                if len(running) > options.workers:
                    finished, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in finished)
        yield from (future.result() for future in running)
    except BrokenProcessPool:
        raise DataError(
            "a process that encodes was killed: memory ran out, most likely. Repeat the command, which goes on, with fewer "
            f"--workers than {options.workers}."
        ) from None
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)


def _written(partial: Path, name: str) -> dict[str, Any] | None:
    """What was written of a shard, if it is whole."""
    with contextlib.suppress(OSError, ValueError):
        facts = json.loads((partial / f"{name}.json").read_text())
        if all(sha256_of(partial / file) == of["sha256"] for file, of in facts["files"].items()):
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


@functools.cache
def _pieces(path: Path) -> Pieces:
    return Pieces(path.read_bytes())


def encode_shard(name: str, pairs: Sequence[Pair], folder: Path, models: Sequence[str], max_length: int) -> dict[str, Any]:
    """Encode and write the pairs of which both sides, EOS included, have at most `max_length` tokens."""
    source, target = (_pieces(folder / f"{model}.model") for model in models)
    dtype = "uint16" if max(source.size, target.size) <= 1 << 16 else "uint32"
    sides: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    lengths: tuple[list[int], list[int]] = ([], [])
    kept, unknown = [], 0
    for start in range(0, len(pairs), BLOCK):
        block = pairs[start : start + BLOCK]
        encoded = zip(block, source.encode([a for a, _ in block]), target.encode([b for _, b in block]))
        fitting = [(pair, a, [*b, EOS]) for pair, a, b in encoded if len(a) <= max_length and len(b) < max_length]
        kept += [(pair[0],) for pair, _, _ in fitting]
        for side, number, rows in zip(sides, lengths, ([a for _, a, _ in fitting], [b for _, _, b in fitting])):
            side.append(np.fromiter(itertools.chain.from_iterable(rows), dtype))
            number += map(len, rows)
        unknown += int((sides[0][-1] == UNKNOWN).sum())
    none = [np.empty(0, dtype)]
    columns = [(np.concatenate(none + side), np.array(number, np.int64)) for side, number in zip(sides, lengths)]
    hashes = np.frombuffer(row_hashes(kept), np.uint64)
    facts = write_shard(folder, name, columns, hashes, dtype)
    facts |= {"too_long": len(pairs) - len(kept), "unknown": unknown, "source_tokens": sum(lengths[0]), "dtype": dtype}
    write_whole(folder / f"{name}.json", json.dumps(facts))  # last: with it the shard is whole
    return facts


# -- the command


def say(name: str, what: Any) -> None:
    print(f"{name:<12}{visible(str(what))}", flush=True)


def counted(name: str, items: Iterable[T], total: int | None = None) -> Iterator[T]:
    """The items; how many there were is shown each second on a terminal, else each minute."""
    live, began = sys.stderr.isatty(), time.monotonic()
    shown = began
    for number, item in enumerate(items, start=1):
        yield item
        if number % 1_000 == 0 and (now := time.monotonic()) - shown > (1 if live else 60):
            shown, rate = now, number / (now - began)
            rest = f", {number / total:.0%}, {(total - number) / rate:,.0f} s left" if total else ""
            line = f"{name:<12}{number:,}{rest}, {rate:,.0f} a second"
            print(f"\r{line:<79}" if live else line, end="" if live else "\n", file=sys.stderr, flush=True)
    if live and shown > began:
        print(f"\r{'':<79}\r", end="", file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m data_pipelines.prepare", allow_abbrev=False)
    parser.add_argument("source", help="a table, a folder with <split>.<lang>[.gz], or a pair of files, as --data of training")
    parser.add_argument("--to", required=True, metavar="FOLDER", help="that gets the shards; --data of training then")
    parser.add_argument("--source-lang", default="en", help="as in training")
    parser.add_argument("--target-lang", default="de", help="as in training")
    parser.add_argument("--source-column", default=None, help="as in training")
    parser.add_argument("--target-column", default=None, help="as in training")
    parser.add_argument("--tokenizer", default="bpe", choices=["bpe", "unigram", "words", "characters"], help="as in training")
    parser.add_argument("--vocabulary", default="joint", choices=["joint", "separate"], help="as in training")
    parser.add_argument("--vocabulary-size", type=_number(8), default=6_000, help="as in training")
    parser.add_argument("--vocabulary-sample", type=_number(1), default=500_000, help="pairs to learn it from (default: 500000)")
    parser.add_argument("--vocabulary-from", default=None, metavar="FOLDER", help="of a run: its vocabulary, for --init-from")
    parser.add_argument("--max-length", type=_number(1), default=80, help="tokens; longer pairs are left out (default: 80)")
    parser.add_argument("--workers", type=_number(1), default=os.cpu_count() or 1, help="processes (default: one a core)")
    parser.add_argument("--shard-rows", type=_number(1), default=SHARD_ROWS, help="pairs of a shard (default: 100000)")
    parser.add_argument("--overwrite", action="store_true", help="replace prepared data that are there")
    return parser


def _number(lowest: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < lowest:
            raise argparse.ArgumentTypeError(f"{text}: expected a whole number from {lowest}. Leave it out for the default.")
        return int(text)

    return read


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    try:
        prepare(options.source, options.to, options)
    except DataError as error:
        print(f"error: {visible(str(error))}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            print(
                f"error: {visible(where)}{error.strerror}. Name a folder that can be written, or a file that can be read.",
                file=sys.stderr,
            )
            sys.exit(2)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"error: {visible(where)}the disk is full. Free some space and repeat the command: it goes on.", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
