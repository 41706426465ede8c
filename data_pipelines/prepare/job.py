"""The work of preparing, in its order: count, learn the vocabulary, encode, write the manifest."""

import itertools
import json
import random
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.corpus import Skipped, row_hashes
from data_pipelines.files import replacing, write_whole
from data_pipelines.prepare.beam import check_beam, encode_by_beam
from data_pipelines.prepare.encoding import Settings, encode_shards
from data_pipelines.prepare.folder import STATE, begin, is_there, publish
from data_pipelines.prepare.kinds import COMPLETE, VOCABULARIES, Kind
from data_pipelines.prepare.progress import say
from data_pipelines.prepare.rows import Shard, TrainingRows, count_rows
from data_pipelines.prepared import FORMAT, MANIFEST, Prepared, changed, sha256_of, source_facts
from data_pipelines.remote import exists, is_remote, local, mirror, push, run_folder
from data_pipelines.sources import DataError
from data_pipelines.tables import saying_once

FILES = (".npy", ".model", ".jsonl", ".json", ".tsv")
SAMPLE_SEED = "vocabulary"  # not that of the split: the draws would be alike


def prepare(kind: Kind) -> Prepared:
    """Prepare a folder, or go on with it, and print what is done.

    Args:
        kind: with the flags of the command, `source` and `to` among them.

    Raises:
        DataError: a source that can't be used, or that changes meanwhile; a folder that is there; another process prepares it.
        OSError: the disk is full.
    """
    options = kind.options
    folder = run_folder(options.to) if is_remote(options.to) and exists(options.to) else mirror(options.to)
    if folder.resolve() == Path.cwd():
        raise DataError(f"--to {folder}: this is the working directory. Name a folder in it.")
    if options.source == "embedded" or options.source.startswith("tfds:"):
        raise DataError(f"{options.source}: only files are prepared. Train with --data {options.source}, or pass a path.")
    if options.runner:
        check_beam(options.runner, options.runner_flags)
    options.source = local(options.source)
    if getattr(options, "validation_rows", None):
        options.validation_rows = local(options.validation_rows)
    splits, alone = kind.files(Path(options.source))
    files = [path for split in splits.values() for path in split.files]
    files += [Path(options.validation_rows)] if getattr(options, "validation_rows", None) else []
    for path in files:
        say("source", f"{path}, {path.stat().st_size:,} bytes" if path.is_file() else path)
    key = kind.key({str(path.absolute()): source_facts(path) for path in files if path.is_file()}, FORMAT)
    if is_there(folder, key, options.overwrite):
        say("prepared", f"{options.to} has all this already")
        return Prepared.open(str(folder), kind.application)
    partial = begin(folder, key)
    if not (partial / MANIFEST).is_file():
        try:
            with saying_once():
                _fill(partial, kind, splits, alone, key)
        except DataError:
            if not any(partial.glob("train-*")):  # nothing is done that could be gone on with
                shutil.rmtree(partial)
            raise
    prepared = publish(folder, partial, kind)
    if is_remote(options.to):
        push(folder)
    return prepared


def _fill(partial: Path, kind: Kind, splits: dict[str, Any], alone: bool, key: dict[str, Any]) -> None:
    """Write all files, the manifest last."""
    options = kind.options
    state = json.loads((partial / STATE).read_text())
    if "shards" in state:
        groups, shards = state["groups"], [Shard.of_json(values) for values in state["shards"]]
    else:
        groups, shards = count_rows(kind, splits["train"], options.shard_rows)
    kind.check_groups(groups)
    write_whole(partial / STATE, json.dumps({**key, "groups": groups, "shards": shards}))
    rows = TrainingRows(kind, splits, alone, groups)
    for name, count in rows.counts.items():
        if not count:
            raise DataError(f"{options.source}: the {name} split has no {kind.unit} to use. Add some, or give a larger file.")
    _vocabulary(partial, rows)
    digests = "".join(sha256_of(partial / name) for name in VOCABULARIES if (partial / name).is_file())
    settings = Settings.of(kind, partial, groups, digests)
    if options.runner:
        facts = encode_by_beam(shards, settings, options.runner, options.runner_flags, options.workers)
    else:
        facts = encode_shards(shards, settings, options.workers)
    written = sorted(facts, key=lambda facts: facts["name"])
    for name in {*rows.counts, *splits} - {"train"}:
        cut = name in rows.counts  # rows that a file names for validation win over a file of validation
        others = itertools.chain(*(facts["held_out"][name] for facts in written)) if cut else splits[name].read()
        with replacing(partial / f"{name}.jsonl") as temporary, temporary.open("w", encoding="utf-8") as file:
            for row in others:
                print(json.dumps(kind.fields(row), ensure_ascii=False), file=file)
    for name, of in key["source"].items():
        if changed(Path(name), of):
            raise DataError(f"{name}: changed while it was read. Repeat the command when it is whole.")
    _finish(partial, kind, key, written, groups)


