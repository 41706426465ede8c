"""cuDNN's part without a GPU: what it would be handed, and that what it would give is what the engine gives.

The list of GPUs is faked, and `tf.raw_ops.CudnnRNNV3` replaced by plain operations, written from cuDNN's documentation.
"""

import itertools

import keras
import numpy as np
import pytest

import layers
from layers import Bidirectional, cudnn
from tests.layers.helpers import LAYERS, ON_TENSORFLOW, close, random_weights, sequences
from tests.layers.test_parity import MASKS

if not ON_TENSORFLOW:
    pytest.skip("cuDNN is TensorFlow's here", allow_module_level=True)

import tensorflow as tf

EMPTY = np.arange(6) < np.array([[4], [0], [6]])  # padded on the right, with an empty row
CASES = [(mask, mask is None or name == "right") for name, mask in MASKS.items()]  # and whether cuDNN runs it
CASES += [(EMPTY, True), (np.zeros((3, 6), bool), True)]
NAMES = ["LSTM", "GRU"]


def cudnn_rnn(input, input_h, input_c, params, sequence_lengths, rnn_mode, is_training, time_major):
    """One layer in one direction, by the equations of `cudnnRNNMode_t` (https://docs.nvidia.com/deeplearning/cudnn), in which W
    are the input kernels, R the recurrent ones, b_W and b_R the two biases:

        LSTM    i = sigma(W_i x + R_i h + b_Wi + b_Ri), f and o alike, c~ = tanh(W_c x + R_c h + b_Wc + b_Rc)
                c' = f * c + i * c~, h' = o * tanh(c')                             linLayerID 0 to 3: i, f, c~, o
        GRU     r = sigma(W_r x + R_r h + b_Wr + b_Rr), i alike, h~ = tanh(W_h x + r * (R_h h + b_Rh) + b_Wh)
                h' = (1 - i) * h~ + i * h                                          linLayerID 0 to 2: r, i, h~

    After the steps of a row its outputs are zeros, and the states are those after its last step.
    """
    assert is_training and not time_major
    tf.debugging.assert_greater(sequence_lengths, 0)  # cuDNN refuses a row of none
    tf.debugging.assert_less_equal(sequence_lengths, tf.shape(input)[1])
    features, units, gates = input.shape[-1], input_h.shape[-1], {"lstm": 4, "gru": 3}[rnn_mode]
    parts = tf.split(params, [units * features] * gates + [units * units] * gates + [units] * 2 * gates)
    w, r = (
        [tf.reshape(part, (units, size)) for part in parts[k * gates : (k + 1) * gates]]
        for k, size in ((0, features), (1, units))
    )
    b_w, b_r = parts[2 * gates : 3 * gates], parts[3 * gates :]

    h, outputs = input_h[:, 0], []
    c = input_c[:, 0] if rnn_mode == "lstm" else tf.zeros_like(h)
    for t, x in enumerate(tf.unstack(input, axis=1)):
        from_x = [tf.linalg.matvec(w[k], x) + b_w[k] for k in range(gates)]
        from_h = [tf.linalg.matvec(r[k], h) + b_r[k] for k in range(gates)]
        if rnn_mode == "lstm":
            i, f, o = (tf.sigmoid(from_x[k] + from_h[k]) for k in (0, 1, 3))
            new_c = f * c + i * tf.tanh(from_x[2] + from_h[2])
            new_h = o * tf.tanh(new_c)
        else:
            reset, i = (tf.sigmoid(from_x[k] + from_h[k]) for k in (0, 1))
            new_h, new_c = (1 - i) * tf.tanh(from_x[2] + reset * from_h[2]) + i * h, c
        live = (t < sequence_lengths)[:, None]
        outputs.append(tf.where(live, new_h, 0.0))
        h, c = tf.where(live, new_h, h), tf.where(live, new_c, c)
    return tf.stack(outputs, axis=1), h[:, None], c[:, None], tf.zeros([0], input.dtype), tf.zeros([0], tf.int8)


def nothing(input, input_h, **arguments):
    return tf.zeros([*input.shape[:2], input_h.shape[-1]], input.dtype), input_h, input_h, input, input


