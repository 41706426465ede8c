"""What users of Keras' layers do with theirs works with ours: every argument, stacks of cells, states, freezing, lengths."""

import inspect
import logging
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

import layers
from layers import RNN, Bidirectional, compiled
from tests.layers.helpers import JIT, LAYERS, ON_TENSORFLOW, close, gradients, numpy, random_weights, sequences, weighted_sum

COUNTERPARTS = {name: getattr(keras.layers, name) for name in ("SimpleRNN", "GRU", "LSTM")}
ROOT = Path(__file__).parents[2]


# -- arguments


def given(config):
    return {key: value for key, value in config.items() if key != "name" and value is not None}


@pytest.mark.parametrize("name", COUNTERPARTS)
def test_a_configuration_of_keras_makes_ours(name):
    theirs = COUNTERPARTS[name](
        4,
        activation="relu",
        use_bias=False,
        kernel_regularizer="l2",
        recurrent_constraint="max_norm",
        activity_regularizer="l1",
        return_sequences=True,
        go_backwards=True,
        dropout=0.25,
        recurrent_dropout=0.5,
        unroll=True,
        seed=3,
    )
    ours = LAYERS[name].from_config(theirs.get_config())
    assert isinstance(ours, COUNTERPARTS[name])
    assert given(ours.get_config()) == given(theirs.get_config())
    for attribute in [n for n, value in inspect.getmembers(COUNTERPARTS[name], lambda v: isinstance(v, property))]:
        if attribute in vars(COUNTERPARTS[name]) and attribute not in vars(keras.layers.RNN):
            mine, other = getattr(ours, attribute), getattr(theirs, attribute)
            assert mine == other or type(mine) is type(other), attribute
    x = sequences()
    for layer in (ours, theirs):
        layer.build(x.shape)
    ours.set_weights(random_weights(theirs).get_weights())
    close(ours(x), theirs(x))
    close(ops.sum(ops.stack(ours.losses)), ops.sum(ops.stack(theirs.losses)))


@pytest.mark.parametrize("name", COUNTERPARTS)
def test_arguments_without_a_name_come_in_keras_order(name):
    parameters = list(inspect.signature(COUNTERPARTS[name].__init__).parameters)
    values = {"units": 4, "activation": "relu", "recurrent_activation": "tanh", "use_bias": False, "kernel_initializer": "ones"}
    values |= {"recurrent_initializer": "zeros", "bias_initializer": "ones"}
    arguments = [values[n] for n in parameters[1:] if n in values]
    assert given(LAYERS[name](*arguments).get_config()) == given(COUNTERPARTS[name](*arguments).get_config())
    with pytest.raises(TypeError):
        LAYERS[name](*arguments, "l2", "l2", "l2")  # the rest goes by name only, as layers and cells differ there


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.filterwarnings("ignore:Do not pass an `input_shape`")
def test_input_shape_and_numpy_units(name):
    model = keras.Sequential([LAYERS[name](np.int64(4), input_shape=(5, 3))])
    assert model.built and model.output_shape == (None, 4)
    with pytest.raises(ValueError, match=r"units is np.float64\(4.0\); expected a positive integer"):
        LAYERS[name](np.float64(4.0))


def test_a_mask_with_an_axis_more():
    x, mask = sequences(), np.arange(6) < np.array([[6], [3], [1]])
    layer = layers.GRU(3)
    close(layer(x, mask=mask[..., None]), layer(x, mask=mask))


