"""The streams of tokens that a language model trains on: passages one after another, cut into chunks."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from data_pipelines.batching import Batches, part_of
from data_pipelines.sources import DataError
from data_pipelines.vocabulary import EOS, PADDING, UNKNOWN


class Text(Protocol):
    """Passages as ids, each with EOS, in one or more shards: `MemoryText`, or `prepared.PreparedText`."""

    @property
    def tokens(self) -> np.ndarray:
        """Of each shard."""

    @property
    def unknown(self) -> float:
        """The share of them that is unknown."""

    def offsets(self, shard: int) -> np.ndarray:
        """Where each passage of a shard begins, and where the last one ends."""

    def read(self, shard: int, begin: int, end: int) -> np.ndarray:
        """Some tokens of a shard."""


class MemoryText:
    """One shard.

    Args:
        ids: of the passages, each with EOS, ragged.
    """

    def __init__(self, ids: tf.RaggedTensor) -> None:
        self.flat, self.splits = ids.flat_values.numpy(), ids.row_splits.numpy()
        self.tokens, self.unknown = np.array([len(self.flat)]), float(np.mean(self.flat == UNKNOWN))

    def offsets(self, shard: int) -> np.ndarray:
        return self.splits

    def read(self, shard: int, begin: int, end: int) -> np.ndarray:
        return self.flat[begin:end]


class Epoch:
    """All passages in the order of an epoch: the shards in an order that the seed decides, and the passages inside each; or as
    they are. Of a shard only the offsets are in memory.

    Args:
        text: the passages.
        seed: of the epoch; None: the order of the text.
        open_shards: whose offsets are kept.
    """

    def __init__(self, text: Text, seed: list[int] | None, open_shards: int) -> None:
        self.text, self.seed = text, seed
        count = len(text.tokens)
        self.shards = np.arange(count) if seed is None else np.random.default_rng(seed).permutation(count)
        self.ends = np.cumsum(text.tokens[self.shards])
        self._passages = lru_cache(maxsize=open_shards)(self._order_passages)

    def _order_passages(self, shard: int) -> tuple[np.ndarray, np.ndarray]:
        """Where the passages begin in the shard, and where they end in the epoch's order of it."""
        offsets = self.text.offsets(shard).astype(np.int64)
        starts, lengths = offsets[:-1], np.diff(offsets)
        if self.seed is not None:
            order = np.random.default_rng([*self.seed, shard]).permutation(len(starts))
            starts, lengths = starts[order], lengths[order]
        return starts, np.cumsum(lengths)

    def read(self, begin: int, end: int) -> np.ndarray:
        """The tokens at places begin to end - 1 of the epoch."""
        parts = [np.empty(0, np.int32)]
        while begin < end:
            number = int(np.searchsorted(self.ends, begin, side="right"))
            shard = int(self.shards[number])
            before = int(self.ends[number] - self.text.tokens[shard])
            starts, ends = self._passages(shard)
            row = int(np.searchsorted(ends, begin - before, side="right"))
            start = int(ends[row - 1]) if row else 0
            stop = min(end - before, int(ends[row]))
            parts.append(self.text.read(shard, int(starts[row]) + begin - before - start, int(starts[row]) + stop - start))
            begin = before + stop
        return np.concatenate(parts)


