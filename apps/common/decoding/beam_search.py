"""Beam search as a loop of plain graph operations."""

from typing import Any

import tensorflow as tf

from apps.common.decoding.sequences import (
    NEG_INF,
    Sequences,
    Step,
    forbid,
    keep_shapes,
    length_normalised,
    lengths_of,
    max_decode_length,
)


def beam_search(
    step: Step,
    state: Any,
    *,
    batch_size: Any,
    start: int,
    end: int,
    max_length: Any,
    beam_size: int,
    n_best: int = 1,
    length_penalty: float = 0.0,
    coverage_penalty: float = 0.0,
    source_mask: tf.Tensor | None = None,
    no_repeat_ngram_size: int = 0,
) -> Sequences:
    """Keep the `beam_size` most probable hypotheses; rank the finished ones by (Wu et al. 2016,
    https://arxiv.org/abs/1609.08144, eq. 14)

        score    = log p / ((5 + length) / 6)^length_penalty + coverage
        coverage = coverage_penalty * sum_j log(min(sum_i attention_ij, 1))

    A hypothesis that ends among the `beam_size` best continuations is finished. The search stops when `beam_size` are finished,
    or when no other can win any more. Of equal log-probabilities EOS wins. The result for a row doesn't depend on the other rows.

    Args:
        beam_size: hypotheses kept; 1 is greedy search.
        n_best: sequences returned.
        length_penalty: 0: the log-probability decides, which favours short sequences; 1: nearly its mean.
        coverage_penalty: above 0, favour what attends to every position of the source; needs a decoder with attention.
        source_mask: booleans (batch, positions), which the coverage needs; True = keep.
        no_repeat_ngram_size: never repeat so many tokens in a row; 0: allow it.

    Raises:
        ValueError: `beam_size` or `n_best` below 1, or a penalty below 0; coverage without a mask.
    """
    for name, value, least in (
        ("beam_size", beam_size, 1),
        ("n_best", n_best, 1),
        ("length_penalty", length_penalty, 0),
        ("coverage_penalty", coverage_penalty, 0),
        ("no_repeat_ngram_size", no_repeat_ngram_size, 0),
    ):
        if value < least:
            raise ValueError(f"beam_search: {name} is {value}; expected {least} or more. Pass a larger one.")
    if coverage_penalty and source_mask is None:
        raise ValueError(f"beam_search: coverage_penalty is {coverage_penalty} without a source_mask. Pass one: True = keep.")
    longest = max_decode_length(max_length)
    places = tf.range(longest)
    kept = max(n_best, beam_size)  # of the finished: the search stops when `beam_size` are

    def coverage_score(coverage):
        logs = tf.math.log(tf.clip_by_value(coverage, 1e-6, 1.0))
        return coverage_penalty * tf.reduce_sum(tf.where(source_mask[:, None], logs, 0.0), -1)

    def body(t, beam, finished, state):
        logits, state_after, attention = step(beam["last"], state)
        log_probabilities = tf.nn.log_softmax(tf.cast(logits, tf.float32))  # (batch, beam, vocabulary)
        if no_repeat_ngram_size:
            log_probabilities = _mask_repeated_ngrams(log_probabilities, beam["tokens"], t, no_repeat_ngram_size)
        total = tf.expand_dims(beam["logp"], -1) + log_probabilities
        ended = total[:, :, end]  # (batch, beam)
        parent, token, logp = _continuations(total, end)
        logp = tf.where(tf.reshape(t >= max_length - 1, [-1, 1]), NEG_INF, logp)

        # what ends is finished if it is among the `beam_size` best of all
        least = tf.math.top_k(tf.concat([logp, ended], axis=1), beam_size).values[:, -1:]
        counts = (ended >= tf.maximum(least, NEG_INF / 2)) & ~is_done(finished)[:, None]
        score = length_normalised(ended, t + 1, length_penalty)
        if coverage_penalty:
            coverage = beam["coverage"] + tf.cast(attention, tf.float32)
            score += coverage_score(coverage)
        score = tf.where(counts, score, NEG_INF)
        scores, best = tf.math.top_k(tf.concat([finished["scores"], score], axis=1), kept)
        finished_after = {
            "tokens": _gather(tf.concat([finished["tokens"], beam["tokens"]], axis=1), best),
            "scores": scores,
            "logp": _gather(tf.concat([finished["logp"], ended], axis=1), best),
        }

        tokens = tf.where(places == t, tf.expand_dims(token, -1), _gather(beam["tokens"], parent))
        after = {"last": token, "tokens": tokens, "logp": logp}
        if coverage_penalty:
            after["coverage"] = _gather(coverage, parent)
        state_after = tf.nest.map_structure(lambda s: _gather(s, parent), state_after)
        return t + 1, keep_shapes(after, beam), keep_shapes(finished_after, finished), keep_shapes(state_after, state)

    def is_done(finished):
        return finished["scores"][:, beam_size - 1] > NEG_INF / 2

    def is_running(t, beam, finished, state):
        bound = length_normalised(beam["logp"][:, 0], max_length, length_penalty)  # log p can only fall
        can_win = bound > finished["scores"][:, n_best - 1]
        return tf.reduce_any((t < max_length) & can_win & ~is_done(finished))

    beam = {
        "last": tf.fill([batch_size, beam_size], start),
        "tokens": tf.zeros([batch_size, beam_size, longest], tf.int32),
        "logp": tf.tile(tf.constant([[0.0] + [NEG_INF] * (beam_size - 1)]), [batch_size, 1]),
    }
    if coverage_penalty:
        beam["coverage"] = tf.zeros([batch_size, beam_size, tf.shape(source_mask)[1]])
    finished = {
        "tokens": tf.zeros([batch_size, kept, longest], tf.int32),
        "scores": tf.fill([batch_size, kept], NEG_INF),
        "logp": tf.fill([batch_size, kept], NEG_INF),
    }
    state = tf.nest.map_structure(lambda s: tf.repeat(s[:, None], beam_size, axis=1), state)
    _, _, finished, _ = tf.while_loop(is_running, body, (tf.constant(0), beam, finished, state), parallel_iterations=1)
    tokens, scores, logp = (finished[name][:, :n_best] for name in ("tokens", "scores", "logp"))
    return Sequences(tokens, lengths_of(tokens), scores, logp)


