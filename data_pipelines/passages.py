"""Passages of plain text, and the streams of tokens that a language model trains on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from data_pipelines.batching import Batches
from data_pipelines.corpus import Corpus
from data_pipelines.embedded.reviews import embedded_reviews
from data_pipelines.remote import local
from data_pipelines.reviews import load_texts
from data_pipelines.sources import DataError, find_splits, load_tfds, read_text, split_off
from data_pipelines.tables import SUFFIXES
from data_pipelines.vocabulary import EOS, PADDING, Vocabulary


class Passages(Corpus[str]):
    """Passages by split: a passage is a line of a text file, or a row of a table."""

    def counts(self, examples: Sequence[str]) -> dict[str, int]:
        return {"passages": len(examples), "bytes": sum(len(text.encode()) for text in examples)}

    def fields(self, example: str) -> tuple[str]:
        return (example,)


def load_passages(source: str, whole: bool = False, text_column: str | None = None) -> Passages:
    """Passages from `embedded`, `tfds:NAME[/config]` or a path.

    Args:
        source: a path is a text file (`.txt`) with a passage a line, a table with a column of texts, gzip too, or a folder with
            `train.*` and, if they exist, `dev.*`/`val.*`/`valid.*` and `test.*`. Without a validation file 10% of the training
            passages are split off, the same ones in every run; a lone file also gives 10% for the test. Empty lines are left
            out.
        whole: for evaluation: nothing is split off, and there need be no training split.
        text_column: name of the column; default: `text`, `review` or `sentence`.

    Raises:
        DataError: no file, no such column, no passages.
    """
    source = local(source)
    if source == "embedded":
        splits = {name: [text for text, _ in pairs] for name, pairs in embedded_reviews().items()}
    elif source.startswith("tfds:"):
        splits = load_tfds(source.removeprefix("tfds:"), _from_tfds, whole)
    else:
        path = Path(source)
        files = find_splits(path, (".txt", *SUFFIXES), whole) if path.is_dir() else {"train": path}
        splits = {name: _read(file, text_column) for name, file in files.items()}
    splits = {name: [text for text in texts if text.strip()] for name, texts in splits.items()}
    passages = Passages(split_off(splits, not Path(source).is_dir(), whole))
    return passages.check_not_empty(source, "Write a passage a line, or give a larger file.")


def _read(path: Path, text_column: str | None) -> list[str]:
    if Path(path.name.removesuffix(".gz")).suffix in SUFFIXES:
        return load_texts(str(path), text_column)
    return read_text(path).splitlines()


def _from_tfds(row: dict[str, Any], _: Any) -> str:
    if "text" not in row:
        raise DataError(f"tfds: no feature 'text'; the data set has {sorted(row)}. Choose one with texts.")
    return row["text"].decode("utf-8", "replace")


def encode_passages(texts: Sequence[str], vocabulary: Vocabulary) -> tf.RaggedTensor:
    """The ids of each passage and EOS, (passages, tokens), in blocks that bound the memory."""
    blocks = []
    for start in range(0, len(texts), 1024):
        ids = vocabulary.encode(tf.constant(texts[start : start + 1024]))
        blocks.append(tf.concat([ids, tf.fill([ids.nrows(), 1], EOS)], axis=1))
    return tf.concat(blocks, axis=0)


# -- streams


@dataclass(frozen=True)
class TokenStreams:
    """All passages, one after another, cut into parallel streams; each batch is the next chunk of all streams.

    A stream crosses the ends of passages, which are tokens like others. In each epoch the passages come in another order, if
    they are shuffled, and the chunks have other lengths, so that they begin elsewhere. Each token is a target once an epoch; the
    last chunk, and the last streams, are padded.

    Args:
        ids: of the passages, each with EOS.
        batch_size: parallel streams.
        steps: of a chunk.
        seed: for the order of the passages and for the lengths of the chunks.
        shuffle: False keeps the order of the passages: that of a book, say.
    """

    ids: tf.RaggedTensor
    batch_size: int
    steps: int
    seed: int
    shuffle: bool = True

    @cached_property
    def chunks(self) -> np.ndarray:
        """The lengths of the chunks of an epoch: most are `steps`, one in ten three quarters of it, one in ten a half, as each
        length is compiled (random lengths: Merity et al. 2018, https://arxiv.org/abs/1708.02182). The last one holds the rest."""
        tokens = len(self.ids.flat_values)
        if tokens < self.batch_size:
            raise DataError(
                f"--batch-size {self.batch_size}: the text has {tokens} tokens; expected at least one for each stream. "
                "Pass a smaller one, or more text."
            )
        length = -(-tokens // self.batch_size)
        steps = min(self.steps, length)
        kinds = np.array(sorted({steps, max(1, steps * 3 // 4), max(1, steps // 2)}, reverse=True))
        generator = np.random.default_rng(self.seed)
        shares = {1: [1.0], 2: [0.9, 0.1], 3: [0.8, 0.1, 0.1]}[len(kinds)]
        drawn = generator.choice(kinds, size=length // int(kinds[-1]) + 1, p=shares)
        drawn = drawn[: int(np.searchsorted(np.cumsum(drawn), length))]
        rest = length - drawn.sum()
        return np.append(drawn, kinds[kinds >= rest][-1])

    @property
    def steps_per_epoch(self) -> int:
        return len(self.chunks)

    def epoch(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The streams of an epoch (batch_size, 1 + tokens), and the lengths of its chunks."""
        generator = np.random.default_rng([self.seed, number])
        flat = self.ids.flat_values.numpy()
        if self.shuffle:
            splits = self.ids.row_splits.numpy()
            order = generator.permutation(len(splits) - 1)
            lengths = (splits[1:] - splits[:-1])[order]
            starts = np.cumsum(lengths) - lengths
            flat = flat[np.repeat(splits[:-1][order] - starts, lengths) + np.arange(len(flat))]
        *others, last = self.chunks
        return _rows(flat, self.batch_size, int(self.chunks.sum())), np.array([*generator.permutation(others), last], int)


def token_streams(
    ids: tf.RaggedTensor,
    *,
    batch_size: int,
    steps: int,
    epochs: int,
    seed: int,
    shuffle: bool = True,
    reverse: bool = False,
    start_step: int = 0,
) -> Batches:
    """`({"tokens": (n, steps), "is_continuation": (n,)}, targets (n, steps))`; with `reverse` also `reversed`, the same streams
    read from their ends, and targets (n, 2 steps), the second half theirs. Padding is 0.

    Args:
        ids, batch_size, steps, seed, shuffle: see `TokenStreams`.
        epochs: of the whole training; the first `start_step` batches are skipped.
    """
    streams = TokenStreams(ids, batch_size, steps, seed, shuffle)

    def batches() -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
        first, skipped = divmod(start_step, streams.steps_per_epoch)
        for number in range(first, epochs):
            tokens, lengths = streams.epoch(number)
            ends = np.cumsum(lengths)
            for i in range(skipped if number == first else 0, len(lengths)):
                begin, end = ends[i] - lengths[i], ends[i]
                yield _chunk(tokens, begin, end, reverse)

    dataset = tf.data.Dataset.from_generator(batches, output_signature=_signature(reverse))
    return Batches(dataset.prefetch(2), streams.steps_per_epoch)


def whole_streams(ids: tf.RaggedTensor, *, rows: int = 32, steps: int = 128, reverse: bool = False) -> tf.data.Dataset:
    """All tokens once, in the order of the passages, in the form of `token_streams`; for validation. The last chunk is padded."""
    flat = ids.flat_values.numpy()
    rows = min(rows, len(flat))
    length = -(-len(flat) // rows)
    tokens = _rows(flat, rows, length)

    def batches() -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
        for begin in range(0, length, steps):
            yield _chunk(tokens, begin, min(begin + steps, length), reverse)

    return tf.data.Dataset.from_generator(batches, output_signature=_signature(reverse))


def _rows(flat: np.ndarray, rows: int, width: int) -> np.ndarray:
    """Tokens as parallel streams (rows, 1 + width): in front of each the token before it, EOS for the first; padded."""
    length = -(-len(flat) // rows)
    before = np.concatenate([[EOS], flat])
    places = np.arange(rows)[:, None] * length + np.arange(length + 1)
    there = places < len(before)
    tokens = np.where(there, before[np.where(there, places, 0)], PADDING)
    return np.pad(tokens, [(0, 0), (0, width - length)], constant_values=PADDING).astype(np.int32)


def _chunk(tokens: np.ndarray, begin: int, end: int, reverse: bool) -> tuple[dict[str, np.ndarray], np.ndarray]:
    chunk = tokens[:, begin : end + 1]
    inputs = {"tokens": chunk[:, :-1], "is_continuation": np.full(len(chunk), begin > 0, np.float32)}
    if not reverse:
        return inputs, chunk[:, 1:]
    back = tokens[:, ::-1][:, begin : end + 1]
    targets = np.where(back[:, :-1] == PADDING, PADDING, back[:, 1:])  # nothing is predicted from padding
    return {**inputs, "reversed": back[:, :-1]}, np.concatenate([chunk[:, 1:], targets], axis=1)


def _signature(reverse: bool) -> Any:
    ids = tf.TensorSpec((None, None), tf.int32)
    inputs = {"tokens": ids, "is_continuation": tf.TensorSpec((None,), tf.float32)} | ({"reversed": ids} if reverse else {})
    return inputs, ids
