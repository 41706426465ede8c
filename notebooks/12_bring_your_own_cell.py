# %% [markdown]
# # Bring your own cell
#
# **Question: how much code is a new recurrent cell, and is it fast?**
#
# A cell is its equations. Matrix products, time, masks, dropout, directions and serialization belong to the engine.
# We write a cell that the library doesn't have, drop it into `RNN` and `Bidirectional`, check it as the library
# checks its own, and race it against an LSTM.

# %%
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import statistics
import tempfile
import time

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from layers import LSTM, RNN, Bidirectional, LinearCell, RecurrentCell

keras.utils.set_random_seed(0)
generator = np.random.default_rng(0)

# %% [markdown]
# ## Ten lines
#
# Coupled gates (Greff et al. 2017, https://arxiv.org/abs/1503.04069, variant CIFG): what is written is what was
# forgotten, and there is one state.
#
# $$f, o = \sigma(\ldots) \qquad s' = f \cdot s + (1 - f) \cdot \phi(\ldots) \cdot o$$
#
# `x` and `r` are the products of the input and of the state with the weights, one for each gate.


# %%
@keras.saving.register_keras_serializable(package="mine")
class CoupledCell(RecurrentCell):
    gates = 3

    @staticmethod
    def equations(x, r, states, phi, sigma):
        f, o = sigma(x[0] + r[0]), sigma(x[1] + r[1])
        return [f * states[0] + (1 - f) * phi(x[2] + r[2]) * o], []


x = generator.normal(size=(4, 9, 3)).astype("float32")
print(RNN(CoupledCell(5), return_sequences=True)(x).shape, Bidirectional(RNN(CoupledCell(5)))(x).shape)

# %% [markdown]
# ## Check it
#
# What the library asks of each of its cells: the same numbers as a plain loop in NumPy with random weights, padding
# that changes nothing, one scan equal to two joined ones, gradients equal to finite differences, and a model that is
# itself after it was saved and loaded.

# %%
layer = RNN(CoupledCell(5), return_sequences=True, return_state=True)
layer.build(x.shape)
layer.set_weights([generator.normal(scale=0.5, size=w.shape) for w in layer.get_weights()])
W, U, b = layer.get_weights()


def loop(x, s):
    outputs = []
    for t in range(x.shape[1]):
        (xf, xo, xs), (rf, ro, rs) = np.split(x[:, t] @ W + b, 3, -1), np.split(s @ U, 3, -1)
        f, o = 1 / (1 + np.exp(-xf - rf)), 1 / (1 + np.exp(-xo - ro))
        s = f * s + (1 - f) * np.tanh(xs + rs) * o
        outputs.append(s)
    return np.stack(outputs, 1)


outputs, final = (np.asarray(part) for part in layer(x))
np.testing.assert_allclose(outputs, loop(x, np.zeros((4, 5), "float32")), atol=1e-5)

mask = np.arange(9)[None] < np.array([[9], [4], [6], [1]])
masked = np.asarray(layer(np.where(mask[..., None], x, 100.0), mask=mask)[1])
np.testing.assert_allclose(masked, outputs[np.arange(4), mask.sum(1) - 1], atol=1e-6)

first, state = layer(x[:, :5])
second, _ = layer(x[:, 5:], initial_state=[state])
np.testing.assert_allclose(np.concatenate([first, second], 1), outputs, atol=1e-6)

inputs = tf.constant(x)
with tf.GradientTape() as tape:
    tape.watch(inputs)
    loss = tf.reduce_sum(layer(inputs)[0] ** 2)
slope = tape.gradient(loss, inputs).numpy()[1, 2, 0]
nudged = [x.copy(), x.copy()]
nudged[0][1, 2, 0] += 1e-2
nudged[1][1, 2, 0] -= 1e-2
ends = [float(tf.reduce_sum(layer(part)[0] ** 2)) for part in nudged]
np.testing.assert_allclose((ends[0] - ends[1]) / 2e-2, slope, rtol=1e-2)

model = keras.Sequential([keras.Input((None, 3)), Bidirectional(RNN(CoupledCell(5))), keras.layers.Dense(2)])
with tempfile.TemporaryDirectory() as folder:
    model.save(f"{folder}/model.keras")
    again = keras.models.load_model(f"{folder}/model.keras")
np.testing.assert_array_equal(model.predict(x, verbose=0), again.predict(x, verbose=0))
print("plain loop, padding, two scans, gradient, saved and loaded: all equal")

# %% [markdown]
# ## Make it fast
#
# Without more, the backend differentiates the equations inside the loop. With the derivative written by hand, the
# cell trains on the fast path: the loop back computes only the gradients of `x` and `r`, and each weight's gradient
# is one product over all steps. `equations` keeps what `gradient` needs.