def test_wrong_arguments_are_named_with_a_remedy():
    x = sequences()
    with pytest.raises(ValueError, match="Give the layer before return_sequences=True"):
        layers.LSTM(3)(x[:, 0])
    with pytest.raises(ValueError, match=r"wrap the layer in keras.layers.TimeDistributed"):
        layers.LSTM(3)(x[..., None])
    with pytest.raises(ValueError, match=r"State the number of features in keras.Input"):
        layers.LSTM(3)(keras.Input((None, None)))
    for cell in (layers.LSTM(3), layers.LSTMCell):
        with pytest.raises(ValueError, match="expected a cell with state_size"):
            RNN(cell)
    with pytest.raises(ValueError, match=r"Pass a tensor \(batch, units\) for each state"):
        layers.GRU(3)(x, initial_state=[np.zeros((3, 3))] * 2)
    with pytest.raises(ValueError, match=r"dropout is '0.2'; expected a rate"):
        layers.GRU(3, dropout="0.2")
    with pytest.raises(ValueError, match="jit_compile is 'auto'; expected True or False"):
        layers.GRU(3, jit_compile="auto")
    with pytest.raises(ValueError, match="units is 0; expected a positive integer"):
        layers.BahdanauAttention(0)
    with pytest.raises(ValueError, match="max_wavelength is -1; expected a number above 0"):
        layers.PositionalEncoding(-1)
    with pytest.raises(ValueError, match="query has size 4 and key 3; expected the same"):
        layers.ScaledDotProductAttention()(x, x[..., :3])
    with pytest.raises(ValueError, match="value_mask has 5 steps; expected 6"):
        layers.ScaledDotProductAttention()(x, x, value_mask=np.ones((3, 5), bool))


def test_use_cudnn_and_implementation():
    assert layers.LSTM(3, use_cudnn=True, implementation=1).use_cudnn is True
    assert layers.LSTM(3, use_cudnn=0).use_cudnn is layers.GRU(3, use_cudnn=np.False_).use_cudnn is False
    assert layers.LSTM(3).use_cudnn == ("auto" if ON_TENSORFLOW else False)
    with pytest.raises(ValueError, match="GRU: use_cudnn is 'yes'; expected one of 'auto', True, False"):
        layers.GRU(3, use_cudnn="yes")


def test_activity_regularizers_count_inside_wrappers():
    x = sequences()
    layer = layers.GRU(3, activity_regularizer="l2")
    both = Bidirectional(layers.GRU(3, activity_regularizer="l2"))
    for one, count in ((layer, 1), (both, 2)):
        one(x)
        assert len(one.losses) == count and all(float(loss) > 0 for loss in one.losses)
    simple = layers.SimpleRNN(3, activity_regularizer=keras.regularizers.L2(0.5))  # Keras' own leaves that of SimpleRNN out
    output = numpy(simple(x))[0]
    close(simple.losses, [0.5 * np.sum(output**2) / len(x)])


def test_unroll_gives_the_same_numbers():
    x, mask = sequences(), np.arange(6) < np.array([[6], [3], [0]])
    layer = layers.LSTM(3, return_sequences=True, go_backwards=True)
    layer.build(x.shape)
    unrolled = layers.LSTM.from_config({**random_weights(layer).get_config(), "unroll": True})
    unrolled.build(x.shape)
    unrolled.set_weights(layer.get_weights())
    close(unrolled(x, mask=mask), layer(x, mask=mask))
    close(unrolled(x, mask=mask, in_order=True), layer(x, mask=mask, in_order=True))


@pytest.mark.parametrize(
    "policies", [("float32", "mixed_float16"), ("mixed_float16", "float32"), ("mixed_bfloat16", "mixed_bfloat16")]
)
def test_a_cell_of_another_precision(policies):
    outer, inner = policies
    x = sequences()
    layer = RNN(layers.LSTMCell(3, dtype=inner), return_sequences=True, return_state=True, dtype=outer)
    output, *states = layer(x, training=True)
    kind = outer.removeprefix("mixed_")
    assert {keras.backend.standardize_dtype(t.dtype) for t in (output, *states)} == {kind}
    full = RNN(layers.LSTMCell(3), return_sequences=True)
    full.build(x.shape)
    full.set_weights(layer.get_weights())
    close(ops.cast(output, "float32"), full(x), 0.03)


def test_dtype_of_bidirectional_and_a_built_backward_layer():
    x = sequences()
    assert keras.backend.standardize_dtype(Bidirectional(layers.GRU(3), dtype="float16")(x).dtype) == "float16"
    backward = layers.GRU(3, go_backwards=True, return_sequences=True)
    expected = backward(x)
    both = Bidirectional(layers.GRU(3, return_sequences=True), backward_layer=backward, merge_mode=None)
    close(both(x)[1], ops.flip(expected, axis=1))


# -- stacks of cells, cells with nested states