def _gather(x, index):
    """x[b, index[b]] for each row b of the batch."""
    return tf.gather(x, index, axis=1, batch_dims=1)


def _continuations(total, end):
    """The best continuations of all hypotheses that don't end, as many as these: parents, tokens and log-probabilities
    (batch, beam)."""
    beam_size, vocabulary_size = total.shape[1:]
    total += forbid(0, end, vocabulary_size=vocabulary_size)
    logp, place = _top(tf.reshape(total, [-1, beam_size * vocabulary_size]), beam_size)
    return place // vocabulary_size, place % vocabulary_size, logp


def _top(x, k, chunk=32):
    """`tf.math.top_k` of rows, over long ones faster: the k largest lie in the k chunks with the largest maxima."""
    count = -(-x.shape[1] // chunk)
    if count < max(8, 2 * k):
        return tf.math.top_k(x, k)
    x = tf.pad(x, [[0, 0], [0, count * chunk - x.shape[1]]], constant_values=x.dtype.min)
    chunks = tf.reshape(x, [-1, count, chunk])
    best = tf.math.top_k(tf.reduce_max(chunks, axis=2), k).indices
    value, place = tf.math.top_k(tf.reshape(_gather(chunks, best), [-1, k * chunk]), k)
    return value, _gather(best, place // chunk) * chunk + place % chunk


def _mask_repeated_ngrams(logits, tokens, t, n):
    """Mask each token that would repeat an n-gram."""
    length = tf.shape(tokens)[2]
    places = tf.range(length)
    match = (places >= n - 1) & (places < t) & (t >= n - 1)  # where a run may end
    match = tf.broadcast_to(match, tf.shape(tokens))
    for back in range(1, n):
        then = tf.roll(tokens, back, axis=2)  # the token `back` places before
        now = tf.gather(tokens, tf.maximum(t - back, 0), axis=2)
        match &= then == now[:, :, None]
    where = tf.cast(tf.where(match), tf.int32)  # (runs, 3)
    forbidden = tf.concat([where[:, :2], tf.gather_nd(tokens, where)[:, None]], axis=1)
    return tf.tensor_scatter_nd_update(logits, forbidden, tf.fill([tf.shape(where)[0]], NEG_INF))
