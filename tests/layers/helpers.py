"""Helpers of the layer tests that work on both backends."""

import keras
import numpy as np
from keras import ops

import layers

LAYERS = {name: getattr(layers, name) for name in "SimpleRNN GatedRNN GRU LSTM SRU QRNN MinGRU SSRU".split()}
LINEAR = "QRNN MinGRU SSRU".split()  # their gates don't depend on the state: no recurrent product, no hand-written `gradient`
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
JIT = [False, True] if ON_TENSORFLOW else [True]  # of `fit`: nobody trains on JAX operation by operation


def random_weights(layer, seed=0, scale=0.5):
    """Random weights everywhere, biases too: constant ones can't tell gate orders apart."""
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.normal(size=w.shape) * scale for w in layer.get_weights()])
    return layer


def sequences(batch=3, time=6, features=4, seed=0, dtype="float32"):
    return np.random.default_rng(seed).normal(size=(batch, time, features)).astype(dtype)


def numpy(outputs):
    return [np.asarray(ops.convert_to_numpy(o), "float64") for o in keras.tree.flatten(outputs)]


def gradients(function, arrays, variables=(), jit_compile=None):
    """Gradients of the scalar `function(*arrays)` with respect to the arrays and the variables."""
    arrays = [ops.convert_to_tensor(a) for a in arrays]
    variables = list(variables)
    if ON_TENSORFLOW:
        import tensorflow as tf

        def compute(*tensors):
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                loss = function(*tensors)
            return tape.gradient(loss, [*tensors, *[v.value for v in variables]], unconnected_gradients="zero")

        if jit_compile is not None:
            compute = tf.function(compute, jit_compile=jit_compile, autograph=False)
        return numpy(compute(*arrays))
    import jax

    def stateless(values, tensors):
        with keras.StatelessScope(state_mapping=list(zip(variables, values))):
            return function(*tensors)

    compute = jax.grad(stateless, argnums=(0, 1))
    if jit_compile:
        compute = jax.jit(compute)
    d_variables, d_arrays = compute([v.value for v in variables], arrays)
    return numpy([*d_arrays, *d_variables])


def weighted_sum(outputs):
    """A scalar in which every element of every output has a weight of its own."""
    total = 0.0
    for output in keras.tree.flatten(outputs):
        size = int(np.prod(output.shape))
        weights = np.cos(np.arange(size)).reshape(output.shape)
        total = total + ops.sum(output * ops.cast(weights, output.dtype))
    return total


def close(got, wanted, tolerance=1e-5):
    got, wanted = numpy(got), numpy(wanted)
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
