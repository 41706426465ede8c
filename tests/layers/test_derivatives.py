"""Derivatives beyond the first, in other modes, and of cells whose equations were changed."""

import keras
import numpy as np
import pytest
from keras import ops

import layers
from layers import RNN, Bidirectional, check_gradient
from layers.gradients import vector_jacobian_product
from tests.layers.helpers import LAYERS, ON_TENSORFLOW, close, gradients, random_weights, sequences, weighted_sum

ATTENTION = {
    "ScaledDotProductAttention": layers.ScaledDotProductAttention,
    "BahdanauAttention": lambda **kw: layers.BahdanauAttention(3, **kw),
    "MultiHeadAttention": lambda **kw: layers.MultiHeadAttention(2, 3, **kw),
}
MASK = np.array([[1, 0, 1, 1], [0, 1, 1, 0]], bool)


def of_layer(name, training):
    """A scalar function of (2, 4, 3), through one of our layers with random weights."""
    dtype = "float64" if ON_TENSORFLOW else "float32"
    if name in ATTENTION:
        layer = ATTENTION[name](dtype=dtype)
        layer.build((2, 4, 3), (2, 4, 3))
        random_weights(layer)
        return lambda x: weighted_sum(layer(x, x, value_mask=MASK, training=training))
    layer = LAYERS[name](3, return_sequences=True, return_state=True, dtype=dtype)
    layer.build((2, 4, 3))
    random_weights(layer)
    return lambda x: weighted_sum(layer(x, mask=MASK, training=training))


def norm_of_gradient(loss, x):
    """A gradient penalty."""
    return ops.sum(ops.square(vector_jacobian_product(lambda x: [loss(x)], [x], [ops.ones((), x.dtype)])[0]))


@pytest.mark.skipif(not ON_TENSORFLOW, reason="JAX computes in float32 unless told otherwise at its start")
@pytest.mark.parametrize("name", [*(name for name in LAYERS if name not in ("MinGRU", "SSRU")), *ATTENTION])
@pytest.mark.parametrize("training", [False, True])
def test_second_derivatives_against_differences(name, training):
    import tensorflow as tf

    loss, x, step = of_layer(name, training), sequences(2, 4, 3, dtype="float64"), 1e-5

    def penalty(x):
        return norm_of_gradient(loss, tf.convert_to_tensor(x))

    (got,) = gradients(penalty, [x])
    (compiled,) = gradients(penalty, [x], jit_compile=True) if name in ("GRU", "MultiHeadAttention") and training else (got,)
    np.testing.assert_allclose(compiled, got, rtol=1e-8, atol=1e-10)
    at = tf.function(penalty, autograph=False)
    for place in ((0, 0, 0), (1, 2, 1), (0, 3, 2)):
        up, down = x.copy(), x.copy()
        up[place] += step
        down[place] -= step
        np.testing.assert_allclose(got[place], float(at(up) - at(down)) / (2 * step), rtol=1e-6, atol=1e-8)


PENALTIES = {
    "a loss that is not linear": lambda x, a, b: ops.sum(ops.square(a(x))),
    "two layers": lambda x, a, b: ops.sum(b(a(x))),
    "a tensor passed twice": lambda x, a, b: ops.sum(a(x, x[:, 0])),
}


@pytest.mark.parametrize("name", ["GRU", "LSTM", "MultiHeadAttention"])
@pytest.mark.parametrize("case", PENALTIES)
def test_gradient_penalties_equal_those_of_keras(name, case):
    """Where the upstream gradient depends on the inputs itself; eager, in a graph, and on JAX."""
    random = {}

    def make(kind):
        if name == "MultiHeadAttention":
            layer = kind.MultiHeadAttention(2, 3)
            layer.build((2, 4, 3), (2, 4, 3))
            call = lambda x, *other: layer(x, x)  # noqa: E731
        else:
            layer = getattr(kind, name)(3, return_sequences=True)
            layer.build((2, 4, 3))
            count = len(layer.state_size)
            call = lambda x, *s: layer(x, training=True, initial_state=[s[0]] * count if s else None)  # noqa: E731
        layer.set_weights(random.setdefault("weights", random_weights(layer).get_weights()))
        return call

    x = sequences(2, 4, 3)
    ours, theirs = ((make(kind), make(kind)) for kind in (layers, keras.layers))

    def penalty(x, pair):
        if not ON_TENSORFLOW:
            import jax

            return ops.sum(ops.square(jax.grad(PENALTIES[case])(x, *pair)))
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(x)
            value = PENALTIES[case](x, *pair)
        return ops.sum(ops.square(tape.gradient(value, x)))

    expected = gradients(lambda x: penalty(x, theirs), [x])
    for jit_compile in (None, False) if ON_TENSORFLOW else (None, True):
        close(gradients(lambda x: penalty(x, ours), [x], jit_compile=jit_compile), expected, 1e-4)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="JAX itself refuses forward mode through a gradient written by hand, and says so")
