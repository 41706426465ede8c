"""Training for the metric: rewards as the public tools compute them, the gradient of the risk, and what `fit` learns from it."""

import random

import keras
import numpy as np
import pytest
import sacrebleu
import tensorflow as tf
from pycocoevalcap.cider.cider import Cider

from apps.common.training import sequence
from apps.common.training.losses import TokenLoss
from apps.common.training.phases import Phase, phases_to_train
from apps.common.training.rewards import BleuReward, CiderReward
from apps.common.training.sequence import SequenceTrainer, risk_weights, sequence_log_probabilities
from apps.translation.model import Translator
from data_pipelines.batching import shift_right
from data_pipelines.sources import DataError

WORDS = "a the dog cat runs sleeps home red , . two".split()


def texts(count, seed, shortest=0):
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(shortest, 12))) for _ in range(count)]


def test_the_reward_is_cider_as_pycocoevalcap_computes_it():
    references = [texts(draw, seed, 1) for seed, draw in enumerate([5, 1, 3, 2, 5, 4])]
    references[3].append(references[0][0])
    candidates = [[*texts(3, 50 + i), references[i][0]] for i in range(6)]
    reward, plain = CiderReward(references), [[" ".join(t) for t in group] for group in CiderReward(references).words]
    for k in range(4):
        found = CiderReward([[group[k]] for group in candidates]).words
        wanted = Cider().compute_score(dict(enumerate(plain)), {i: [" ".join(g[0])] for i, g in enumerate(found)})[1]
        np.testing.assert_allclose(reward(np.arange(6), candidates)[:, k], wanted, atol=1e-6)
    some = reward(np.array([4, 1]), [candidates[4], candidates[1]])
    np.testing.assert_array_equal(some, reward(np.arange(6), candidates)[[4, 1]])


@pytest.mark.parametrize("tokenize", ["13a", "zh"])
def test_the_reward_is_bleu_as_sacrebleu_computes_it(tokenize):
    references = [texts(count, seed, 1) for seed, count in enumerate([3, 1, 2])]
    candidates = [[*texts(4, 70 + i), "", "dog", references[i][0], "something else,entirely."] for i in range(3)]
    bleu = sacrebleu.BLEU(tokenize=tokenize, effective_order=True)
    wanted = [[bleu.sentence_score(text, refs).score / 100 for text in row] for row, refs in zip(candidates, references)]
    reward = BleuReward(references, lambda groups: [[bleu.tokenizer(text.rstrip()).split() for text in of] for of in groups])
    np.testing.assert_allclose(reward(np.arange(3), candidates), wanted, atol=1e-6)


def test_a_caption_right_in_every_word_has_the_whole_reward():
    reward = BleuReward([["A dog runs home now ."], ["It 's 2 cats"]])
    np.testing.assert_allclose(reward(np.arange(2), [["a dog runs home now."], ["it's 2 cats"]]), 1, atol=1e-6)
    with pytest.raises(DataError, match=r"1 training picture\(s\): CIDEr compares"):
        CiderReward([["one", "two"]])


@pytest.mark.parametrize("sharpness", [0.5, 1e-3])
def test_the_weights_give_the_gradient_of_the_risk(sharpness):
    rng = np.random.default_rng(0)
    log_probabilities, rewards = tf.Variable(rng.normal(-5, 1, (3, 4))), tf.constant(rng.random((3, 4)))
    with tf.GradientTape() as tape:
        risk = -tf.reduce_sum(tf.nn.softmax(sharpness * log_probabilities) * rewards) / sharpness
    weights = risk_weights(rewards, tf.identity(log_probabilities), sharpness)
    np.testing.assert_allclose(-weights, tape.gradient(risk, log_probabilities), rtol=1e-9)
    even = risk_weights(rewards, tf.identity(log_probabilities), 0.0)  # the baseline of the other samples
    others = (tf.reduce_sum(rewards, 1, keepdims=True) - rewards) / 3
    np.testing.assert_allclose(even, (rewards - others) * 3 / 4 / 4, rtol=1e-9)


