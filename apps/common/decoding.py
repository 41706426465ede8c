"""Search for the best sequence of a decoder, or draw one: greedy, beam search, sampling.

A decoder is a function of one step for many hypotheses at once,

    step(tokens (batch, width), state) -> (logits (batch, width, vocabulary), state, attention (batch, width, positions))

with `attention` None where there is none. `state` is a nest of tensors (batch, width, …) that begins as (batch, …). All
searches are loops of plain graph operations: they run in a `tf.function` and in an export.

Token 0 is padding and is never chosen. A sequence ends with the token END, and has at most `max_length` tokens with it (a
number, or one for each row); at the last place only END may stand.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

Step = Callable[[tf.Tensor, Any], tuple[tf.Tensor, Any, tf.Tensor | None]]

NEVER = -1e9  # the log-probability of what must not be


class Sequences(NamedTuple):
    """What a search found, best first.

    tokens: (batch, n, max_length) int32; END and what follows are 0.
    lengths: (batch, n) int32, tokens before END.
    scores: (batch, n): what the search ranks by; below `NEVER / 2` where there are fewer than n sequences.
    log_probabilities: (batch, n): sum of the log-probabilities of all tokens, END among them.
    """

    tokens: tf.Tensor
    lengths: tf.Tensor
    scores: tf.Tensor
    log_probabilities: tf.Tensor


def find(step: Step, state: Any, *, width: int, best: int = 1, block_ngrams: int = 0, **settings: Any) -> Sequences:
    """`beam_search`, or `greedy_search` where that is the same; `settings` are theirs."""
    if width == 1 and best == 1 and not block_ngrams:
        names = ("batch_size", "start", "end", "max_length")
        return greedy_search(step, state, **{name: settings[name] for name in names})
    return beam_search(step, state, width=width, best=best, block_ngrams=block_ngrams, **settings)


def texts(vocabulary: Any, found: Sequences) -> tf.Tensor:
    """What a search found as strings (batch, n)."""
    batch, n = tf.unstack(tf.shape(found.lengths))
    ragged = tf.RaggedTensor.from_tensor(tf.reshape(found.tokens, [batch * n, -1]), lengths=tf.reshape(found.lengths, [-1]))
    return tf.reshape(vocabulary.join(ragged), [batch, n])


def greedy_search(step: Step, state: Any, *, batch_size: Any, start: int, end: int, max_length: Any) -> Sequences:
    """The most probable token at each step."""

    def most_probable(log_probabilities: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
        return tf.argmax(log_probabilities, axis=-1, output_type=tf.int32)

    return _one_at_a_time(most_probable, step, state, batch_size, start, end, max_length)


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
    """Draw each token from the decoder's distribution.

    Args:
        start: the token before the first one drawn; one for all, or one for each row.
        temperature: divides the logits; 1 is the model's own distribution. From 0 downwards the most probable token wins; above
            1,000 counts as 1,000. Like `top_p` one for all, or (batch,).
        top_k: draw from the k most probable tokens only; 0: from all.
        top_p: draw from the smallest set of most probable tokens that holds this share of the probability (Holtzman et
            al. 2020, https://arxiv.org/abs/1904.09751).
        seed: the same seed draws the same tokens. With one for each row, a row draws the same in whatever batch it is; with one
            for all, every row draws its own.
    """
    uniform = random_numbers(seed, batch_size, _longest(max_length))

    def choose(log_probabilities: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
        return draw(log_probabilities, uniform[:, t], temperature, top_k, top_p)

    return _one_at_a_time(choose, step, state, batch_size, start, end, max_length)


def draw(logits: tf.Tensor, uniform: tf.Tensor, temperature: Any = 1.0, top_k: int = 0, top_p: Any = 1.0) -> tf.Tensor:
    """One token for each row of logits (batch, vocabulary); `uniform` (batch,) are random numbers from 0 to 1."""
    temperature, top_p = (tf.reshape(tf.cast(value, tf.float32), [-1, 1]) for value in (temperature, top_p))
    temperature = tf.where(temperature > 1e-4, tf.minimum(temperature, 1e3), 1e-4)  # what is no number counts as 0
    logits = restrict(logits / temperature, top_k, top_p)
    below = tf.cumsum(tf.nn.softmax(logits), axis=-1)  # inverse of the cumulative distribution
    return tf.argmax(below > uniform[:, None] * below[:, -1:], axis=-1, output_type=tf.int32)


def random_numbers(seed: Any, batch_size: Any, count: Any) -> tf.Tensor:
    """Random numbers from 0 to 1 (batch, count): of one seed for each row, or of one for all."""
    seeds = tf.reshape(tf.cast(seed, tf.int32), [-1])
    row = tf.where(tf.size(seeds) == 1, tf.range(batch_size), 0)
    pairs = tf.stack([tf.broadcast_to(seeds, [batch_size]), tf.broadcast_to(row, [batch_size])], axis=1)
    pairs = tf.pad(pairs, [[0, 1], [0, 0]])  # an empty batch has one row here, as the loop below needs one
    return tf.map_fn(lambda pair: tf.random.stateless_uniform([count], pair), pairs, fn_output_signature=tf.float32)[:-1]


def restrict(logits: tf.Tensor, top_k: int = 0, top_p: Any = 1.0) -> tf.Tensor:
    """Give `NEVER` to all but the `top_k` largest logits and to all outside the nucleus of probability `top_p`.

    >>> (restrict(tf.math.log([[0.5, 0.3, 0.2]]), top_p=0.6) > NEVER).numpy().tolist()
    [[True, True, False]]
    """
    if top_k:
        least = tf.math.top_k(logits, tf.minimum(top_k, tf.shape(logits)[-1])).values[..., -1:]
        logits = tf.where(logits < least, NEVER, logits)
    ranked = tf.sort(logits, axis=-1, direction="DESCENDING")
    before = tf.cumsum(tf.nn.softmax(ranked), axis=-1, exclusive=True)  # the share of what is more probable
    least = tf.reduce_min(tf.where(before < tf.where(top_p > 1e-6, top_p, 1e-6), ranked, tf.float32.max), axis=-1, keepdims=True)
    return tf.where(logits < least, NEVER, logits)


def _one_at_a_time(choose, step, state, batch_size, start, end, max_length):
    longest = _longest(max_length)
    places = tf.range(longest)

    def body(t, last, done, tokens, log_probability, state):
        logits, new, _ = step(last[:, None], state)
        log_probabilities = tf.nn.log_softmax(tf.cast(logits, tf.float32))
        log_probabilities = _allowed(log_probabilities, t, max_length, end)[:, 0]
        token = tf.where(t >= max_length - 1, end, choose(log_probabilities, t))
        gained = tf.gather(log_probabilities, token, axis=1, batch_dims=1)
        log_probability += tf.where(done, 0.0, gained)
        done |= token == end
        tokens = tf.where((places == t) & ~done[:, None], token[:, None], tokens)
        return t + 1, token, done, tokens, log_probability, _keep_shapes(new, state)

    first = (
        tf.constant(0),
        tf.broadcast_to(start, [batch_size]),
        tf.zeros([batch_size], tf.bool),
        tf.zeros([batch_size, longest], tf.int32),
        tf.zeros([batch_size]),
        tf.nest.map_structure(lambda s: s[:, None], state),
    )
    _, _, _, tokens, log_probability, _ = tf.while_loop(
        lambda t, last, done, *_: (t < longest) & ~tf.reduce_all(done), body, first, parallel_iterations=1
    )
    return _sequences(tokens[:, None], log_probability[:, None], log_probability[:, None])


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
    block_ngrams: int = 0,
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
        block_ngrams: never repeat so many tokens in a row; 0: allow it.

    Raises:
        ValueError: `width` or `best` below 1, or a penalty below 0.
    """
    for name, value, least in (
        ("width", width, 1),
        ("best", best, 1),
        ("length_penalty", length_penalty, 0),
        ("coverage_penalty", coverage_penalty, 0),
        ("block_ngrams", block_ngrams, 0),
    ):
        if value < least:
            raise ValueError(f"beam_search: {name} is {value}; expected {least} or more. Pass a larger one.")
    longest = _longest(max_length)
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
        if block_ngrams:
            logits = _without_repeats(logits, beam["tokens"], t, block_ngrams)
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
        return t + 1, _keep_shapes(after, beam), _keep_shapes(found_after, found), _keep_shapes(state_after, state)

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
    return _sequences(found["tokens"], found["scores"], found["logp"])


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


def _allowed(log_probabilities, t, max_length, end):
    """(batch, width, vocabulary): no padding, and at the last place only END."""
    token = tf.range(tf.shape(log_probabilities)[-1])
    last = tf.reshape(t >= max_length - 1, [-1, 1, 1])
    return tf.where((token == end) | (~last & (token != 0)), log_probabilities, NEVER)


def _longest(max_length):
    return max_length if isinstance(max_length, int) else tf.maximum(1, tf.reduce_max(max_length))  # a batch may be empty


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


def _keep_shapes(after, before):
    """A loop wants what is carried on in the shape it came in; say so where it can't be inferred."""
    for new, old in zip(tf.nest.flatten(after), tf.nest.flatten(before)):
        new.set_shape(old.shape)
    return after


def _sequences(tokens, scores, log_probabilities):
    # END is never written, and no other token is 0
    return Sequences(tokens, tf.reduce_sum(tf.cast(tokens != 0, tf.int32), axis=2), scores, log_probabilities)
