"""Steps of a tf.data pipeline that applications share: shorten, bucket and pad."""

from collections.abc import Sequence

import tensorflow as tf


def shorten(tokens: tf.RaggedTensor, max_length_tokens: int) -> tf.RaggedTensor:
    """Cut the middle out of rows beyond `max_length_tokens`: what a text opens and ends with says most of it.

    >>> shorten(tf.ragged.constant([[1, 2, 3, 4, 5], [6]]), 3)
    <tf.RaggedTensor [[1, 4, 5], [6]]>
    """
    head = max_length_tokens // 2
    tail = max_length_tokens - head
    lengths = tf.expand_dims(tokens.row_lengths(), 1)
    position = tf.ragged.range(tokens.row_lengths())
    keep = (lengths <= max_length_tokens) | (position < head) | (position >= lengths - tail)
    return tf.ragged.boolean_mask(tokens, keep)


def bucket_boundaries(lengths: Sequence[int], max_length_tokens: int, buckets: int = 4, multiple: int = 8) -> list[int]:
    """Few fixed lengths that waste little padding: quantiles of the lengths, rounded up to a multiple.

    >>> bucket_boundaries([5, 9, 14, 30, 31, 80], max_length_tokens=64, buckets=3)
    [16, 32, 64]
    """
    ranked = sorted(min(length, max_length_tokens) for length in lengths)
    last = len(ranked) - 1
    quantiles = [ranked[round(last * (k + 1) / buckets)] for k in range(buckets)]
    return sorted({min(max(multiple, -(-q // multiple) * multiple), max_length_tokens) for q in quantiles})


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


def count_batches(lengths: Sequence[int], boundaries: Sequence[int], batch_size: int) -> int:
    """How many batches `bucket` makes of rows of these lengths."""
    counts = [0] * len(boundaries)
    for length in lengths:
        counts[next(i for i, boundary in enumerate(boundaries) if length <= boundary)] += 1
    return sum(-(-count // batch_size) for count in counts)
