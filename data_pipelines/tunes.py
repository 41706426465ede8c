"""Tunes in ABC notation: from any source to the streams that a language model trains on."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from data_pipelines import batching
from data_pipelines.abc import Tune, read_tunes, transpose
from data_pipelines.batching import Batches
from data_pipelines.corpus import Corpus, Skipped
from data_pipelines.remote import local
from data_pipelines.sources import DataError, find_splits, load_tfds, read_text, split_off
from data_pipelines.vocabulary import BOS, EOS, WordVocabulary

_MUSICAL = (
    r"\[[MLK]:[^\]\n]*\]|[MLK]:[^\n]*\n|(?:\^\^|\^|__|_|=)?[A-Ga-gzx][,']*|\d*/+\d*|\d+|:*\|[|\]:]*(?:\d)?|::+|\[\d|\(\d|[\s\S]"
)


class TuneVocabulary(WordVocabulary):
    """The tokens of the training tunes: characters, or musical symbols: pitch, duration, bar line, field.

    >>> vocabulary = TuneVocabulary.train_from_iterator(["K:Dmaj\\nd3/2 A|"], "musical")
    >>> vocabulary.tokenize(tf.constant(["K:Dmaj\\n^d3/2A|"]))
    <tf.RaggedTensor [[b'K:Dmaj\\n', b'^d', b'3/2', b'A', b'|']]>
    """

    def __init__(self, words: list[str], kind: str) -> None:
        super().__init__(words, has_bos_eos=True)
        self.kind = kind

    @classmethod
    def train_from_iterator(cls, texts: Iterable[str], kind: str) -> "TuneVocabulary":
        """Every token of the texts, the most frequent first."""
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text if kind == "characters" else re.findall(_MUSICAL, text))
        return cls(sorted(counts, key=lambda token: (-counts[token], token)), kind)

    @classmethod
    def load(cls, folder: Path) -> "TuneVocabulary":
        """What `save` wrote."""
        saved = json.loads((folder / "vocabulary.json").read_text())
        return cls(saved["words"], saved["kind"])

    def tokenize(self, texts: tf.Tensor) -> tf.RaggedTensor:
        if self.kind == "characters":
            return tf.strings.unicode_split(texts, "UTF-8")
        return tf.strings.split(tf.strings.regex_replace(texts, f"({_MUSICAL})", "\\1\x1f"), "\x1f")[:, :-1]

    def detokenize(self, ids: tf.RaggedTensor) -> tf.Tensor:
        return tf.strings.reduce_join(tf.ragged.map_flat_values(self.ids_to_tokens, ids), axis=-1)


class Tunes(Corpus[Tune]):
    """Tunes by split, and those that can't be read, by their place in the file."""

    def counts(self, examples: Sequence[Tune]) -> dict[str, int]:
        return {"tunes": len(examples)}

    def fields(self, example: Tune) -> tuple[str]:
        return (example.text,)


def load_tunes(source: str, validation_tunes: str | None = None, whole: bool = False) -> Tunes:
    """Tunes from `embedded`, `tfds:NAME[/config]` or a path.

    Args:
        source: a path is an `.abc` file, or a folder with `train.abc` and, if they exist, `valid.abc` and `test.abc`, or
            with any `.abc` files. Without a validation split it is cut off, the same in every run; tunes of one title stay
            together.
        validation_tunes: a file that names the tunes of the training file for validation, by their place (0 = first).
        whole: for evaluation: nothing is cut off, and there need be no training split.

    Raises:
        DataError: no file, no tunes, a place that isn't there.
    """
    source = local(source)
    skipped: list[Skipped] = []

    def read(split: str, text: str) -> list[Tune]:
        tunes, problems = read_tunes(text)
        skipped.extend(Skipped(split, f"tune {number}", reason) for number, reason in problems)
        return tunes

    if source == "embedded":
        splits, whole = {"train": read("train", embedded_tune_books())}, False
    elif source.startswith("tfds:"):
        rows = load_tfds(source.removeprefix("tfds:"), _from_tfds, whole)
        splits = {split: read(split, "\n\n".join(texts)) for split, texts in rows.items()}
    else:
        splits = {split: read(split, text) for split, text in _texts(Path(source), whole).items()}
    if validation_tunes is not None:
        count = len(splits["train"]) + sum(item.split == "train" for item in skipped)
        splits = _split_by_list(splits, Path(local(validation_tunes)), count)
    else:
        splits = _split_off_titles(source, splits, not (Path(source) / "train.abc").is_file(), whole)
    return Tunes(splits, skipped=skipped).check_not_empty(source, "A tune begins with X: and has M: and K:.")


