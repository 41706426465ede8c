"""The linear recurrence against a plain loop, and what only its cells have."""

import keras
import numpy as np
import pytest
from keras import ops

import layers
from layers import bptt, linear_recurrence, linear_recurrences
from tests.layers.helpers import LINEAR, ON_TENSORFLOW, close, gradients, numpy, random_weights, sequences, weighted_sum

DECAY = 1 / (1 + np.exp(-sequences(3, 11, 4, seed=1)))
MASK = np.random.default_rng(2).random((3, 11)) > 0.4
MASK[1] = False


def loop(decay, inputs, state, mask=None, reverse=False):
    outputs = np.zeros_like(inputs)
    for t in reversed(range(inputs.shape[1])) if reverse else range(inputs.shape[1]):
        new = decay[:, t] * state + inputs[:, t]
        state = new if mask is None else np.where(mask[:, t, None], new, state)
        outputs[:, t] = state
    return outputs


@pytest.fixture(params=["loop", "rounds"])
def way(request, monkeypatch):
    """On a processor it is a loop, on a GPU a scan in rounds."""
    monkeypatch.setattr(linear_recurrences, "has_gpu", lambda: request.param == "rounds")


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_it_is_the_loop(way, reverse, masked, training):
    x, state, mask = sequences(3, 11, 4), sequences(3, 1, 4, seed=3)[:, 0], MASK if masked else None
    got = linear_recurrence(DECAY, x, state, mask=mask, reverse=reverse, training=training)
    close(got, loop(DECAY, x, state, mask, reverse))
    close(linear_recurrence(DECAY, x), loop(DECAY, x, np.zeros((3, 4), "float32")))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_its_gradient_is_that_of_the_loop(way, reverse, training):
    x, state = sequences(3, 11, 4), sequences(3, 1, 4, seed=3)[:, 0]

    def ours(decay, x, state):
        return weighted_sum(linear_recurrence(decay, x, state, mask=MASK, reverse=reverse, training=training))

    def theirs(decay, x, state):
        outputs = [None] * 11
        for t in reversed(range(11)) if reverse else range(11):
            state = ops.where(MASK[:, t, None], decay[:, t] * state + x[:, t], state)
            outputs[t] = state
        return weighted_sum(ops.stack(outputs, axis=1))

    close(gradients(ours, [DECAY, x, state]), gradients(theirs, [DECAY, x, state]), 1e-5)


def test_decays_of_0_and_1_are_exact(way):
    x = np.round(8 * sequences(3, 11, 4))
    ones, zeros = np.ones_like(x), np.zeros_like(x)
    np.testing.assert_array_equal(numpy(linear_recurrence(ones, x))[0], np.cumsum(x, axis=1))
    np.testing.assert_array_equal(numpy(linear_recurrence(zeros, x, np.full((3, 4), 9.0, "float32")))[0], x)


def test_ten_thousand_steps_and_a_single_one(way):
    x = np.ones((1, 10_000, 1), "float32")
    got = numpy(linear_recurrence(np.full_like(x, 0.999), x, training=True))[0][0, :, 0]
    np.testing.assert_allclose(got, (1 - 0.999 ** np.arange(1, 10_001)) / 0.001, rtol=1e-3)
    close(linear_recurrence(DECAY[:, :1], DECAY[:, :1]), DECAY[:, :1])


def test_the_state_is_float32_in_half_precision(way):
    x = np.full((1, 3000, 1), 1.0)
    decay, half = (ops.cast(ops.convert_to_tensor(a), "bfloat16") for a in (np.ones_like(x), x))
    outputs = linear_recurrence(decay, half)
    assert keras.backend.standardize_dtype(outputs.dtype) == "bfloat16"
    assert float(ops.cast(outputs[0, -1, 0], "float32")) == 3008.0  # 3000, rounded once; a state of bfloat16 stops at 256


@pytest.mark.skipif(not ON_TENSORFLOW, reason="a matter of loops for many lengths")
@pytest.mark.parametrize("reverse", [False, True])
def test_many_lengths_share_loops_with_padding(reverse):
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((3, None, 4))] * 2 + [tf.TensorSpec((3, 4))], autograph=False)
    def ours(decay, x, state):
        with tf.GradientTape() as tape:
            tape.watch((decay, x, state))
            outputs = linear_recurrence(decay, x, state, reverse=reverse, training=True)
            total = tf.reduce_sum(outputs**2)
        return outputs, *tape.gradient(total, (decay, x, state))

    state = sequences(3, 1, 4, seed=3)[:, 0]
    for time in (1, 5, 17, 23):
        decay, x = DECAY[:, np.arange(time) % 11], sequences(3, time, 4, seed=time)
        outputs, *found = ours(decay, x, state)
        close(outputs, loop(decay, x, state, reverse=reverse))

        def theirs(decay, x, state):
            total = 0.0
            for t in range(time)[:: -1 if reverse else 1]:  # noqa: B023
                state = decay[:, t] * state + x[:, t]
                total = total + ops.sum(state**2)
            return total

        close(found, gradients(theirs, [decay, x, state]), 1e-4)


