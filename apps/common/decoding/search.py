"""Decoding: greedy search, beam search and sampling.

A decoder is a function of one step for many hypotheses at once,

    step(tokens (batch, beam), state) -> (logits (batch, beam, vocabulary), state, attention (batch, beam, positions))

with `attention` None where there is none. `state` is a nest of tensors (batch, beam, …) that begins as (batch, …). All
searches are loops of plain graph operations: they run in a `tf.function` and in an export.

Token 0 is padding and is never chosen. A sequence ends with the token EOS, and has at most `max_length` tokens with it (a
number, or one for each row); at the last place only EOS may stand.
"""

from typing import Any

import tensorflow as tf

from apps.common.decoding.beam_search import beam_search
from apps.common.decoding.sampling import random_numbers, sample_token
from apps.common.decoding.sequences import Sequences, Step, forbid, keep_shapes, length_normalised, lengths_of, max_decode_length


def decode(
    step: Step,
    state: Any,
    *,
    beam_size: int,
    n_best: int = 1,
    length_penalty: float = 0.0,
    coverage_penalty: float = 0.0,
    source_mask: tf.Tensor | None = None,
    no_repeat_ngram_size: int = 0,
    **settings: Any,
) -> Sequences:
    """`beam_search`, or `greedy_search` where that is equivalent and faster."""
    if beam_size == n_best == 1 and not coverage_penalty and not no_repeat_ngram_size:
        return greedy_search(step, state, length_penalty=length_penalty, **settings)
    settings |= {"length_penalty": length_penalty, "coverage_penalty": coverage_penalty, "source_mask": source_mask}
    return beam_search(step, state, beam_size=beam_size, n_best=n_best, no_repeat_ngram_size=no_repeat_ngram_size, **settings)


def detokenize(vocabulary: Any, found: Sequences) -> tf.Tensor:
    """The sequences of a search as strings (batch, n)."""
    batch, n = tf.unstack(tf.shape(found.lengths))
    ragged = tf.RaggedTensor.from_tensor(tf.reshape(found.tokens, [batch * n, -1]), lengths=tf.reshape(found.lengths, [-1]))
    return tf.reshape(vocabulary.detokenize(ragged), [batch, n])


def greedy_search(
    step: Step, state: Any, *, batch_size: Any, start: int, end: int, max_length: Any, length_penalty: float = 0.0
) -> Sequences:
    """The most probable token at each step; scored as `beam_search` does."""

    def most_probable(log_probabilities: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
        return tf.argmax(log_probabilities, axis=-1, output_type=tf.int32)

    found = _decode_loop(most_probable, step, state, batch_size, start, end, max_length)
    return found._replace(scores=length_normalised(found.scores, found.lengths + 1, length_penalty))


def sample(
    step: Step,
    state: Any,
    *,
    batch_size: Any,
    start: Any,
    end: int,
    max_length: Any,
    seed: Any,
    temperature: Any = 1.0,
    top_k: int = 0,
    top_p: Any = 1.0,
) -> Sequences:
    """Sample each token from the decoder's distribution.

    Args:
        start: the token before the first sampled one; one for all, or one for each row.
        temperature: divides the logits; 1 is the model's own distribution. From 0 downwards the most probable token wins; above
            1,000 counts as 1,000. Like `top_p` one for all, or (batch,).
        top_k: sample from the k most probable tokens only; 0: from all.
        top_p: sample from the smallest set of most probable tokens whose probability reaches this value (Holtzman et
            al. 2020, https://arxiv.org/abs/1904.09751).
        seed: the same seed gives the same tokens. With one for each row, a row's tokens don't depend on its batch; with one for
            all, rows are sampled independently.
    """
    uniform = random_numbers(seed, batch_size, max_decode_length(max_length))

    def choose(log_probabilities: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
        return sample_token(log_probabilities, uniform[:, t], temperature, top_k, top_p)

    return _decode_loop(choose, step, state, batch_size, start, end, max_length)


def _decode_loop(choose, step, state, batch_size, start, end, max_length):
    longest = max_decode_length(max_length)

    def body(t, last, running, tokens, log_probability, state):
        logits, new, _ = step(last[:, None], state)
        log_probabilities = tf.nn.log_softmax(tf.cast(logits[:, 0], tf.float32))
        token = choose(log_probabilities + forbid(0, vocabulary_size=logits.shape[-1]), t)
        token = tf.where(t >= max_length - 1, end, token)
        gained = tf.gather(log_probabilities, token, axis=1, batch_dims=1)
        log_probability += tf.where(running, gained, 0.0)
        running &= token != end
        tokens = tokens.write(t, tf.where(running, token, 0))
        return t + 1, token, running, tokens, log_probability, keep_shapes(new, state)

    first = (
        tf.constant(0),
        tf.broadcast_to(start, [batch_size]),
        tf.ones([batch_size], tf.bool),
        tf.TensorArray(tf.int32, longest).unstack(tf.zeros([longest, batch_size], tf.int32)),
        tf.zeros([batch_size]),
        tf.nest.map_structure(lambda s: s[:, None], state),
    )
    _, _, _, tokens, log_probability, _ = tf.while_loop(
        lambda t, last, running, *_: tf.reduce_any(running), body, first, parallel_iterations=1
    )
    tokens, log_probability = tf.transpose(tokens.stack())[:, None], log_probability[:, None]
    return Sequences(tokens, lengths_of(tokens), log_probability, log_probability)
