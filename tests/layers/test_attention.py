"""Attention against its equation in NumPy, under every kind of mask."""

import keras
import numpy as np
import pytest
from keras import ops

from layers import ScaledDotProductAttention, scaled_dot_product_attention
from tests.layers.helpers import close, numpy, sequences


def oracle(q, k, v, mask):
    scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True)) * mask
    total = exponentials.sum(axis=-1, keepdims=True)
    weights = np.divide(exponentials, total, out=np.zeros_like(exponentials), where=total > 0)
    return weights @ v, weights


def test_equals_its_equation_under_all_masks_at_once():
    q, k, v = sequences(2, 3, 4), sequences(2, 5, 4, seed=1), sequences(2, 5, 6, seed=2)
    query_mask = np.array([[1, 1, 0], [1, 0, 1]], bool)
    value_mask = np.array([[1, 0, 1, 1, 1], [1, 1, 0, 0, 0]], bool)
    attention_mask = np.random.default_rng(3).random((2, 3, 5)) > 0.3
    mask = query_mask[:, :, None] & value_mask[:, None] & attention_mask & (np.arange(3)[:, None] >= np.arange(5))
    got = ScaledDotProductAttention()(
        q,
        v,
        key=k,
        query_mask=query_mask,
        value_mask=value_mask,
        attention_mask=attention_mask,
        use_causal_mask=True,
        return_attention_scores=True,
    )
    close(got, oracle(q, k, v, mask), 1e-6)


def test_a_fully_masked_row_gives_zeros_and_a_finite_gradient():
    from tests.layers.helpers import gradients, weighted_sum

    q, v = sequences(2, 3, 4), sequences(2, 5, 4, seed=1)
    mask = np.array([[1] * 5, [0] * 5], bool)
    layer = ScaledDotProductAttention()
    output, weights = layer(q, v, value_mask=mask, return_attention_scores=True)
    assert not numpy(output)[0][1].any() and not numpy(weights)[0][1].any()
    for gradient in gradients(lambda q, v: weighted_sum(layer(q, v, value_mask=mask)), [q, v]):
        assert np.isfinite(gradient).all() and not gradient[1].any() and gradient[0].any()


def test_equals_keras():
    q, v = sequences(2, 3, 4), sequences(2, 5, 4, seed=1)
    theirs = keras.layers.Attention()
    close(ScaledDotProductAttention()(q, v), theirs([q / 2, v]))  # Keras leaves out the division by sqrt(4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_does_not_overflow(dtype):
    q = ops.cast(np.full((1, 2, 64), 60.0), dtype)
    output, weights = scaled_dot_product_attention(q, q, q, np.array([[[True, False]] * 2]))
    assert np.isfinite(numpy(ops.cast(output, "float32"))[0]).all()
    assert numpy(ops.cast(weights, "float32"))[0].tolist() == [[[1, 0], [1, 0]]]


def test_dropout_only_in_training_and_weights_without_it():
    x = sequences(2, 5, 4)
    layer = ScaledDotProductAttention(dropout=0.5, seed=1)
    plain, weights = layer(x, x, return_attention_scores=True)
    dropped, same = layer(x, x, return_attention_scores=True, training=True)
    close(weights, same)
    assert np.abs(numpy(plain)[0] - numpy(dropped)[0]).max() > 1e-3


def test_masks_arrive_from_keras_and_the_model_reloads(tmp_path):
    ids = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(9, 4, mask_zero=True)(ids)
    model = keras.Model(ids, ScaledDotProductAttention()(x, x))
    short, padded = np.array([[3, 5]]), np.array([[3, 5, 0, 0]])
    close(model(padded)[:, :2], model(short))
    model.save(tmp_path / "model.keras")
    close(keras.saving.load_model(tmp_path / "model.keras")(padded), model(padded))


def test_errors():
    q, k = sequences(2, 3, 4), sequences(2, 5, 6)
    with pytest.raises(ValueError, match="query has size 4 and key 6; expected the same"):
        scaled_dot_product_attention(q, k, k)
    with pytest.raises(ValueError, match="key has 5 steps and value 3; expected the same"):
        scaled_dot_product_attention(q, sequences(2, 5, 4), q)
    with pytest.raises(ValueError, match=r"query has shape \(3, 4\); expected \(batch, …, time, size\)"):
        ScaledDotProductAttention()(q[0], q)
    with pytest.raises(ValueError, match=r"dropout is 1.5; expected a rate"):
        ScaledDotProductAttention(dropout=1.5)