# %%
@keras.saving.register_keras_serializable(package="mine")
class FastCoupledCell(CoupledCell):
    residuals = 3

    @staticmethod
    def equations(x, r, states, phi, sigma):
        f, o, g = sigma(x[0] + r[0]), sigma(x[1] + r[1]), phi(x[2] + r[2])
        return [f * states[0] + (1 - f) * g * o], [f, o, g]

    @staticmethod
    def gradient(d_states, before, after, residuals, phi, sigma):
        (d,), (s,), (f, o, g) = d_states, before, residuals
        d_f = d * (s - g * o) * sigma.derivative(f)
        d_o = d * (1 - f) * g * sigma.derivative(o)
        d_g = d * (1 - f) * o * phi.derivative(g)
        return [d_f, d_o, d_g], [d_f, d_o, d_g], [d * f]


fast = RNN(FastCoupledCell(5), return_sequences=True, return_state=True)
fast.build(x.shape)
fast.set_weights(layer.get_weights())


def gradients(layer):
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = tf.reduce_sum(layer(inputs, training=True)[0] ** 2)
    return [part.numpy() for part in tape.gradient(loss, [inputs, *(v.value for v in layer.trainable_variables)])]


for one, other in zip(gradients(layer), gradients(fast)):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
print("the gradient by hand equals that of the backend")

# %% [markdown]
# ## Without a recurrent product
#
# Where the gates need not see the state, a cell is `LinearCell`: it says what is kept and what is added, and the engine
# solves $s_t = a_t s_{t-1} + b_t$ for all steps, with its gradient by hand. Here the coupled gates again, without `r`.


# %%
@keras.saving.register_keras_serializable(package="mine")
class LinearCoupledCell(LinearCell):
    gates = 3

    @staticmethod
    def recurrence(x, phi, sigma):
        f, o = sigma(x[0]), sigma(x[1])
        return f, (1 - f) * phi(x[2]) * o


W, b = (generator.normal(scale=0.5, size=shape).astype("float32") for shape in ((3, 15), (15,)))
linear = RNN(LinearCoupledCell(5, activation="tanh"), return_sequences=True)
linear.build(x.shape)
linear.set_weights([W, b])
xf, xo, xs = np.split(x @ W + b, 3, -1)
f, o = 1 / (1 + np.exp(-xf)), 1 / (1 + np.exp(-xo))
wanted, s = [], 0
for t in range(x.shape[1]):
    s = f[:, t] * s + (1 - f[:, t]) * np.tanh(xs[:, t]) * o[:, t]
    wanted.append(s)
np.testing.assert_allclose(np.asarray(linear(x)), np.stack(wanted, 1), atol=1e-5)
print("the linear cell equals a plain loop")

# %% [markdown]
# ## The race
#
# Milliseconds of a training step at (batch 32, time 100, features 128, units 128), medians of turns.

# %% tags=["picture"]
sequences = tf.constant(generator.normal(size=(32, 100, 128)).astype("float32"))
racers = {
    "CoupledCell": RNN(CoupledCell(128), return_sequences=True),
    "with its gradient": RNN(FastCoupledCell(128), return_sequences=True),
    "LinearCoupledCell": RNN(LinearCoupledCell(128, activation="tanh"), return_sequences=True),
    "our LSTM": LSTM(128, return_sequences=True),
    "Keras' LSTM": keras.layers.LSTM(128, return_sequences=True),
}


def training_step(layer):
    layer.build(sequences.shape)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(sequences, training=True) ** 2)
        return tape.gradient(loss, [v.value for v in layer.trainable_variables])

    return step


steps, times = {name: training_step(layer) for name, layer in racers.items()}, {name: [] for name in racers}
for turn in range(14):
    for name, step in steps.items():
        begun = time.perf_counter()
        step()[0].numpy()
        if turn > 3:
            times[name].append(1e3 * (time.perf_counter() - begun))
medians = {name: statistics.median(found) for name, found in times.items()}
plt.figure(figsize=(7, 2.4), layout="constrained")
bars = plt.barh(list(medians), list(medians.values()), color=["C1", "C0", "C0", "C0", "grey"])
plt.bar_label(bars, fmt="%.0f ms", padding=3)
plt.gca().invert_yaxis()
plt.title("a training step")
plt.xlim(0, max(medians.values()) * 1.15)
plt.show()

# %% [markdown]
# **Seen:** a new cell is ten lines and inherits masks, directions, dropout and saving. With its derivative, another
# ten lines, it trains on the same fast path as the library's own. Without a recurrent product it needs none of its own; what
# that costs is the next notebook.