def test_log_probabilities_are_of_whole_sequences():
    logits = np.random.default_rng(1).normal(size=(2, 3, 5)).astype("float32")
    p = np.log(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))
    found = sequence_log_probabilities(tf.constant([[4, 3, 0], [2, 1, 3]]), logits)
    np.testing.assert_allclose(found, [p[0, 0, 4] + p[0, 1, 3], p[1, 0, 2] + p[1, 1, 1] + p[1, 2, 3]], rtol=1e-5)


class Unigrams(keras.Model):
    """The same distribution at every place; two tokens, then EOS."""

    def __init__(self):
        super().__init__()
        self.scores = self.add_weight(shape=(8,), initializer="zeros", name="scores")

    def call(self, inputs, training=False):
        return tf.broadcast_to(self.scores, [*tf.unstack(tf.shape(inputs["ids"])), 8])

    def prepare_decoder(self, x):
        return None, tf.zeros([tf.shape(x)[0], 1])

    def step(self, tokens, state, memory):
        allowed = tf.where(tf.range(8) < 4, -1e9, self.scores)
        return tf.broadcast_to(allowed, [*tf.unstack(tf.shape(tokens)), 8]), state, None

    def encode(self, x, training):
        return x

    def sample_logits(self, encoded, decoder_inputs, samples):
        return self({"ids": decoder_inputs})


def trainer(likelihood, reward=None, temperature=1.0, samples=4, global_seed=0):
    keras.utils.set_random_seed(global_seed)

    def sixes(examples, samples):
        assert examples.tolist() == [0, 1, 2]
        return np.array([[text.count("6") for text in row] for row in samples], np.float32)

    def detokenize(found):
        return tf.strings.reduce_join(tf.strings.as_string(found.tokens[:, :, :2]), axis=2)

    made = SequenceTrainer(
        Unigrams(),
        "ids",
        detokenize,
        reward or sixes,
        seed=0,
        max_length=3,
        samples=samples,
        temperature=temperature,
        sharpness=0.0,
        likelihood=likelihood,
    )
    made.compile(keras.optimizers.Adam(0.1), TokenLoss(), jit_compile=False)
    return made


def batch(rows=3):
    inputs = {"ids": tf.fill([rows, 3], 2), "example": tf.range(rows)}
    return tf.data.Dataset.from_tensors((inputs, tf.tile([[5, 5, 3]], [rows, 1]))).repeat()


def test_fit_learns_what_is_rewarded_and_references_pull_it_back():
    rewarded = trainer(0.0)
    logs = rewarded.fit(batch(), steps_per_epoch=30, epochs=2, shuffle=False, verbose=0).history
    assert logs["reward"][1] > 1.6 > 0.9 > logs["reward"][0] * 0.5
    assert 0.25 <= logs["distinct"][1] < logs["distinct"][0] <= 1
    assert int(tf.argmax(rewarded.model.scores)) == 6
    both = trainer(1.0)  # cross entropy alone
    both.fit(batch(), steps_per_epoch=30, shuffle=False, verbose=0)
    assert int(tf.argmax(both.model.scores)) == 5


def test_equal_rewards_change_nothing():
    made = trainer(0.0, lambda examples, samples: np.full((3, 4), 7.0))
    made.fit(batch(), steps_per_epoch=2, shuffle=False, verbose=0)
    np.testing.assert_allclose(made.model.scores, 0, atol=1e-6)


def test_the_risk_of_several_workers_is_that_of_one():
    """Each weighs its own by its share of the references' tokens, as `sharding.shard` does; the mean over them counts."""
    rng, made = np.random.default_rng(2), trainer(0.0, samples=2)
    log_probabilities, rewards = (tf.constant(rng.random((4, 2)), tf.float32) for _ in range(2))
    tokens = np.array([8, 7, 2, 1])
    whole = made.risk(log_probabilities, rewards, tokens.sum())
    shares = [(0, 1), (1, 4)]
    parts = [
        len(shares) * tokens[a:b].sum() / tokens.sum() * made.risk(log_probabilities[a:b], rewards[a:b], tokens[a:b].sum())
        for a, b in shares
    ]
    np.testing.assert_allclose(np.mean(parts), whole, rtol=1e-5)


