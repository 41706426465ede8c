"""Batches of sequences: truncated, bucketed by length, padded; and how many of them are an epoch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from data_pipelines.service import distribute
from data_pipelines.vocabulary import BOS

SHUFFLED_BATCHES = 1000  # at once, where rows are not shuffled


@dataclass(frozen=True)
class Batches:
    """A tf.data of `(inputs, targets)` that knows the steps of an epoch."""

    dataset: tf.data.Dataset
    steps_per_epoch: int


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


def bucket_boundaries(lengths: Sequence[int], max_length: int, buckets: int = 4, multiple: int = 8) -> list[int]:
    """The few fixed lengths, multiples of `multiple`, that waste the least padding. Longer rows count as cut.

    >>> bucket_boundaries([5, 7, 9, 14, 15, 62, 80], max_length=64, buckets=3)
    [8, 16, 64]
    """
    shortened = [min(length, max_length) for length in lengths]
    largest = -(-max(shortened, default=1) // multiple) * multiple
    counts = [0] * (largest // multiple + 1)  # rows by the multiple that they fill
    for length in shortened:
        counts[-(-length // multiple)] += 1
    counts[1] += counts[0]  # empty rows
    last = len(counts) - 1
    before = [sum(counts[1 : i + 1]) for i in range(last + 1)]  # rows up to each multiple

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
    """Cache, shuffle each epoch, bucket, transform and prefetch.

    Args:
        columns: as many rows each; the ragged ones are sequences.
        boundaries, batch_sizes: see `bucket`.
        shuffle_seed: repeat for ever, in a new order each epoch that the seed decides; None: once, in the given order, with
            smaller batches at the end.
        start_step: skip the batches that a resumed run has seen.
        service: `HOST:PORT` of a tf.data service that prepares the batches, in no fixed order, see `data_pipelines.service`;
            only the batches of an epoch are shuffled then, not the rows.
        transform: makes inputs and targets of the batches.
        full_batches: of a shuffled data set: a batch may join the rows of two epochs; else the last of each length is smaller.
    """
    rows = int(columns[0].shape[0])
    repeat, full = shuffle_seed is not None, shuffle_seed is not None and full_batches
    if service and repeat:
        order = np.random.default_rng(shuffle_seed).permutation(rows)
        dataset = tf.data.Dataset.from_tensor_slices(tuple(tf.gather(column, order) for column in columns))
        dataset = bucket(dataset.map(lambda *row: row), boundaries, batch_sizes)
        dataset = dataset.shuffle(SHUFFLED_BATCHES, seed=shuffle_seed, reshuffle_each_iteration=True).repeat()
    else:
        dataset = tf.data.Dataset.from_tensor_slices(columns).cache()
        dataset = dataset.shuffle(rows, seed=shuffle_seed, reshuffle_each_iteration=True) if repeat else dataset
        dataset = dataset.repeat() if full else dataset
        dataset = bucket(dataset.map(lambda *row: row), boundaries, batch_sizes)
        dataset = dataset.repeat() if repeat and not full else dataset
        dataset = dataset.skip(start_step)
    lengths = np.max([column.row_lengths() for column in columns if isinstance(column, tf.RaggedTensor)], axis=0)
    counts = np.bincount(np.searchsorted(boundaries, lengths), minlength=len(boundaries)) / np.array(batch_sizes)
    steps = round(float(counts.sum())) if full else int(np.ceil(counts).sum())
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
