"""Beam search as a loop of plain graph operations."""

from typing import Any

import tensorflow as tf

from apps.common.sequences import NEVER, Sequences, Step, as_sequences, keep_shapes, room


def beam_search(
    step: Step,
    state: Any,
    *,
    batch_size: Any,
    start: int,
    end: int,
    max_length: Any,
    width: int,
    best: int = 1,
    length_penalty: float = 0.0,
    coverage_penalty: float = 0.0,
    source_mask: tf.Tensor | None = None,
    no_repeat_ngram_size: int = 0,
) -> Sequences:
    """Keep the `width` best beginnings; rank what is finished by (Wu et al. 2016, https://arxiv.org/abs/1609.08144, eq. 14)

        score    = log p / ((5 + length) / 6)^length_penalty + coverage
        coverage = coverage_penalty * sum_j log(min(sum_i attention_ij, 1))

    A sequence that ends among the `width` best continuations is finished. One place of the beam is always the greedy
    beginning, so no result scores worse than greedy search's. The search stops when `width` sequences and the greedy one
    are finished, or no beginning can win any more.

    Args:
        width: beginnings kept; 1 is greedy search.
        best: sequences returned.
        length_penalty: 0: the log-probability decides, which favours short sequences; 1: nearly its mean.
        coverage_penalty: above 0, favour what attends to every position of the source; needs a decoder with attention.
        source_mask: booleans (batch, positions), for the coverage; True = keep.
        no_repeat_ngram_size: never repeat so many tokens in a row; 0: allow it.

    Raises:
        ValueError: `width` or `best` below 1, or a penalty below 0.
    """
    for name, value, least in (
        ("width", width, 1),
        ("best", best, 1),
        ("length_penalty", length_penalty, 0),
        ("coverage_penalty", coverage_penalty, 0),
        ("no_repeat_ngram_size", no_repeat_ngram_size, 0),
    ):
        if value < least:
            raise ValueError(f"beam_search: {name} is {value}; expected {least} or more. Pass a larger one.")
    longest = room(max_length)
    places = tf.range(longest)

    def penalty(length):
        return ((5.0 + tf.cast(length, tf.float32)) / 6.0) ** length_penalty

    def coverage_score(coverage):
        logs = tf.math.log(tf.clip_by_value(coverage, 1e-6, 1.0))
        return coverage_penalty * tf.reduce_sum(logs if source_mask is None else tf.where(source_mask[:, None], logs, 0.0), -1)

    def body(t, beam, found, state):
        logits, state_after, attention = step(beam["last"], state)
        logits = tf.cast(logits, tf.float32)  # (batch, width, vocabulary)
        largest = tf.reduce_max(logits, axis=-1, keepdims=True)
        total = beam["logp"] - tf.squeeze(largest, -1) - tf.math.log(tf.reduce_sum(tf.exp(logits - largest), axis=-1))
        if no_repeat_ngram_size:
            logits = _without_repeats(logits, beam["tokens"], t, no_repeat_ngram_size)
        parent, token, value, greedy = _candidates(logits, total, beam["greedy"], t >= max_length - 1, end)
        ends = token == end

        tokens = tf.gather(beam["tokens"], parent, axis=1, batch_dims=1)
        coverage = beam["coverage"]
        if coverage_penalty:
            coverage += tf.cast(attention, tf.float32)
        score = value / penalty(t + 1) + tf.gather(coverage_score(coverage), parent, axis=1, batch_dims=1)
        rank = tf.range(tf.shape(value)[1])
        counts = ends & (value > NEVER / 2) & ((rank < width) | (rank == greedy[:, None])) & ~is_done(beam, found)[:, None]
        new = {"tokens": tokens, "scores": tf.where(counts, score, NEVER), "logp": value}
        found_after = {
            **_best_of({name: found[name] for name in new}, new, best),
            "count": found["count"] + tf.reduce_sum(tf.cast(counts, tf.int32), axis=1),
        }

        chosen, greedy = _continue(tf.where(ends, NEVER, value), greedy, ends, width)
        parent, token, value = (tf.gather(x, chosen, axis=1, batch_dims=1) for x in (parent, token, value))
        tokens = tf.gather(tokens, chosen, axis=1, batch_dims=1)
        after = {
            "last": token,
            "tokens": tf.where(places == t, token[:, :, None], tokens),
            "logp": tf.where(token == end, NEVER, value),
            "greedy": greedy,
            "coverage": tf.gather(coverage, parent, axis=1, batch_dims=1),
        }
        state_after = tf.nest.map_structure(lambda s: tf.gather(s, parent, axis=1, batch_dims=1), state_after)
        return t + 1, keep_shapes(after, beam), keep_shapes(found_after, found), keep_shapes(state_after, state)

    def is_done(beam, found):
        """As many have ended as the beam is wide, the greedy one among them."""
        return (found["count"] >= width) & (beam["greedy"] < 0)

    def goes_on(t, beam, found, state):
        bound = tf.reduce_max(beam["logp"], axis=1) / penalty(max_length)  # probability can only fall
        can_win = bound > tf.reduce_min(found["scores"], axis=1)
        return (t < longest) & tf.reduce_any(can_win & ~is_done(beam, found))

    positions = tf.shape(source_mask)[1] if source_mask is not None else 0
    beam = {
        "last": tf.fill([batch_size, width], start),
        "tokens": tf.zeros([batch_size, width, longest], tf.int32),
        "logp": tf.tile(tf.constant([[0.0] + [NEVER] * (width - 1)]), [batch_size, 1]),
        "greedy": tf.zeros([batch_size], tf.int32),  # its place in the beam, or -1 when it has ended
        "coverage": tf.zeros([batch_size, width, positions]),
    }
    found = {
        "tokens": tf.zeros([batch_size, best, longest], tf.int32),
        "scores": tf.fill([batch_size, best], NEVER),
        "logp": tf.fill([batch_size, best], NEVER),
        "count": tf.zeros([batch_size], tf.int32),  # how many have ended
    }
    state = tf.nest.map_structure(lambda s: tf.repeat(s[:, None], width, axis=1), state)
    _, _, found, _ = tf.while_loop(goes_on, body, (tf.constant(0), beam, found, state), parallel_iterations=1)
    return as_sequences(found["tokens"], found["scores"], found["logp"])