@pytest.mark.parametrize("batch, time", [(0, 4), (2, 0)])
def test_nothing_gives_nothing(batch, time):
    x = np.zeros((batch, time, 3), "float32")
    assert linear_recurrence(x, x).shape == (batch, time, 3)


@pytest.mark.parametrize(
    "decay, inputs, options, message",
    [
        (np.ones((2, 3)), np.ones((2, 3)), {}, r"inputs \(2, 3\); expected both \(batch, time, units\)"),
        (np.ones((2, 1, 3)), np.ones((2, 5, 3)), {}, r"decay has shape \(2, 1, 3\), inputs \(2, 5, 3\)"),
        (np.ones((2, 5, 3)), np.ones((2, 5, 3), int), {}, "expected floating-point numbers"),
        (np.ones((2, 5, 3)), np.ones((2, 5, 3)), {"initial_state": np.ones((1, 3))}, r"initial_state has shape \(1, 3\)"),
        (np.ones((2, 5, 3)), np.ones((2, 5, 3)), {"mask": np.ones((1, 5), bool)}, r"mask has shape \(1, 5\); expected \(2, 5\)"),
    ],
)
def test_other_shapes_are_refused(decay, inputs, options, message):
    with pytest.raises(ValueError, match=message):
        linear_recurrence(decay, inputs, **options)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: layers.QRNN(4, window=1.0), "window is 1.0; expected 1 or 2"),
        (lambda: layers.QRNN(4, zoneout="a"), "zoneout is 'a'; expected a rate"),
        (lambda: layers.SRU(4, highway_bias=float("nan")), "highway_bias is nan"),
        (lambda: layers.SRU(4, highway_bias=-2.0, use_bias=False), "highway_bias is set, but use_bias is False"),
        (lambda: type("C", (layers.MinGRUCell,), {"equations": staticmethod(min)})(4), "`equations` is not used by a LinearCell"),
        (lambda: type("C", (layers.SRUCell,), {"recur": min})(4), "`recur` is not used"),
    ],
)
def test_arguments_without_a_meaning_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_zoneout_reaches_a_step_that_a_subclass_overrides():
    class Plain(layers.QRNNCell):
        def step(self, projected, states, dropout_mask=None, training=False):
            return super().step(projected, states, dropout_mask, training)

    layer = layers.RNN(Plain(4, zoneout=0.9), return_sequences=True)
    x = sequences(9, 7, 3)
    assert np.abs(numpy(layer(x, training=True))[0] - numpy(layer(x))[0]).max() > 0.05


@pytest.mark.parametrize("name", LINEAR)
def test_arguments_of_a_recurrent_product_are_refused(name):
    with pytest.raises(ValueError, match="recurrent_dropout is set, but the cell has no recurrent product"):
        getattr(layers, name)(4, recurrent_dropout=0.2)
    assert getattr(layers, name)(4, recurrent_dropout=0.0).recurrent_dropout == 0.0


@pytest.mark.parametrize("reverse", [False, True])
def test_a_window_of_two_sees_the_step_before_whatever_the_direction(reverse):
    """As a causal convolution of width 2, from the end in a layer that goes backwards."""
    layer = layers.QRNN(4, return_sequences=True, go_backwards=reverse)
    x = sequences(2, 6, 3)
    layer.build(x.shape)
    random_weights(layer)
    at = 3
    changed = x.copy()
    changed[:, at] += 1.0
    difference = numpy(layer(changed) - layer(x))[0]
    moved = np.abs(difference).max(axis=(0, 2)) > 0
    assert list(moved) == [False] * (6 - 1 - at if reverse else at) + [True] * (at + 1 if reverse else 6 - at)
    kernel = layer.cell.kernel
    kernel.assign(ops.concatenate([kernel[:3] * 0, kernel[3:]], axis=0))  # only the step before counts
    order = x[:, ::-1] if reverse else x
    one = layers.QRNN(4, return_sequences=True, window=1)
    one.build(x.shape)
    one.set_weights([np.asarray(kernel)[3:], *layer.get_weights()[1:]])
    close(layer(x), one(np.pad(order, ((0, 0), (1, 0), (0, 0)))[:, :-1]))


def test_a_window_of_two_obeys_a_subclass_that_overrides_the_projection():
    class Thrice(layers.QRNNCell):
        def project(self, inputs, add_bias=True):
            return [3.0 * x for x in super().project(inputs, add_bias)]

    ours, theirs = layers.RNN(Thrice(4), return_sequences=True), layers.QRNN(4, return_sequences=True)
    x = sequences(2, 6, 3)
    for layer in (ours, theirs):
        layer.build(x.shape)
    random_weights(theirs)
    ours.set_weights([w / 3 for w in theirs.get_weights()])
    close(ours(x), theirs(x))


