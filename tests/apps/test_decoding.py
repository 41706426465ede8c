"""Searches against all sequences of a toy decoder, whose next token depends on everything before it."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from apps.common.decoding import beam_search as beam
from apps.common.decoding.sampling import filter_top_k_top_p, sample_token
from apps.common.decoding.search import beam_search, decode, greedy_search, sample
from apps.common.decoding.sequences import NEG_INF

START, END, VOCABULARY, LONGEST = 1, 2, 5, 4


class Toy:
    """s' = tanh(A[token] + R s), logits = s' W; attention = softmax(s' P)."""

    def __init__(self, seed=0, batch=3, scale=2.0):
        rng = np.random.default_rng(seed)
        self.a, self.r, self.w, self.p = (
            rng.normal(size=s).astype("float32") * scale for s in ((VOCABULARY, 6), (6, 6), (6, VOCABULARY), (6, 3))
        )
        self.initial = rng.normal(size=(batch, 6)).astype("float32")
        self.settings = {"batch_size": batch, "start": START, "end": END, "max_length": LONGEST}

    def step(self, tokens, state):
        state = tf.tanh(tf.gather(self.a, tokens) + state @ self.r)
        return state @ self.w, state, tf.nn.softmax(state @ self.p)

    def log_probability(self, row, tokens):
        """Of one sequence without END, and the sum of its attention, in plain NumPy."""
        state, total, coverage = self.initial[row], 0.0, np.zeros(3)
        for before, token in zip([START, *tokens], [*tokens, END]):
            state = np.tanh(self.a[before] + state @ self.r)
            logits = state @ self.w
            total += logits[token] - np.log(np.exp(logits).sum())
            attention = np.exp(state @ self.p)
            coverage += attention / attention.sum()
        return total, coverage

    def ranking(self, row, alpha=0.0, beta=0.0, allowed=lambda tokens: True):
        """All sequences by falling score."""
        scored = []
        for length in range(LONGEST):
            for tokens in itertools.product([1, 3, 4], repeat=length):
                if allowed(tokens):
                    total, coverage = self.log_probability(row, tokens)
                    score = total / ((6 + length) / 6) ** alpha + beta * np.log(np.clip(coverage, 1e-6, 1)).sum()
                    scored.append((score, total, list(tokens)))
        return sorted(scored, key=lambda item: -item[0])


def words(found, row, n=0):
    return found.tokens[row, n, : int(found.lengths[row, n])].numpy().tolist()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.0), (1.0, 0.0), (0.6, 0.3)])
