# %% [markdown]
# # Gates without the state
#
# **Question: what do gates lose that don't see the state?**
#
# An LSTM's gates depend on the input and on the state before, so each step waits for a product with that state.
# MinGRU, SSRU and QRNN take their gates from the input alone, and what is left of time is pointwise:
#
# $$h_t = a_t \cdot h_{t-1} + b_t \qquad a_t = f_t \qquad b_t = (1 - f_t) \cdot \tilde x_t \qquad f_t = \sigma(W x_t + b)$$
#
# SRU lies between: its gates see the state, too, but each unit only its own.

# %%
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import itertools
import statistics
import time

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from layers import LSTM, QRNN, RNN, SRU, SSRU, LinearCell, MinGRU, linear_recurrence

keras.utils.set_random_seed(0)
generator = np.random.default_rng(0)

# %% [markdown]
# ## Why it is fast
#
# All $a_t$ and $b_t$ are known before the first step: one product for all steps. And two steps are one of the same kind,
#
# $$(a_1, b_1), (a_2, b_2) \to (a_2 a_1, \; a_2 b_1 + b_2),$$
#
# so that $T$ steps take about $\log_2 T$ rounds, if a round can do all of them at once (Blelloch 1990). That is for GPUs; on a
# processor the loop costs less, and the library takes it there. Four ways to the same numbers:

# %%
x = generator.normal(size=(4, 50, 3)).astype("float32")
layer = MinGRU(5, return_sequences=True)
outputs = np.asarray(layer(x))
W, b = layer.get_weights()
z, candidate = np.split(x @ W + b, 2, -1)  # all steps at once
z = 1 / (1 + np.exp(-z))
decay, inputs = 1 - z, z * candidate

loop, h = np.zeros_like(outputs), 0
for t in range(50):
    loop[:, t] = h = decay[:, t] * h + inputs[:, t]

a, b, reach, rounds = decay.copy(), inputs.copy(), 1, 0
while reach < 50:
    b[:, reach:] += a[:, reach:] * b[:, :-reach]
    a[:, reach:] *= a[:, :-reach]
    reach, rounds = 2 * reach, rounds + 1

for found in (loop, b, np.asarray(linear_recurrence(decay, inputs))):
    np.testing.assert_allclose(found, outputs, atol=1e-5)
print(f"the layer, a loop of 50 steps, {rounds} rounds and linear_recurrence: equal")

# %% [markdown]
# Milliseconds of a training step at (batch 32, steps, features 128, units 128), medians of turns. For each step the LSTM
# multiplies by 8 matrices of 128 x 128, QRNN by 6 (it takes the input of the step before, too), SRU by 3, MinGRU and SSRU by 2.

# %%
RACERS = {"LSTM": LSTM, "SRU": SRU, "QRNN": QRNN, "MinGRU": MinGRU, "SSRU": SSRU}
COLOURS = dict(zip(RACERS, ("black", "C1", "C0", "C2", "C3")))


def training_step(make, x):
    layer = make(128, return_sequences=True)
    layer.build(x.shape)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(x, training=True) ** 2)
        return tape.gradient(loss, [v.value for v in layer.trainable_variables])

    return step


lengths, medians = (25, 100, 400), {name: [] for name in RACERS}
for length in lengths:
    x = tf.constant(generator.normal(size=(32, length, 128)).astype("float32"))
    steps, times = {name: training_step(make, x) for name, make in RACERS.items()}, {name: [] for name in RACERS}
    for turn in range(12):
        for name, step in steps.items():
            begun = time.perf_counter()
            step()[0].numpy()
            if turn > 2:
                times[name].append(1e3 * (time.perf_counter() - begun))
    for name in RACERS:
        medians[name].append(statistics.median(times[name]))
plt.figure(figsize=(6, 3), layout="constrained")
for name, values in medians.items():
    plt.plot(lengths, values, marker="o", color=COLOURS[name], label=name)
plt.xscale("log")
plt.yscale("log")
plt.xticks(lengths, lengths)
plt.yticks([1, 2, 5, 10, 20, 50], [1, 2, 5, 10, 20, 50])
plt.minorticks_off()
plt.xlabel("steps")
plt.ylabel("ms a training step")
plt.legend()
plt.show()
for name, values in medians.items():
    print(f"{name:<7}", *(f"{value:6.1f} ms ({first / value:.1f} x)" for value, first in zip(values, medians["LSTM"])))

