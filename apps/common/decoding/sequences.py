"""Types and helpers shared by the searches of `apps.common.decoding.search`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

Step = Callable[[tf.Tensor, Any], tuple[tf.Tensor, Any, tf.Tensor | None]]

NEG_INF = -1e9  # the log-probability of a masked token
LARGEST_TEXTS = 2**24  # bytes of the texts of a request


class Sequences(NamedTuple):
    """The result of a search, best first.

    tokens: (batch, n, max_length) int32; EOS and what follows are 0.
    lengths: (batch, n) int32, tokens before EOS.
    scores: (batch, n): what the search ranks by; below `NEG_INF / 2` where there are fewer than n sequences.
    log_probabilities: (batch, n): sum of the log-probabilities of all tokens, EOS among them.
    """

    tokens: tf.Tensor
    lengths: tf.Tensor
    scores: tf.Tensor
    log_probabilities: tf.Tensor


def length_normalised(log_probability: tf.Tensor, length: Any, length_penalty: float) -> tf.Tensor:
    """`log p / ((5 + length) / 6)^length_penalty`, EOS counted (Wu et al. 2016, https://arxiv.org/abs/1609.08144, eq. 14).

    With 0 the log-probability decides, which favours short sequences; with 1 nearly its mean.

    >>> print(length_normalised(tf.constant([-4.0, -4.0]), tf.constant([1, 7]), 1.0).numpy())
    [-4. -2.]
    """
    return log_probability / ((5.0 + tf.cast(length, tf.float32)) / 6.0) ** length_penalty


def forbid(*tokens: int, vocabulary_size: int) -> tf.Tensor:
    """What makes these tokens impossible, added to log-probabilities: a constant of the graph.

    >>> forbid(0, 2, vocabulary_size=4).numpy().tolist()
    [-1000000000.0, 0.0, -1000000000.0, 0.0]
    """
    return tf.reduce_min(tf.one_hot(tokens, vocabulary_size, on_value=NEG_INF), axis=0)


def max_decode_length(max_length: Any) -> Any:
    """The number of steps in which sequences of at most `max_length` tokens end."""
    return max_length if isinstance(max_length, int) else tf.maximum(1, tf.reduce_max(max_length))  # a batch may be empty


def embed(embeddings: keras.layers.Embedding, tokens: tf.Tensor) -> tf.Tensor:
    """What the layer gives for tokens of the vocabulary, by one operation: Keras allows for tokens below 0."""
    return tf.cast(tf.gather(tf.convert_to_tensor(embeddings.embeddings), tokens), embeddings.compute_dtype)


def keep_shapes(after: Any, before: Any) -> Any:
    """A `tf.while_loop` needs loop variables of constant shape; set it where it can't be inferred."""
    for new, old in zip(tf.nest.flatten(after), tf.nest.flatten(before)):
        new.set_shape(old.shape)
    return after


def lengths_of(tokens: tf.Tensor) -> tf.Tensor:
    """The lengths of `Sequences.tokens`."""
    return tf.reduce_sum(tf.cast(tokens != 0, tf.int32), axis=-1)  # EOS is never written, and no other token is 0


def check_request_size(
    ids: Any, limit: int, name: str = "text", *, new: tf.Tensor | int = 0, least: int = 1, unit: str = "tokens"
) -> Any:
    """The ids (rows, tokens) of a request; an error that says why if they are more than `limit`, padding counted.

    Every row is padded to the longest, so one long row makes all of them long: pass them ragged, before that takes memory.

    Args:
        new: tokens that are generated for each row, at most.
        least: a shorter row counts as so many tokens.
    """
    is_ragged = isinstance(ids, tf.RaggedTensor)
    rows, tokens = tf.unstack(ids.bounding_shape() if is_ragged else tf.shape(ids, tf.int64)[:2], 2)
    tokens = tf.maximum(tokens + tf.cast(new, tf.int64), least)
    message = tf.strings.format(
        name
        + ": {} rows of up to {} "
        + f"{unit}; expected at most {limit:,} {unit}, padding counted, in a request. Send several.",
        [rows, tokens],
    )
    with tf.control_dependencies([tf.debugging.Assert(rows * tokens <= limit, [message])]):
        return ids.with_flat_values(tf.identity(ids.flat_values)) if is_ragged else tf.identity(ids)


def check_text_size(text: tf.Tensor, name: str = "text") -> tf.Tensor:
    """The texts (rows,) of a request; an error that says why if they have more than `LARGEST_TEXTS` bytes together."""
    size = tf.reduce_sum(tf.cast(tf.strings.length(text), tf.int64))
    message = tf.strings.format(
        name + ": {} bytes; expected at most " + f"{LARGEST_TEXTS:,} in a request. Send several, or less.", size
    )
    with tf.control_dependencies([tf.debugging.Assert(size <= LARGEST_TEXTS, [message])]):
        return tf.identity(text)


def one_or_each(rows: tf.Tensor, /, **numbers: Any) -> list[tf.Tensor]:
    """Numbers of a request, by their names: each one for all rows, or one for each of so many rows, as a vector."""
    found = []
    for name, value in numbers.items():
        values = tf.reshape(value, [-1])
        size = tf.size(values)
        message = tf.strings.format(name + " has {} values for {} rows. Pass one value, or one for each row.", (size, rows))
        with tf.control_dependencies([tf.debugging.Assert((size == 1) | (size == rows), [message])]):
            found.append(tf.identity(values))
    return found