def _candidates(logits, total, greedy, last, end):
    """The best continuations of all beginnings, and in the last column the greedy continuation of the greedy beginning.

    Twice the width is enough: at most half of them end. Returns parents, tokens and values (batch, 2 width + 1), and in which
    column the greedy one stands (batch,), -1 if there is none any more. Where it is the `last` place only END may follow.
    """
    width = logits.shape[1]
    few = min(2 * width + 1, logits.shape[2])  # one more, as padding may be among them
    value, token = _top(logits, few)  # (batch, width, few)
    value = tf.where(token == 0, NEVER, value)
    last = tf.reshape(last, [-1, 1, 1])
    only_end = tf.where(tf.range(few) == 0, logits[:, :, end : end + 1], NEVER)
    value = tf.where(last, only_end, value) + total[:, :, None]
    token = tf.where(last, end, token)
    slot = tf.maximum(greedy, 0)
    greedy_values = tf.gather(value, slot, axis=1, batch_dims=1)  # (batch, few)
    greedy_place = tf.argmax(greedy_values, axis=1, output_type=tf.int32)[:, None]
    greedy_value = tf.reduce_max(greedy_values, axis=1, keepdims=True)
    greedy_token = tf.gather(tf.gather(token, slot, axis=1, batch_dims=1), greedy_place, axis=1, batch_dims=1)

    columns = width * few
    value, index = tf.math.top_k(tf.reshape(value, [-1, columns]), min(2 * width, columns))
    same = index == slot[:, None] * few + greedy_place
    known = tf.reduce_any(same, axis=1)
    alone = (greedy >= 0) & ~known
    parent = tf.concat([index // few, slot[:, None]], axis=1)
    token = tf.concat([tf.gather(tf.reshape(token, [-1, columns]), index, axis=1, batch_dims=1), greedy_token], axis=1)
    value = tf.concat([value, tf.where(alone[:, None], greedy_value, NEVER)], axis=1)
    column = tf.where(known, tf.argmax(same, axis=1, output_type=tf.int32), tf.shape(index)[1])
    return parent, token, value, tf.where(greedy >= 0, column, -1)


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


def _continue(value, greedy, ends, width):
    """Choose the beginnings that go on: the best, and in the last place the greedy one if it is not among them."""
    chosen = tf.math.top_k(value, width).indices
    goes_on = (greedy >= 0) & ~tf.gather(ends, tf.maximum(greedy, 0), axis=1, batch_dims=1)
    same = chosen == greedy[:, None]
    missing = goes_on & ~tf.reduce_any(same, axis=1)
    last = tf.range(width) == width - 1
    chosen = tf.where(missing[:, None] & last, greedy[:, None], chosen)
    place = tf.where(missing, width - 1, tf.argmax(same, axis=1, output_type=tf.int32))
    return chosen, tf.where(goes_on, place, -1)


def _best_of(found, new, best):
    both = {name: tf.concat([found[name], new[name]], axis=1) for name in found}
    chosen = tf.math.top_k(both["scores"], best).indices
    return {name: tf.gather(value, chosen, axis=1, batch_dims=1) for name, value in both.items()}


def _without_repeats(logits, tokens, t, n):
    """Forbid each token that would complete a run of `n` tokens that stands already."""
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
    return tf.tensor_scatter_nd_update(logits, forbidden, tf.fill([tf.shape(where)[0]], NEVER))
