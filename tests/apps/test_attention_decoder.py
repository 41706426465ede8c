"""The decoder: all steps at once equal one step after the other, under every option."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import layers
from apps.common.decoding.attention_decoder import AttentionDecoder
from apps.common.training import losses
from apps.common.training.losses import TokenLoss, sampled_cross_entropy, token_cross_entropy
from apps.translation.model import Translator
from tests.layers.helpers import close, gradients, numpy, random_weights, sequences, weighted_sum

OPTIONS = [
    {},
    {"cell": "lstm", "num_layers": 3, "attention": "dot"},
    {"cell": "simple_rnn", "num_layers": 1},
    {"cell": "gated_rnn", "attention": "none"},
    {"input_feeding": True, "attention": "dot"},
    {"cell": "lstm", "input_feeding": True},
    {"cell": "sru", "num_layers": 2},
    {"cell": "qrnn", "input_feeding": True},
    {"cell": "min_gru", "attention": "dot"},
    {"cell": "ssru", "num_layers": 3},
    {"input_feeding": True, "attention": "none"},
]
MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]], bool)


def built(**options):
    decoder = AttentionDecoder(5, 6, **options)
    decoder.build((3, 7, 6), (3, 4, 8))
    return random_weights(decoder)


@pytest.mark.parametrize("options", OPTIONS)
def test_steps_one_by_one_equal_all_steps_at_once(options):
    decoder, tokens, values = built(**options), sequences(3, 7, 6), sequences(3, 4, 8, seed=1)
    outputs, weights = decoder(tokens, values, values_mask=MASK)
    memory = decoder.setup_memory(values, MASK)
    state = tf.nest.map_structure(lambda s: s[:, None], decoder.get_initial_state(memory))
    for t in range(7):
        output, weight, state = decoder.step(tokens[:, t : t + 1], state, memory)
        close(output[:, 0], outputs[:, t])
        if weights is not None:
            close(weight[:, 0], weights[:, t])


@pytest.mark.parametrize("options", OPTIONS)
def test_hypotheses_of_one_row_do_not_mix(options):
    decoder, values = built(**options), sequences(3, 4, 8, seed=1)
    memory = decoder.setup_memory(values, MASK)
    tokens = sequences(3, 2, 6)  # two hypotheses
    state = tf.nest.map_structure(lambda s: tf.repeat(s[:, None], 2, axis=1), decoder.get_initial_state(memory))
    both, _, state = decoder.step(tokens, state, memory)
    both_again, _, _ = decoder.step(tokens, state, memory)
    for k in range(2):
        alone = tf.nest.map_structure(lambda s: s[:, None], decoder.get_initial_state(memory))
        for wanted in (both, both_again):
            output, _, alone = decoder.step(tokens[:, k : k + 1], alone, memory)
            close(output[:, 0], wanted[:, k])


@pytest.mark.parametrize("options", OPTIONS)
def test_every_weight_and_input_has_a_gradient_and_later_tokens_none(options):
    decoder, tokens, values = built(**options), sequences(3, 7, 6), sequences(3, 4, 8, seed=1)
    variables = decoder.trainable_variables
    d_tokens, d_values, *rest = gradients(lambda x, v: weighted_sum(decoder(x, v, training=True)[0]), [tokens, values], variables)
    assert d_tokens.any() and d_values.any()
    for variable, gradient in zip(variables, rest):
        assert np.abs(gradient).max() > 1e-7, variable.path
    first = gradients(lambda x, v: weighted_sum(decoder(x, v)[0][:, :3]), [tokens, values])[0]
    assert first[:, :3].any() and not first[:, 3:].any()


def test_masked_positions_of_the_memory_are_inert():
    decoder, tokens, values = built(), sequences(3, 7, 6), sequences(3, 4, 8, seed=1)
    changed = np.where(MASK[..., None], values, 50.0).astype("float32")
    close(decoder(tokens, changed, values_mask=MASK)[0], decoder(tokens, values, values_mask=MASK)[0])
    assert np.isfinite(numpy(decoder(tokens, values, values_mask=MASK)[0])[0]).all()


def test_it_reloads():
    decoder = built(cell="lstm", attention="additive", input_feeding=True)
    again = AttentionDecoder.from_config(decoder.get_config())
    again.build((3, 7, 6), (3, 4, 8))
    again.set_weights(decoder.get_weights())
    x = sequences(3, 7, 6), sequences(3, 4, 8, seed=1)
    close(again(*x), decoder(*x))


# -- the loss


def test_the_smoothed_loss_equals_keras_without_its_padding():
    logits, targets = sequences(2, 5, 7), np.array([[3, 1, 6, 0, 0], [2, 2, 2, 2, 1]])
    mask = targets > 0
    smooth = np.eye(7)[targets] * 0.9 + 0.1 / 7
    wanted = numpy(keras.losses.categorical_crossentropy(smooth[mask], logits[mask], from_logits=True))[0]
    close(TokenLoss(0.1)(targets, logits), wanted.mean())
    total, count = token_cross_entropy(targets, logits)
    assert count == 8
    close(total, numpy(keras.losses.sparse_categorical_crossentropy(targets[mask], logits[mask], from_logits=True))[0].sum())
    changed = np.where(mask[..., None], logits, 99.0)
    close(TokenLoss(0.1)(targets, changed), TokenLoss(0.1)(targets, logits))


def test_the_gradient_of_the_loss_is_the_same_on_a_gpu(monkeypatch):
    logits, targets = sequences(2, 5, 7), np.array([[3, 1, 6, 0, 0], [2, 2, 2, 2, 1]])
    found = []
    for on_gpu in (False, True):
        monkeypatch.setattr(losses, "has_gpu", lambda on_gpu=on_gpu: on_gpu)
        found += gradients(lambda z: TokenLoss(0.1)(targets, z), [logits])
    assert found[0].any()
    close(found[1], found[0])


def test_many_drawn_tokens_give_the_loss_of_all():
    vocabulary = 40
    outputs, targets = sequences(2, 5, 7), np.array([[3, 1, 36, 0, 0], [2, 12, 2, 2, 1]])
    embeddings, bias = sequences(1, vocabulary, 7, seed=4)[0], sequences(1, 1, vocabulary, seed=5)[0, 0]
    exact, count = token_cross_entropy(targets, outputs @ embeddings.T + bias)
    uniform = tf.constant((np.arange(40_000) + 0.5) / 40_000, tf.float32)
    tensors = [tf.constant(array) for array in (outputs, embeddings, bias)]
    drawn, drawn_count = sampled_cross_entropy(targets, *tensors, uniform)
    assert count == drawn_count == 8
    assert abs(drawn - exact) < 2e-3 * exact
    half = tf.cast(tensors[0], tf.bfloat16)  # what a model in mixed precision gives
    compiled, _ = tf.function(sampled_cross_entropy, jit_compile=True, autograph=False)(targets, half, *tensors[1:], uniform)
    assert compiled.dtype == "float32" and abs(compiled - drawn) < 1e-2 * drawn


def test_training_on_drawn_tokens_lowers_the_exact_loss():
    model = Translator(30, 30, embedding_size=8, units=8, sampled_softmax=20)
    ids = 4 + np.arange(6) + np.arange(16)[:, None] % 10
    inputs, loss = {"source": ids, "target": np.roll(ids, 1, axis=1)}, TokenLoss()
    model.compile(keras.optimizers.Adam(0.02, global_clipnorm=1.0), loss, jit_compile=False)
    before = float(model.evaluate(inputs, ids, verbose=0))
    assert np.isclose(before, loss(ids, model(inputs)))  # outside training the loss is exact
    history = model.fit(inputs, ids, epochs=30, verbose=0).history["loss"]
    assert history[-1] < history[0] and model.evaluate(inputs, ids, verbose=0) < 0.6 * before


def test_additive_attention_computes_with_a_size_that_a_graph_does_not_know():
    spec = [tf.TensorSpec([2, None, None])] * 2
    attend = tf.function(lambda q, k: layers.additive_attention(q, k, k, tf.ones(4))[0], input_signature=spec, autograph=False)
    query, keys = sequences(2, 3, 4), sequences(2, 5, 4, seed=1)
    wanted = layers.additive_attention(query, keys, keys, np.ones(4, "float32"))[0]
    np.testing.assert_allclose(attend(query, keys), wanted, rtol=1e-5)