def test_zoneout_keeps_states_in_training_alone():
    layer = layers.QRNN(50, window=1, zoneout=0.5, return_sequences=True, seed=1)
    layer.build((4, 30, 3))
    layer.cell.bias.assign(np.repeat([0.0, -50.0, 50.0], 50))  # without zoneout nothing is kept, and all is put out
    x = sequences(4, 30, 3)
    c = numpy(layer(x, training=True))[0]
    kept = c[:, 1:] == c[:, :-1]
    assert 0.45 < kept.mean() < 0.55 and not (numpy(layer(x))[0][:, 1:] == numpy(layer(x))[0][:, :-1]).any()
    step = layer.cell(x[:, 0], [np.ones((4, 50), "float32")], training=True)[1][0]
    assert 0.3 < (numpy(step)[0] == 1.0).mean() < 0.7  # one step alone, too


def test_sru_starts_as_published():
    features, units = 200, 300
    layer = layers.SRU(units, highway_bias=-1.0)
    layer.build((None, 5, features))
    kernel, v, bias = layer.get_weights()
    scale = (1 + 2 * np.exp(-1.0)) ** 0.5
    deviations = [part.std() * features**0.5 for part in np.split(kernel, 4, axis=1)]
    np.testing.assert_allclose(deviations, [0.5**0.5, 0.5**0.5, 1.0, scale], rtol=0.03)
    assert abs(v.std() - 0.5**0.5) < 0.05 and np.abs(v).max() <= 1.5**0.5
    np.testing.assert_array_equal(bias, [0.0] * units + [-1.0] * units)
    same = layers.SRU(features)
    same.build((None, 5, features))
    assert same.get_weights()[0].shape == (features, 3 * features) and same.cell.skip_scale == 3**0.5


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", ["SRU", "QRNN"])
def test_all_at_once_is_step_by_step(name, reverse):
    """From a given state and under a mask that begins with holes; with recurrent dropout where there is one."""
    layer = getattr(layers, name)(4)
    layer.build((3, 11, 4))
    cell = random_weights(layer).cell
    x, mask = sequences(3, 11, 4), MASK & (np.arange(11) % 10 > 0)
    states = [sequences(3, 1, size, seed=3)[:, 0] for size in keras.tree.flatten(cell.state_size)]
    dropout = np.random.default_rng(3).integers(0, 2, (3, 4)).astype("float32") * 2 if name == "SRU" else None

    def all_at_once(x, *states):
        how = {"mask": mask, "recurrent_dropout_mask": dropout, "reverse": reverse, "training": True}
        _, outputs, final = bptt.unfold(cell, x, list(states), **how)
        return weighted_sum([outputs, *final])

    def step_by_step(x, *states):
        steps, time_mask = ops.transpose(x, (1, 0, 2)), mask.T[..., None]
        _, outputs, final = bptt.unfold_by_autodiff(cell, steps, list(states), time_mask, dropout, reverse, True)
        return weighted_sum([ops.transpose(outputs, (1, 0, 2)), *final])

    assert cell.is_unfolded
    variables = layer.trainable_variables
    close(all_at_once(x, *states), step_by_step(x, *states))
    close(gradients(all_at_once, [x, *states], variables), gradients(step_by_step, [x, *states], variables), 1e-5)


@pytest.mark.parametrize("name", ["MinGRU", "SRU"])
def test_a_subclass_that_overrides_a_step_is_obeyed(name):
    base = getattr(layers, f"{name}Cell")

    class Louder(base):
        def step(self, *arguments, **options):
            h, states = super().step(*arguments, **options)
            return 2 * h, states

    cell, plain = Louder(4), base(4)
    x = sequences(3, 5, 4)
    ours, theirs = layers.RNN(cell), layers.RNN(plain)
    ours.build(x.shape)
    theirs.build(x.shape)
    random_weights(ours), random_weights(theirs)
    close(ours(x, training=True), 2 * numpy(theirs(x))[0])


def test_sru_passes_its_input_on_where_the_widths_are_equal():
    layer = layers.SRU(4, highway_bias=-50.0, rescale=False, return_sequences=True)
    x = sequences(2, 5, 4)
    close(layer(x), x)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="a matter of graphs")
def test_an_export_holds_no_compiled_loop():
    import tensorflow as tf

    layer = layers.MinGRU(4, return_sequences=True)
    graph = tf.function(layer).get_concrete_function(tf.TensorSpec((None, None, 3))).graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    assert not any("_XlaMustCompile" in node.attr and node.attr["_XlaMustCompile"].b for node in nodes)
    assert any(node.op in ("While", "StatelessWhile") for node in nodes)
