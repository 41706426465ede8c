# %% [markdown]
# # What is in the box
#
# **Question: what does a recurrent layer compute, step by step?**
#
# A recurrent network is one small box that is used again at every step: from the input $x_t$ and the state before,
# $s_{t-1}$, it makes the next state $s_t$. Here are the four boxes from their equations in NumPy, with the same
# weights in our layers and in Keras.

# %%
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import matplotlib.pyplot as plt
import numpy as np

import layers

keras.utils.set_random_seed(1)
generator = np.random.default_rng(1)


def sigma(z):
    return 1 / (1 + np.exp(-z))


# %% [markdown]
# ## Four cells
#
# $W$ multiplies the input, $U$ the state. The columns of the gates are concatenated in one matrix.
#
# | cell | equations |
# |---|---|
# | simple | $s' = \tanh(xW + sU + b)$ |
# | gated | $g = \sigma(xW_g + sU_g + b_g)$, $s' = (1-g)\,s + g \tanh(xW_s + sU_s + b_s)$ |
# | GRU | $z, r = \sigma(\ldots)$, $\tilde s = \tanh(xW + r \cdot (sU + b'))$, $s' = z\,s + (1-z)\,\tilde s$ |
# | LSTM | $i, f, o = \sigma(\ldots)$, $c' = f\,c + i \tanh(\ldots)$, $h' = o \tanh(c')$ |


# %%
def simple(x, states, W, U, b):
    return [np.tanh(x @ W + states[0] @ U + b)]


def gated(x, states, W, U, b):
    (s,) = states
    (xg, xs), (rg, rs), (bg, bs) = np.split(x @ W, 2, -1), np.split(s @ U, 2, -1), np.split(b, 2)
    g = sigma(xg + rg + bg)
    return [(1 - g) * s + g * np.tanh(xs + rs + bs)]


def gru(x, states, W, U, b):
    (s,) = states
    xz, xr, xs = np.split(x @ W + b[0], 3, -1)
    rz, rr, rs = np.split(s @ U + b[1], 3, -1)
    z, r = sigma(xz + rz), sigma(xr + rr)
    return [z * s + (1 - z) * np.tanh(xs + r * rs)]


def lstm(x, states, W, U, b):
    h, c = states
    i, f, g, o = np.split(x @ W + h @ U + b, 4, -1)
    c = sigma(f) * c + sigma(i) * np.tanh(g)
    return [sigma(o) * np.tanh(c), c]


def unfold(step, x, states, weights):
    """The box in time: the outputs of all steps."""
    outputs = []
    for t in range(x.shape[1]):
        states = step(x[:, t], states, *weights)
        outputs.append(states[0])
    return np.stack(outputs, 1)


# %% [markdown]
# The same random weights in NumPy, in our layer and in Keras' (which has no gated cell of this kind).

# %%
units, features, x = 5, 3, generator.normal(size=(4, 7, 3)).astype("float32")
for step, ours, theirs, states in (
    (simple, layers.SimpleRNN, keras.layers.SimpleRNN, 1),
    (gated, layers.GatedRNN, None, 1),
    (gru, layers.GRU, keras.layers.GRU, 1),
    (lstm, layers.LSTM, keras.layers.LSTM, 2),
):
    layer = ours(units, return_sequences=True)
    layer.build(x.shape)
    weights = [generator.normal(scale=0.5, size=w.shape).astype("float32") for w in layer.get_weights()]
    layer.set_weights(weights)
    wanted = unfold(step, x, [np.zeros((4, units), "float32")] * states, weights)
    line = f"{ours.__name__:<10} to NumPy {np.abs(np.asarray(layer(x)) - wanted).max():.0e}"
    if theirs:
        twin = theirs(units, return_sequences=True)
        twin.build(x.shape)
        twin.set_weights(weights)
        line += f"   to Keras {np.abs(np.asarray(layer(x)) - np.asarray(twin(x))).max():.0e}"
    print(line)

# %% [markdown]
# Equal to the last digits of float32.
#
# ## The box, unfolded
#
# We feed an impulse at step 3 and then nothing, and watch the states. The simple state is turned by its orthogonal
# matrix and keeps oscillating. Gates start half open and forget within a few steps: to remember is what they must learn.

