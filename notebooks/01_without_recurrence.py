# %% [markdown]
# # Sequence prediction without recurrence
#
# **Question: how far does a feed-forward network get on sequences, and where does each trick fail?**
#
# A feed-forward network takes a vector of fixed size. To predict from a sequence, we have to make one out of it: a
# window of the last values, a bag of all words, or a window as large as the sequence. Each works on something and
# fails on something else. The recurrent network at the end answers all three failures with one set of weights that is
# used at every step.

# %%
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import matplotlib.pyplot as plt
import numpy as np

from layers import GRU

keras.utils.set_random_seed(0)
generator = np.random.default_rng(0)

# %% [markdown]
# ## A sliding window over a time series
#
# The series is a sum of two sines with noise. A window of the last `w` values predicts the next one. A window that is
# shorter than the slow wave can't know in which part of it we are.

# %%
t = np.arange(3000)
series = (np.sin(2 * np.pi * t / 25) + 0.6 * np.sin(2 * np.pi * t / 180) + 0.05 * generator.normal(size=len(t))).astype("float32")


def windows(series, size):
    """Inputs (n, size) and the value after each."""
    places = np.arange(len(series) - size)[:, None] + np.arange(size)
    return series[places], series[size:]


def feed_forward(inputs, outputs=1, units=32, activation=None):
    return keras.Sequential(
        [keras.Input((inputs,)), keras.layers.Dense(units, "relu"), keras.layers.Dense(outputs, activation=activation)]
    )


sizes, ahead = [1, 2, 4, 8, 16, 32], 20  # predict 20 steps ahead
errors = []
for size in sizes:
    x, _ = windows(series[:-ahead], size)
    y = series[size + ahead - 1 : size + ahead - 1 + len(x)]
    model = feed_forward(size)
    model.compile(keras.optimizers.Adam(3e-3), "mse")
    model.fit(x[:2000], y[:2000], epochs=15, batch_size=64, verbose=0)
    errors.append(model.evaluate(x[2100:], y[2100:], verbose=0))
print({size: round(error, 4) for size, error in zip(sizes, errors)})

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.2), layout="constrained")
left.plot(t[2100:2500], series[2100:2500], linewidth=0.8, label="series")
left.plot(
    t[2100 + size + ahead - 1 : 2500], model.predict(x[2100 : 2500 - size - ahead + 1], verbose=0), label="window of 32, 20 ahead"
)
left.legend(loc="lower left", fontsize=8)
left.set(title="a window predicts", xlabel="step")
right.plot(sizes, errors, marker="o")
right.axhline(0.05**2, color="grey", linestyle="--", label="noise")
right.set(xscale="log", yscale="log", xlabel="window", ylabel="squared error", title="a larger window knows more")
right.legend()
plt.show()

# %% [markdown]
# A window works where what matters is near. What lies before it is as if it had never been: **no long memory**.
#
# ## Three ways to read a sentence
#
# Now sentiment, on sentences that we make ourselves. The verdict is the adjective at the end, negated by a `not` that
# stands anywhere before it; but `not only` negates nothing. Each sentence has one `not` and one `only`; the words
# between them are filler.

# %%
filler = "the food and a waiter came with some bread while we sat there talking about it".split()
good, bad = "good fine great lovely".split(), "bad dull poor awful".split()
words = ["<pad>", "not", "only", *filler, *good, *bad]
number = {word: i for i, word in enumerate(words)}


def sentence(length):
    positive, turned = generator.integers(0, 2, 2)
    text = list(generator.choice(filler, generator.integers(4, length)))
    text.insert(generator.integers(1, len(text)), "not")
    place = text.index("not")
    text.insert(generator.integers(0, place) if turned else place + 1, "only")
    return [*text, generator.choice(good if positive else bad)], int(positive != turned)


def sentences(count, length):
    pairs = [sentence(length) for _ in range(count)]
    ids = np.zeros((count, length + 3), int)
    for row, (text, _) in zip(ids, pairs):
        row[len(row) - len(text) :] = [number[w] for w in text]  # padding on the left
    return ids, np.array([label for _, label in pairs])


train, test, longer = sentences(2000, 12), sentences(1000, 12), sentences(1000, 30)
print(" ".join(words[i] for i in train[0][0] if i), "->", train[1][0])

# %%
size, time = len(words), train[0].shape[1]


def fixed_window(ids, window=3):
    return np.eye(size, dtype="float32")[ids[:, -window:]].reshape(len(ids), -1)