CELLS = {
    "ours": [layers.LSTMCell, layers.GRUCell],
    "ours and Keras'": [layers.LSTMCell, keras.layers.GRUCell],
    "Keras'": [keras.layers.LSTMCell, keras.layers.GRUCell],
}


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("go_backwards", [False, True])
def test_a_list_of_cells_equals_keras(kind, go_backwards):
    x, mask = sequences(), np.arange(6) < np.array([[6], [3], [1]])
    options = {"return_sequences": True, "return_state": True, "go_backwards": go_backwards}
    ours = RNN([make(size) for make, size in zip(CELLS[kind], (3, 5))], **options)
    theirs = keras.layers.RNN([make(size) for make, size in zip(CELLS["Keras'"], (3, 5))], **options)
    for layer in (ours, theirs):
        layer.build(x.shape)
    ours.set_weights(random_weights(theirs).get_weights())
    close(ours(x, mask=mask), theirs(x, mask=mask))
    states = [[np.full((3, 3), 0.1, "float32"), np.full((3, 3), 0.2, "float32")], np.full((3, 5), 0.3, "float32")]
    close(ours(x, initial_state=states), theirs(x, initial_state=states))
    assert keras.tree.map_structure(lambda t: tuple(t.shape), ours(x)) == ours.compute_output_shape(x.shape)
    for training in (False, True):
        close(
            gradients(lambda x: weighted_sum(ours(x, mask=mask, training=training)), [x], ours.trainable_variables),  # noqa: B023
            gradients(lambda x: weighted_sum(theirs(x, mask=mask, training=training)), [x], theirs.trainable_variables),  # noqa: B023
        )
    again = RNN.from_config(ours.get_config())
    again.build(x.shape)
    again.set_weights(ours.get_weights())
    close(again(x), ours(x))


@pytest.mark.parametrize(
    "cells",
    [
        [layers.SimpleRNNCell, layers.SimpleRNNCell],
        [keras.layers.SimpleRNNCell, layers.SimpleRNNCell],
        [keras.layers.SimpleRNNCell],
    ],
)
def test_dropout_of_stacked_cells_is_drawn_once_a_sequence(cells):
    def stack(**kwargs):
        layer = RNN([make(4, activation="linear", **kwargs) for make in cells], return_sequences=True)
        layer.build((16, 5, 4))
        return layer

    x = np.ones((16, 5, 4), "float32")
    layer = stack(dropout=0.5)
    layer.set_weights([np.ones((4, 4)), np.zeros((4, 4)), np.ones(4)] * len(cells))  # no recurrence: a step is its input's
    output = numpy(layer(x, training=True))[0]
    np.testing.assert_array_equal(output, np.repeat(output[:, :1], 5, axis=1))
    assert len(np.unique(output)) > 2 and np.abs(output - numpy(layer(x, training=True))[0]).max() > 0.1  # drawn anew
    layer = stack(recurrent_dropout=0.5)
    layer.set_weights([np.eye(4), np.eye(4), np.zeros(4)] * len(cells))  # s' = x + mask * s, where the mask is 0 or 2
    last = 2 ** np.arange(1, 6) - 1 if len(cells) == 1 else None
    first, *_ = numpy(layer(x, training=True))
    if last is not None:
        assert {tuple(path) for path in first.transpose(0, 2, 1).reshape(-1, 5)} == {(1.0,) * 5, tuple(last)}
    grows = np.diff(first, axis=1) > 0
    np.testing.assert_array_equal(grows, np.repeat(grows[:, :1], 4, axis=1))
    assert grows.any() and not grows.all()


@pytest.mark.parametrize("kind", [RNN, keras.layers.RNN])
@pytest.mark.parametrize("cells", [[layers.LSTMCell, keras.layers.GRUCell], [layers.GRUCell, layers.LSTMCell], [layers.LSTMCell]])
def test_cells_with_dropout_train_in_both_rnns(kind, cells):
    made = [make(3, dropout=0.3, recurrent_dropout=0.3) for make in cells]
    layer = kind(made if len(made) > 1 else made[0], return_sequences=True)  # Keras' loop on JAX fails in a stack of one
    model = keras.Sequential([keras.Input((6, 4)), layer])
    model.compile(keras.optimizers.Adam(0.05), "mse")
    x, before = sequences(8), layer.get_weights()
    losses = [model.fit(x, np.tanh(x[..., :3]), verbose=0).history["loss"][0] for _ in range(6)]
    assert losses[-1] < losses[0]
    for old, new, variable in zip(before, layer.get_weights(), layer.weights):
        assert np.abs(old - new).max() > 0, variable.path