def test_a_wide_beam_finds_what_trying_all_sequences_finds(seed, alpha, beta):
    toy = Toy(seed)
    mask = tf.ones([3, 3], tf.bool)
    found = beam_search(
        toy.step,
        toy.initial,
        beam_size=60,
        n_best=5,
        length_penalty=alpha,
        coverage_penalty=beta,
        source_mask=mask,
        **toy.settings,
    )
    for row in range(3):
        for n, (score, total, tokens) in enumerate(toy.ranking(row, alpha, beta)[:5]):
            assert words(found, row, n) == tokens
            np.testing.assert_allclose(found.scores[row, n], score, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(found.log_probabilities[row, n], total, rtol=1e-4, atol=1e-5)


def test_beam_1_is_greedy_search():
    for seed in range(8):
        toy = Toy(seed)
        greedy = greedy_search(toy.step, toy.initial, **toy.settings)
        beam = beam_search(toy.step, toy.initial, beam_size=1, **toy.settings)
        np.testing.assert_array_equal(greedy.tokens, beam.tokens)
        np.testing.assert_allclose(greedy.log_probabilities, beam.log_probabilities, rtol=1e-5, atol=1e-5)


def test_greedy_takes_the_most_probable_token_and_scores_are_the_models_own():
    toy = Toy(5)
    found = greedy_search(toy.step, toy.initial, **toy.settings)
    for row in range(3):
        tokens = words(found, row)
        np.testing.assert_allclose(found.log_probabilities[row, 0], toy.log_probability(row, tokens)[0], rtol=1e-5)
        for k in range(len(tokens)):
            state = toy.initial[row]
            for before in [START, *tokens[:k]]:
                state = np.tanh(toy.a[before] + state @ toy.r)
            assert (state @ toy.w)[1:].argmax() + 1 == tokens[k]


def plain_beam_search(toy, row, beam_size, alpha):
    """The same search of one row in plain Python: [(score, tokens)] of the finished hypotheses, best first."""
    beam, finished = [(0.0, [START], toy.initial[row])], []
    for length in range(1, LONGEST + 1):
        candidates = []
        for total, tokens, state in beam:
            state = np.tanh(toy.a[tokens[-1]] + state @ toy.r)
            logp = state @ toy.w - np.log(np.exp(state @ toy.w).sum())
            following = [END] if length == LONGEST else range(1, VOCABULARY)
            candidates += [(total + logp[token], [*tokens, token], state) for token in following]
        candidates.sort(key=lambda candidate: -candidate[0])
        ended = [(total, tokens) for total, tokens, _ in candidates[:beam_size] if tokens[-1] == END]
        finished += [(total / ((5 + length) / 6) ** alpha, tokens[1:-1]) for total, tokens in ended]
        beam = [candidate for candidate in candidates if candidate[1][-1] != END][:beam_size]
        if len(finished) >= beam_size:
            break
    return sorted(finished, key=lambda item: -item[0])


@pytest.mark.parametrize("beam_size", [1, 2, 3])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_narrow_beam_finds_what_a_plain_loop_finds(beam_size, alpha):
    for seed in range(20):
        toy = Toy(seed, batch=8, scale=1.0)
        found = beam_search(toy.step, toy.initial, beam_size=beam_size, n_best=beam_size, length_penalty=alpha, **toy.settings)
        for row in range(8):
            for n, (score, tokens) in enumerate(plain_beam_search(toy, row, beam_size, alpha)[:beam_size]):
                assert words(found, row, n) == tokens, (seed, row, n)
                np.testing.assert_allclose(found.scores[row, n], score, rtol=1e-4, atol=1e-5)


def test_greedy_and_beam_search_score_alike():
    toy = Toy(3)
    settings = {**toy.settings, "length_penalty": 0.8}
    greedy, beam = decode(toy.step, toy.initial, beam_size=1, **settings), decode(toy.step, toy.initial, beam_size=60, **settings)
    for found in (greedy, beam):
        for row in range(3):
            tokens = words(found, row)
            score = toy.log_probability(row, tokens)[0] / ((6 + len(tokens)) / 6) ** 0.8
            np.testing.assert_allclose(found.scores[row, 0], score, rtol=1e-4)
    assert (beam.scores >= greedy.scores - 1e-5).numpy().all()  # so wide a beam keeps all hypotheses


@pytest.mark.parametrize("beam_size", [1, 3])
def test_the_other_rows_of_a_batch_change_nothing(beam_size):
    toy = Toy(4, batch=16, scale=1.0)
    options = {"beam_size": beam_size, "n_best": 2, "length_penalty": 1.0, "no_repeat_ngram_size": 2}
    whole = beam_search(toy.step, toy.initial, **options, **toy.settings)
    for row in range(16):
        alone = beam_search(toy.step, toy.initial[row : row + 1], **options, **{**toy.settings, "batch_size": 1})
        np.testing.assert_array_equal(alone.tokens[0], whole.tokens[row])
        np.testing.assert_allclose(alone.scores[0], whole.scores[row], rtol=1e-5)


def test_blocked_ngrams_never_repeat():
    def allowed(tokens):
        pairs = list(itertools.pairwise(tokens))
        return len(pairs) == len(set(pairs))

    global LONGEST
    before, LONGEST = LONGEST, 5
    try:
        repeats = 0
        for seed in range(4):
            toy = Toy(seed)
            found = beam_search(toy.step, toy.initial, beam_size=250, no_repeat_ngram_size=2, length_penalty=3.0, **toy.settings)
            for row in range(3):
                assert words(found, row) == toy.ranking(row, 3.0, allowed=allowed)[0][2]
                repeats += not allowed(toy.ranking(row, 3.0)[0][2])
        assert repeats  # else nothing was blocked
    finally:
        LONGEST = before


def test_it_stops_early_when_nothing_can_win():
    toy, calls = Toy(0), []

    def step(tokens, state):
        logits, state, attention = toy.step(tokens, state)
        tf.py_function(lambda: calls.append(1), [], [])
        return logits + 20 * tf.one_hot(END, VOCABULARY), state, attention

    settings = {**toy.settings, "max_length": 50}
    found = tf.function(lambda: beam_search(step, toy.initial, beam_size=3, **settings))()
    assert len(calls) < 5 and not found.lengths.numpy().any()


def test_unfinished_places_are_told_by_their_score():
    toy = Toy(0)
    found = beam_search(toy.step, toy.initial, beam_size=2, n_best=3, **{**toy.settings, "max_length": 1})
    there = found.scores.numpy() > NEG_INF / 2
    assert there.tolist() == [[True, False, False]] * 3  # the empty sequence is the only one of one token


@pytest.mark.parametrize("beam_size", [1, 3])
def test_each_row_may_have_its_own_longest_length(beam_size):
    toy = Toy(3, batch=3)
    settings = {**toy.settings, "max_length": tf.constant([1, 3, 6])}
    search = greedy_search if beam_size == 1 else beam_search
    kwargs = {} if beam_size == 1 else {"beam_size": beam_size, "length_penalty": 3.0}
    found = search(toy.step, toy.initial, **kwargs, **settings)
    for row, longest in enumerate([1, 3, 6]):
        alone = Toy(3, batch=3)
        limits = {**alone.settings, "batch_size": 1, "max_length": longest}
        one = search(alone.step, alone.initial[row : row + 1], **kwargs, **limits)
        assert words(one, 0) == words(found, row) and len(words(one, 0)) < longest
        np.testing.assert_allclose(one.scores[0], found.scores[row], rtol=1e-5)


@pytest.mark.parametrize("search", ["greedy", "beam", "sample"])
def test_it_runs_in_an_exported_graph_with_a_free_batch_size(search, tmp_path):
    toy = Toy(2)

    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, 6)), tf.TensorSpec((), tf.int32)])
        def run(self, initial, longest):
            settings = {**toy.settings, "batch_size": tf.shape(initial)[0], "max_length": longest}
            if search == "greedy":
                return greedy_search(toy.step, initial, **settings).tokens
            if search == "sample":
                return sample(toy.step, initial, seed=7, top_k=2, top_p=0.9, **settings).tokens
            return beam_search(toy.step, initial, beam_size=2, no_repeat_ngram_size=2, length_penalty=1.0, **settings).tokens

    tf.saved_model.save(Module(), str(tmp_path))
    run = tf.saved_model.load(str(tmp_path)).run
    whole = run(toy.initial, LONGEST)
    if search != "sample":  # a draw depends on the row
        for row in range(3):
            np.testing.assert_array_equal(run(toy.initial[row : row + 1], LONGEST)[0], whole[row])
    np.testing.assert_array_equal(whole, Module().run(toy.initial, LONGEST))