def bag_of_words(ids):
    return np.eye(size, dtype="float32")[ids].sum(axis=1)


def big_window(ids):
    return np.eye(size, dtype="float32")[ids[:, -time:]].reshape(len(ids), -1)


accuracy = {}
for name, read in {"window of 3": fixed_window, "bag of words": bag_of_words, "big window": big_window}.items():
    model = feed_forward(read(train[0]).shape[1], activation="sigmoid")
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    model.fit(read(train[0]), train[1], epochs=20, verbose=0)
    accuracy[name] = [model.evaluate(read(ids), label, verbose=0)[1] for ids, label in (train, test, longer)]
    accuracy[name].append(model.count_params())

recurrent = keras.Sequential(
    [keras.Input((None,)), keras.layers.Embedding(size, 16, mask_zero=True), GRU(24), keras.layers.Dense(1, "sigmoid")]
)
recurrent.compile(keras.optimizers.Adam(5e-3), "binary_crossentropy", metrics=["accuracy"])
recurrent.fit(*train, epochs=20, verbose=0)
accuracy["recurrent"] = [recurrent.evaluate(ids, label, verbose=0)[1] for ids, label in (train, test, longer)]
accuracy["recurrent"].append(recurrent.count_params())
for name, (a, b, c, parameters) in accuracy.items():
    print(f"{name:<14} training {a:.2f}   test {b:.2f}   longer sentences {c:.2f}   {parameters:,} parameters")

# %% tags=["picture"]
figure, axis = plt.subplots(figsize=(8, 3.2), layout="constrained")
places = np.arange(len(accuracy))
for i, part in enumerate(("training", "test", "longer sentences")):
    axis.bar(places + 0.27 * i - 0.27, [values[i] for values in accuracy.values()], 0.25, label=part)
axis.axhline(0.5, color="grey", linestyle="--", linewidth=1)
axis.set(xticks=places, xticklabels=accuracy, ylim=(0.4, 1.02), ylabel="accuracy", title="who understands a `not`?")
axis.legend(ncols=3, loc="lower center", fontsize=8)
plt.show()

# %% [markdown]
# * **The window of 3** misses a `not` that stands further away: no long memory.
# * **The bag of words** sees all words but not which `not` negates what: no order.
# * **The big window** sees both, and has a weight for each word *at each place*: what it learns of `not only` at
#   place 4 it doesn't know at place 5. It fits the training sentences, does worse on new ones, and is lost on longer
#   ones: no sharing.
# * **The recurrent network** has one set of weights, used at every step, and a state that carries the `not` along. It
#   has a quarter of the big window's parameters, generalises, and reads longer sentences than it was trained on.
#
# ## The same for the next word
#
# Two of the four predict the next word of a text in which the answer lies `d` words back.

# %%
names = 8


def texts(count, distance):
    """`name filler … filler` -> the name again."""
    ids = generator.integers(names, 2 * names, (count, distance + 1))
    ids[:, 0] = generator.integers(0, names, count)
    return ids, ids[:, 0]


distances, found = [1, 2, 4, 8, 16], {"window of 3": [], "recurrent": []}
for distance in distances:
    x, y = texts(3000, distance)
    one_hot = np.eye(2 * names, dtype="float32")
    window = feed_forward(3 * 2 * names, names, activation="softmax")
    window.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    padded = np.pad(one_hot[x], ((0, 0), (2, 0), (0, 0)))[:, -3:].reshape(len(x), -1)
    window.fit(padded[:2500], y[:2500], epochs=8, verbose=0)
    found["window of 3"].append(window.evaluate(padded[2500:], y[2500:], verbose=0)[1])
    model = keras.Sequential([keras.Input((None, 2 * names)), GRU(32), keras.layers.Dense(names, "softmax")])
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(one_hot[x[:2500]], y[:2500], epochs=8, verbose=0)
    found["recurrent"].append(model.evaluate(one_hot[x[2500:]], y[2500:], verbose=0)[1])

plt.figure(figsize=(6, 3.2), layout="constrained")
for name, values in found.items():
    plt.plot(distances, values, marker="o", label=name)
plt.axhline(1 / names, color="grey", linestyle="--", label="guessing")
plt.xlabel("words between the name and its return")
plt.ylabel("accuracy")
plt.title("what has left the window is forgotten")
plt.legend()
plt.show()

# %% [markdown]
# **Seen:** a window forgets, a bag mixes up, a big window doesn't share. A recurrent network remembers, keeps order
# and shares. What it costs, and why it is not for free, are the next notebooks.
