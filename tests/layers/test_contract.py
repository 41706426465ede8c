"""The contract every layer keeps: build, config, shapes, precision, training, reload, masks, states, errors."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

import layers
from layers import Bidirectional
from tests.layers.helpers import (
    JIT,
    LAYERS,
    LINEAR,
    ON_TENSORFLOW,
    close,
    gradients,
    numpy,
    random_weights,
    sequences,
    weighted_sum,
)

ROOT = Path(__file__).parents[2]
if not ON_TENSORFLOW:  # each shape is compiled anew there; `test_cells.py` has all of them
    LAYERS = {name: LAYERS[name] for name in ("GRU", "LSTM", "QRNN", "SRU")}
CATALOGUE = {
    **LAYERS,
    "RNN": lambda units, **kw: layers.RNN(layers.LSTMCell(units), **kw),
    "Bidirectional": lambda units, **kw: Bidirectional(layers.GRU(units, **kw), dtype=kw.get("dtype")),
}


@pytest.mark.parametrize("name", CATALOGUE)
def test_config_round_trip(name):
    layer = CATALOGUE[name](4, return_sequences=True)
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    layer.build((2, 5, 3))
    again.build((2, 5, 3))
    again.set_weights(layer.get_weights())
    close(again(sequences(2, 5, 3)), layer(sequences(2, 5, 3)))


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("return_state", [False, True])
def test_symbolic_shapes_equal_eager_ones(name, return_sequences, return_state):
    make = CATALOGUE[name]
    eager = make(4, return_sequences=return_sequences, return_state=return_state)(sequences(2, 5, 3))
    layer = make(4, return_sequences=return_sequences, return_state=return_state)
    symbolic = layer(keras.Input((5, 3), batch_size=2))
    shapes = [tuple(t.shape) for t in keras.tree.flatten(symbolic)]
    assert shapes == [tuple(t.shape) for t in keras.tree.flatten(eager)]
    assert [tuple(s) for s in _shapes(layer.compute_output_shape((2, 5, 3)))] == shapes


def _shapes(nested):
    return [nested] if all(n is None or isinstance(n, int) for n in nested) else [s for n in nested for s in _shapes(n)]


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(name, policy):
    x, mask = sequences(), np.arange(6) < np.array([[6], [3], [1]])
    full = CATALOGUE[name](5, return_sequences=True)
    half = CATALOGUE[name](5, return_sequences=True, dtype=policy)
    for layer in (full, half):
        layer.build(x.shape)
    half.set_weights(random_weights(full).get_weights())
    output = half(x, mask=mask, training=True)
    assert keras.backend.standardize_dtype(output.dtype) == policy.removeprefix("mixed_")
    assert {keras.backend.standardize_dtype(w.dtype) for w in half.weights} == {"float32"}
    close(ops.cast(output, "float32"), full(x, mask=mask), tolerance=0.05)


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("jit_compile", JIT)
def test_fit_moves_every_weight_and_lowers_the_loss(name, jit_compile):
    inputs = keras.Input((None, 4))
    x = CATALOGUE[name](8, return_sequences=True)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(CATALOGUE[name](8)(x)))
    model.compile(keras.optimizers.Adam(0.02), "mse", jit_compile=jit_compile)
    before = model.get_weights()
    x = sequences(32, 6, 4)
    history = model.fit(x, x.sum(axis=(1, 2), keepdims=True)[:, 0], epochs=8, verbose=0, batch_size=16)
    assert history.history["loss"][-1] < 0.8 * history.history["loss"][0]
    for old, new, variable in zip(before, model.get_weights(), model.weights):
        assert np.abs(old - new).max() > 0, variable.path


def test_fit_in_mixed_precision_with_dropout_lowers_the_loss():
    model = keras.Sequential(
        [
            keras.Input((6, 4)),
            layers.LSTM(8, dropout=0.2, recurrent_dropout=0.2, recurrent_weight_dropout=0.1, dtype="mixed_float16"),
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.Adam(0.05), "mse", jit_compile=True)
    x, before = sequences(32, 6, 4), model.get_weights()
    losses = model.fit(x, x[:, -1, :1], epochs=8, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]
    for old, new, variable in zip(before, model.get_weights(), model.weights):
        assert np.abs(old - new).max() > 0, variable.path


def test_reload_in_a_fresh_process(tmp_path):
    x = sequences()
    for name, make in CATALOGUE.items():
        inputs = keras.Input((None, 4))
        model = keras.Model(inputs, make(5, return_sequences=True)(inputs))
        np.savez(tmp_path / f"{name}.npz", x=x, y=numpy(model(x))[0])
        model.save(tmp_path / f"{name}.keras")
    script = (
        "import layers, keras, numpy as np, sys\n"
        "for path in sys.argv[1:]:\n"
        "    d = np.load(path + '.npz')\n"
        "    model = keras.saving.load_model(path + '.keras')\n"
        "    np.testing.assert_allclose(np.asarray(model(d['x'])), d['y'], atol=1e-6, err_msg=path)\n"
        "    model.compile('sgd', 'mse'); model.fit(d['x'], d['y'], verbose=0)"
    )
    line = [sys.executable, "-c", script, *(str(tmp_path / name) for name in CATALOGUE)]
    result = subprocess.run(line, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]


def test_a_block_of_portable_changes_no_result():
    for name in ("LSTM", "SRU"):
        layer, x = _built(name), sequences()
        with layers.portable():
            inside = gradients(lambda x: weighted_sum(layer(x, training=True)), [x])  # noqa: B023
        close(inside, gradients(lambda x: weighted_sum(layer(x, training=True)), [x]))  # noqa: B023


# -- masks and directions


@st.composite
def padded(draw):
    """Lengths of three sequences (0 is an empty row) and how much padding lies on their left."""
    lengths = draw(st.lists(st.integers(0, 4), min_size=3, max_size=3))
    return lengths, [draw(st.integers(0, 6 - n)) for n in lengths]


@pytest.mark.parametrize("name", CATALOGUE)
@given(case=padded(), junk=st.sampled_from([1.0, 50.0]))
def test_padding_on_either_side_is_inert(name, case, junk):
    lengths, left = case
    layer = _built(name)
    x = sequences(3, 6, 4) * junk
    mask = np.zeros((3, 6), bool)
    rows = sequences(3, 4, 4, seed=9)
    for i, (n, start) in enumerate(zip(lengths, left)):
        x[i, start : start + n], mask[i, start : start + n] = rows[i, :n], True
    got = numpy(layer(x, mask=mask))
    for i, (n, start) in enumerate(zip(lengths, left)):
        if n == 0:
            continue
        alone = numpy(layer(rows[i : i + 1, :n]))
        np.testing.assert_allclose(got[0][i, start : start + n], alone[0][0], atol=1e-5)
        for state, wanted in zip(got[1:], alone[1:]):
            np.testing.assert_allclose(state[i], wanted[0], atol=1e-5)


_LAYERS = {}


def _built(name):
    if name not in _LAYERS:
        layer = CATALOGUE[name](5, return_sequences=True, return_state=True)
        layer.build((3, 6, 4))
        _LAYERS[name] = random_weights(layer)
    return _LAYERS[name]


@pytest.mark.parametrize("name", LAYERS)
def test_an_empty_row_keeps_its_state(name):
    layer = _built(name)
    states = [np.full((3, size), 0.7, "float32") for size in layer.state_sizes]
    _, *final = layer(sequences(), initial_state=states, mask=np.zeros((3, 6), bool))
    close(final, states)


@pytest.mark.parametrize("name", LAYERS)
def test_backwards_is_forwards_on_the_flipped_sequence(name):
    x, mask = sequences(), np.array([[1, 0, 1, 1, 0, 1], [1] * 6, [0, 1, 1, 1, 0, 0]], bool)
    forward = _built(name)
    config = {**forward.get_config(), "go_backwards": True}
    backward = type(forward).from_config(config)
    backward.build(x.shape)
    backward.set_weights(forward.get_weights())
    close(backward(x, mask=mask), forward(x[:, ::-1].copy(), mask=mask[:, ::-1].copy()))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("cut", [1, 3, 5])
def test_one_scan_equals_two_joined(name, cut):
    layer, x = _built(name), sequences()
    whole, *final = layer(x)
    first, *states = layer(x[:, :cut])
    second, *end = layer(x[:, cut:], initial_state=states)
    close([ops.concatenate([first, second], axis=1), *end], [whole, *final])


@pytest.mark.parametrize("name", LAYERS)
def test_later_inputs_do_not_change_earlier_outputs(name):
    layer, x = _built(name), sequences()
    changed = x.copy()
    changed[:, 4:] += 1
    close(layer(changed)[0][:, :4], layer(x)[0][:, :4], 1e-7)
    assert np.abs(numpy(layer(changed)[0][:, 4:] - layer(x)[0][:, 4:])[0]).max() > 1e-3


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_stateful_equals_one_long_sequence(name, policy):
    x = sequences()
    whole = LAYERS[name](5, return_sequences=True, dtype=policy)
    layer = LAYERS[name](5, return_sequences=True, stateful=True, dtype=policy)
    for each in (whole, layer):
        each.build((3, 6, 4))
    random_weights(whole)
    for ours, theirs in zip(layer.trainable_variables, whole.get_weights()):
        ours.assign(theirs)
    parts = [layer(x[:, :2]), layer(x[:, 2:])]
    close(ops.concatenate(parts, axis=1), whole(x), 1e-5 if policy == "float32" else 2e-3)
    layer.reset_state()
    close(layer(x[:, :2]), parts[0])


@pytest.mark.skipif(not ON_TENSORFLOW, reason="Keras gives masks of arguments by name on every backend; one is enough")
def test_the_mask_arrives_beside_an_initial_state():
    ids = np.array([[5, 3, 0, 0], [2, 4, 6, 1]])
    tokens, start = keras.Input((4,), dtype="int32"), keras.Input((5,))
    embedded = keras.layers.Embedding(9, 4, mask_zero=True)(tokens)
    layer = layers.GRU(5)
    model = keras.Model([tokens, start], layer(embedded, initial_state=start))
    state = np.full((2, 5), 0.5, "float32")
    short = model.layers[-1](model.get_layer(index=1)(ids[:1, :2]), initial_state=state[:1])
    close(model([ids, state])[:1], short)


def test_dropout_is_drawn_once_a_sequence_and_only_in_training():
    layer = layers.SimpleRNN(6, dropout=0.5, activation="linear", return_sequences=True, seed=3)
    x = np.ones((2, 5, 8), "float32")
    layer.build(x.shape)
    layer.cell.recurrent_kernel.assign(np.zeros((6, 6)))
    dropped = numpy(layer(x, training=True))[0]
    np.testing.assert_allclose(dropped, np.repeat(dropped[:, :1], 5, axis=1), rtol=1e-6)  # the same at every step
    assert np.abs(dropped - numpy(layer(x))[0]).max() > 1e-3
    assert np.abs(dropped - numpy(layer(x, training=True))[0]).max() > 1e-3  # drawn anew at each call


PRODUCTS = [name for name in LAYERS if name not in LINEAR]
KERNEL = (np.random.default_rng(0).random((64, 64)) < 0.6) / 0.6  # of this seed is what is kept


@pytest.fixture
def drawn(monkeypatch):
    """Each call of `keras.random.dropout` drops the same weights; the list of the rates tells how often it was called."""
    rates = []

    def dropout(weights, rate, seed):
        rates.append(rate)
        return weights * ops.cast(KERNEL.ravel()[: np.prod(weights.shape)].reshape(weights.shape), weights.dtype)

    monkeypatch.setattr(keras.random, "dropout", dropout)
    return rates


def thinned(layer):
    """A copy without dropout whose recurrent weights are those that `drawn` leaves."""
    config = {name: value for name, value in layer.get_config().items() if name != "recurrent_weight_dropout"}
    plain = type(layer).from_config(config)
    plain.build((3, 6, 4))
    plain.set_weights(layer.get_weights())
    plain.cell.recurrent_kernel.assign(keras.random.dropout(layer.cell.recurrent_kernel, 0.4, None))
    return plain


def kept_weights(layer):
    shape = layer.cell.recurrent_kernel.shape
    return KERNEL.ravel()[: np.prod(shape)].reshape(shape)


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("jit_compile", JIT)
def test_the_same_recurrent_weights_are_dropped_at_every_step_and_get_no_gradient(name, jit_compile, drawn):
    layer = LAYERS[name](5, return_sequences=True, recurrent_weight_dropout=0.4)
    layer.build((3, 6, 4))
    random_weights(layer)
    x, plain = sequences(), thinned(layer)
    names = ["kernel", "recurrent_kernel", "bias"]
    weights = [[getattr(each.cell, name) for name in names] for each in (layer, plain)]
    drawn.clear()
    *found, d_bias = gradients(lambda x: weighted_sum(layer(x, training=True)), [x], weights[0], jit_compile)
    assert set(drawn) == {0.4} and len(drawn) <= 2  # a call, and perhaps its trace
    *wanted, wanted_bias = gradients(lambda x: weighted_sum(plain(x)), [x], weights[1], jit_compile)
    wanted[2] = wanted[2] * kept_weights(layer)
    close([*found, d_bias], [*wanted, wanted_bias], 1e-4)
    assert (found[2][kept_weights(layer) == 0] == 0).all() and found[2].any()
    drawn.clear()
    close(layer(x, training=True), plain(x))
    assert len(drawn) == 1  # not once a step
    layer.cell.recurrent_weight_dropout = 0.0
    close(layer(x, training=True), layer(x))
    layer.cell.recurrent_weight_dropout = 0.4
    before = len(drawn)
    close(layer(x), layer(x, training=False))
    assert len(drawn) == before  # nothing in inference


def test_weights_are_dropped_once_in_every_kind_of_loop(drawn):
    class Own(layers.LSTMCell):
        def call(self, inputs, states, training=False):
            return super().call(inputs, states, training=training)

    for make in (lambda **rate: layers.RNN(Own(5, **rate)), lambda **rate: layers.LSTM(5, unroll=True, **rate)):
        layer = make(recurrent_weight_dropout=0.4)
        layer.build((3, 6, 4))
        random_weights(layer)
        plain = make()
        plain.build((3, 6, 4))
        plain.set_weights(layer.get_weights())
        plain.cell.recurrent_kernel.assign(keras.random.dropout(layer.cell.recurrent_kernel, 0.4, None))
        drawn.clear()
        close(layer(sequences(), training=True), plain(sequences()))
        assert len(drawn) == 1


def test_both_directions_drop_weights(drawn):
    layer = Bidirectional(layers.GRU(5, recurrent_weight_dropout=0.4))
    layer.build((3, 6, 4))
    random_weights(layer)
    x = sequences()
    again = Bidirectional.from_config(layer.get_config())
    assert [each.cell.recurrent_weight_dropout for each in (again.forward_layer, again.backward_layer)] == [0.4, 0.4]
    drawn.clear()
    got = layer(x, training=True)
    assert drawn == [0.4, 0.4]
    close(got, ops.concatenate([thinned(part)(x) for part in (layer.forward_layer, layer.backward_layer)], axis=-1))


def test_other_weights_are_dropped_at_each_call_at_the_given_rate():
    cell = layers.LSTMCell(32, recurrent_weight_dropout=0.25, seed=3)
    cell.build((None, 8))
    kernel = numpy(cell.recurrent_kernel)[0]
    with cell.weight_dropout(True):
        first = numpy(cell.recurrent_weights)[0]
    with cell.weight_dropout(True):
        second = numpy(cell.recurrent_weights)[0]
    np.testing.assert_allclose(first[first != 0], kernel[first != 0] / 0.75, rtol=1e-5)
    assert abs((first == 0).mean() - 0.25) < 0.03 and (first != second).mean() > 0.2
    with cell.weight_dropout(False):
        close(cell.recurrent_weights, kernel)
    assert cell.get_config()["recurrent_weight_dropout"] == 0.25
    assert "recurrent_weight_dropout" not in layers.LSTMCell(4).get_config()  # Keras' own doesn't know it
    with pytest.raises((TypeError, ValueError), match="recurrent_weight_dropout"):
        layers.MinGRU(4, recurrent_weight_dropout=0.1)


# -- Bidirectional


@pytest.mark.parametrize("mode", ["concat", "sum", "ave", "mul", None])
@pytest.mark.parametrize("return_sequences", [False, True])
def test_bidirectional_equals_keras(mode, return_sequences):
    x, mask = sequences(), np.array([[1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1], [1] * 6], bool)
    kwargs = {"return_sequences": return_sequences, "return_state": True}
    ours = Bidirectional(layers.LSTM(5, **kwargs), merge_mode=mode)
    theirs = keras.layers.Bidirectional(keras.layers.LSTM(5, **kwargs), merge_mode=mode)
    for layer in (ours, theirs):
        layer.build(x.shape)
    ours.set_weights(random_weights(theirs).get_weights())
    close(ours(x, mask=mask), theirs(x, mask=mask))
    states = [np.full((3, 5), v, "float32") for v in (0.1, 0.2, 0.3, 0.4)]
    close(ours(x, initial_state=states), theirs(x, initial_state=states))


def test_bidirectional_errors():
    with pytest.raises(ValueError, match="Invalid merge mode"):
        Bidirectional(layers.LSTM(4), merge_mode="max")
    with pytest.raises(ValueError, match=r'expected to have the same value for attribute "return_sequences"'):
        Bidirectional(layers.LSTM(4, return_sequences=True), backward_layer=layers.LSTM(4, go_backwards=True))
    with pytest.raises(ValueError, match=r"initial_state has 1 tensor\(s\); expected 4"):
        Bidirectional(layers.LSTM(4))(sequences(), initial_state=[np.zeros((3, 4), "float32")])


# -- wrong use


def test_errors_state_value_rule_and_remedy():
    x, zeros = sequences(), np.zeros((3, 5), "float32")
    with pytest.raises(ValueError, match=r"inputs have shape \(3, 6\); expected \(batch, time, features\)"):
        layers.GRU(5)(x[..., 0])
    with pytest.raises(ValueError, match=r"initial_state has 1 tensor\(s\) of shape \(3, 5\); expected 2: \(3, 5\), \(3, 5\)"):
        layers.LSTM(5)(x, initial_state=[zeros])
    with pytest.raises(ValueError, match=r"of shape \(2, 5\); expected 1: \(3, 5\)"):
        layers.GRU(5)(x, initial_state=zeros[:2])
    with pytest.raises(ValueError, match=r"mask has shape \(3, 5\); expected \(batch, time\) = \(3, 6\)"):
        layers.GRU(5)(x, mask=np.ones((3, 5), bool))
    with pytest.raises(ValueError, match="RNN: cell is 5; expected a cell with state_size"):
        layers.RNN(5)
    with pytest.raises(ValueError, match="stateful=True with an unknown batch size"):
        layers.GRU(5, stateful=True)(keras.Input((6, 4)))
    stateful = layers.GRU(5, stateful=True)
    stateful(x)
    with pytest.raises(ValueError, match="keeps the batch size it was built with"):
        stateful(x[:2])