class FakeGPU:
    def __init__(self, monkeypatch):
        self.visible, self.operation, self.calls, self.runs = True, cudnn_rnn, [], tf.Variable(0)
        self.build = {**tf.sysconfig.get_build_info(), "is_cuda_build": True, "cudnn_version": "9"}
        for name in ("list_logical_devices", "list_physical_devices"):
            real = getattr(tf.config, name)
            monkeypatch.setattr(tf.config, name, lambda kind=None, real=real: [*real(kind), *self._gpus(kind)])
        monkeypatch.setattr(tf.sysconfig, "get_build_info", lambda: self.build)
        self.real = tf.raw_ops.CudnnRNNV3  # only to be traced
        monkeypatch.setattr(tf.raw_ops, "CudnnRNNV3", self._run)

    def _gpus(self, kind):
        return [tf.config.LogicalDevice("/device:GPU:0", "GPU")] if self.visible and kind in (None, "GPU") else []

    def _run(self, **arguments):
        self.runs.assign_add(1)
        self.calls.append(arguments)
        return self.operation(**arguments)

    def count(self, function):
        """How often the function runs cuDNN."""
        before = int(self.runs)
        function()
        return int(self.runs) - before


@pytest.fixture
def gpu(monkeypatch):
    return FakeGPU(monkeypatch)


def make(name, kind=LAYERS, dtype="float64", **options):
    layer = kind[name](5, dtype=dtype, **options)
    layer.build((3, 6, 4))
    return random_weights(layer)


def states_for(name, dtype="float64"):
    return [sequences(3, 1, 5, seed=k, dtype=dtype)[:, 0] for k in range(2 if name == "LSTM" else 1)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "mixed_float16"])
def test_cudnn_is_handed_what_keras_hands_it(name, dtype, gpu):
    x, states = sequences(dtype=dtype.removeprefix("mixed_")), states_for(name, dtype.removeprefix("mixed_"))
    theirs, gpu.operation = {name: getattr(keras.layers, name) for name in NAMES}, nothing
    rates = [{}, {"dropout": 0.5, "seed": 3}]
    for mask, backwards, rate in itertools.product([None, MASKS["right"]], [False, True], rates):
        for kind in (theirs, LAYERS):
            layer = make(name, kind, dtype, go_backwards=backwards, **rate)
            layer(x, initial_state=states, mask=mask, training=True)
        wanted, got = gpu.calls
        assert wanted.keys() == got.keys()
        for key in wanted:
            a, b = (np.asarray(call[key]) for call in (wanted, got))
            assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()), key
        gpu.calls.clear()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("go_backwards", [False, True])
def test_outputs_states_and_gradients_are_those_of_the_engine(name, go_backwards, gpu):
    """In a graph that knows neither the batch nor its mask, and eagerly."""
    options = {"return_sequences": True, "return_state": True, "go_backwards": go_backwards, "jit_compile": False}
    states = states_for(name)
    arrays = [tf.constant(each) for each in (sequences(dtype="float64"), *states)]
    engine, ours = (make(name, use_cudnn=choice, **options) for choice in (False, "auto"))

    def compute(layer, mask, x, *states):
        with tf.GradientTape() as tape:
            tape.watch([x, *states])
            outputs = layer(x, initial_state=list(states), mask=mask, training=True)
            loss = sum(tf.reduce_sum(part * weights) for part, weights in zip(outputs, upstream))
        return [*outputs, *tape.gradient(loss, [x, *states, *[v.value for v in layer.trainable_variables]])]

    upstream = [tf.constant(sequences(3, 6, 5, 7, "float64")), *[state + 1 for state in states]]
    specs = [tf.TensorSpec([None, *array.shape[1:]], array.dtype) for array in arrays]
    graph = tf.function(lambda *given: compute(ours, *given), [tf.TensorSpec([None, 6], tf.bool), *specs], autograph=False)
    for mask, fits in CASES:
        wanted = compute(engine, mask, *arrays)
        if mask is None or mask is EMPTY:
            assert gpu.count(lambda: close(compute(ours, mask, *arrays), wanted, 1e-10)) == 1  # noqa: B023
        mask = np.ones((3, 6), bool) if mask is None else mask
        assert gpu.count(lambda: close(graph(mask, *arrays), wanted, 1e-10)) == fits  # noqa: B023