def train_tune_vocabulary(tunes: Sequence[Tune], kind: str, transposed: bool) -> TuneVocabulary:
    """The tokens of tunes, in all keys if training moves them."""
    shifts = range(-6, 6) if transposed else range(1)
    return TuneVocabulary.train_from_iterator((transpose(tune, shift).text for shift in shifts for tune in tunes), kind)


def embedded_tune_books() -> str:
    """Ryan's Mammoth Collection (1883) and O'Neill's Music of Ireland (1903), as music21 has them: public domain."""
    from music21 import corpus

    paths = sorted(
        str(path) for name in ("ryansMammoth", "oneills1850") for path in corpus.getComposer(name) if str(path).endswith(".abc")
    )
    return "\n\n".join(Path(path).read_text("utf-8", "replace") for path in paths)


def _from_tfds(row: dict[str, Any], _: Any) -> str:
    for name in ("abc", "text"):
        if name in row:
            return row[name].decode("utf-8", "replace")
    raise DataError(f"tfds: no feature 'abc' or 'text'; the data set has {sorted(row)}. Choose one with tunes in ABC notation.")


def _texts(path: Path, whole: bool) -> dict[str, str]:
    if not path.is_dir():
        return {"train": read_text(path)}
    named = ["train", "test", "valid", "val", "dev"] if whole else ["train"]
    if any(file for name in named for file in path.glob(f"{name}.abc*")):
        return {split: read_text(file) for split, file in find_splits(path, (".abc",), whole).items()}
    files = sorted(path.rglob("*.abc"))
    if not files:
        raise DataError(f"{path}: no .abc files. Pass a folder that holds some, or the path of one file.")
    return {"train": "\n\n".join(read_text(file) for file in files)}


def _split_by_list(splits: dict[str, list[Tune]], path: Path, count: int) -> dict[str, list[Tune]]:
    places: set[int] = set()
    for row, line in enumerate(read_text(path).split(), 1):
        if not line.isdecimal() or int(line) >= count:
            raise DataError(f"{path}: row {row}: {line!r}; expected the place of a tune of the training file, 0 to {count - 1}.")
        places.add(int(line))
    train = [tune for tune in splits["train"] if tune.number - 1 not in places]
    return {**splits, "train": train, "validation": [tune for tune in splits["train"] if tune.number - 1 in places]}


def _split_off_titles(source: str, splits: dict[str, list[Tune]], alone: bool, whole: bool) -> dict[str, list[Tune]]:
    """`split_off` by titles: versions of one tune stay on one side."""
    if "train" not in splits:
        return splits
    titles: dict[str, list[Tune]] = {}
    for tune in splits["train"]:
        titles.setdefault(tune.title or str(tune.number), []).append(tune)
    groups = {name: [[tune] for tune in tunes] for name, tunes in splits.items()}
    cut = split_off({**groups, "train": list(titles.values())}, alone, whole)
    for name in cut:
        if titles and not cut[name] and name not in splits:
            raise DataError(
                f"{source}: {len(splits['train'])} tunes with {len(titles)} different titles are too few for a {name} split. "
                "Add tunes with other titles, or choose the validation tunes with --validation-tunes."
            )
    return {name: [tune for group in groups for tune in group] for name, groups in cut.items()}


# -- streams


