"""The contract of all attention layers, and each against its equation, its Keras counterpart and float64 differences."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

import layers
from layers import attention_blocks
from tests.layers.helpers import JIT, ON_TENSORFLOW, close, gradients, numpy, random_weights, sequences, weighted_sum

ROOT = Path(__file__).parents[2]
CATALOGUE = {
    "ScaledDotProductAttention": layers.ScaledDotProductAttention,
    "BahdanauAttention": lambda **kw: layers.BahdanauAttention(7, **kw),
    "MultiHeadAttention": lambda **kw: layers.MultiHeadAttention(num_heads=2, key_dim=3, value_dim=5, **kw),
}
MASKS = {
    "query_mask": np.array([[1, 1, 0], [1, 0, 1]], bool),
    "value_mask": np.array([[1, 0, 1, 1, 1], [1, 1, 0, 0, 0]], bool),
    "attention_mask": np.random.default_rng(3).random((2, 3, 5)) > 0.3,
}


def built(name, query=4, value=4, **kwargs):
    layer = CATALOGUE[name](**kwargs)
    layer.build((2, 3, query), (2, 5, value))
    return random_weights(layer)


def whole_mask(causal=True):
    mask = MASKS["query_mask"][:, :, None] & MASKS["value_mask"][:, None] & MASKS["attention_mask"]
    return mask & (np.arange(3)[:, None] >= np.arange(5)) if causal else mask


def softmax(scores, mask):
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True)) * mask
    total = exponentials.sum(axis=-1, keepdims=True)
    return np.divide(exponentials, total, out=np.zeros_like(exponentials), where=total > 0)


# -- the equations


def test_additive_attention_equals_its_equation_under_all_masks():
    query, value, key = sequences(2, 3, 4), sequences(2, 5, 6, seed=1), sequences(2, 5, 3, seed=2)
    layer = layers.BahdanauAttention(7)
    layer.build((2, 3, 4), (2, 5, 6), (2, 5, 3))
    w_q, w_k, b, v = random_weights(layer).get_weights()
    scores = np.tanh((query @ w_q + b)[:, :, None] + (key @ w_k)[:, None]) @ v
    weights = softmax(scores, whole_mask())
    got = layer(query, value, key=key, **MASKS, use_causal_mask=True, return_attention_scores=True)
    close(got, [weights @ value, weights])


def test_multi_head_attention_equals_its_equation_under_all_masks():
    query, value = sequences(2, 3, 4), sequences(2, 5, 6, seed=1)
    layer = built("MultiHeadAttention", value=6)
    w_q, b_q, w_k, b_k, w_v, b_v, w_o, b_o = layer.get_weights()
    output, all_weights = b_o, []
    for i in range(2):
        q, k, v = query @ w_q[:, i] + b_q[i], value @ w_k[:, i] + b_k[i], value @ w_v[:, i] + b_v[i]
        all_weights.append(softmax(q @ k.transpose(0, 2, 1) / np.sqrt(3), whole_mask()))
        output = output + all_weights[-1] @ v @ w_o[i]
    got = layer(query, value, **MASKS, use_causal_mask=True, return_attention_scores=True)
    close(got, [output, np.stack(all_weights, axis=1)])


@pytest.mark.parametrize("size", [6, 7])
def test_positional_encoding_equals_its_equation(size):
    x = sequences(2, 9, size)
    wanted = x.astype("float64")
    for t in range(9):
        for channel in range(size):
            angle = t / 100.0 ** (2 * (channel // 2) / size)
            wanted[:, t, channel] += np.cos(angle) if channel % 2 else np.sin(angle)
    close(layers.PositionalEncoding(max_wavelength=100.0)(x), wanted)


# -- the Keras counterparts


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_multi_head_attention_equals_keras_in_outputs_and_gradients(use_bias, jit_compile):
    query, value = sequences(2, 3, 4), sequences(2, 5, 6, seed=1)
    theirs = keras.layers.MultiHeadAttention(2, 3, use_bias=use_bias)  # on JAX Keras can't have another value_dim
    ours = layers.MultiHeadAttention(2, 3, use_bias=use_bias)
    for layer in (ours, theirs):
        layer.build((2, 3, 4), (2, 5, 6))
    ours.set_weights(random_weights(theirs).get_weights())
    mask = MASKS["value_mask"]

    def outputs(layer):
        output, weights = layer(query, value, value_mask=mask, return_attention_scores=True)
        return [output, weights]

    close(outputs(ours), outputs(theirs))

    def loss(layer):
        return lambda q, v: weighted_sum(layer(q, v, value_mask=mask))

    got, wanted = (gradients(loss(x), [query, value], x.trainable_variables, jit_compile) for x in (ours, theirs))
    close(got, wanted)


def test_additive_attention_equals_keras():
    query, value = sequences(2, 3, 4), sequences(2, 5, 4, seed=1)
    ours, theirs = layers.BahdanauAttention(4), keras.layers.AdditiveAttention()
    theirs.build([(2, 3, 4), (2, 5, 4)])
    ours.build((2, 3, 4), (2, 5, 4))
    scale = random_weights(theirs).get_weights()[0]
    ours.set_weights([np.eye(4), np.eye(4), np.zeros(4), scale])  # Keras projects neither query nor key
    mask = MASKS["value_mask"]
    close(ours(query, value, value_mask=mask), theirs([query, value], mask=[None, mask]))


@pytest.mark.skipif(not ON_TENSORFLOW, reason="JAX computes in float32 unless told otherwise at its start")
@pytest.mark.parametrize("name", CATALOGUE)
def test_gradients_equal_float64_differences(name):
    query, value = sequences(2, 3, 4, dtype="float64"), sequences(2, 5, 4, seed=1, dtype="float64")
    layer = built(name, dtype="float64")

    def loss(query, value):
        return weighted_sum(layer(query, value, value_mask=MASKS["value_mask"], query_mask=MASKS["query_mask"]))

    arrays = [query, value]
    for place, gradient in enumerate(gradients(loss, arrays)):
        difference = np.zeros_like(gradient)
        for i in np.ndindex(gradient.shape):
            ends = []
            for step in (1e-6, -1e-6):
                moved = [a.copy() for a in arrays]
                moved[place][i] += step
                ends.append(numpy(loss(*map(ops.convert_to_tensor, moved)))[0])
            difference[i] = (ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose(gradient, difference, atol=1e-6)


# -- the contract


@pytest.mark.parametrize("name", CATALOGUE)
def test_config_round_trip_and_symbolic_shapes(name):
    layer = built(name, dropout=0.3, seed=5)
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    x = keras.Input((3, 4), batch_size=2), keras.Input((5, 4), batch_size=2)
    symbolic = again(*x, return_attention_scores=True)
    eager = layer(sequences(2, 3, 4), sequences(2, 5, 4), return_attention_scores=True)
    assert [tuple(t.shape) for t in symbolic] == [tuple(t.shape) for t in eager]


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(name, policy):
    x = sequences(2, 3, 4), sequences(2, 5, 4, seed=1)
    full, half = built(name), built(name, dtype=policy)
    output = half(*x, value_mask=MASKS["value_mask"])
    assert keras.backend.standardize_dtype(output.dtype) == policy.removeprefix("mixed_")
    close(ops.cast(output, "float32"), full(*x, value_mask=MASKS["value_mask"]), tolerance=0.06)


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_query_that_may_attend_to_nothing_gets_no_weights_and_finite_gradients(name):
    x = sequences(2, 3, 4), sequences(2, 5, 4, seed=1)
    layer, mask = built(name), np.array([[1] * 5, [0] * 5], bool)
    _, weights = layer(*x, value_mask=mask, return_attention_scores=True)
    assert not numpy(weights)[0][1].any() and numpy(weights)[0][0].any()
    for gradient in gradients(lambda q, v: weighted_sum(layer(q, v, value_mask=mask)), x):
        assert np.isfinite(gradient).all() and not gradient[1].any() and gradient[0].any()


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("jit_compile", JIT)
def test_fit_under_keras_masks_moves_every_weight_and_reloads(name, jit_compile, tmp_path):
    ids = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(9, 4, mask_zero=True)(ids)
    x = layers.PositionalEncoding()(x)
    x = CATALOGUE[name](dropout=0.1)(x, x)
    model = keras.Model(ids, keras.layers.Dense(3)(x))
    model.compile(keras.optimizers.Adam(0.05), "mse", jit_compile=jit_compile)
    before = model.get_weights()
    inputs = np.random.default_rng(0).integers(0, 9, (16, 6))
    targets = np.eye(3)[inputs % 3]
    history = model.fit(inputs, targets, epochs=8, verbose=0).history["loss"]
    assert history[-1] < history[0]
    for old, new, variable in zip(before, model.get_weights(), model.weights):
        if variable.path.endswith("key/bias"):
            continue  # adds the same to all scores of a query, so the softmax takes it out
        assert np.abs(old - new).max() > 1e-4, variable.path
    if jit_compile:
        return
    np.savez(tmp_path / "x.npz", x=inputs, y=numpy(model(inputs))[0])
    model.save(tmp_path / "model.keras")
    script = (
        "import layers, keras, numpy as np, sys; d = np.load(sys.argv[1] + '/x.npz');"
        "model = keras.saving.load_model(sys.argv[1] + '/model.keras');"
        "np.testing.assert_allclose(np.asarray(model(d['x'])), d['y'], atol=1e-6)"
    )
    run = [sys.executable, "-c", script, str(tmp_path)]
    result = subprocess.run(run, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_causal_mask_hides_what_comes_later(name):
    layer, x = built(name), sequences(2, 5, 4)
    changed = x.copy()
    changed[:, 3:] += 1
    before, after = (numpy(layer(a, a, use_causal_mask=True))[0] for a in (x, changed))
    np.testing.assert_allclose(before[:, :3], after[:, :3], atol=1e-6)
    assert np.abs(before[:, 3:] - after[:, 3:]).max() > 1e-3


@pytest.mark.parametrize("name", CATALOGUE)
def test_padding_of_the_values_is_inert(name):
    layer, query, value = built(name), sequences(2, 3, 4), sequences(2, 5, 4, seed=1)
    padded = np.concatenate([np.full((2, 2, 4), 50.0, "float32"), value, np.full((2, 1, 4), -50.0, "float32")], axis=1)
    mask = np.array([[0, 0, 1, 1, 1, 1, 1, 0]] * 2, bool)
    close(layer(query, padded, value_mask=mask), layer(query, value))


def test_errors():
    q = sequences(2, 3, 4)
    with pytest.raises(ValueError, match=r"num_heads=0"):
        layers.MultiHeadAttention(num_heads=0, key_dim=4)
    with pytest.raises(ValueError, match=r"BahdanauAttention: dropout is -1; expected a rate"):
        layers.BahdanauAttention(4, dropout=-1)
    with pytest.raises(ValueError, match=r"value has shape \(3, 4\); expected \(batch, …, time, size\)"):
        layers.BahdanauAttention(4)(q, q[0])
    with pytest.raises(ValueError, match="additive_attention: query has size 4 and key 6"):
        layers.additive_attention(q, sequences(2, 3, 6), q, np.ones(4, "float32"))
    with pytest.raises(ValueError, match=r"PositionalEncoding .*inputs have shape \(3,\); expected"):
        layers.PositionalEncoding()(q[0, :, 0])


# -- long sequences, in blocks


PARTS = [
    {},
    {"query_mask"},
    {"value_mask"},
    {"attention_mask"},
    {"attention_mask of all rows"},
    {"attention_mask of all queries"},
    {"causal"},
    {*MASKS, "causal"},
]


def long_inputs(parts, query_time=13, key_time=11):
    rng = np.random.default_rng(5)
    query, value = sequences(2, query_time, seed=1), sequences(2, key_time, seed=2)
    shapes = {"query_mask": (2, query_time), "value_mask": (2, key_time), "attention_mask": (2, query_time, key_time)}
    masks = {name: rng.random(shape) > 0.3 for name, shape in shapes.items() if name in parts}
    for name, shape in ((" of all rows", (query_time, key_time)), (" of all queries", (2, 1, key_time))):
        if f"attention_mask{name}" in parts:
            masks["attention_mask"] = rng.random(shape) > 0.3
    return query, value, masks | ({"use_causal_mask": True} if "causal" in parts else {})


@pytest.mark.parametrize("jit_compile", [None, False, True])
@pytest.mark.parametrize("parts", PARTS, ids=lambda parts: "+".join(sorted(parts)) or "none")
@pytest.mark.parametrize("name", ["ScaledDotProductAttention", "MultiHeadAttention"])
def test_blocks_give_what_all_scores_at_once_give(name, parts, jit_compile, monkeypatch):
    monkeypatch.setattr(attention_blocks, "LARGEST", 20)
    monkeypatch.setattr(attention_blocks, "BLOCK", 40)
    layer = built(name)
    query, value, masks = long_inputs(parts)
    at_once = layer(query, value, return_attention_scores=True, **masks)[0]
    close(layer(query, value, **masks), at_once)
    variables = layer.trainable_variables
    wanted = gradients(
        lambda q, v: weighted_sum(layer(q, v, return_attention_scores=True, **masks)[0]), [query, value], variables, jit_compile
    )
    close(gradients(lambda q, v: weighted_sum(layer(q, v, **masks)), [query, value], variables, jit_compile), wanted, 2e-5)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="shapes are always known on JAX")
@pytest.mark.parametrize("time", [3, 13])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_time_that_is_known_late_is_long_or_short(time, jit_compile, monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(attention_blocks, "LARGEST", 20)
    monkeypatch.setattr(attention_blocks, "BLOCK", 40)
    layer = built("MultiHeadAttention")

    @tf.function(input_signature=[tf.TensorSpec((None, None, 4))], jit_compile=jit_compile, autograph=False)
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            output = layer(x, x, use_causal_mask=True)
            loss = tf.reduce_sum(output**2)
        return output, tape.gradient(loss, x)

    x = sequences(2, time)
    at_once = layer(x, x, use_causal_mask=True, return_attention_scores=True)[0]
    output, d_x = step(tf.constant(x))
    close(output, at_once)
    wanted = gradients(lambda x: ops.sum(layer(x, x, use_causal_mask=True, return_attention_scores=True)[0] ** 2), [x])
    close([d_x], wanted, 2e-5)


def test_long_sequences_in_half_precision(monkeypatch):
    monkeypatch.setattr(attention_blocks, "LARGEST", 20)
    layer = built("ScaledDotProductAttention", dtype="mixed_bfloat16")
    query, value, _ = long_inputs({})
    output = layer(query, value)
    assert keras.backend.standardize_dtype(output.dtype) == "bfloat16"
    close(output, layer(query, value, return_attention_scores=True)[0], 0.05)


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_memory_of_one_step_gets_all_the_attention(name):
    layer = built(name)
    query, value = sequences(2, 3), sequences(2, 1, seed=1)
    mask = np.array([[True], [False]])
    output, weights = layer(query, value, value_mask=mask, return_attention_scores=True)
    close(weights, np.ones(weights.shape) * mask.reshape((2, *[1] * (len(weights.shape) - 1))))
    close(layer(query, value, value_mask=mask), output)