@dataclass(frozen=True)
class TokenStreams:
    """All passages, one after another, cut into parallel streams; each batch is the next chunk of all streams.

    A stream crosses the ends of passages, which are tokens like others. In each epoch the passages come in another order, if
    they are shuffled, and the chunks have other lengths, so that they begin elsewhere. Each token is a target once an epoch; the
    last chunk, and the last streams, are padded.

    Args:
        text: the passages.
        batch_size: parallel streams.
        steps: of a chunk.
        seed: for the order of the passages and for the lengths of the chunks.
        shuffle: False keeps the order of the passages: that of a book, say.
    """

    text: Text
    batch_size: int
    steps: int
    seed: int
    shuffle: bool = True

    @cached_property
    def tokens(self) -> int:
        return int(self.text.tokens.sum())

    @property
    def length(self) -> int:
        """Of a stream."""
        return -(-self.tokens // self.batch_size)

    @cached_property
    def chunks(self) -> np.ndarray:
        """The lengths of the chunks of an epoch: most are `steps`, one in ten three quarters of it, one in ten a half, as each
        length is compiled (random lengths: Merity et al. 2018, https://arxiv.org/abs/1708.02182). The last one holds the rest."""
        tokens = self.tokens
        if tokens < self.batch_size:
            raise DataError(
                f"--batch-size {self.batch_size}: the text has {tokens} tokens; expected at least one for each stream. "
                "Pass a smaller one, or more text."
            )
        length = self.length
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

    def batches(self, start_step: int, epochs: int, streams: range, reverse: bool) -> Iterator[tuple[Any, np.ndarray, float]]:
        """Chunks of some of the streams, in the form of `token_streams`, and their share of the targets of all streams."""
        first, skipped = divmod(start_step, self.steps_per_epoch)
        for number in range(first, epochs):
            *others, last = self.chunks
            lengths = np.append(np.random.default_rng([self.seed, number]).permutation(others), last).astype(np.int64)
            width, ends = int(self.chunks.sum()), np.cumsum(lengths)
            text = Epoch(self.text, [self.seed, number] if self.shuffle else None, open_shards=2 * len(streams) + 2)
            columns = partial(self._columns, text, streams)
            for i in range(skipped if number == first else 0, len(lengths)):
                begin, end = int(ends[i] - lengths[i]), int(ends[i])
                back = columns(width - end, width + 1 - begin)[:, ::-1] if reverse else None
                counts = self._targets(begin, end) + (self._targets(width - end, width - begin) if reverse else 0)
                share = np.float32(counts[streams].sum()) / np.maximum(np.float32(1), np.float32(counts.sum()))
                yield *_chunk(columns(begin, end + 1), back, begin > 0), share

    def _columns(self, text: Epoch, streams: range, begin: int, end: int) -> np.ndarray:
        """Places begin to end - 1 of streams, padded; at place 0 of each is the token before it."""
        return np.stack([_part(text, i * self.length, self.length, self.tokens, begin, end) for i in streams])

    def _targets(self, begin: int, end: int) -> np.ndarray:
        """How many tokens each stream has at places begin to end - 1."""
        starts = np.arange(self.batch_size) * self.length
        return np.maximum(0, np.minimum(np.minimum(self.length, self.tokens - starts), end) - begin)


def _part(text: Epoch, start: int, length: int, tokens: int, begin: int, end: int) -> np.ndarray:
    """Columns begin to end - 1 of the stream of the tokens at start to start + length - 1, behind the token before them."""
    first, stop = start + begin - 1, min(start + min(end - 1, length), tokens)
    found = text.read(max(0, first), max(0, first, stop))
    if first < 0:
        found = np.concatenate([[EOS], found])
    return np.pad(found[: end - begin], (0, end - begin - min(len(found), end - begin)), constant_values=PADDING).astype(np.int32)


def token_streams(
    text: Text,
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
        text, batch_size, steps, seed, shuffle: see `TokenStreams`.
        epochs: of the whole training; the first `start_step` batches are skipped.
    """
    streams, signature = TokenStreams(text, batch_size, steps, seed, shuffle), _signature(reverse)

    def whole() -> Iterator[Any]:
        return (tuple(batch) for *batch, _ in streams.batches(start_step, epochs, range(batch_size), reverse))

    def part(index: int, count: int) -> tf.data.Dataset:
        begin, end, empty = part_of(batch_size, index, count)

        def batches() -> Iterator[Any]:
            for *batch, share in streams.batches(start_step, epochs, range(begin, end), reverse):
                yield *batch, np.full(end - begin, 0 if empty else count * share, np.float32)

        weighted = (*signature, tf.TensorSpec((None,), tf.float32))
        return tf.data.Dataset.from_generator(batches, output_signature=weighted).prefetch(2)

    dataset = tf.data.Dataset.from_generator(whole, output_signature=signature).prefetch(2)
    return Batches(dataset, streams.steps_per_epoch, part)


def whole_streams(ids: tf.RaggedTensor, *, rows: int = 32, steps: int = 128, reverse: bool = False) -> tf.data.Dataset:
    """All tokens once, in the order of the passages, in the form of `token_streams`; for validation. The last chunk is padded."""
    text = MemoryText(ids)
    rows = min(rows, len(text.flat))
    length, epoch = -(-len(text.flat) // rows), Epoch(text, None, open_shards=1)
    tokens = np.stack([_part(epoch, i * length, length, len(text.flat), 0, length + 1) for i in range(rows)])

    def batches() -> Iterator[Any]:
        for begin in range(0, length, steps):
            end = min(begin + steps, length)
            yield _chunk(tokens[:, begin : end + 1], tokens[:, ::-1][:, begin : end + 1] if reverse else None, begin > 0)

    return tf.data.Dataset.from_generator(batches, output_signature=_signature(reverse))


def _chunk(chunk: np.ndarray, back: np.ndarray | None, continues: bool) -> tuple[dict[str, np.ndarray], np.ndarray]:
    inputs = {"tokens": chunk[:, :-1], "is_continuation": np.full(len(chunk), continues, np.float32)}
    if back is None:
        return inputs, chunk[:, 1:]
    targets = np.where(back[:, :-1] == PADDING, PADDING, back[:, 1:])  # nothing is predicted from padding
    return {**inputs, "reversed": back[:, :-1]}, np.concatenate([chunk[:, 1:], targets], axis=1)


def _signature(reverse: bool) -> Any:
    ids = tf.TensorSpec((None, None), tf.int32)
    inputs = {"tokens": ids, "is_continuation": tf.TensorSpec((None,), tf.float32)} | ({"reversed": ids} if reverse else {})
    return inputs, ids
