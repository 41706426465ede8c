"""Beam search as a loop of plain graph operations."""

from typing import Any

import tensorflow as tf

from apps.common.decoding.sequences import NEG_INF, Sequences, Step, keep_shapes, length_normalised, lengths_of, max_decode_length


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
    or when no other can win any more. The result for a row doesn't depend on the other rows.

    Args:
        beam_size: hypotheses kept; 1 is greedy search.
        n_best: sequences returned.
        length_penalty: 0: the log-probability decides, which favours short sequences; 1: nearly its mean.
        coverage_penalty: above 0, favour what attends to every position of the source; needs a decoder with attention.
        source_mask: booleans (batch, positions), for the coverage; True = keep.
        no_repeat_ngram_size: never repeat so many tokens in a row; 0: allow it.

    Raises:
        ValueError: `beam_size` or `n_best` below 1, or a penalty below 0.
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
    longest = max_decode_length(max_length)
    places = tf.range(longest)

    def coverage_score(coverage):
        logs = tf.math.log(tf.clip_by_value(coverage, 1e-6, 1.0))
        return coverage_penalty * tf.reduce_sum(logs if source_mask is None else tf.where(source_mask[:, None], logs, 0.0), -1)

    def body(t, beam, finished, state):
        logits, state_after, attention = step(beam["last"], state)
        logits = tf.cast(logits, tf.float32)  # (batch, beam, vocabulary)
        largest = tf.reduce_max(logits, axis=-1, keepdims=True)
        total = beam["logp"] - tf.squeeze(largest, -1) - tf.math.log(tf.reduce_sum(tf.exp(logits - largest), axis=-1))
        if no_repeat_ngram_size:
            logits = _mask_repeated_ngrams(logits, beam["tokens"], t, no_repeat_ngram_size)
        parent, token, logp = _candidates(logits, total, t >= max_length - 1, end)
        tokens = _gather(beam["tokens"], parent)
        coverage = _gather(beam["coverage"] + tf.cast(attention, tf.float32) if coverage_penalty else beam["coverage"], parent)

        ends = token == end
        counts = ends & (tf.range(2 * beam_size) < beam_size) & (logp > NEG_INF / 2) & ~is_done(finished)[:, None]
        score = length_normalised(logp, t + 1, length_penalty) + coverage_score(coverage)
        new = {"tokens": tokens, "scores": tf.where(counts, score, NEG_INF), "logp": logp}
        both = {name: tf.concat([finished[name], new[name]], axis=1) for name in new}
        best = tf.math.top_k(both["scores"], n_best).indices
        finished_after = {name: _gather(value, best) for name, value in both.items()}
        finished_after["count"] = finished["count"] + tf.reduce_sum(tf.cast(counts, tf.int32), axis=1)

        logp, chosen = tf.math.top_k(tf.where(ends, NEG_INF, logp), beam_size)
        parent, token, tokens, coverage = (_gather(x, chosen) for x in (parent, token, tokens, coverage))
        tokens = tf.where(places == t, token[:, :, None], tokens)
        after = {"last": token, "tokens": tokens, "logp": logp, "coverage": coverage}
        state_after = tf.nest.map_structure(lambda s: _gather(s, parent), state_after)
        return t + 1, keep_shapes(after, beam), keep_shapes(finished_after, finished), keep_shapes(state_after, state)

    def is_done(finished):
        return finished["count"] >= beam_size

    def is_running(t, beam, finished, state):
        bound = length_normalised(tf.reduce_max(beam["logp"], axis=1), max_length, length_penalty)  # log p can only fall
        can_win = bound > tf.reduce_min(finished["scores"], axis=1)
        return (t < longest) & tf.reduce_any(can_win & ~is_done(finished))

    positions = tf.shape(source_mask)[1] if source_mask is not None else 0
    beam = {
        "last": tf.fill([batch_size, beam_size], start),
        "tokens": tf.zeros([batch_size, beam_size, longest], tf.int32),
        "logp": tf.tile(tf.constant([[0.0] + [NEG_INF] * (beam_size - 1)]), [batch_size, 1]),
        "coverage": tf.zeros([batch_size, beam_size, positions]),
    }
    finished = {
        "tokens": tf.zeros([batch_size, n_best, longest], tf.int32),
        "scores": tf.fill([batch_size, n_best], NEG_INF),
        "logp": tf.fill([batch_size, n_best], NEG_INF),
        "count": tf.zeros([batch_size], tf.int32),
    }
    state = tf.nest.map_structure(lambda s: tf.repeat(s[:, None], beam_size, axis=1), state)
    _, _, finished, _ = tf.while_loop(is_running, body, (tf.constant(0), beam, finished, state), parallel_iterations=1)
    return Sequences(finished["tokens"], lengths_of(finished["tokens"]), finished["scores"], finished["logp"])


def _gather(x, index):
    """x[b, index[b]] for each row b of the batch."""
    return tf.gather(x, index, axis=1, batch_dims=1)


def _candidates(logits, total, is_last, end):
    """The best continuations of all hypotheses, twice as many as these, as at most half of them end: parents, tokens and
    log-probabilities (batch, 2 beam). At the last place only EOS may follow."""
    beam_size = logits.shape[1]
    few = min(2 * beam_size + 1, logits.shape[2])  # one more, as padding may be among them
    value, token = _top(logits, few)  # (batch, beam, few)
    is_last = tf.reshape(is_last, [-1, 1, 1])
    only_end = tf.where(tf.range(few) == 0, logits[:, :, end : end + 1], NEG_INF)
    value = tf.where(is_last, only_end, tf.where(token == 0, NEG_INF, value)) + total[:, :, None]
    token = tf.where(is_last, end, token)
    logp, index = tf.math.top_k(tf.reshape(value, [-1, beam_size * few]), 2 * beam_size)
    return index // few, _gather(tf.reshape(token, [-1, beam_size * few]), index), logp


def _top(x, k, chunk=32):
    """`tf.math.top_k`, over long rows faster: the k largest lie in the k chunks with the largest maxima."""
    size = x.shape[-1]
    if size // chunk < max(8, 2 * k):
        return tf.math.top_k(x, k)
    whole = size // chunk * chunk
    rows = tf.concat([tf.shape(x)[:-1], [whole // chunk, chunk]], axis=0)
    chunks = tf.reshape(x[..., :whole], rows)
    _, best = tf.math.top_k(tf.reduce_max(chunks, axis=-1), k)
    values = tf.gather(chunks, best, axis=-2, batch_dims=x.shape.rank - 1)  # (…, k, chunk)
    places = best[..., None] * chunk + tf.range(chunk)
    flat = tf.concat([tf.shape(x)[:-1], [-1]], axis=0)
    values = tf.concat([tf.reshape(values, flat), x[..., whole:]], axis=-1)
    rest = tf.broadcast_to(tf.range(whole, size), tf.concat([tf.shape(x)[:-1], [size - whole]], axis=0))
    places = tf.concat([tf.reshape(places, flat), rest], axis=-1)
    value, index = tf.math.top_k(values, k)
    return value, tf.gather(places, index, axis=-1, batch_dims=x.shape.rank - 1)


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
