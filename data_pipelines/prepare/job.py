"""The work of preparing, in its order: count, learn the vocabulary, encode, write the manifest."""

import contextlib
import itertools
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.corpus import Skipped, row_hashes
from data_pipelines.files import replacing, write_whole
from data_pipelines.prepare.encoding import Settings, encode_shards
from data_pipelines.prepare.folder import STATE, begin, is_there, publish
from data_pipelines.prepare.kinds import COMPLETE, VOCABULARIES, Kind, Row
from data_pipelines.prepare.progress import counted, say
from data_pipelines.prepared import FORMAT, MANIFEST, Prepared, changed, sha256_of, source_facts
from data_pipelines.sources import DataError

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
    source, folder = Path(options.source), Path(options.to)
    if folder.resolve() == Path.cwd():
        raise DataError(f"--to {folder}: this is the working directory. Name a folder in it.")
    if options.source == "embedded" or options.source.startswith("tfds:"):
        raise DataError(f"{options.source}: only files are prepared. Train with --data {options.source}, or pass a path.")
    splits, alone = kind.files(source)
    files = [path for split in splits.values() for path in split.files]
    files += [Path(options.validation_rows)] if getattr(options, "validation_rows", None) else []
    for path in files:
        say("source", f"{path}, {path.stat().st_size:,} bytes" if path.is_file() else path)
    key = kind.key({str(path.absolute()): source_facts(path) for path in files if path.is_file()}, FORMAT)
    if is_there(folder, key, options.overwrite):
        say("prepared", f"{folder} has all this already")
        return Prepared.open(str(folder), kind.application)
    partial = begin(folder, key)
    if not (partial / MANIFEST).is_file():
        _fill(partial, kind, splits, alone, key)
    return publish(folder, partial, kind)


class TrainingRows:
    """The rows of the training file, and which split each belongs to.

    Args:
        kind: of the data.
        read: reads them anew.
        groups: how many rows each group has.
        held_out: those of other splits, see `Kind.held_out`.
    """

    def __init__(self, kind: Kind, read: Callable[[], Iterator[Row]], groups: dict[str, int], held_out: dict[str, Any]) -> None:
        self.kind, self.read, self.groups = kind, read, groups
        self.count = sum(groups.values())
        self.held_out = {place: name for name, places in held_out.items() for place in places}

    def __call__(self, task: str) -> Iterator[tuple[int, Row, str]]:
        """Number, row and split of each; progress is shown as that of a task."""
        passed: Counter[str] = Counter()
        for number, row in enumerate(counted(task, self.read(), self.count)):
            group = self.kind.group(row)
            split = self.held_out.get(number) or self.held_out.get((group, passed[group]), "train")
            passed[group] += 1
            yield number, row, split


def _fill(partial: Path, kind: Kind, splits: dict[str, Any], alone: bool, key: dict[str, Any]) -> None:
    """Write all files, the manifest last."""
    options = kind.options
    state = json.loads((partial / STATE).read_text())
    groups = state.get("groups") or dict(Counter(kind.group(row) for row in counted("counting", splits["train"].read())))
    kind.check_groups(groups)
    write_whole(partial / STATE, json.dumps({**key, "groups": groups}))
    held_out = kind.held_out(groups, [*splits], alone)
    rows = TrainingRows(kind, splits["train"].read, groups, held_out)
    for name, count in {"train": rows.count - len(rows.held_out), **{name: len(of) for name, of in held_out.items()}}.items():
        if not count:
            raise DataError(f"{options.source}: the {name} split has no {kind.unit} to use. Add some, or give a larger file.")
    _vocabulary(partial, rows)
    empty = 0
    with contextlib.ExitStack() as stack:
        others = {*held_out, *splits} - {"train"}
        write = {name: stack.enter_context(_text_file(partial / f"{name}.jsonl", kind)) for name in others}
        for name in splits.keys() - {"train"}:
            for row in splits[name].read():
                write[name](row)

        def shards() -> Iterator[tuple[str, list[Row]]]:
            nonlocal empty
            source = rows("encoding")
            for number in range(-(-rows.count // options.shard_rows)):
                kept = []
                for _, row, split in itertools.islice(source, options.shard_rows):
                    if split != "train":
                        write[split](row)
                    elif kind.is_complete(row):
                        kept.append(tuple(row))
                    else:
                        empty += 1
                yield f"train-{number:05d}", kept

        digests = "".join(sha256_of(partial / name) for name in VOCABULARIES if (partial / name).is_file())
        settings = Settings(partial, kind.application, key["flags"], groups, digests)
        written = sorted(encode_shards(shards(), settings, options.workers), key=lambda facts: facts["name"])
    for name, facts in key["source"].items():
        if changed(Path(name), facts):
            raise DataError(f"{name}: changed while it was read. Repeat the command when it is whole.")
    _finish(partial, kind, key, written, groups, empty)


def _vocabulary(partial: Path, rows: TrainingRows) -> None:
    """Have the vocabulary in the folder: that of another, or one that is learned from a sample."""
    kind, options = rows.kind, rows.kind.options
    if any((partial / name).is_file() for name in COMPLETE):
        return
    if options.vocabulary_from is not None and not kind.takes_words:
        return kind.take_vocabulary(Path(options.vocabulary_from), partial, [])
    some = rows.count > options.vocabulary_sample
    chosen = set(random.Random(SAMPLE_SEED).sample(range(rows.count), options.vocabulary_sample)) if some else range(rows.count)
    sample = [row for number, row, split in rows("sampling") if number in chosen and split == "train" and kind.is_complete(row)]
    if not sample:
        raise DataError(f"{options.source}: the train split has no {kind.unit} to use. Add some, or give a larger file.")
    say("learning", f"the vocabulary, from {len(sample):,} of {rows.count:,} {kind.unit}")
    if options.vocabulary_from is not None:
        return kind.take_vocabulary(Path(options.vocabulary_from), partial, sample)
    kind.learn(sample, partial)


@contextlib.contextmanager
def _text_file(path: Path, kind: Kind) -> Iterator[Callable[[Row], None]]:
    """What writes rows to a file, a JSON object a line."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        yield lambda row: print(json.dumps(kind.fields(row), ensure_ascii=False), file=file)


def _finish(
    partial: Path, kind: Kind, key: dict[str, Any], shards: list[dict[str, Any]], groups: dict[str, int], empty: int
) -> None:
    """Write the manifest."""
    options = kind.options
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
