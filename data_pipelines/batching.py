"""Batches of sequences: truncated, bucketed by length, padded; and how many of them are an epoch."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from data_pipelines.order import BatchOrder
from data_pipelines.prepared import padded_rows
from data_pipelines.service import distribute
from data_pipelines.sources import DataError
from data_pipelines.vocabulary import BOS

SHUFFLED_BATCHES = 1000  # at once, where rows are not shuffled


@dataclass(frozen=True)
class Batches:
    """A tf.data of `(inputs, targets)` that knows the steps of an epoch.

    `part(index, count)`, if there is one, is what process `index` of `count` takes of the batches, as
    `(inputs, targets, sample_weight)`; nothing else is read for it. The weights are those of tokens, see
    `apps.common.training.sharding`.
    """

    dataset: tf.data.Dataset
    steps_per_epoch: int
    part: Callable[[int, int], tf.data.Dataset] | None = None


def truncate_middle(tokens: tf.RaggedTensor, max_length: int) -> tf.RaggedTensor:
    """Cut the middle out of rows beyond `max_length`: what a text opens and ends with says most of it.

    >>> truncate_middle(tf.ragged.constant([[1, 2, 3, 4, 5], [6]]), 3)
    <tf.RaggedTensor [[1, 4, 5], [6]]>
    """
    head = max_length // 2
    tail = max_length - head
    lengths = tf.expand_dims(tokens.row_lengths(), 1)
    position = tf.ragged.range(tokens.row_lengths())
    keep = (lengths <= max_length) | (position < head) | (position >= lengths - tail)
    return tf.ragged.boolean_mask(tokens, keep)


def bucket_boundaries(
    lengths: Sequence[int], max_length: int, buckets: int = 4, multiple: int = 8, counts: Sequence[int] | None = None
) -> list[int]:
    """The few fixed lengths, multiples of `multiple`, that waste the least padding. Longer rows count as cut.

    Args:
        lengths: of the rows.
        max_length: the last boundary at most.
        buckets: boundaries at most.
        multiple: of what boundaries are multiples.
        counts: how many rows have each of the lengths; default: one.

    >>> bucket_boundaries([5, 7, 9, 14, 15, 62, 80], max_length=64, buckets=3)
    [8, 16, 64]
    """
    shortened = [min(length, max_length) for length in lengths]
    largest = -(-max(shortened, default=1) // multiple) * multiple
    filled = [0] * (largest // multiple + 1)  # rows by the multiple that they fill
    for length, count in zip(shortened, itertools.repeat(1) if counts is None else counts):
        filled[-(-length // multiple)] += count
    filled[1] += filled[0]  # empty rows
    last = len(filled) - 1
    before = [sum(filled[1 : i + 1]) for i in range(last + 1)]  # rows up to each multiple

    # best[i]: (padded size, boundaries) of the rows up to multiple i, with at most so many buckets
    best: list[tuple[float, list[int]]] = [(0.0, []) if i == 0 else (float("inf"), []) for i in range(last + 1)]
    for _ in range(buckets):
        best = [
            min(
                [best[i]] + [(best[k][0] + (before[i] - before[k]) * i, [*best[k][1], i]) for k in range(i)],
                key=lambda found: found[0],
            )
            for i in range(last + 1)
        ]
    return [min(i * multiple, max_length) for i in best[last][1]]


def bucket(dataset: tf.data.Dataset, boundaries: Sequence[int], batch_sizes: Sequence[int]) -> tf.data.Dataset:
    """Batches of rows of similar length, padded to the smallest boundary that fits the longest.

    Args:
        dataset: of tuples; a component with one axis is a sequence, and the longest of them is the length of the row.
        boundaries: the lengths that batches have, rising.
        batch_sizes: how many rows a batch of each length has.
    """

    def length(*components: tf.Tensor) -> tf.Tensor:
        return tf.reduce_max([tf.shape(c)[0] for c in components if c.shape.rank == 1])

    return dataset.bucket_by_sequence_length(
        length,
        bucket_boundaries=[boundary + 1 for boundary in boundaries],
        bucket_batch_sizes=[*batch_sizes, batch_sizes[-1]],
        pad_to_bucket_boundary=True,
    )


class Rows(Protocol):
    """Rows that can be read in any order: `MemoryRows`, or `prepared.PreparedRows`."""

    @property
    def kinds(self) -> Sequence[tuple[int, Any]]:
        """How many axes a batch of each column has, and its type."""

    def counts(self) -> np.ndarray:
        """How many rows have each length."""

    def read(self, shortest: int, longest: int, places: np.ndarray) -> tuple[np.ndarray, ...]:
        """The columns of some of the rows that have such lengths, by their places among those; sequences padded to `longest`."""


class PartRows(Rows, Protocol):
    """Rows of which each process reads a part: those that are prepared."""

    def lengths_of(self, shortest: int, longest: int, places: np.ndarray) -> np.ndarray:
        """How long the columns of such rows are, (rows, columns)."""


def part_of(count: int, index: int, parts: int) -> tuple[int, int, bool]:
    """Where part `index` of so many rows begins and ends; and whether it is empty: then it is one row, that weighs nothing."""
    begin, end = index * count // parts, (index + 1) * count // parts
    return (min(begin, count - 1), min(begin, count - 1) + 1, True) if begin == end else (begin, end, False)


class MemoryRows:
    """Columns with as many rows each; the ragged ones are sequences, the longest of which is the length of a row."""

    def __init__(self, columns: Sequence[tf.Tensor | tf.RaggedTensor]) -> None:
        ragged = [isinstance(column, tf.RaggedTensor) for column in columns]
        self.kinds = [(1 + is_ragged, column.dtype) for is_ragged, column in zip(ragged, columns)]
        self.columns = [
            (column.flat_values.numpy(), column.row_splits.numpy()) if is_ragged else (column.numpy(), None)
            for is_ragged, column in zip(ragged, columns)
        ]
        lengths = np.max([np.diff(splits) for _, splits in self.columns if splits is not None], axis=0)
        self.order = np.argsort(lengths, kind="stable")
        self.lengths = lengths[self.order]

    def counts(self) -> np.ndarray:
        return np.bincount(self.lengths)

    def read(self, shortest: int, longest: int, places: np.ndarray) -> tuple[np.ndarray, ...]:
        rows = self.order[np.searchsorted(self.lengths, shortest) + places]
        return tuple(
            values[rows] if splits is None else padded_rows(values, splits[rows], splits[rows + 1], longest)
            for values, splits in self.columns
        )


def _order(
    rows: Rows, boundaries: Sequence[int], batch_sizes: Sequence[int], seed: int, full: bool
) -> tuple[BatchOrder, Sequence[int]]:
    """The order of batches, and the shortest length of each bucket."""
    counts = rows.counts()
    if not counts.sum():
        raise DataError("training: no example is left. Pass a larger --max-length, or other data.")
    if counts[boundaries[-1] + 1 :].any():
        raise DataError(f"training: an example has {len(counts) - 1} tokens, and batches at most {boundaries[-1]}. Cut it.")
    edges = [0, *(min(boundary + 1, len(counts)) for boundary in boundaries)]
    sums = [int(counts[low:high].sum()) for low, high in itertools.pairwise(edges)]
    return BatchOrder(sums, batch_sizes, seed, full), edges


def ordered_batches(
    rows: Rows,
    boundaries: Sequence[int],
    batch_sizes: Sequence[int],
    seed: int,
    start_step: int = 0,
    transform: Callable[[tf.data.Dataset], tf.data.Dataset] = lambda batches: batches,
    full_batches: bool = True,
) -> Batches:
    """Batches of rows of similar length without end, padded to the boundary of their bucket, in the order of `order.BatchOrder`.

    Args:
        rows: where they are read from.
        boundaries, batch_sizes: see `bucket`.
        seed: decides the order.
        start_step: the step of the run that begins; those before it are not gone through.
        transform, full_batches: see `bucketed_batches`.

    Raises:
        DataError: there are no rows, or one that is longer than the last boundary.
    """
    order, edges = _order(rows, boundaries, batch_sizes, seed, full_batches)

    def batches() -> Iterator[tuple[np.ndarray, ...]]:
        for bucket, places in order.steps(start_step):
            yield rows.read(edges[bucket], boundaries[bucket], places)

    signature = tuple(tf.TensorSpec((None,) * axes, kind) for axes, kind in rows.kinds)
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    return Batches(transform(dataset).prefetch(4), order.steps_per_epoch)


def with_places(batches: tf.data.Dataset, start_step: int) -> tf.data.Dataset:
    """The batches, before each its place, int64 (step, first row, rows of the batch): here all rows, from the first on."""
    numbered = tf.data.Dataset.zip(tf.data.Dataset.counter(start_step), batches)
    return numbered.map(lambda step, columns: (tf.stack([step, 0, tf.shape(columns[0], tf.int64)[0]]), *columns))


def prepared_batches(
    rows: PartRows,
    boundaries: Sequence[int],
    batch_sizes: Sequence[int],
    seed: int,
    start_step: int,
    make: Callable[..., tuple[Any, tf.Tensor]] = lambda place, inputs, targets: (inputs, targets),
    full_batches: bool = True,
) -> Batches:
    """What `ordered_batches` gives, and the part of each process, which reads its own rows, and the lengths of all.

    Args:
        rows: their last column holds the targets.
        boundaries, batch_sizes, seed, start_step: see `ordered_batches`.
        make: (place, columns…) -> (inputs, targets), see `with_places`.
        full_batches: see `bucketed_batches`.
    """

    def made(batches: tf.data.Dataset) -> tf.data.Dataset:
        return with_places(batches, start_step).map(make, num_parallel_calls=2, deterministic=True)

    whole = ordered_batches(rows, boundaries, batch_sizes, seed, start_step, made, full_batches)

    def part(index: int, count: int) -> tf.data.Dataset:
        order, edges = _order(rows, boundaries, batch_sizes, seed, full_batches)

        def batches() -> Iterator[tuple[np.ndarray, ...]]:
            for step, (bucket, places) in enumerate(order.steps(start_step), start_step):
                low, high = edges[bucket], boundaries[bucket]
                begin, end, empty = part_of(len(places), index, count)
                tokens = rows.lengths_of(low, high, places)[:, -1]
                share = np.float32(tokens[begin:end].sum()) / np.maximum(np.float32(1), np.float32(tokens.sum()))
                weight = np.full(end - begin, 0 if empty else count * share, np.float32)
                yield np.array([step, begin, len(places)]), weight, *rows.read(low, high, places[begin:end])

        columns = [tf.TensorSpec((None,) * axes, kind) for axes, kind in rows.kinds]
        signature = (tf.TensorSpec((3,), tf.int64), tf.TensorSpec((None,), tf.float32), *columns)
        dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
        made = dataset.map(
            lambda place, weight, *columns: (*make(place, *columns), weight), num_parallel_calls=2, deterministic=True
        )
        return made.prefetch(4)

    return Batches(whole.dataset, whole.steps_per_epoch, part)


def bucketed_batches(
    columns: tuple[tf.Tensor | tf.RaggedTensor, ...],
    boundaries: Sequence[int],
    batch_sizes: Sequence[int],
    shuffle_seed: int | None = None,
    start_step: int = 0,
    service: str | None = None,
    transform: Callable[[tf.data.Dataset], tf.data.Dataset] = lambda batches: batches,
    full_batches: bool = True,
) -> Batches:
    """Shuffle each epoch, bucket, transform and prefetch.

    Args:
        columns: as many rows each; the ragged ones are sequences.
        boundaries, batch_sizes: see `bucket`.
        shuffle_seed: repeat for ever, in a new order each epoch that the seed decides; None: once, in the given order, with
            smaller batches at the end.
        start_step: of shuffled batches: the first one, for a run that is resumed.
        service: `HOST:PORT` of a tf.data service that prepares the batches, in no fixed order, see `data_pipelines.service`;
            only the batches of an epoch are shuffled then, not the rows, and it begins anew with each start.
        transform: makes inputs and targets of the batches.
        full_batches: of a shuffled data set: a batch may join the rows of two epochs; else the last of each length is smaller.
    """
    if shuffle_seed is not None and not service:
        return ordered_batches(MemoryRows(columns), boundaries, batch_sizes, shuffle_seed, start_step, transform, full_batches)
    dataset = tf.data.Dataset.from_tensor_slices(columns)
    if shuffle_seed is not None:
        order = np.random.default_rng(shuffle_seed).permutation(int(columns[0].shape[0]))
        dataset = tf.data.Dataset.from_tensor_slices(tuple(tf.gather(column, order) for column in columns))
    dataset = bucket(dataset.map(lambda *row: row), boundaries, batch_sizes)
    if shuffle_seed is not None:
        dataset = dataset.shuffle(SHUFFLED_BATCHES, seed=shuffle_seed, reshuffle_each_iteration=True).repeat()
    lengths = np.max([column.row_lengths() for column in columns if isinstance(column, tf.RaggedTensor)], axis=0)
    counts = np.bincount(np.searchsorted(boundaries, lengths), minlength=len(boundaries)) / np.array(batch_sizes)
    steps = int(np.ceil(counts).sum()) if shuffle_seed is None or not full_batches else round(float(counts.sum()))
    return Batches(distribute(transform(dataset), service).prefetch(4), max(1, steps))


def shift_right(targets: tf.Tensor) -> tf.Tensor:
    """The inputs of a decoder that is to predict targets (n, t): BOS, then all targets but the last."""
    return tf.concat([tf.fill([tf.shape(targets)[0], 1], BOS), targets[:, :-1]], axis=1)


def padded_batches(rows: Sequence[np.ndarray], batch_size: int, padding: int = 0, multiple: int = 64) -> Iterator[np.ndarray]:
    """The rows, the shortest first, as arrays (n, t, ...): padded at the end, t a multiple of `multiple`.

    >>> [batch.tolist() for batch in padded_batches([np.array([1, 2, 3]), np.array([4])], batch_size=2, multiple=2)]
    [[[4, 0, 0, 0], [1, 2, 3, 0]]]
    """
    ordered = sorted(rows, key=len)
    for start in range(0, len(ordered), batch_size):
        part = ordered[start : start + batch_size]
        longest = -(-len(part[-1]) // multiple) * multiple
        yield keras.utils.pad_sequences(part, longest, part[0].dtype, padding="post", value=padding)