# -- masks where Keras' own layers would stop them


def test_masks_pass_layers_whose_parents_stop_them(monkeypatch):
    """As of keras 3.16, whose recurrent layers and Bidirectional say that they support no masks."""
    for parent in (keras.layers.RNN, keras.layers.Bidirectional):
        original = parent.__init__

        def stopping(self, *args, original=original, **kwargs):
            original(self, *args, **kwargs)
            self.supports_masking = False

        monkeypatch.setattr(parent, "__init__", stopping)
    ids = np.array([[3, 1, 0, 0], [2, 4, 6, 0]])
    x = keras.layers.Embedding(9, 4, mask_zero=True)(ids)
    for layer in (layers.LSTM(3, return_sequences=True), Bidirectional(layers.GRU(3, return_sequences=True))):
        np.testing.assert_array_equal(np.asarray(layer(x)._keras_mask), ids != 0)


class Residual(keras.layers.StackedRNNCells):
    def call(self, inputs, states, training=False, **kwargs):
        output, states = super().call(inputs, states, training=training, **kwargs)
        return output + inputs, states


def test_a_subclass_of_stacked_cells_is_called():
    x = sequences(3, 6, 4)
    ours, theirs = (kind.RNN(Residual([keras.layers.GRUCell(4), layers.GRUCell(4)])) for kind in (layers, keras.layers))
    for layer in (ours, theirs):
        layer.build(x.shape)
    ours.set_weights(theirs.get_weights())
    close(ours(x), theirs(x))


# -- subclasses of layers, inside Bidirectional


class Louder(layers.GRU):
    def inner_loop(self, sequences, initial_state, mask, training=False):
        last, outputs, states = super().inner_loop(sequences, initial_state, mask, training)
        ramp = ops.reshape(ops.arange(1, 7, dtype="float32"), (1, 6, 1))  # in the order of the walk
        return last, outputs * ramp, states


class Passing(layers.GRU):
    def call(self, sequences, **kwargs):
        return super().call(sequences, **kwargs)


@pytest.mark.parametrize("kind", [Louder, Passing])
def test_bidirectional_around_a_subclass(kind):
    keras.saving.register_keras_serializable("unfold_tests")(kind)
    x, mask = sequences(), np.arange(6) < np.array([[6], [3], [1]])
    states = [np.full((3, 3), v, "float32") for v in (0.3, 0.6)]
    both = Bidirectional(kind(3, return_sequences=True), merge_mode=None)
    forward, backward = both(x, initial_state=states, mask=mask)
    alone = [
        layer(x, initial_state=[state], mask=mask) for layer, state in zip((both.forward_layer, both.backward_layer), states)
    ]
    close([forward, backward], [alone[0], ops.flip(alone[1], axis=1)])


@pytest.mark.skipif(not ON_TENSORFLOW, reason="one is enough")
def test_threads_may_share_a_layer():
    from concurrent.futures import ThreadPoolExecutor

    x, mask, state = sequences(), np.arange(6) >= np.array([[0], [3], [5]]), [np.ones((3, 4), "float32")]
    both, one = Bidirectional(layers.GRU(4, return_sequences=True)), layers.GRU(4, return_sequences=True)
    calls = [lambda: both(x), lambda: one(x, mask=mask, initial_state=state), lambda: one(x, mask=mask)]
    expected = [numpy(call())[0] for call in calls]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda i: numpy(calls[i % 3]())[0], range(120)))
    for i, answer in enumerate(found):
        np.testing.assert_allclose(answer, expected[i % 3], atol=1e-6)


# -- states