# %% [markdown]
# On two cores the products are most of the work, and what is saved is mainly products: MinGRU and SSRU train about three
# times as fast as the LSTM, QRNN no faster. A GPU waits for steps, and all of them gain there: see `benchmarks/README.md`.
#
# ## What could be lost
#
# In all four cells $c_t = f_t \cdot c_{t-1} + (1 - f_t) \cdot \tilde x_t$: the new state lies *between* the old one and a
# candidate that the input alone decides. Feed the same input for ever. Each unit moves towards its fixed candidate without ever
# passing it, whatever its gate, SRU's too, and in finite precision comes to rest. From then on the input of a second layer is
# fixed, and it comes to rest as well. But the **parity** of 1, 1, 1, 1, … alternates for ever: no number of such layers
# knows it at every length. (Sarrof et al. 2024, https://arxiv.org/abs/2405.17394, and Grazzi et al. 2024,
# https://arxiv.org/abs/2411.12537, prove it for all linear recurrences without negative decays. What Merrill et al. 2024,
# https://arxiv.org/abs/2404.08819, show to be out of reach is harder than parity: composing permutations.)
#
# **Counting** asks for a state that adds: $a = 1$ and $b = \pm 1$. But $f = 1$ leaves $1 - f = 0$ for the input, and what remains
# is an average that forgets.
#
# **Memory** asks for $f = 1$ where there is nothing to keep and for $f = 0$ where there is. The input says which.
#
# Three tasks, an answer after each symbol, trained on 16 steps and tested on 160:
#
# - parity: is the number of ones odd?
# - majority: are there more ones than zeros?
# - memory: most symbols are distractors, one in ten is marked; what was the last marked one?


# %%
def parity(x, marked):
    return x % 2, np.cumsum(x, 1) % 2


def majority(x, marked):
    return x, np.cumsum(2 * x - 1, 1) > 0


def memory(x, marked):
    marked[:, 0] = True
    last = np.maximum.accumulate(np.where(marked, np.arange(x.shape[1]), 0), 1)
    return x + 2 * marked, np.take_along_axis(x, last, 1)


TRAINED, TESTED, ROWS, UPDATES = 16, 160, 64, 400


def examples(task, count, length):
    x, y = task(generator.integers(0, 2, (count, length)), generator.random((count, length)) < 0.1)
    return x, y[..., None].astype("float32")


def trained(task, make, depth):
    keras.utils.set_random_seed(0)
    recurrent = [make(32, return_sequences=True) for _ in range(depth)]
    model = keras.Sequential(
        [keras.Input((None,), dtype="int32"), keras.layers.Embedding(4, 8), *recurrent, keras.layers.Dense(1)]
    )
    schedule = keras.optimizers.schedules.CosineDecay(1e-2, UPDATES)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(schedule, global_clipnorm=1.0), loss, steps_per_execution=50)
    model.fit(*training[task], batch_size=ROWS, shuffle=False, verbose=0)
    return model


def accuracy(model, task):
    x, y = testing[task]
    return ((model.predict(x, batch_size=len(x), verbose=0) > 0) == y).mean((0, 2))


TASKS = (parity, majority, memory)
training = {task: examples(task, ROWS * UPDATES, TRAINED) for task in TASKS}
testing = {task: examples(task, 500, TESTED) for task in TASKS}
models, found = {}, {}
for task in TASKS:
    for name, make in RACERS.items():
        for depth in (1, 2):
            if depth == 1 or (task is not memory and name != "LSTM"):
                models[task, name, depth] = trained(task, make, depth)
                found[task, name, depth] = accuracy(models[task, name, depth], task)

# %% tags=["picture"]
EDGES = [0, 4, 8, 16, 32, 64, 96, 128, 160]
BINS = list(itertools.pairwise(EDGES))


def binned(values):
    return [values[first:last].mean() for first, last in BINS]


figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), sharey=True, layout="constrained")
for axis, task in zip(axes, TASKS):
    for (of, name, depth), values in found.items():
        if of is task:
            style = "-" if depth == 1 else "--"
            axis.plot([(i + j + 1) / 2 for i, j in BINS], binned(values), style, color=COLOURS[name], label=name, marker=".")
    axis.axhline(0.5, color="grey", linewidth=0.5)
    axis.axvline(TRAINED, color="grey", linestyle=":")
    axis.set(title=task.__name__, xscale="log", xlabel="step", ylim=(0.38, 1.03))
    axis.set_xticks([2, 4, 8, 16, 32, 64, 128], [2, 4, 8, 16, 32, 64, 128])
    axis.minorticks_off()
