# %% [markdown]
# # Backpropagation through time
#
# **Question: why do simple recurrent networks forget, and what do gates, initialisation and clipping change?**
#
# The gradient of a loss at step $T$ with respect to the state at step $t$ is a product of $T-t$ Jacobians,
#
# $$\frac{\partial L}{\partial s_t} = \frac{\partial L}{\partial s_T} \prod_{k=t+1}^{T} \frac{\partial s_k}{\partial s_{k-1}},$$
#
# which shrinks or grows as a power of the distance (Bengio et al. 1994; Pascanu et al. 2013,
# https://arxiv.org/abs/1211.5063).

# %%
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from layers import GRU, LSTM, GatedRNN, SimpleRNN

keras.utils.set_random_seed(0)
generator = np.random.default_rng(0)

# %% [markdown]
# ## Gradient norms over the distance
#
# We ask how much the last output depends on the input at each step, for layers as they are initialised.


# %% tags=["picture"]
def gradient_norms(layer, time=100, batch=32):
    """Mean norm of d(sum of squares of the last output) / d(input at each step)."""
    x = tf.constant(generator.normal(size=(batch, time, 32)).astype("float32"))
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(layer(x) ** 2)
    return np.linalg.norm(tape.gradient(loss, x).numpy(), axis=2).mean(0)


def orthogonal(gain):
    return keras.initializers.Orthogonal(gain)


