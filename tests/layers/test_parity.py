"""Same weights, same numbers as the Keras counterpart: outputs, states and all gradients."""

import keras
import numpy as np
import pytest

from tests.layers.helpers import LAYERS, ON_TENSORFLOW, close, gradients, random_weights, sequences, weighted_sum

COUNTERPARTS = {name: getattr(keras.layers, name) for name in ("SimpleRNN", "GRU", "LSTM")}
MASKS = {
    "no mask": None,
    "right": np.arange(6) < np.array([[6], [3], [1]]),
    "left": np.arange(6) >= np.array([[0], [2], [5]]),
    "holes and an empty row": np.array([[1, 0, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 1, 0]], bool),
}
COMBINATIONS = [(False, True, False), (True, True, False), (False, True, True), (True, False, True)]


def pair(name, **kwargs):
    ours, theirs = LAYERS[name](5, **kwargs), COUNTERPARTS[name](5, **kwargs)
    for layer in (ours, theirs):
        layer.build((3, 6, 4))
    random_weights(theirs)
    ours.set_weights(theirs.get_weights())
    return ours, theirs


@pytest.mark.parametrize("name", COUNTERPARTS)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("go_backwards", [False, True])
def test_outputs_states_and_gradients(name, mask, go_backwards):
    x, mask = sequences(), MASKS[mask]
    for return_sequences, training, initial in COMBINATIONS:
        if initial and mask is not None and not ON_TENSORFLOW:
            continue  # Keras' own backends differ in what comes before the first kept step; ours do as TensorFlow's
        ours, theirs = pair(name, return_sequences=return_sequences, return_state=True, go_backwards=go_backwards)
        states = [sequences(3, 1, 5, seed=k)[:, 0] for k in range(len(ours.state_sizes))] if initial else []

        def outputs(layer, x, *states):
            return layer(x, initial_state=list(states) or None, mask=mask, training=training)  # noqa: B023

        close(outputs(ours, x, *states), outputs(theirs, x, *states))
        close(
            gradients(lambda *a: weighted_sum(outputs(ours, *a)), [x, *states], ours.trainable_variables),  # noqa: B023
            gradients(lambda *a: weighted_sum(outputs(theirs, *a)), [x, *states], theirs.trainable_variables),  # noqa: B023
        )


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("GRU", {"reset_after": False}),
        ("GRU", {"use_bias": False}),
        ("LSTM", {"use_bias": False}),
        ("SimpleRNN", {"activation": "relu", "use_bias": False}),
        ("LSTM", {"activation": "relu", "recurrent_activation": "hard_sigmoid"}),
        ("LSTM", {"activation": "softsign"}),
        ("GRU", {"activation": None}),
    ],
)
def test_arguments(name, kwargs):
    x, mask = sequences(), MASKS["holes and an empty row"]
    ours, theirs = pair(name, return_sequences=True, **kwargs)
    close(ours(x, mask=mask), theirs(x, mask=mask))
    close(
        gradients(lambda x: weighted_sum(ours(x, mask=mask, training=True)), [x], ours.trainable_variables),
        gradients(lambda x: weighted_sum(theirs(x, mask=mask, training=True)), [x], theirs.trainable_variables),
    )


@pytest.mark.parametrize("name", COUNTERPARTS)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_gradients_when_the_caller_compiles(name, jit_compile):
    x, mask = sequences(), MASKS["right"]
    ours, theirs = pair(name, return_sequences=True)
    close(
        gradients(lambda x: weighted_sum(ours(x, mask=mask, training=True)), [x], ours.trainable_variables, jit_compile),
        gradients(lambda x: weighted_sum(theirs(x, mask=mask, training=True)), [x], theirs.trainable_variables, None),
    )


@pytest.mark.parametrize("name", COUNTERPARTS)
def test_zero_output_for_mask(name):
    x, mask = sequences(), MASKS["holes and an empty row"]
    ours, theirs = pair(name, return_sequences=True, zero_output_for_mask=True)
    close(ours(x, mask=mask), theirs(x, mask=mask))
