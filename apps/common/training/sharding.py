"""Which examples of a batch each process takes."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def shard(dataset: tf.data.Dataset, index: int, count: int, size: Callable[[tf.Tensor], tf.Tensor] = tf.size) -> tf.data.Dataset:
    """The examples of process `index` of `count` in each batch `(x, y)`, as `(x, y, sample_weight)`.

    Each example has the weight `count * n_w / sum_w n_w`, so that the mean over the processes of their mean losses is the mean
    loss of the batch.

    Args:
        dataset: batches that are the same for every process.
        size: y -> n_w, what the loss is a mean over.
    """
    if count == 1:
        return dataset

    def own(x: Any, y: tf.Tensor) -> tuple[Any, tf.Tensor, tf.Tensor]:
        batch = tf.shape(y)[0]
        begin, end = index * batch // count, (index + 1) * batch // count
        empty = tf.cast(begin == end, tf.int32)  # fewer examples than processes: take one, masked out
        begin = tf.minimum(begin, batch - empty)
        mine = tf.nest.map_structure(lambda part: part[begin : end + empty], (x, y))
        share = tf.cast(size(mine[1]), tf.float32) / tf.maximum(1.0, tf.cast(size(y), tf.float32))
        weight = count * share * tf.cast(1 - empty, tf.float32)
        return *mine, tf.fill([end + empty - begin], weight)

    return dataset.map(own, num_parallel_calls=2, deterministic=True).prefetch(2)


def count_tokens(targets: tf.Tensor) -> tf.Tensor:
    """The size of targets whose padding (0) is masked out."""
    return tf.math.count_nonzero(targets)