@dataclass(frozen=True)
class Streams:
    """Parallel streams of chunks, for truncated backpropagation through time: row i continues in row i of the next batch.

    A chunk that begins a sequence is marked; what a model carries from the chunk before must be forgotten there. The last
    chunk of a sequence is padded.

    Args:
        lengths: of the sequences, in steps.
        batch_size: parallel streams.
        steps: of a chunk.
        seed: for the order of the sequences and for the transpositions.
    """

    lengths: np.ndarray
    batch_size: int
    steps: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return max(1, round(int(np.sum(-(-self.lengths // self.steps))) / self.batch_size))

    def plan(self, batches: int) -> np.ndarray:
        """(batches, batch_size, 3): sequence, chunk, and the epoch of that sequence."""
        chunks = -(-self.lengths // self.steps)
        free = np.zeros(self.batch_size, np.int64)  # the batch in which a row may begin another sequence
        found = np.zeros((batches, self.batch_size, 3), np.int32)
        epoch = 0
        while free.min() < batches:
            for sequence in np.random.default_rng([self.seed, epoch]).permutation(len(chunks)):
                row = int(free.argmin())
                at = int(free[row])
                if at >= batches:
                    break
                count = min(int(chunks[sequence]), batches - at)
                found[at : at + count, row] = [(sequence, chunk, epoch) for chunk in range(count)]
                free[row] += int(chunks[sequence])
            epoch += 1
        return found


def tune_streams(
    tunes: Sequence[Tune],
    vocabulary: TuneVocabulary,
    *,
    batch_size: int,
    steps: int,
    epochs: int,
    seed: int,
    start_step: int = 0,
    transpose_prob: float = 0.0,
) -> Batches:
    """`({"tokens": (n, steps), "is_continuation": (n,)}, targets (n, steps))`.

    Args:
        batch_size, steps, seed: see `Streams`.
        epochs: of the whole training; the first `start_step` batches are skipped.
        transpose_prob: probability of transposing a tune to another of the twelve keys, anew in each epoch.
    """
    shifts = range(-6, 6) if transpose_prob else range(1)
    texts = [transpose(tune, shift).text for shift in shifts for tune in tunes]
    ids = vocabulary.encode(tf.constant(texts))
    marked = tf.concat([tf.fill([len(texts), 1], BOS), ids, tf.fill([len(texts), 1], EOS)], axis=1)
    flat, starts, ends = marked.flat_values, marked.row_starts().numpy(), marked.row_limits().numpy()
    # a transposed tune may be a few characters longer: every variant gets the chunks of the longest
    lengths = np.max((ends - starts - 1).reshape(len(shifts), -1), axis=0)
    streams = Streams(lengths, batch_size, steps, seed)
    plan = streams.plan(epochs * streams.steps_per_epoch)
    generator = np.random.default_rng([seed, 1])
    rounds = int(plan[..., 2].max()) + 1  # of all examples
    moved = generator.random((rounds, len(tunes))) < transpose_prob
    shift = np.where(moved, generator.integers(0, len(shifts), (rounds, len(tunes))), len(shifts) // 2 if transpose_prob else 0)
    variant = shift[plan[..., 2], plan[..., 0]] * len(tunes) + plan[..., 0]
    begin = starts[variant] + plan[..., 1].astype(np.int64) * steps
    dataset = tf.data.Dataset.from_tensor_slices((begin, ends[variant], plan[..., 1] > 0)).skip(start_step)

    def cut(begin: tf.Tensor, end: tf.Tensor, is_continuation: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        places = begin[:, None] + tf.range(steps + 1, dtype=tf.int64)
        there = places < end[:, None]
        tokens = tf.where(there, tf.gather(flat, tf.where(there, places, 0)), 0)
        return {"tokens": tokens[:, :-1], "is_continuation": tf.cast(is_continuation, tf.float32)}, tokens[:, 1:]

    return Batches(dataset.map(cut, num_parallel_calls=2).prefetch(2), streams.steps_per_epoch)


def whole_tunes(tunes: Sequence[Tune], vocabulary: TuneVocabulary, batch_size: int = 32) -> tf.data.Dataset:
    """Batches of whole tunes in the form of `tune_streams`, the shortest first; for validation."""
    ids = vocabulary.encode(tf.constant([tune.text for tune in tunes])).to_list()

    def batches():
        for targets in batching.padded_batches([np.array([*row, EOS], np.int32) for row in ids], batch_size):
            yield {"tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=BOS)}, targets

    spec = tf.TensorSpec((None, None), tf.int32)
    return tf.data.Dataset.from_generator(batches, output_signature=({"tokens": spec}, spec))