def test_carried_states_are_no_weights(tmp_path):
    def model(batch):
        inputs = keras.Input(batch_shape=(batch, None, 4))
        return keras.Model(inputs, layers.LSTM(3, stateful=True, return_sequences=True)(inputs))

    many, one, x = model(3), model(1), sequences()
    assert len(many.weights) == 3
    many.compile("sgd", "mse")
    many.fit(x, x[..., :3], batch_size=3, verbose=0)
    many.layers[1].reset_state()
    one.set_weights(many.get_weights())
    close(one(x[:1]), many(x)[:1])
    many.save_weights(tmp_path / "model.weights.h5")
    one.load_weights(tmp_path / "model.weights.h5")
    one.layers[1].reset_state()
    parts = [one(x[:1, :2]), one(x[:1, 2:])]
    one.layers[1].reset_state()
    close(ops.concatenate(parts, axis=1), one(x[:1]))


# -- freezing


@pytest.mark.parametrize(
    ("when", "jit_compile"), [*(("by argument", jit) for jit in JIT), ("before build", JIT[0]), ("after build", JIT[-1])]
)
def test_frozen_layers_stay_frozen(when, jit_compile, tmp_path):
    frozen = {"trainable": False} if when == "by argument" else {}
    inputs = keras.Input((6, 4))
    made = {
        "LSTM": layers.LSTM(4, return_sequences=True, **frozen),
        "RNN": RNN(layers.GRUCell(4), return_sequences=True, **frozen),
        "cells": RNN([layers.GRUCell(4), keras.layers.GRUCell(4)], return_sequences=True, **frozen),
        "cell": RNN(layers.GRUCell(4, trainable=False), return_sequences=True),
        "Bidirectional": Bidirectional(layers.GRU(4, return_sequences=True), merge_mode="sum", **frozen),
        "directions": Bidirectional(layers.GRU(4, return_sequences=True, **frozen), merge_mode="sum"),
        "BahdanauAttention": layers.BahdanauAttention(3, **frozen),
        "MultiHeadAttention": layers.MultiHeadAttention(2, 3, **frozen),
    }
    x = inputs
    for name, layer in made.items():
        if when == "before build":
            layer.trainable = False
        x = layer(x, x) if "Attention" in name else layer(x)
        if when == "after build":
            layer.trainable = False
    model = keras.Model(inputs, keras.layers.Dense(1, name="last")(x))
    assert {v.path.split("/")[0] for v in model.trainable_variables} == {"last"}
    model.compile("sgd", "mse", jit_compile=jit_compile)
    x = sequences(8)
    before = model.get_weights()
    model.fit(x, x[..., :1], verbose=0)
    for old, new, variable in zip(before, model.get_weights(), model.weights):
        assert np.array_equal(old, new) == (not variable.path.startswith("last")), variable.path
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert {v.path.split("/")[0] for v in again.trainable_variables} == {"last"}
    for layer in again.layers:
        layer.trainable = False  # else Keras takes True for what it was, and doesn't tell the cell
        layer.trainable = True
    assert len(again.trainable_variables) == len(again.weights)  # and thaw


# -- regularizers and constraints


def regularized(kind):
    """A model with every penalty and constraint, each of a strength of its own, and weights that violate the constraints."""
    strengths = iter(np.linspace(0.01, 0.05, 40))
    constraints = {"kernel_constraint": keras.constraints.MaxNorm(0.9), "bias_constraint": "non_neg"}

    def options(*parts):
        regularizers = {f"{part}_regularizer": keras.regularizers.L2(next(strengths)) for part in parts}
        return regularizers | constraints | ({"recurrent_constraint": "unit_norm"} if "recurrent" in parts else {})

    inputs = x = keras.Input((6, 4))
    for name in COUNTERPARTS:
        parts = ["kernel", "recurrent", "bias"] if name == "SimpleRNN" else ["kernel", "recurrent", "bias", "activity"]
        x = getattr(kind, name)(3, return_sequences=True, **options(*parts))(x)
    x = kind.RNN(kind.GRUCell(3, kernel_regularizer="l1", bias_constraint="non_neg"), return_sequences=True)(x)
    x = kind.Bidirectional(kind.LSTM(3, return_sequences=True, **options("kernel", "recurrent", "bias", "activity")))(x)
    x = kind.MultiHeadAttention(2, 3, **options("kernel", "bias", "activity"))(x, x)
    return random_weights(keras.Model(inputs, keras.layers.Dense(1)(x)))