@pytest.mark.parametrize("name", NAMES)
def test_the_last_output_and_what_a_layer_does_with_outputs(name, gpu):
    x = sequences(dtype="float64")
    cases = [
        {},
        {"go_backwards": True},
        {"return_sequences": True, "zero_output_for_mask": True},
        {"return_sequences": True, "go_backwards": True},
    ]
    for options, mask in itertools.product(cases, (None, EMPTY)):
        engine, ours = (make(name, use_cudnn=choice, **options) for choice in (False, "auto"))
        assert gpu.count(lambda: close(ours(x, mask=mask), engine(x, mask=mask), 1e-10)) == 1  # noqa: B023
        close(ours(x, mask=mask, in_order=True), engine(x, mask=mask, in_order=True), 1e-10)
    stateful = [LAYERS[name](5, stateful=True, use_cudnn=choice, dtype="float64") for choice in (False, "auto")]
    for layer in stateful:
        layer.build(x.shape)
        for variable, value in zip(layer.trainable_variables, make(name).get_weights()):
            variable.assign(value)
    for _ in range(2):
        close(stateful[1](x, mask=EMPTY), stateful[0](x, mask=EMPTY), 1e-10)


def test_fit_gives_the_weights_that_the_engine_gives(gpu):
    ids = np.array([[1, 2, 3, 0], [4, 0, 0, 0], [0, 0, 0, 0], [2, 1, 4, 3], [0, 0, 3, 1], [4, 0, 2, 0]])  # the last two don't fit
    found = []
    for use_cudnn in (False, "auto"):
        keras.utils.set_random_seed(3)
        layer = layers.GRU(4, use_cudnn=use_cudnn, dtype="float64", jit_compile=False)
        model = keras.Sequential(
            [
                keras.Input((4,), dtype="int32"),
                keras.layers.Embedding(5, 3, mask_zero=True, dtype="float64"),
                Bidirectional(layer, dtype="float64"),
                keras.layers.Dense(1, dtype="float64"),
            ]
        )
        model.compile(keras.optimizers.SGD(0.5), "mse", jit_compile=False, run_eagerly=use_cudnn is False)
        before = int(gpu.runs)
        model.fit(ids, ids[:, :1].astype("float64"), batch_size=2, shuffle=False, verbose=0)
        found.append((int(gpu.runs) - before, model.get_weights()))
    assert [runs for runs, _ in found] == [0, 4]  # two directions, two batches of three
    close(found[1][1], found[0][1], 1e-7)


# -- where it isn't taken


class Twice(layers.LSTMCell):
    @staticmethod
    def equations(x, r, states, phi, sigma):
        return layers.LSTMCell.equations([2 * part for part in x], r, states, phi, sigma)


class OwnLSTM(layers.LSTM):
    cell_class = Twice


def replaced(cell):
    cell.step = lambda *arguments: type(cell).step(cell, *arguments)


INELIGIBLE = {
    "the equations of the cell, a Twice": lambda: OwnLSTM(5),
    "unroll is True": lambda: layers.LSTM(5, unroll=True),
    "the activations are not tanh and sigmoid": lambda: layers.GRU(5, activation="relu"),
    "the activations are not tanh and sigmoid ": lambda: layers.LSTM(5, recurrent_activation="hard_sigmoid"),
    "use_bias or reset_after is False": lambda: layers.LSTM(5, use_bias=False),
    "use_bias or reset_after is False ": lambda: layers.GRU(5, reset_after=False),
    "something is dropped from the recurrent product": lambda: layers.GRU(5, recurrent_dropout=0.1),
    "something is dropped from the recurrent product ": lambda: layers.LSTM(5, recurrent_weight_dropout=0.1),
    "it computes in bfloat16": lambda: layers.LSTM(5, dtype="mixed_bfloat16"),
}


@pytest.mark.parametrize("reason", INELIGIBLE)
def test_what_cudnn_cannot_compute_runs_on_the_engine(reason, gpu):
    layer, x = INELIGIBLE[reason](), sequences()
    assert gpu.count(lambda: layer(x, training=True)) == 0 and layer.supports_jit
    layer.use_cudnn = True
    with pytest.raises(ValueError, match=f"use_cudnn is True, but {reason.strip()}.*Leave use_cudnn='auto'"):
        layer(x, training=True)