axes[0].set_ylabel("accuracy")
axes[2].legend(loc="lower left")
figure.suptitle(f"one layer (solid), two layers (dashed), trained on {TRAINED} steps (dotted line)")
plt.show()


def table(rows):
    print(" " * 24, *(f"{first + 1:>4}-{last:<3}" for first, last in BINS))
    for (task, name, depth), values in rows.items():
        print(f"{task.__name__:<9} {name:<12} {depth} ", *(f"{value:8.3f}" for value in binned(values)))


table(found)

# %% [markdown]
# **Parity is lost.** The LSTM learns a rule that holds at every length. The others get some of the first steps right, as a
# feed-forward network would, by fitting each of the few possible beginnings; they were trained on 16 steps and don't reach them.
# A second layer adds a few steps, and no rule.
#
# **Counting is lost beyond the trained length.** Up to 16 steps a slow average is nearly as good as a count, and a second layer
# makes it a little better. Then it forgets. The LSTM's count isn't exact, either: at 160 steps it is wrong one time in five.
#
# **Memory is kept**, over sequences ten times as long as those of the training; SRU, whose gates see the state, makes the
# most mistakes.
#
# ## Two lines bring it back
#
# The gates need not see the state for that. The argument above needs a decay in (0, 1) and an input that is coupled to it. We
# give up one at a time: the first cell adds, as its input isn't coupled; the second has a decay in (-1, 1), with which a unit
# can step over its candidate and back. Both are linear recurrences and run as `MinGRU` does.


# %%
class CountingCell(LinearCell):
    gates = 2

    @staticmethod
    def recurrence(x, phi, sigma):
        return sigma(x[0]), x[1]


class SignedCell(LinearCell):
    gates = 2

    @staticmethod
    def recurrence(x, phi, sigma):
        decay = 2 * sigma(x[0]) - 1
        return decay, (1 - decay) * x[1]


def own(cell_class):
    return lambda units, **kwargs: RNN(cell_class(units), **kwargs)


mine = {}
for task in (parity, majority):
    for cell_class in (CountingCell, SignedCell):
        key = task, cell_class.__name__, 1
        models[key] = trained(task, own(cell_class), 1)
        mine[key] = accuracy(models[key], task)
table(mine | {key: values for key, values in found.items() if key[0] is not memory and key[1] in ("LSTM", "MinGRU")})

# %% [markdown]
# Each gets back what it was made for, and only that: the first counts, further than the LSTM, and the second knows parity.
#
# Now the networks that were trained on parity read nothing but ones. How far do the outputs of their recurrent layers move from
# step to step?

# %%
ones = np.ones((1, 200), int)
plt.figure(figsize=(7, 3.2), layout="constrained")
shown = {
    ("LSTM", 1): "black",
    ("SignedCell", 1): "C4",
    **{(name, d): COLOURS[name] for name in ("SRU", "MinGRU") for d in (1, 2)},
}
for (name, depth), colour in shown.items():
    model = models[parity, name, depth]
    states = keras.Model(model.inputs, model.layers[-2].output).predict(ones, verbose=0)[0]
    moved = np.linalg.norm(np.diff(states, axis=0), axis=1)
    plt.plot(np.arange(2, 201), np.maximum(moved, 1e-8), "-" if depth == 1 else "--", color=colour, label=f"{name}, {depth}")
plt.yscale("log")
plt.xlabel("step")
plt.ylabel("distance from the step before")
plt.title("1, 1, 1, 1, …: who comes to rest?")
plt.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# The averages come to rest, in one layer or two, and have lost count by then. The signed cell keeps alternating; as its decay has
# become nearly -1, but not quite, it fades, too, much later than any sequence here ends.
#
# **Seen:** to keep or to overwrite, as the input says, gates need no state, and a cell without it trains several times as fast:
# on a GPU, and on a processor if it also has few products. What is lost is to change a state by what it was: parity in any
# number of layers, counting beyond the trained length. Much of it is due to the coupled average, not to the missing state: a
# decay that may be negative brings back parity, an input without coupling the count.