def test_samples_are_others_at_each_step_and_the_same_with_the_same_seed():
    inputs, _ = next(iter(batch()))
    one, other = trainer(0.0), trainer(0.0, global_seed=9)  # which Keras takes where there is none
    (first, rewards), (again, _) = one.sample(inputs, 9), other.sample(inputs, 9)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, one.sample(inputs, 9)[0])
    assert first.shape == (12, 3) and not first.numpy()[:, -1].any()  # EOS is not sampled there
    assert one.sample(inputs, tf.constant(2))[0].shape == (12, 2)
    np.testing.assert_array_equal(tf.reshape(rewards, [-1]), (first.numpy() == 6).sum(axis=1))


class Placed(Unigrams):
    """Another distribution at each place; EOS may come at any."""

    def __init__(self):
        keras.Model.__init__(self)
        self.scores = self.add_weight(shape=(3, 6), initializer="zeros", name="scores")

    def prepare_decoder(self, x):
        return None, tf.zeros([tf.shape(x)[0], 1], tf.int32)

    def step(self, tokens, state, memory):
        return tf.where(tf.range(6) < 3, -1e9, tf.gather(self.scores, state[..., 0])), state + 1, None

    def sample_logits(self, encoded, decoder_inputs, samples):
        allowed = tf.where(tf.range(6) < 3, -1e9, self.scores[: tf.shape(decoder_inputs)[1]])
        return tf.tile(allowed[None], [tf.shape(decoder_inputs)[0], 1, 1])


def test_the_gradient_is_that_of_the_expected_reward():
    """Against the sum over all sequences of at most two tokens and EOS."""
    scores = np.array([[0.4, 0.1, -0.3], [0.2, -0.5, 0.3], [0.0, 0.7, -0.2]])  # of EOS, 4 and 5

    def expected(scores):
        p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        longer = [p[0, a] * (p[1, 0] * 1 + p[1, 1:].sum() * 2) for a in (1, 2)]
        return sum(longer)  # the reward is the number of tokens

    model = Placed()
    model.scores.assign(np.concatenate([np.zeros((3, 3)), scores], axis=1))
    count = 6_000
    made = SequenceTrainer(
        model,
        "ids",
        lambda found: tf.strings.as_string(found.lengths),
        lambda examples, texts: np.array([[float(text) for text in row] for row in texts]),
        seed=1,
        max_length=3,
        samples=count,
        temperature=1.0,
        sharpness=0.0,
        likelihood=0.0,
    )
    inputs = {"ids": tf.fill([1, 3], 2), "example": tf.range(1)}
    samples, rewards = made.sample(inputs, 9)
    with tf.GradientTape() as tape:
        risk = made.risk(made.log_probabilities(inputs["ids"], samples), rewards, 1)
    found = -tape.gradient(risk, model.scores.value).numpy()[:, 3:]
    for place in np.ndindex(scores.shape):
        step = np.zeros_like(scores)
        step[place] = 1e-5
        np.testing.assert_allclose(found[place], (expected(scores + step) - expected(scores - step)) / 2e-5, atol=0.05)
    np.testing.assert_array_equal(found[2], 0)  # where EOS must come