def test_regularizers_and_constraints_train_as_in_keras():
    x = sequences(8)
    ours, theirs = regularized(layers), regularized(keras.layers)
    ours(x), theirs(x)
    close(
        [ops.sum(ops.stack(layer.losses)) for layer in ours.layers[1:-1]],
        [ops.sum(ops.stack(layer.losses)) for layer in theirs.layers[1:-1]],
    )
    for model in (ours, theirs):
        model.compile(keras.optimizers.SGD(0.05), "mse", jit_compile=JIT[0])
    got, expected = (m.fit(x, x[..., :1], epochs=2, shuffle=False, verbose=0).history["loss"] for m in (ours, theirs))
    close(got, expected, 1e-4)
    close(ours.get_weights(), theirs.get_weights(), 1e-4)
    for variable in ours.weights[:-2]:  # those of the last layer are free
        if variable.path.endswith("bias"):
            assert np.min(variable) >= 0, variable.path
        if variable.path.endswith("recurrent_kernel") and "rnn" not in variable.path:
            np.testing.assert_allclose(np.linalg.norm(variable, axis=0), 1.0, rtol=1e-5)


# -- attention: shapes, masks, ranks


ATTENTION = {
    "ScaledDotProductAttention": layers.ScaledDotProductAttention,
    "BahdanauAttention": lambda **kw: layers.BahdanauAttention(7, **kw),
    "MultiHeadAttention": lambda **kw: layers.MultiHeadAttention(2, 3, **kw),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_the_mask_of_the_query_goes_on(name):
    ids = np.array([[3, 1, 0, 0], [2, 4, 6, 0]])
    embedded = keras.layers.Embedding(9, 4, mask_zero=True)(ids)
    layer = ATTENTION[name]()
    output = layer(embedded, embedded)
    np.testing.assert_array_equal(np.asarray(output._keras_mask), ids != 0)
    output, scores = layer(embedded, embedded, return_attention_scores=True)
    for x in (output, embedded):  # Keras' own takes the mask away from its inputs, too
        np.testing.assert_array_equal(np.asarray(x._keras_mask), ids != 0)
    assert getattr(scores, "_keras_mask", None) is None
    tokens = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(9, 4, mask_zero=True)(tokens)
    model = keras.Model(tokens, keras.layers.GlobalAveragePooling1D()(ATTENTION[name]()(x, x)))
    close(model(ids)[:1], model(ids[:1, :2]))
    padded = np.pad(ids, ((0, 0), (0, 3)))
    close(model(padded), model(ids))


@pytest.mark.parametrize("name", ATTENTION)
def test_output_shapes_of_attention(name):
    for query, value in (((2, 3, 4), (2, 5, 4)), ((2, 6, 3, 4), (2, 6, 5, 4))):
        kwargs = {"attention_axes": 2} if name == "MultiHeadAttention" and len(query) == 4 else {}
        layer = ATTENTION[name](**kwargs)
        output, scores = layer(np.zeros(query), np.zeros(value), return_attention_scores=True)
        assert layer.compute_output_shape(query, value) == tuple(output.shape) == query
        assert tuple(scores.shape)[-2:] == (3, 5)
    assert layers.PositionalEncoding().compute_output_shape((2, 3, 4)) == (2, 3, 4)


@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.parametrize("kind", ["query_mask", "value_mask", "attention_mask", "use_causal_mask"])
def test_four_axes_are_batches_of_three(name, kind):
    rng = np.random.default_rng(0)
    q, v = rng.normal(size=(2, 3, 4, 5)).astype("float32"), rng.normal(size=(2, 3, 4, 5)).astype("float32")
    if name == "MultiHeadAttention":
        if kind in ("query_mask", "value_mask"):
            pytest.skip("Keras' masks have two axes, (batch, time); with more axes attention_mask says what is meant")
        four, three = layers.MultiHeadAttention(2, 3, attention_axes=2), layers.MultiHeadAttention(2, 3)
    else:
        four, three = ATTENTION[name](), ATTENTION[name]()
    four.build(q.shape, v.shape)
    three.build(q[0].shape, v[0].shape)
    if four.weights:
        three.set_weights(random_weights(four).get_weights())
    mask = rng.random((2, 3, 4, 4) if kind == "attention_mask" else (2, 3, 4)) > 0.4
    if kind == "use_causal_mask":
        if name == "MultiHeadAttention":
            pytest.skip("Keras' causal mask is along the first axis after the batch")
        got = four(q, v, use_causal_mask=True)
        expected = [three(q[i], v[i], use_causal_mask=True) for i in range(2)]
    else:
        given = mask[:, :, None] if kind == "attention_mask" and name == "MultiHeadAttention" else mask  # an axis for the heads
        got = four(q, v, **{kind: given})
        expected = [three(q[i], v[i], **{kind: mask[i]}) for i in range(2)]
    close(got, ops.stack(expected))


@pytest.mark.parametrize("scores", [False, True])
def test_a_mask_for_each_head(scores):
    q, mask = sequences(2, 4, 5), np.random.default_rng(0).random((2, 2, 4, 4)) > 0.4
    ours, theirs = layers.MultiHeadAttention(2, 3), keras.layers.MultiHeadAttention(2, 3)
    for layer in (ours, theirs):
        layer.build(q.shape, q.shape)
    ours.set_weights(random_weights(theirs).get_weights())
    mask[..., 0] = True
    close(
        ours(q, q, attention_mask=mask, return_attention_scores=scores),
        theirs(q, q, attention_mask=mask, return_attention_scores=scores),
    )
    value_mask = np.array([[1, 1, 1, 0], [1, 1, 0, 0]], bool)
    close(ours(q, q, attention_mask=mask, value_mask=value_mask), theirs(q, q, attention_mask=mask & value_mask[:, None, None]))


def test_an_explicit_query_mask_counts():
    q, mask = sequences(2, 4, 5), np.array([[1, 1, 1, 0], [1, 0, 0, 1]], bool)
    layer = layers.MultiHeadAttention(2, 3, use_bias=False)
    layer.build(q.shape, q.shape)
    output = numpy(layer(q, q, query_mask=mask))[0]
    assert not output[~mask].any() and output[mask].all()


@pytest.mark.parametrize("name", ATTENTION)
def test_a_memory_of_one_row_goes_with_every_query(name):
    q, memory = sequences(3, 2, 4), sequences(1, 5, 4, seed=1)
    layer = ATTENTION[name]()
    layer.build(q.shape, memory.shape)
    if layer.weights:
        random_weights(layer)
    both = [lambda q, m: layer(q, m), lambda q, m: layer(q, ops.repeat(m, 3, axis=0))]
    close(both[0](q, memory), both[1](q, memory))
    one, many = (gradients(lambda q, m: weighted_sum(f(q, m)), [q, memory], layer.trainable_variables) for f in both)  # noqa: B023
    close(one, many)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="JAX clamps places outside")
