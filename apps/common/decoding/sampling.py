"""Sample a token: temperature, top-k, top-p, and random numbers that depend on the seed of each row alone."""

from typing import Any

import tensorflow as tf

from apps.common.decoding.sequences import NEG_INF


def sample_token(logits: tf.Tensor, uniform: tf.Tensor, temperature: Any = 1.0, top_k: Any = 0, top_p: Any = 1.0) -> tf.Tensor:
    """One token for each row of logits (batch, vocabulary); `uniform` (batch,) are random numbers from 0 to 1."""
    filters = not (isinstance(top_k, int) and isinstance(top_p, (int, float)) and top_k <= 0 and top_p >= 1)  # all may follow
    temperature, top_p = (tf.reshape(tf.cast(value, tf.float32), [-1, 1]) for value in (temperature, top_p))
    top_k = tf.reshape(tf.cast(top_k, tf.int32), [-1, 1])
    is_warm = temperature > 1e-4  # NaN is not; TensorFlow's optimizer takes `~(a > b)` for `a <= b`, which is wrong for NaN
    best = tf.argmax(logits, axis=-1, output_type=tf.int32)
    logits = logits / tf.where(is_warm, tf.minimum(temperature, 1e3), 1.0)
    if filters:  # by sorting, which takes longer than all else
        logits = filter_top_k_top_p(logits, top_k, top_p)
    below = tf.cumsum(tf.nn.softmax(logits), axis=-1)  # inverse of the cumulative distribution
    sampled = tf.argmax(below > uniform[:, None] * below[:, -1:], axis=-1, output_type=tf.int32)
    return tf.where(is_warm[:, 0], sampled, best)


def random_numbers(seed: Any, batch_size: Any, count: Any) -> tf.Tensor:
    """Random numbers from 0 to 1 (batch, count): of one seed for each row, or of one for all."""
    seeds = tf.reshape(tf.cast(seed, tf.int32), [-1])
    row = tf.where(tf.size(seeds) == 1, tf.range(batch_size), 0)
    pairs = tf.stack([tf.broadcast_to(seeds, [batch_size]), tf.broadcast_to(row, [batch_size])], axis=1)
    pairs = tf.pad(pairs, [[0, 1], [0, 0]])  # an empty batch has one row here, as the loop below needs one
    return tf.map_fn(lambda pair: tf.random.stateless_uniform([count], pair), pairs, fn_output_signature=tf.float32)[:-1]


def filter_top_k_top_p(logits: tf.Tensor, top_k: Any = 0, top_p: Any = 1.0) -> tf.Tensor:
    """Give `NEG_INF` to all but the `top_k` largest logits (0: to none) and to all outside the nucleus of probability `top_p`.

    >>> (filter_top_k_top_p(tf.math.log([[0.5, 0.3, 0.2]]), top_p=0.6) > NEG_INF).numpy().tolist()
    [[True, True, False]]
    """
    ranked = tf.sort(logits, axis=-1, direction="DESCENDING")
    among_first = (tf.range(tf.shape(logits)[-1]) < top_k) | (top_k <= 0)
    least = tf.reduce_min(tf.where(among_first, ranked, tf.float32.max), axis=-1, keepdims=True)
    ranked = tf.where(among_first, ranked, NEG_INF)
    before = tf.cumsum(tf.nn.softmax(ranked), axis=-1, exclusive=True)  # the probability of all more probable tokens
    nucleus = before < tf.where(top_p > 1e-6, top_p, 1e-6)
    least = tf.maximum(least, tf.reduce_min(tf.where(nucleus, ranked, tf.float32.max), axis=-1, keepdims=True))
    return tf.where(logits < least, NEG_INF, logits)
