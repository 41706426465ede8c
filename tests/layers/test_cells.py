"""The cells against the equations written in NumPy, step by step, with random weights."""

import numpy as np
import pytest

import layers
from tests.layers.helpers import LAYERS, close, random_weights, sequences


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def simple_rnn(x, s, W, U, b):
    s = np.tanh(x @ W + s[0] @ U + b)
    return s, (s,)


def gated_rnn(x, s, W, U, b):
    z_g, z_s = np.split(x @ W + s[0] @ U + b, 2, axis=1)
    g = sigmoid(z_g)
    s = (1 - g) * s[0] + g * np.tanh(z_s)
    return s, (s,)


def gru(x, s, W, U, b):
    x_z, x_r, x_h = np.split(x @ W + b[0], 3, axis=1)
    r_z, r_r, r_h = np.split(s[0] @ U + b[1], 3, axis=1)
    z, r = sigmoid(x_z + r_z), sigmoid(x_r + r_r)
    h = z * s[0] + (1 - z) * np.tanh(x_h + r * r_h)
    return h, (h,)


def lstm(x, s, W, U, b):
    i, f, g, o = np.split(x @ W + s[0] @ U + b, 4, axis=1)
    c = sigmoid(f) * s[1] + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    return h, (h, c)


def sru(x, s, W, v, b):
    c = s[0]
    x_f, x_r, x_c, skip = np.split(x @ W, 4, axis=1)
    (v_f, v_r), (b_f, b_r) = np.split(v, 2), np.split(b, 2)
    f, r = sigmoid(x_f + v_f * c + b_f), sigmoid(x_r + v_r * c + b_r)
    c = f * c + (1 - f) * x_c
    return r * c + (1 - r) * skip, (c,)


def qrnn(x, s, W, b):
    now, before = np.split(W, 2)
    g, f, o = np.split(x @ now + s[1] + b, 3, axis=1)
    c = sigmoid(f) * s[0] + (1 - sigmoid(f)) * np.tanh(g)
    return sigmoid(o) * c, (c, x @ before)


def min_gru(x, s, W, b):
    z, h = np.split(x @ W + b, 2, axis=1)
    h = (1 - sigmoid(z)) * s[0] + sigmoid(z) * h
    return h, (h,)


def ssru(x, s, W, b):
    x_f, x_c = np.split(x @ W, 2, axis=1)
    f = sigmoid(x_f + b)
    c = f * s[0] + (1 - f) * x_c
    return np.maximum(c, 0), (c,)


ORACLES = {"SimpleRNN": simple_rnn, "GatedRNN": gated_rnn, "GRU": gru, "LSTM": lstm}
ORACLES |= {"SRU": sru, "QRNN": qrnn, "MinGRU": min_gru, "SSRU": ssru}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("training", [False, True])
def test_layer_equals_its_equations(name, training):
    x = sequences()
    layer = LAYERS[name](5, return_sequences=True, return_state=True)
    layer(x)
    weights = [np.asarray(w, "float64") for w in random_weights(layer).get_weights()]
    states = tuple(np.zeros((3, size)) for size in layer.state_sizes)
    outputs = []
    for t in range(x.shape[1]):
        output, states = ORACLES[name](x[:, t].astype("float64"), states, *weights)
        outputs.append(output)
    close(layer(x, training=training), [np.stack(outputs, 1), *states])


@pytest.mark.parametrize("name", LAYERS)
def test_cell_alone_is_one_step_of_the_layer(name):
    x = sequences(time=1)
    layer = LAYERS[name](5, return_state=True)
    layer(x)
    random_weights(layer)
    states = [np.full((3, size), 0.3, "float32") for size in layer.state_sizes]
    output, new = layer.cell(x[:, 0], states)
    close([output, *new], layer(x, initial_state=states))


def test_identity_initialisation_with_relu_adds_up():
    cell = layers.SimpleRNNCell(4, activation="relu", recurrent_initializer="identity")
    layer = layers.RNN(cell)
    layer.build((2, 5, 4))
    cell.kernel.assign(np.eye(4))
    x = np.abs(sequences(batch=2, time=5))
    close(layer(x), x.sum(axis=1))


def test_forget_bias_starts_at_one():
    layer = layers.LSTM(3)
    layer.build((None, 5, 2))
    assert layer.get_weights()[2].tolist() == [0] * 3 + [1] * 3 + [0] * 6


@pytest.mark.parametrize("units", [0, -1, 2.5, True, "8"])
def test_units_must_be_a_positive_integer(units):
    with pytest.raises(ValueError, match=rf"LSTMCell: units is {units!r}; expected a positive integer"):
        layers.LSTMCell(units)


@pytest.mark.parametrize("argument", ["dropout", "recurrent_dropout", "recurrent_weight_dropout"])
@pytest.mark.parametrize("rate", [-0.1, 1.0, 3])
def test_rates_must_be_shares(argument, rate):
    with pytest.raises(ValueError, match=rf"GRUCell: {argument} is {rate!r}; expected a rate in \[0, 1\)"):
        layers.GRUCell(4, **{argument: rate})