def _vocabulary(partial: Path, rows: TrainingRows) -> None:
    """Have the vocabulary in the folder: that of another, or one that is learned from a sample."""
    kind, options = rows.kind, rows.kind.options
    if any((partial / name).is_file() for name in COMPLETE):
        return
    if options.vocabulary_from is not None and not kind.takes_words:
        return kind.take_vocabulary(Path(options.vocabulary_from), partial, [])
    some = rows.count > options.vocabulary_sample
    chosen = set(random.Random(SAMPLE_SEED).sample(range(rows.count), options.vocabulary_sample)) if some else range(rows.count)
    sample = [
        row for number, row, split in rows.all("sampling") if number in chosen and split == "train" and kind.is_complete(row)
    ]
    if not sample:
        raise DataError(f"{options.source}: the train split has no {kind.unit} to use. Add some, or give a larger file.")
    say("learning", f"the vocabulary, from {len(sample):,} of {rows.count:,} {kind.unit}")
    if options.vocabulary_from is not None:
        return kind.take_vocabulary(Path(options.vocabulary_from), partial, sample)
    kind.learn(sample, partial)


def _finish(partial: Path, kind: Kind, key: dict[str, Any], shards: list[dict[str, Any]], groups: dict[str, int]) -> None:
    """Write the manifest."""
    options = kind.options
    for facts in shards:
        del facts["held_out"]
    empty = sum(facts.pop("empty") for facts in shards)
    rows = sum(facts["rows"] for facts in shards)
    counts: Counter[str] = Counter()
    for facts in shards:
        counts.update(facts.pop("counts"))
    if not rows:
        raise DataError(
            f"{options.source}: none of the {kind.unit} has at most {options.max_length} tokens. Pass a larger --max-length."
            if counts["too_long"]
            else f"{options.source}: the train split has no {kind.unit} to use. Add some, or give a larger file."
        )
    if kind.by_length:
        longest = max(len(facts["lengths"]) for facts in shards)
        lengths = [np.pad(facts.pop("lengths"), (0, longest - n)) for facts in shards for n in [len(facts["lengths"])]]
        with replacing(partial / "lengths.npy") as temporary, temporary.open("wb") as file:
            np.save(file, np.array(lengths, np.uint32))
    left_out = {"empty": empty, "too_long": counts["too_long"]}
    left_out |= kind.finish(partial, [Skipped("train", *of) for facts in shards for of in facts.pop("skipped")])
    tokens = np.sum([facts.pop("column_tokens") for facts in shards], axis=0)
    vocabulary, others = kind.describe(partial)
    say("vocabulary", vocabulary)
    digest = row_hashes([("".join(file["sha256"] for facts in shards for file in facts["files"].values()),)], 32).hex()
    files = {path for path in partial.iterdir() if path.suffix in FILES and path.stem != "state"}
    files -= {partial / name for facts in shards for name in (*facts["files"], f"{facts['name']}.json")}
    manifest = {
        **key,
        "data": {"train": {"skipped": 0, **kind.facts(rows, counts, empty), "sha256": digest}, **others},
        "rows": rows,
        "tokens": int(tokens[: kind.sequences].sum()),
        "groups": groups,
        "left_out": left_out,
        "unknown": counts["unknown"] / max(1, int(tokens[0])),
        "dtype": shards[0]["dtype"],
        "columns": kind.columns,
        "sequences": kind.sequences,
        "files": {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in sorted(files)},
        "shards": shards,
        "versions": _versions(),
    }
    write_whole(partial / MANIFEST, json.dumps(manifest, indent=1))


def _versions() -> dict[str, str]:
    import sentencepiece

    return {"python": sys.version.split()[0], "numpy": np.__version__, "sentencepiece": sentencepiece.__version__}