def test_what_else_decides(gpu, monkeypatch):
    x, mask = sequences(), MASKS["right"]
    layer = make("LSTM", dtype="float32")
    assert gpu.count(lambda: layer(x)) == 1 and gpu.count(lambda: layer(x, mask=mask)) == 1
    dropping = make("LSTM", dtype="float32", recurrent_dropout=0.1, kernel_regularizer="l2", recurrent_constraint="max_norm")
    assert gpu.count(lambda: dropping(x)) == 1  # only training drops
    for generic in (layers.RNN(layers.LSTMCell(5)), layers.LSTM(5, use_cudnn=False)):
        assert gpu.count(lambda: generic(x)) == 0 and generic.supports_jit  # noqa: B023
    replaced(layer.cell)
    assert gpu.count(lambda: layer(x)) == 0
    del layer.cell.step
    for version, runs in (("8", 0), ("8.9.0", 0), ("8.9.1", 1), ("9", 1)):
        gpu.build["cudnn_version"] = version
        assert gpu.count(lambda: layer(x, mask=mask)) == runs and gpu.count(lambda: layer(x)) == 1
    assert layer(x[:0]).shape == (0, 5)
    monkeypatch.setattr(cudnn, "MAX_ROWS", 2)
    dynamic = tf.function(layer, input_signature=[tf.TensorSpec([None, 6, 4])], autograph=False)
    assert [gpu.count(lambda: run(x[:rows])) for run in (layer, dynamic) for rows in (0, 2, 3)] == [0, 1, 0] * 2  # noqa: B023
    gpu.build["is_cuda_build"] = False
    assert gpu.count(lambda: layer(x[:2])) == 0


def test_each_trace_asks_for_the_gpus_anew(gpu):
    layer, x = make("GRU", dtype="float32"), sequences()
    function = tf.function(layer, autograph=False)
    assert gpu.count(lambda: function(x)) == 1
    gpu.visible = False
    again = tf.function(layer, autograph=False)
    assert gpu.count(lambda: close([again(x), layer(x)], [function(x)] * 2)) == 1  # the old trace alone
    layer.use_cudnn = True
    with pytest.raises(ValueError, match="TensorFlow finds no CUDA GPU"):
        layer(x)


def test_xla_is_told_and_gets_the_engine(gpu):
    x = sequences()
    layer = make("LSTM", dtype="float32")
    assert gpu.count(lambda: close(tf.function(layer, jit_compile=True)(x), layer(x))) == 1
    for use_cudnn, compiled in (("auto", False), (False, True)):
        model = keras.Sequential([keras.Input((6, 4)), Bidirectional(layers.GRU(3, use_cudnn=use_cudnn))])
        model.compile("sgd", "mse")
        assert model.jit_compile is compiled
    model = keras.Sequential([keras.Input((6, 4)), layers.LSTM(3)])
    with pytest.warns(UserWarning, match="doesn't support `jit_compile=True`"):
        model.compile("sgd", "mse", jit_compile=True)


def test_a_second_derivative_needs_the_engine(gpu):
    gpu.operation = gpu.real

    def penalty(layer, x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x)
            d = tape.gradient(y, x)
        return outer.gradient(d, x)

    spec = tf.TensorSpec([3, 6, 4])
    with pytest.raises(LookupError, match="CudnnRNNBackpropV3"):
        tf.function(penalty, autograph=False).get_concrete_function(make("LSTM", dtype="float32"), spec)
    tf.function(penalty, autograph=False).get_concrete_function(make("LSTM", dtype="float32", use_cudnn=False), spec)


# -- exports


def operations(graph):
    graph = graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return [node.op for node in nodes], any(node.attr["_XlaMustCompile"].b for node in nodes if "_XlaMustCompile" in node.attr)


def test_what_is_traced_in_portable_has_neither_cudnn_nor_compiled_loops(gpu):
    gpu.operation = gpu.real
    made = [layers.LSTM(3, use_cudnn=True), Bidirectional(layers.GRU(3)), layers.MinGRU(3)]

    def trace():
        calls = [tf.function(lambda x, layer=layer: layer(x, training=True), autograph=False) for layer in made]
        return [operations(call.get_concrete_function(tf.TensorSpec([None, None, 4])).graph) for call in calls]

    everywhere = trace()
    assert ["CudnnRNNV3" in kinds for kinds, _ in everywhere] == [True, True, False]
    assert everywhere[0][1] and everywhere[1][1]  # a batch that doesn't fit trains on the engine, compiled
    with layers.portable():
        for kinds, compiled in trace():
            assert not compiled and not any("Cudnn" in kind for kind in kinds)