# %% tags=["picture"]
time, units = 40, 16
impulse = np.zeros((1, time, 1), "float32")
impulse[0, 3] = 3.0
figure, axes = plt.subplots(1, 4, figsize=(13, 2.8), sharey=True, layout="constrained")
for axis, layer in zip(axes, (layers.SimpleRNN, layers.GatedRNN, layers.GRU, layers.LSTM)):
    keras.utils.set_random_seed(2)
    states = np.asarray(layer(units, return_sequences=True)(impulse))[0]
    picture = axis.imshow(states.T, aspect="auto", cmap="RdBu", vmin=-1, vmax=1)
    axis.set(title=layer.__name__, xlabel="step")
axes[0].set_ylabel("unit")
figure.colorbar(picture, ax=axes, label="state")
figure.suptitle("what an impulse at step 3 leaves behind, before any training")
plt.show()

# %% [markdown]
# ## Encoders: a sequence as a vector
#
# The last state is a vector that stands for the whole sequence. A GRU that learns in which direction a wave
# runs and how fast it is arranges the sequences in its state space by itself.


# %%
def waves(count, time=30):
    speed = generator.uniform(0.5, 2.0, count)
    kind = generator.integers(0, 3, count)  # sine, square, saw
    phase = speed[:, None] * np.arange(time) / 3 + generator.uniform(0, 6, (count, 1))
    shapes = np.stack([np.sin(phase), np.sign(np.sin(phase)), phase / np.pi % 2 - 1], 1)
    x = shapes[np.arange(count), kind] + 0.1 * generator.normal(size=(count, time))
    return x[..., None].astype("float32"), kind, speed


x, kind, speed = waves(3000)
inputs = keras.Input((None, 1))
code = layers.Bidirectional(layers.GRU(12))(inputs)
model = keras.Model(inputs, keras.layers.Dense(3)(code))
model.compile(keras.optimizers.Adam(5e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
history = model.fit(x[:2500], kind[:2500], epochs=12, batch_size=50, validation_data=(x[2500:], kind[2500:]), verbose=0)
print("validation accuracy", round(history.history["val_accuracy"][-1], 3))
vectors = keras.Model(inputs, code).predict(x[2500:], verbose=0)
_, _, axes_of_codes = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
flat = (vectors - vectors.mean(0)) @ axes_of_codes[:2].T

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
for i, name in enumerate(("sine", "square", "saw")):
    left.plot(x[2500:][kind[2500:] == i][0, :, 0] + 2.5 * i, label=name)
    right.scatter(*flat[kind[2500:] == i].T, s=8 + 12 * speed[2500:][kind[2500:] == i], label=name, alpha=0.7)
left.set(title="three kinds of sequences", xlabel="step", yticks=[])
right.set(title="their last states (two principal axes; size: speed)")
right.legend()
plt.show()

# %% [markdown]
# ## Deep and bidirectional
#
# Boxes stack: the outputs of one are the inputs of the next. Two boxes may run in two directions; at each step the
# outputs are joined, so each output knows what comes, too.

# %%
deep = keras.Sequential(
    [
        keras.Input((None, 1)),
        layers.Bidirectional(layers.LSTM(8, return_sequences=True), name="both_directions"),
        layers.LSTM(8, return_sequences=True, name="second_level"),
        layers.GRU(4, name="third_level"),
    ]
)
for layer in deep.layers:
    print(f"{layer.name:<16} {layer.output.shape!s:<20} {layer.count_params():>5} parameters")
first = x[:1]
changed = first.copy()
changed[0, 20] += 3
both = keras.Model(deep.inputs, deep.layers[0].output)
difference = np.abs(both.predict(changed, verbose=0) - both.predict(first, verbose=0))[0]
plt.figure(figsize=(7, 2.6), layout="constrained")
plt.plot(difference[:, :8].mean(1), label="forward half")
plt.plot(difference[:, 8:].mean(1), label="backward half")
plt.axvline(20, color="grey", linestyle="--")
plt.title("an input changed at step 20: which outputs notice?")
plt.xlabel("step")
plt.legend()
plt.show()

# %% [markdown]
# **Seen:** four boxes of a few lines each; our layers, Keras' and NumPy agree to float32's last digits. The forward
# half of a bidirectional layer knows the past of each step, the backward half its future.
