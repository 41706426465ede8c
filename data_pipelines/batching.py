"""Steps of a tf.data pipeline that applications share: shorten, bucket and pad."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

SHUFFLED_BATCHES = 1000  # at once, where rows are not shuffled


@dataclass(frozen=True)
class Batches:
    """A tf.data of `(inputs, what is wanted)` that knows the steps of an epoch."""

    dataset: tf.data.Dataset
    steps_per_epoch: int


def shorten(tokens: tf.RaggedTensor, max_length: int) -> tf.RaggedTensor:
    """Cut the middle out of rows beyond `max_length`: what a text opens and ends with says most of it.

    >>> shorten(tf.ragged.constant([[1, 2, 3, 4, 5], [6]]), 3)
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


def batches_of_rows(
    columns: tuple[tf.Tensor | tf.RaggedTensor, ...],
    boundaries: Sequence[int],
    batch_sizes: Sequence[int],
    shuffle_seed: int | None = None,
    start_step: int = 0,
    service: str | None = None,
    full_batches: bool = True,
) -> tf.data.Dataset:
    """Cache, shuffle each epoch, and bucket.

    Args:
        columns: as many rows each.
        boundaries, batch_sizes: see `bucket`.
        shuffle_seed: repeat for ever, in a new order each epoch that the seed decides; None: once, in the given order, with
            smaller batches at the end.
        start_step: leave out the batches of a run that is continued.
        service: the batches will be `served`; only the batches of an epoch are shuffled then, not the rows.
        full_batches: a batch may join the rows of two epochs; else the last of each length is smaller.
    """
    rows = int(columns[0].shape[0])
    if service and shuffle_seed is not None:
        order = np.random.default_rng(shuffle_seed).permutation(rows)
        dataset = tf.data.Dataset.from_tensor_slices(tuple(tf.gather(column, order) for column in columns))
        dataset = bucket(dataset.map(lambda *row: row), boundaries, batch_sizes)
        return dataset.shuffle(SHUFFLED_BATCHES, seed=shuffle_seed, reshuffle_each_iteration=True).repeat()
    dataset = tf.data.Dataset.from_tensor_slices(columns).cache()
    if shuffle_seed is not None:
        dataset = dataset.shuffle(rows, seed=shuffle_seed, reshuffle_each_iteration=True)
        dataset = dataset.repeat() if full_batches else dataset
    dataset = bucket(dataset.map(lambda *row: row), boundaries, batch_sizes)
    dataset = dataset.repeat() if shuffle_seed is not None and not full_batches else dataset
    return dataset.skip(start_step)


def count_batches(lengths: Sequence[int], boundaries: Sequence[int], batch_size: int) -> int:
    """How many batches `bucket` makes of rows of these lengths."""
    counts = [0] * len(boundaries)
    for length in lengths:
        counts[next(i for i, boundary in enumerate(boundaries) if length <= boundary)] += 1
    return sum(-(-count // batch_size) for count in counts)