@pytest.mark.parametrize("mask", ["query_mask", "value_mask"])
def test_a_mask_of_one_row_in_blocks(mask, monkeypatch):
    from layers import attention_blocks

    q, one = sequences(2, 9, 5), np.array([[1, 1, 1, 1, 0, 1, 1, 0, 0]], bool)
    layer = layers.MultiHeadAttention(2, 3)
    layer.build(q.shape, q.shape)
    expected = random_weights(layer)(q, q, **{mask: one})
    monkeypatch.setattr(attention_blocks, "LARGEST", 4)
    monkeypatch.setattr(attention_blocks, "BLOCK", 20)
    close(layer(q, q, **{mask: one}), expected)


@pytest.mark.parametrize("window", [1, 2])
def test_a_sliding_window_in_blocks(window, monkeypatch):
    from layers import attention_blocks

    q = sequences(2, 9, 5)
    ours, theirs = (kind.MultiHeadAttention(2, 3, sliding_window=window) for kind in (layers, keras.layers))
    for layer in (ours, theirs):
        layer.build(q.shape, q.shape)
    ours.set_weights(random_weights(theirs).get_weights())
    expected = theirs(q, q, use_causal_mask=True)
    close(ours(q, q, use_causal_mask=True), expected)
    monkeypatch.setattr(attention_blocks, "LARGEST", 4)
    monkeypatch.setattr(attention_blocks, "BLOCK", 20)
    close(ours(q, q, use_causal_mask=True), expected)