def test_samples_and_their_risk_are_of_the_distribution_at_the_temperature():
    scores, temperature = np.array([0, 0, 0, 0, 1.0, 0.5, 0.0, -0.5], "float32"), 0.4
    made = trainer(0.0, lambda examples, samples: np.zeros((3, 2_000)), temperature, samples=2_000)
    made.model.scores.assign(scores)
    found = made.sample(next(iter(batch()))[0], 9)[0].numpy()
    p = np.exp(scores[4:] / temperature)
    np.testing.assert_allclose(np.bincount(found[:, 0])[4:] / len(found), p / p.sum(), atol=0.02)

    logits, targets = np.random.default_rng(0).normal(size=(4, 2, 5)), np.array([[4, 3], [1, 0], [2, 3], [4, 4]])
    rewards = tf.constant([[0.3, 0.9], [0.5, 0.1]])
    made = trainer(0.0, temperature=temperature, samples=2)
    made.model.sample_logits = lambda encoded, inputs, k: tf.reshape(
        encoded[:, :, : tf.shape(inputs)[1]], [*tf.unstack(tf.shape(inputs)), 5]
    )

    def risk(logits):
        q = np.exp(logits / temperature) / np.exp(logits / temperature)[..., 1:].sum(-1, keepdims=True)  # padding is none
        log_p = (np.log(np.take_along_axis(q, targets[..., None], 2))[..., 0] * (targets > 0)).sum(1).reshape(2, 2)
        weights = (rewards.numpy() - rewards.numpy().mean(1, keepdims=True)) / 2
        return -(weights * log_p).sum() / 7

    x = tf.constant(logits, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = made.risk(made.log_probabilities(tf.reshape(x, [2, 2, 2, 5]), tf.constant(targets, tf.int32)), rewards, 7)
    np.testing.assert_allclose(value, risk(logits), rtol=1e-5)
    gradient = tape.gradient(value, x).numpy()
    for place in np.ndindex(logits.shape):
        step = np.zeros_like(logits)
        step[place] = 1e-6
        np.testing.assert_allclose(gradient[place], (risk(logits + step) - risk(logits - step)) / 2e-6, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 3, 9])
def test_a_batch_in_parts_has_the_log_probabilities_of_all_at_once(rows, monkeypatch):
    rng = np.random.default_rng(rows)
    model = Translator(12, 12, embedding_size=4, units=4, cell="gru")
    source = tf.constant(rng.integers(4, 12, (rows, 5)) * (np.arange(5) < rng.integers(2, 6, (rows, 1))), tf.int32)
    samples = tf.constant(rng.integers(4, 12, (2 * rows, 6)) * (np.arange(6) < rng.integers(0, 7, (2 * rows, 1))), tf.int32)
    model({"source": source, "target": samples[::2]})
    made = SequenceTrainer(
        model, "source", None, None, seed=0, max_length=6, samples=2, temperature=0.7, sharpness=0.0, likelihood=0.0
    )

    def run():
        with tf.GradientTape() as tape:
            found = made.log_probabilities(model.encode(source, training=True), samples)
        return [found, *map(tf.convert_to_tensor, tape.gradient(found, model.trainable_variables))]

    in_parts = run()
    monkeypatch.setattr(sequence, "PARTS", 1)
    for one, other in zip(in_parts, run(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    logits = model({"source": tf.repeat(source, 2, axis=0), "target": shift_right(samples)})[..., 1:] / 0.7  # never padding
    wanted = tf.gather(tf.nn.log_softmax(logits), tf.maximum(samples - 1, 0), batch_dims=2) * tf.cast(samples > 0, tf.float32)
    np.testing.assert_allclose(in_parts[0], tf.reshape(tf.reduce_sum(wanted, axis=1), [rows, 2]), rtol=1e-4, atol=1e-5)


def test_a_run_without_cross_entropy_needs_a_model_and_something_to_train():
    phases = [Phase("checkpoints", 0, 0, 1e-3), Phase("fine_tuning", 1, 0, 1e-4), Phase("sequence", 2, 3, 1e-5)]
    assert phases_to_train(phases, "runs/one") == phases[2:]
    first = phases[0]._replace(epochs=2)
    assert phases_to_train([first, phases[1]], None) == [first]
    for some, begins in ((phases, None), (phases[:2], "runs/one")):
        with pytest.raises(DataError, match="--epochs 0: needs --init-from, and epochs that follow"):
            phases_to_train(some, begins)