@pytest.mark.parametrize("name", ["LSTM", "MultiHeadAttention"])
@pytest.mark.parametrize("training", [False, True])
def test_forward_mode(name, training):
    import tensorflow as tf

    loss, x = of_layer(name, training), tf.constant(sequences(2, 4, 3, dtype="float64"))
    direction = tf.constant(sequences(2, 4, 3, seed=1, dtype="float64"))
    with tf.autodiff.ForwardAccumulator(x, direction) as accumulator:
        value = loss(x)
    (gradient,) = vector_jacobian_product(lambda x: [loss(x)], [x], [tf.ones((), x.dtype)])
    np.testing.assert_allclose(float(accumulator.jvp(value)), float(tf.reduce_sum(gradient * direction)), rtol=1e-9)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="of TensorFlow's tapes")
def test_a_third_derivative_and_maml():
    import tensorflow as tf

    layer = LAYERS["GRU"](3, dtype="float64")
    layer.build((2, 3, 2))
    random_weights(layer)
    kernel = layer.cell.recurrent_kernel
    x = tf.constant(sequences(2, 3, 2, dtype="float64"))

    def inner(v):
        kernel.assign(v)
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = weighted_sum(layer(x, training=True))
        return tape.gradient(loss, x)

    with tf.GradientTape() as third:
        third.watch(x)
        with tf.GradientTape() as second:
            second.watch(x)
            value = tf.reduce_sum(inner(kernel.value) ** 3)
        curvature = tf.reduce_sum(second.gradient(value, x) ** 2)
    got = third.gradient(curvature, x).numpy()

    def at(x):
        with tf.GradientTape() as second:
            second.watch(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = weighted_sum(layer(x, training=True))
            value = tf.reduce_sum(tape.gradient(loss, x) ** 3)
        return float(tf.reduce_sum(second.gradient(value, x) ** 2))

    up, down = x.numpy(), x.numpy()
    up[0, 1, 0] += 1e-5
    down[0, 1, 0] -= 1e-5
    np.testing.assert_allclose(got[0, 1, 0], (at(tf.constant(up)) - at(tf.constant(down))) / 2e-5, rtol=1e-5)


# -- cells that change their parent's equations


class Leaky(layers.GRUCell):
    @staticmethod
    def equations(x, r, states, phi, sigma):
        return [0.5 * states[0] + 0.5 * phi(x[2] + r[2])], []


class Sharp(layers.LSTMCell):
    def recur(self, hidden):
        return [2.0 * r for r in super().recur(hidden)]


class Doubled(layers.SimpleRNNCell):
    def step(self, projected, states, dropout_mask=None):
        output, new = super().step(projected, states, dropout_mask)
        return 2.0 * output, [0.5 * s for s in new]


class Called(layers.GatedRNNCell):
    def call(self, inputs, states, training=False):
        output, new = super().call(inputs, states, training)
        return output + 1.0, new


class Projected(layers.GRUCell):
    def project(self, inputs, add_bias=True):
        return [3.0 * x for x in super().project(inputs, add_bias)]


class Shifted(layers.SimpleRNNCell):
    """Adds the input of the step before, where all steps are projected at once; with a derivative of its own."""

    def project(self, inputs, add_bias=True):
        assert len(inputs.shape) == 3
        return super().project(inputs + ops.concatenate([ops.zeros_like(inputs[:1]), inputs[:-1]], axis=0), add_bias)

    gradient = staticmethod(layers.SimpleRNNCell.gradient)


def test_a_projection_of_all_steps_gets_all_steps_with_and_without_training():
    layer, plain, x = RNN(Shifted(4), return_sequences=True), layers.SimpleRNN(4, return_sequences=True), sequences(2, 5, 3)
    for one in (layer, plain):
        one.build(x.shape)
    random_weights(plain)
    layer.set_weights(plain.get_weights())
    assert layer.cell.has_gradient
    wanted = plain(x + np.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1])
    for training in (False, True):
        close(layer(x, training=training), wanted)