candidates = {
    "tanh": SimpleRNN(64),
    "tanh, weights x 2": SimpleRNN(64, recurrent_initializer=orthogonal(2.0)),
    "ReLU, weights x 1.5": SimpleRNN(64, activation="relu", recurrent_initializer=orthogonal(1.5)),
    "ReLU, identity": SimpleRNN(64, activation="relu", recurrent_initializer="identity", kernel_initializer=orthogonal(0.1)),
    "gated": GatedRNN(64),
    "gated, slow (bias -3)": GatedRNN(64, bias_initializer=lambda shape, dtype=None: tf.repeat([-3.0, 0.0], shape[0] // 2)),
    "GRU": GRU(64),
    "LSTM, forget bias 1": LSTM(64),
    "LSTM, forget bias 5": LSTM(
        64, unit_forget_bias=False, bias_initializer=lambda shape, dtype=None: tf.repeat([0.0, 5.0, 0.0, 0.0], shape[0] // 4)
    ),
}
plt.figure(figsize=(8, 4), layout="constrained")
norms = {name: gradient_norms(layer) for name, layer in candidates.items()}
for name, values in norms.items():
    plt.plot(
        np.arange(len(values))[::-1], values / values[-1], label=name, linestyle="--" if "ReLU" in name or "tanh" in name else "-"
    )
plt.yscale("log")
plt.ylim(1e-14, 1e8)
plt.xlabel("steps back")
plt.ylabel("gradient, relative to the last step")
plt.title("vanishing and exploding")
plt.legend(ncols=2, fontsize=8)
plt.show()
for name, values in norms.items():
    print(f"{name:<24} 100 steps back: {values[0] / values[-1]:.0e} of the last step")

# %% [markdown]
# With tanh the gradient is gone after some tens of steps; a ReLU with larger weights explodes; the identity keeps it.
# Gates make the Jacobian close to the identity *where the network wants to remember*: a gate that starts nearly
# closed (or a forget gate that starts open) leaves a path through time.
#
# ## The adding problem
#
# A sequence of random numbers, two of which are marked; the answer is their sum (Hochreiter and Schmidhuber 1997).
# Always predicting 1 has a squared error of 0.167. The marks may be the whole sequence away.


# %%
def adding(count, time):
    numbers = generator.uniform(0, 1, (count, time)).astype("float32")
    marks = np.zeros((count, time), "float32")
    first = generator.integers(0, time // 2, count)
    second = generator.integers(time // 2, time, count)
    marks[np.arange(count), first] = marks[np.arange(count), second] = 1
    return np.stack([numbers, marks], -1), (numbers * marks).sum(1)


time, steps = 60, 750


def slow(shape, dtype=None):
    """The gate starts nearly closed."""
    return tf.repeat([-2.0, 0.0], shape[0] // 2)


cells = {
    "tanh": lambda: SimpleRNN(48),
    "ReLU, identity": lambda: SimpleRNN(
        48, activation="relu", recurrent_initializer="identity", kernel_initializer=orthogonal(0.1)
    ),
    "gated": lambda: GatedRNN(48, bias_initializer=slow),
    "GRU": lambda: GRU(48),
    "LSTM": lambda: LSTM(48),
}
x, y = adding(64 * steps, time)
curves = {}
for name, make in cells.items():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((time, 2)), make(), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(4e-3, global_clipnorm=1.0), "mse")
    losses = []
    record = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs, losses=losses: losses.append(logs["loss"]))
    model.fit(x, y, batch_size=64, epochs=30, steps_per_epoch=steps // 30, shuffle=False, verbose=0, callbacks=[record])
    curves[name] = losses
plt.figure(figsize=(7, 3.4), layout="constrained")
for name, losses in curves.items():
    plt.plot(np.arange(1, 31) * steps // 30, losses, label=name)
plt.axhline(0.167, color="grey", linestyle="--", label="always 1")
plt.yscale("log")
plt.ylim(1e-4, 1)
plt.xlabel("training step")
plt.ylabel("squared error")
plt.title(f"the adding problem over {time} steps")
plt.legend(fontsize=8)
plt.show()
print({name: round(losses[-1], 4) for name, losses in curves.items()})

# %% [markdown]
# ## The copy task
#
# Remember five of eight symbols, wait for 20 blanks, and output them. A network without memory has an accuracy of 1/8.
# What must be kept is short, and nothing disturbs it while it waits: tanh learns it, too, with Glorot's random matrix
# as with an orthogonal one. The adding problem is harder, as noise comes in at every step of the wait.


# %%
def copying(count, delay, length=5, symbols=8):
    x = np.zeros((count, 2 * length + delay), int)
    x[:, :length] = generator.integers(1, symbols + 1, (count, length))
    x[:, length + delay - 1] = symbols + 1  # now write
    y = np.zeros_like(x)
    y[:, -length:] = x[:, :length]
    return np.eye(symbols + 2, dtype="float32")[x], y


delay, length = 20, 5
x, y = copying(12_000, delay, length)
weights = np.where(np.arange(x.shape[1]) >= x.shape[1] - length, 1.0, 0.02).astype("float32")
accuracy = {}
copiers = {
    "tanh, Glorot": lambda: SimpleRNN(80, return_sequences=True, recurrent_initializer="glorot_uniform"),
    "tanh, orthogonal": lambda: SimpleRNN(80, return_sequences=True),
    "GRU": lambda: GRU(80, return_sequences=True),
}
for name, make in copiers.items():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(x.shape[1:]), make(), keras.layers.Dense(10)])
    model.compile(keras.optimizers.Adam(4e-3, global_clipnorm=1.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x[:11_000], y[:11_000], sample_weight=np.tile(weights, (11_000, 1)), batch_size=64, epochs=8, verbose=0)
    written = model.predict(x[11_000:], verbose=0).argmax(-1)[:, -length:]
    accuracy[name] = (written == y[11_000:, -length:]).mean()
print(
    "symbols copied rightly over 20 blanks:", {name: round(float(value), 3) for name, value in accuracy.items()}, "guessing 0.125"
)

# %% [markdown]
# ## Clipping
#
# A ReLU network whose recurrent matrix is 1.03 times the identity grows by $1.03^{60} \approx 6$ over the sequence;
# its gradient is large, one step of it makes the network larger still, and the next is infinite. Clipping by the
# global norm keeps the direction and bounds the step:
#
# $$g \leftarrow g \cdot \min\left(1, \frac{\theta}{\lVert g \rVert}\right)$$

# %%
x, y = adding(64 * 150, 60)
figure, axes = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
for clip in (None, 1.0):
    keras.utils.set_random_seed(0)
    growing = SimpleRNN(
        48, activation="relu", recurrent_initializer=keras.initializers.Identity(1.03), kernel_initializer=orthogonal(0.1)
    )
    model = keras.Sequential([keras.Input((60, 2)), growing, keras.layers.Dense(1)])
    optimizer = keras.optimizers.SGD(0.01, global_clipnorm=clip)
    sizes, losses = [], []
    for i in range(150):
        batch = slice(64 * i, 64 * i + 64)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x[batch])[:, 0] - y[batch]) ** 2)
        gradients = tape.gradient(loss, model.trainable_variables)
        sizes.append(float(tf.linalg.global_norm(gradients)))
        losses.append(float(loss))
        optimizer.apply(gradients, model.trainable_variables)
    name = "clipped at 1" if clip else "not clipped"
    for axis, values in zip(axes, (sizes, losses)):
        finite = [value for value in values if np.isfinite(value)]
        axis.plot(finite, label=name, marker="x" if len(finite) < 150 else "", linewidth=1)
        if len(finite) < 150:
            axis.annotate("infinite", (len(finite) - 1, finite[-1]), xytext=(8, 0), textcoords="offset points")
axes[0].set(yscale="log", title="norm of the gradient before clipping", xlabel="training step")
axes[1].set(yscale="log", title="squared error", xlabel="training step")
axes[1].legend()
plt.show()

# %% [markdown]
# ## Truncated backpropagation
#
# Long sequences are cut: after every $k_1$ steps the weights are updated by a gradient that flows back $k_2$ steps.
# The *state* crosses the cut, the gradient doesn't. With `stateful=True` a layer carries its state from batch
# to batch, so $k_1 = k_2 =$ the length of a chunk. A network can use what lies further back than $k_2$ only if it is
# learned by accident: here the answer is the input of 12 steps before.

# %%
length, lag, rows = 4800, 12, 16
bits = generator.integers(0, 2, (rows, length)).astype("float32")
target = np.roll(bits, lag, axis=1)
accuracy = {}
for k in (4, 8, 12, 16, 24, 48):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((k, 1), batch_size=rows), GRU(48, return_sequences=True, stateful=True), keras.layers.Dense(1)]
    )
    model.compile(keras.optimizers.Adam(5e-3, global_clipnorm=1.0), keras.losses.BinaryCrossentropy(from_logits=True))
    for _ in range(2):
        chunks = [np.concatenate(np.split(part, length // k, 1)) for part in (bits, target)]
        model.layers[0].reset_state()
        model.fit(chunks[0][..., None], chunks[1][..., None], batch_size=rows, shuffle=False, verbose=0)
    guess = model.predict(chunks[0][..., None], batch_size=rows, verbose=0)[..., 0] > 0
    accuracy[k] = (guess[-rows * 20 :] == chunks[1][-rows * 20 :]).mean()
plt.figure(figsize=(6, 3), layout="constrained")
plt.plot(list(accuracy), list(accuracy.values()), marker="o")
plt.axvline(lag, color="grey", linestyle="--", label="the answer lies here")
plt.xlabel("steps that a gradient flows back ($k_2$)")
plt.ylabel("accuracy")
plt.title("truncation hides what lies further back")
plt.legend()
plt.show()
print({k: round(float(value), 2) for k, value in accuracy.items()})

# %% [markdown]
# **Seen:** the gradient of a tanh network is gone after some tens of steps, that of a gated one need not be; so gated
# cells solve the adding problem where tanh guesses. An identity keeps the gradient, but did not solve it alone in so
# many steps. Clipping survives explosions. Truncation is cheap, and blind beyond its reach.