# -- lengths and compilation


@pytest.fixture
def loops(monkeypatch):
    """(compiled, time) of each loop that runs."""
    found, concrete = [], compiled._concrete
    monkeypatch.setattr(compiled, "_lengths", {})

    def watched(loop, settings, is_compiled, padded, specs):
        function = concrete(loop, settings, is_compiled, padded, specs)

        def run(*tensors):
            found.append((is_compiled, next(t.shape[0] for t in tensors if len(t.shape) == 3)))
            return function(*tensors)

        return run

    monkeypatch.setattr(compiled, "_concrete", watched)
    return found


@pytest.mark.skipif(not ON_TENSORFLOW, reason="of TensorFlow's compilation")
@pytest.mark.parametrize("name", ["GRU", "Bidirectional"])
def test_many_lengths_share_few_compiled_loops(name, loops, caplog):
    layer = layers.GRU(3, return_sequences=True, return_state=True, go_backwards=True)
    layer = layer if name == "GRU" else Bidirectional(layers.LSTM(3, return_sequences=True, return_state=True))
    layer.build((None, None, 4))
    random_weights(layer)
    rng = np.random.default_rng(0)
    with caplog.at_level(logging.WARNING, "tensorflow"):
        for time in range(1, 41, 3):
            x, mask = sequences(3, time), rng.random((3, time)) > 0.3
            known = gradients(lambda x: weighted_sum(layer(x, mask=mask, training=True)), [x], layer.trainable_variables)  # noqa: B023
            plain = gradients(lambda x: weighted_sum(layer(x, mask=mask)), [x], layer.trainable_variables)  # noqa: B023
            close(known, plain, 1e-4)
    assert len({time for is_compiled, time in loops if is_compiled}) <= compiled.FEW_LENGTHS + 4  # 16, 24, 32, 40
    assert not [r for r in caplog.records if "retracing" in r.getMessage()]


@pytest.mark.skipif(not ON_TENSORFLOW, reason="of TensorFlow's compilation")
@pytest.mark.parametrize("batch", [3, 9])
def test_lengths_known_late_give_the_same_numbers(batch):
    import tensorflow as tf

    layer = Bidirectional(layers.GRU(3, return_sequences=True, return_state=True))
    layer.build((None, None, 4))
    random_weights(layer)

    def loss(x, mask):
        return weighted_sum([ops.sum(y, axis=tuple(range(len(y.shape) - 1))) for y in layer(x, mask=mask, training=True)])

    @tf.function(input_signature=[tf.TensorSpec((None, None, 4)), tf.TensorSpec((None, None), tf.bool)], autograph=False)
    def late(x, mask):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(x, mask)
        return tape.gradient(value, [x, *[v.value for v in layer.trainable_variables]])

    for time in (1, 5, 8, 13):
        x, mask = sequences(batch, time), np.random.default_rng(1).random((batch, time)) > 0.3
        got = late(tf.constant(x), tf.constant(mask))
        close(got, gradients(lambda x: loss(x, mask), [x], layer.trainable_variables), 1e-4)  # noqa: B023


@pytest.mark.skipif(not ON_TENSORFLOW, reason="of TensorFlow's compilation")
def test_jit_compile_false_is_obeyed(loops):
    layer = layers.LSTM(3, jit_compile=False)
    gradients(lambda x: weighted_sum(layer(x, training=True)), [sequences(9)])
    assert loops and not any(is_compiled for is_compiled, _ in loops)
    assert Bidirectional(layer).backward_layer.jit_compile is False
    assert layers.LSTM.from_config(layer.get_config()).jit_compile is False


def test_another_backend_is_refused_with_a_remedy():
    line = [sys.executable, "-c", "import layers"]
    result = subprocess.run(line, cwd=ROOT, env={**os.environ, "KERAS_BACKEND": "numpy"}, capture_output=True, text=True)
    assert result.returncode and "the Keras backend is 'numpy'; expected 'tensorflow' or 'jax'" in result.stderr