@pytest.mark.parametrize("cell_class", [Leaky, Sharp, Doubled, Called, Projected])
def test_what_a_subclass_overrides_is_computed_and_differentiated(cell_class):
    cell, x = cell_class(3), sequences(2, 4, 3)
    layer = RNN(cell, return_sequences=True)
    layer.build(x.shape)
    random_weights(layer)
    assert not cell.has_gradient

    def by_steps(x):
        state, outputs = cell.get_initial_state(2), []
        for t in range(4):
            output, state = cell(x[:, t], state)
            outputs.append(output)
        return ops.stack(outputs, axis=1)

    close(layer(x), by_steps(ops.convert_to_tensor(x)))
    for training in (False, True):
        close(
            gradients(lambda x: weighted_sum(layer(x, training=training)), [x], layer.trainable_variables),  # noqa: B023
            gradients(lambda x: weighted_sum(by_steps(x)), [x], layer.trainable_variables),
        )


def test_a_gradient_counts_only_for_the_equations_it_was_written_with():
    class Same(layers.LSTMCell):
        pass

    class Own(Leaky):
        residuals = 0

        @staticmethod
        def gradient(d_states, before, after, residuals, phi, sigma):
            raise AssertionError

    assert Same(3).has_gradient and Own(3).has_gradient
    patched = layers.LSTMCell(3)
    patched.recur = lambda hidden: [hidden] * 4
    assert not patched.has_gradient


@pytest.mark.parametrize("cell_class", [layers.SimpleRNNCell, layers.GatedRNNCell, layers.GRUCell, layers.LSTMCell])
def test_check_gradient_accepts_ours_and_names_what_is_wrong(cell_class):
    assert check_gradient(cell_class(3)) < 1e-5

    class Wrong(cell_class):
        @staticmethod
        def gradient(d_states, *args):
            return cell_class.gradient([2.0 * d for d in d_states], *args)

    with pytest.raises(ValueError, match=r"Wrong.gradient with respect to recurrent kernel differs from the backend's by"):
        check_gradient(Wrong(3))


def test_check_gradient_refuses_a_cell_without_and_wrong_counts():
    class Two(layers.LSTMCell):
        residuals = 2

    class Apart(layers.LSTMCell):
        @staticmethod
        def gradient(*args):
            d_x, d_r, d_before = layers.LSTMCell.gradient(*args)
            return d_x, [1.0 * d for d in d_r], d_before

    with pytest.raises(
        ValueError, match=r"Two.equations returned 4 tensor\(s\) as residuals; expected 2. Set `residuals = 4` in the class"
    ):
        check_gradient(Two(3))
    with pytest.raises(ValueError, match=r"Apart.gradient returned 4 tensor\(s\) in d_r that are not those in d_x; expected 0"):
        check_gradient(Apart(3))
    with pytest.raises(ValueError, match="GRUCell has no gradient in force, because it is written for reset_after=True"):
        check_gradient(layers.GRUCell(3, reset_after=False))
    with pytest.raises(ValueError, match=r"because the derivative of gelu is not known. Use tanh"):
        check_gradient(layers.LSTMCell(3, activation="gelu"))
    with pytest.raises(ValueError, match=r"Pass the cell of a layer, layer.cell"):
        check_gradient(layers.LSTM(3))
    assert check_gradient(layers.LSTMCell(3, dtype="mixed_bfloat16")) < 1e-5


@keras.saving.register_keras_serializable(package="unfold_tests")
class Warm(layers.GRUCell):
    def get_initial_state(self, batch_size=None):
        return [ops.full((batch_size, self.units), 0.5, dtype=self.compute_dtype)]


class WarmGRU(layers.GRU):
    def get_initial_state(self, batch_size=None):
        return Warm.get_initial_state(self.cell, batch_size)


@pytest.mark.parametrize("make", [lambda **options: RNN(Warm(3), **options), lambda **options: WarmGRU(3, **options)])
def test_an_initial_state_of_the_cell_or_the_layer_is_used(make):
    x, mask = sequences(2, 4, 3), np.array([[0, 1, 1, 0], [0, 0, 0, 0]], bool)
    layer = make(return_sequences=True, return_state=True)
    layer.build(x.shape)
    plain = RNN(layers.GRUCell(3), return_sequences=True, return_state=True)
    plain.build(x.shape)
    plain.set_weights(random_weights(layer).get_weights())
    close(layer(x, mask=mask), plain(x, mask=mask, initial_state=[np.full((2, 3), 0.5, "float32")]))
    both = Bidirectional(RNN(Warm(3)))
    both.build(x.shape)
    assert np.abs(np.asarray(ops.convert_to_numpy(both(0 * x, mask=np.zeros((2, 4), bool))))).max() == 0


