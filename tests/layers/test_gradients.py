"""The hand-written gradients against central differences in float64, and the fast path against autodiff."""

import keras
import numpy as np
import pytest
from keras import ops

from layers import RNN, bptt
from tests.layers.helpers import LAYERS, LINEAR, ON_TENSORFLOW, close, gradients, random_weights, sequences, weighted_sum

needs_float64 = pytest.mark.skipif(not ON_TENSORFLOW, reason="JAX computes in float32 unless told otherwise at its start")


@needs_float64
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("go_backwards", [False, True])
def test_against_finite_differences(name, masked, go_backwards):
    x = sequences(2, 4, 3, dtype="float64")
    mask = np.array([[1, 0, 1, 1], [0, 1, 1, 0]], bool) if masked else None
    layer = LAYERS[name](3, return_sequences=True, return_state=True, go_backwards=go_backwards, dtype="float64")
    layer.build(x.shape)
    random_weights(layer)
    states = [sequences(2, 1, size, seed=k, dtype="float64")[:, 0] for k, size in enumerate(layer.state_sizes)]

    def loss(x, *states):
        return weighted_sum(layer(x, initial_state=list(states), mask=mask, training=True))

    got = gradients(loss, [x, *states], layer.trainable_variables)
    weights = layer.get_weights()

    def at(arrays):
        layer.set_weights(arrays[1 + len(states) :])
        return float(loss(*arrays[: 1 + len(states)]))

    arrays = [a.astype("float64") for a in [x, *states, *weights]]
    rng, step = np.random.default_rng(0), 1e-6
    for k, gradient in enumerate(got):
        for _ in range(4):  # four random places of each array
            place = tuple(rng.integers(n) for n in arrays[k].shape)
            up, down = [a.copy() for a in arrays], [a.copy() for a in arrays]
            up[k][place] += step
            down[k][place] -= step
            np.testing.assert_allclose(gradient[place], (at(up) - at(down)) / (2 * step), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", [name for name in LAYERS if name not in (*LINEAR, "SRU")])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("outputs", [False, True])
def test_fast_path_equals_autodiff_with_recurrent_dropout(name, reverse, outputs):
    x = sequences()
    mask = np.array([[1, 0, 1, 1, 0, 1], [0] * 6, [0, 1, 1, 1, 1, 0]], bool)
    layer = LAYERS[name](5)
    layer.build(x.shape)
    cell = random_weights(layer).cell
    dropout_mask = np.random.default_rng(3).integers(0, 2, (3, 5)).astype("float32") * 2
    initial = [np.full((3, 5), 0.2, "float32") for _ in layer.state_sizes]

    def run(unfold, *options):
        def loss(x, *states):
            time_major = ops.transpose(x, (1, 0, 2))
            time_mask = ops.expand_dims(ops.transpose(ops.convert_to_tensor(mask)), -1)
            arguments = (cell, time_major, list(states), time_mask, dropout_mask, reverse, outputs, *options)
            _, sequence, final = unfold(*arguments)
            has_output = ops.transpose(np.maximum.accumulate(mask[:, ::-1] if reverse else mask, 1))[..., None]
            has_output = has_output[::-1] if reverse else has_output  # the layer makes zeros of the others
            return weighted_sum([ops.where(has_output, sequence, 0.0), *final] if outputs else list(final))

        return gradients(loss, [x, *initial], cell.trainable_variables)

    wanted = run(bptt.unfold_by_autodiff)
    close(run(bptt.unfold_by_hand, True, True), wanted)
    close(run(bptt.unfold_by_hand, False, True), wanted)  # without `training` the backward pass recomputes


def test_a_cell_without_gradient_trains():
    from layers import RecurrentCell

    class LeakyCell(RecurrentCell):
        @staticmethod
        def equations(x, r, states, phi, sigma):
            return [0.9 * states[0] + 0.1 * phi(x[0] + r[0])], []

    x = sequences()
    layer = RNN(LeakyCell(5), return_sequences=True)
    layer.build(x.shape)
    random_weights(layer)
    assert not layer.cell.has_gradient
    for jit_compile in (None, False, True):
        for gradient in gradients(lambda x: weighted_sum(layer(x, training=True)), [x], layer.trainable_variables, jit_compile):
            assert np.abs(gradient).max() > 1e-3


def test_a_keras_cell_runs_on_the_engine():
    import keras

    x, mask = sequences(), np.arange(6) < np.array([[6], [3], [0]])
    cell = keras.layers.LSTMCell(5)
    ours, theirs = RNN(cell, return_sequences=True), keras.layers.RNN(cell, return_sequences=True)
    close(ours(x, mask=mask), theirs(x, mask=mask))


@pytest.mark.skipif(not ON_TENSORFLOW, reason="only TensorFlow's loops run concurrently")
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("batch, known", [(9, True), (9, False), (1, False)])
def test_a_batch_in_halves_equals_a_batch_at_once(name, batch, known, monkeypatch):
    import tensorflow as tf

    x = sequences(batch)
    mask = np.random.default_rng(1).random((batch, 6)) > 0.3
    layer = LAYERS[name](5, return_sequences=True, return_state=True)
    layer.build(x.shape)
    random_weights(layer)
    states = [sequences(batch, 1, size, seed=k)[:, 0] for k, size in enumerate(layer.state_sizes)]
    dropout = np.random.default_rng(3).integers(0, 2, (batch, 5)).astype("float32") * 2
    asked = []

    def results(halves):
        monkeypatch.setattr(bptt, "_halves_pay", lambda size, concurrency: asked.append(size) or halves)

        def compute(x, mask, dropout, *states):
            with tf.GradientTape() as tape:
                tape.watch((x, *states))
                _, outputs, final = bptt.unfold(
                    layer.cell, x, states, mask=mask, recurrent_dropout_mask=dropout, training=True, reverse=True
                )
                loss = tf.add_n([tf.reduce_sum(y**2 * (k + 1)) for k, y in enumerate([outputs, *final])])
            return outputs, final, tape.gradient(loss, [x, *states, *[v.value for v in layer.trainable_variables]])

        arrays = [tf.constant(a) for a in (x, mask, dropout, *states)]
        specs = [tf.TensorSpec([a.shape[0] if known else None, *a.shape[1:]], a.dtype) for a in arrays]
        return tf.function(compute, input_signature=specs, autograph=False)(*arrays)

    close(results(True), results(False))
    assert asked == [batch if known else None] * 2


@pytest.mark.skipif(not ON_TENSORFLOW, reason="only TensorFlow's loops run concurrently")
def test_halves_only_where_they_pay(monkeypatch):
    monkeypatch.setattr(bptt.os, "cpu_count", lambda: 4)
    assert bptt._halves_pay(None, 1) and bptt._halves_pay(8, 2) and not bptt._halves_pay(7, 1)
    monkeypatch.setattr(bptt.os, "cpu_count", lambda: 2)
    assert bptt._halves_pay(64, 1) and not bptt._halves_pay(64, 2)  # the directions of `Bidirectional`
    monkeypatch.setattr(bptt.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(bptt, "has_gpu", lambda: True)
    assert not bptt._halves_pay(64, 1)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="a matter of tf.function")
@pytest.mark.parametrize("return_sequences", [False, True])
def test_layers_of_several_sizes_have_eager_gradients_one_after_the_other(return_sequences):
    """Each new size must not make TensorFlow forget the sizes of the one before."""
    for units, features, batch, time in ((3, 2, 4, 5), (5, 3, 2, 7), (4, 2, 3, 6), (3, 4, 5, 5)):
        for name in ("SimpleRNN", "LSTM"):
            x = sequences(batch, time, features)
            ours = LAYERS[name](units, return_sequences=return_sequences)
            theirs = getattr(keras.layers, name)(units, return_sequences=return_sequences)
            theirs(x), ours(x)
            ours.set_weights(random_weights(theirs).get_weights())
            got, expected = (
                gradients(lambda x: ops.sum(layer(x) ** 2), [x], layer.trainable_variables)  # noqa: B023
                for layer in (ours, theirs)
            )
            close(got, expected)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="a matter of tf.function")
@pytest.mark.parametrize("name", LAYERS)
def test_a_known_batch_size_stays_known_after_a_layer_that_knew_none(name):
    import tensorflow as tf

    def shapes(batch):
        layer = LAYERS[name](11, return_sequences=True, return_state=True)
        function = tf.function(lambda x: layer(x, training=True))
        found = function.get_concrete_function(tf.TensorSpec((batch, 5, 2)))
        return [output.shape.as_list() for output in tf.nest.flatten(found.structured_outputs)]

    assert shapes(None)[0] == [None, 5, 11]
    sequences, *states = shapes(4)
    assert sequences == [4, 5, 11] and states and [state[0] for state in states] == [4] * len(states)