# -- sampling


def test_samples_have_the_models_distribution():
    toy = Toy(1, batch=1, scale=0.7)
    many = 4000
    settings = {**toy.settings, "batch_size": many, "max_length": 3}
    found = sample(toy.step, np.repeat(toy.initial, many, axis=0), seed=3, **settings)
    sequences = [tuple(words(found, i)) for i in range(many)]
    for tokens in [(), (3,), (4,), (1,)]:
        wanted = np.exp(toy.log_probability(0, tokens)[0])
        # padding is never drawn: at each place its probability goes to the others
        state = toy.initial[0]
        for before in [START, *tokens]:
            state = np.tanh(toy.a[before] + state @ toy.r)
            share = np.exp(state @ toy.w)
            wanted /= 1 - share[0] / share.sum()
        assert abs(sequences.count(tokens) / many - wanted) < 0.03
    np.testing.assert_allclose(found.log_probabilities[0, 0], toy.log_probability(0, sequences[0])[0], rtol=1e-4)


def test_the_seed_decides_and_low_temperature_is_greedy():
    toy = Toy(1, batch=3, scale=0.7)
    first, again, other = (sample(toy.step, toy.initial, seed=s, **toy.settings).tokens.numpy() for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    filtered = sample(toy.step, toy.initial, seed=1, top_p=tf.constant(1.0), **toy.settings)  # of all tokens, by sorting
    np.testing.assert_array_equal(first, filtered.tokens)
    cold = sample(toy.step, toy.initial, seed=1, temperature=0.0, **toy.settings)
    one = sample(toy.step, toy.initial, seed=1, top_k=1, **toy.settings)
    nucleus = sample(toy.step, toy.initial, seed=1, top_p=0.0, **toy.settings)
    greedy = greedy_search(toy.step, toy.initial, **toy.settings)
    for found in (cold, one, nucleus):
        np.testing.assert_array_equal(found.tokens, greedy.tokens)


def test_temperature_0_takes_the_most_probable_token_of_near_ones():
    logits, uniform = tf.constant([[1.0, 1.0001, -5.0]] * 8), tf.linspace(0.02, 0.98, 8)
    in_graph = tf.function(sample_token)
    for temperature in (0.0, -1.0, np.nan, 1e-5, [0.0] * 8):
        assert sample_token(logits, uniform, temperature).numpy().tolist() == [1] * 8
        assert in_graph(logits, uniform, tf.constant(temperature)).numpy().tolist() == [1] * 8
    assert sample_token(logits, uniform, [0.0] * 4 + [1.0] * 4).numpy().tolist() == [1] * 8
    assert set(sample_token(logits, uniform, [0.0] + [1.0] * 7).numpy()[1:]) == {0, 1}


def test_top_k_and_top_p_keep_the_right_tokens():
    logits = tf.math.log([[0.1, 0.4, 0.3, 0.2]])

    def kept(**kwargs):
        return np.flatnonzero(filter_top_k_top_p(logits, **kwargs)[0] > NEG_INF / 2).tolist()

    assert kept() == [0, 1, 2, 3]
    assert kept(top_k=2) == [1, 2]
    assert kept(top_p=0.69) == [1, 2]
    assert kept(top_p=0.71) == [1, 2, 3]
    assert kept(top_k=3, top_p=0.5) == [1, 2]


@pytest.mark.parametrize("size", [50, 5_000, 5_120])
def test_the_top_of_long_rows_is_the_top(size):
    x = tf.random.stateless_normal((3, size), [1, 2])
    value, place = beam._top(x, 9)
    wanted = tf.math.top_k(x, 9)
    np.testing.assert_array_equal(value, wanted.values)
    np.testing.assert_array_equal(place, wanted.indices)
    peak = tf.one_hot([size - 1, 0, size // 2], size) * 9
    np.testing.assert_array_equal(beam._top(peak, 3)[1][:, 0], [size - 1, 0, size // 2])


def test_errors():
    toy = Toy(0)
    with pytest.raises(ValueError, match="beam_search: beam_size is 0; expected 1 or more"):
        beam_search(toy.step, toy.initial, beam_size=0, **toy.settings)
    with pytest.raises(ValueError, match=r"coverage_penalty is 0\.2 without a source_mask"):
        beam_search(toy.step, toy.initial, beam_size=2, coverage_penalty=0.2, **toy.settings)
    with pytest.raises(ValueError, match="length_penalty is -1; expected 0 or more"):
        beam_search(toy.step, toy.initial, beam_size=2, length_penalty=-1, **toy.settings)
