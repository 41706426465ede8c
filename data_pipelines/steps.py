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


def bucket_boundaries(lengths: Sequence[int], max_length_tokens: int, buckets: int = 4) -> list[int]:
    """Few fixed lengths that waste little padding: quantiles of the lengths, rounded up to a multiple of 8.

    >>> bucket_boundaries([5, 9, 14, 30, 31, 80], max_length_tokens=64, buckets=3)
    [16, 32, 64]
    """
    ranked = sorted(min(length, max_length_tokens) for length in lengths)
    last = len(ranked) - 1
    quantiles = [ranked[round(last * (k + 1) / buckets)] for k in range(buckets)]
    return sorted({min(max(8, -(-q // 8) * 8), max_length_tokens) for q in quantiles})


def bucket(dataset: tf.data.Dataset, boundaries: Sequence[int], batch_size: int) -> tf.data.Dataset:
    """Batches of `(ids, *rest)` with ids (batch, length): length is the smallest boundary that fits the longest row."""
    return dataset.bucket_by_sequence_length(
        lambda ids, *rest: tf.shape(ids)[0],
        bucket_boundaries=[b + 1 for b in boundaries[:-1]] + [boundaries[-1] + 1],
        bucket_batch_sizes=[batch_size] * (len(boundaries) + 1),
        pad_to_bucket_boundary=True,
    )


def count_batches(lengths: Sequence[int], boundaries: Sequence[int], batch_size: int) -> int:
    """How many batches `bucket` makes of rows of these lengths."""
    counts = [0] * len(boundaries)
    for length in lengths:
        counts[next(i for i, boundary in enumerate(boundaries) if length <= boundary)] += 1
    return sum(-(-count // batch_size) for count in counts)