@pytest.mark.parametrize("where", ["cond", "ops.cond", "if", "while"])
@pytest.mark.skipif(not ON_TENSORFLOW, reason="of TensorFlow's graphs")
@pytest.mark.parametrize("name", ["GRU", "Bidirectional"])
def test_a_training_call_inside_a_branch(where, name):
    import tensorflow as tf

    layer = layers.GRU(3, return_sequences=True) if name == "GRU" else Bidirectional(layers.LSTM(3, return_sequences=True))
    x, mask = tf.constant(sequences(9, 4, 3)), tf.constant(np.random.default_rng(0).random((9, 4)) > 0.3)
    expected = gradients(lambda x: weighted_sum(layer(x, mask=mask, training=True)), [x], layer.trainable_variables or ())

    def call(x):
        return layer(x, mask=mask, training=True)

    def loss(x, flag):
        if where == "while":
            start = [0, tf.zeros_like(call(x))]
            y = tf.while_loop(lambda i, y: i < 1, lambda i, y: (i + 1, call(x)), start, maximum_iterations=3)[1]
        elif where == "ops.cond":
            y = ops.cond(flag, lambda: call(x), lambda: ops.zeros_like(call(x)))
        elif where == "cond":
            y = tf.cond(flag, lambda: call(x), lambda: tf.zeros_like(call(x)))
        elif flag:
            y = call(x)
        else:
            y = tf.zeros_like(call(x))
        return weighted_sum(y)

    @tf.function(autograph=where == "if")
    def compute(x, flag):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(x, flag)
        return tape.gradient(value, [x])

    close(compute(x, tf.constant(True)), expected[:1])


def test_a_cell_that_reads_an_attribute_of_its_class_is_compiled_anew_when_that_changes():
    class Tunable(layers.SimpleRNNCell):
        leak = 0.1

        @staticmethod
        def equations(x, r, states, phi, sigma):
            return [states[0] + Tunable.leak * (phi(x[0] + r[0]) - states[0])], []

        @staticmethod
        def gradient(d_states, before, after, residuals, phi, sigma):
            candidate = (after[0] - (1 - Tunable.leak) * before[0]) / Tunable.leak
            d_z = [Tunable.leak * d_states[0] * phi.derivative(candidate)]
            return d_z, d_z, [(1 - Tunable.leak) * d_states[0]]

    layer, x = RNN(Tunable(3)), sequences()
    before = layer(x)
    assert check_gradient(Tunable(3)) < 1e-5
    Tunable.leak = 0.9
    assert np.abs(np.asarray(ops.convert_to_numpy(before - layer(x)))).max() > 0.01
    assert check_gradient(Tunable(3)) < 1e-5


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("states", r"returned a list; expected \(new_states, residuals\), each a list. Return a tuple"),
        ("too many", r"returned 2 tensor\(s\) as new_states; expected 1. Check `gates` and `state_count`"),
    ],
)
def test_equations_that_return_something_else_are_named(result, message):
    class Wrong(layers.RecurrentCell):
        @staticmethod
        def equations(x, r, states, phi, sigma):
            return [states[0]] if result == "states" else ([states[0]] * 2, [])

    with pytest.raises(ValueError, match="Wrong.equations " + message):
        RNN(Wrong(3))(sequences())


def test_equations_with_self_work_without_a_gradient():
    class Bound(layers.RecurrentCell):
        rate = 0.5

        def equations(self, x, r, states, phi, sigma):
            return [self.rate * states[0] + phi(x[0] + r[0])], []

    class Both(Bound):
        def equations(self, x, r, states, phi, sigma):
            return super().equations(x, r, states, phi, sigma)

        def gradient(self, *args):
            raise AssertionError

    x = sequences()
    for make in (Bound, Both):
        cell = make(3)
        layer = RNN(cell)
        layer.build(x.shape)
        random_weights(layer)

        def by_steps(x):
            state = ops.zeros((3, 3))
            for t in range(6):
                state = 0.5 * state + ops.tanh(x[:, t] @ cell.kernel + cell.bias + state @ cell.recurrent_kernel)  # noqa: B023
            return state

        close(
            gradients(lambda x: weighted_sum(layer(x, training=True)), [x], layer.trainable_variables),  # noqa: B023
            gradients(lambda x: weighted_sum(by_steps(x)), [x], layer.trainable_variables),
        )
    with pytest.raises(ValueError, match=r"`equations` is not a static method. Write @staticmethod above it"):
        check_gradient(Both(3))
