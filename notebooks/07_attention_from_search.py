# %% [markdown]
# # Attention from search
#
# **Question: what is attention, if one builds it out of looking something up?**
#
# A dictionary compares a *query* with its *keys* and returns the *value* of the key that is equal. Attention compares
# by similarity and returns a mean of the values, weighed by a softmax, so that it has a gradient (Vaswani et al.
# 2017, https://arxiv.org/abs/1706.03762):
#
# $$\mathrm{attention}(Q, K, V) = \mathrm{softmax}\left(\frac{Q K^\top}{\sqrt{d}}\right) V$$

# %%
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import ops

from layers import GRU, MultiHeadAttention, PositionalEncoding, scaled_dot_product_attention

keras.utils.set_random_seed(0)
generator = np.random.default_rng(0)

# %% [markdown]
# ## A soft dictionary
#
# Five keys are directions, each with a value. A query in between gets a mixture; the longer the query, the harder the
# choice.

# %% tags=["picture"]
angles = np.linspace(0, np.pi, 5)
keys = np.stack([np.cos(angles), np.sin(angles)], 1).astype("float32")[None]
values = np.arange(5, dtype="float32")[None, :, None] * 10
turns = np.linspace(0, np.pi, 100)
plt.figure(figsize=(7, 3), layout="constrained")
for length in (1, 5, 30):
    query = (length * np.stack([np.cos(turns), np.sin(turns)], 1)).astype("float32")[None]
    found, _ = scaled_dot_product_attention(query, keys, values)
    plt.plot(np.degrees(turns), np.asarray(found)[0, :, 0], label=f"query of length {length}")
plt.plot(np.degrees(angles), values[0, :, 0], "ko", label="the dictionary")
plt.xlabel("direction of the query in degrees")
plt.ylabel("value found")
plt.title("from a mean to a look-up")
plt.legend()
plt.show()

# %% [markdown]
# ## The score matrix of a sentence
#
# Each word is a query to all words. With vectors that we choose by hand (animals are alike, food is alike), the matrix of
# weights is easy to read. Without positions, equal words are equal wherever they stand; with them, neighbours are
# alike, too.

# %%
sentence = "the dog eats bread while the cat drinks milk".split()
kinds = {"the": 0, "while": 1, "dog": 2, "cat": 2, "eats": 3, "drinks": 3, "bread": 4, "milk": 4}
vectors = 4.0 * np.eye(16)[[kinds[word] for word in sentence]] + generator.normal(scale=0.3, size=(9, 16))
vectors = vectors.astype("float32")[None]
placed = np.asarray(PositionalEncoding()(vectors * 0.6))
figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
for axis, x, title in zip(axes, (vectors, placed), ("words alone", "words with positions")):
    _, weights = scaled_dot_product_attention(x, x, x)
    picture = axis.imshow(np.asarray(weights)[0], cmap="Blues", vmin=0)
    axis.set(xticks=range(9), yticks=range(9), yticklabels=sentence, title=title)
    axis.set_xticklabels(sentence, rotation=60)
figure.colorbar(picture, ax=axes, label="weight")
plt.show()

# %% [markdown]
# ## Why scale?
#
# The product of two random vectors of size $d$ has a variance of $d$. Without the division by $\sqrt d$ the softmax
# of large vectors puts everything on one key, and its gradient is gone.

# %%
sizes = [4, 16, 64, 256, 1024]
largest, slopes = {"scaled": [], "not scaled": []}, {"scaled": [], "not scaled": []}
for size in sizes:
    q, k = generator.normal(size=(200, size)), generator.normal(size=(20, size))
    for name in largest:
        scores = q @ k.T / (np.sqrt(size) if name == "scaled" else 1)
        weights = np.exp(scores - scores.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        largest[name].append(weights.max(1).mean())
        slopes[name].append((weights * (1 - weights)).sum(1).mean())
figure, axes = plt.subplots(1, 2, figsize=(10, 3), layout="constrained")
for axis, found, title in zip(axes, (largest, slopes), ("largest of 20 weights", "slope of the softmax, $\\sum w(1-w)$")):
    for name, numbers in found.items():
        axis.plot(sizes, numbers, marker="o", label=name)
    axis.set(xscale="log", xlabel="size of the vectors", title=title, ylim=(0, 1))
    axis.legend()
plt.show()

# %% [markdown]
# ## Masks
#
# A causal mask lets each step see itself and the past; a padding mask hides what isn't there. Both are True where a
# query may attend.

# %%
x = generator.normal(size=(1, 8, 16)).astype("float32")
padding = np.arange(8)[None] < 6
figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
causal = np.tril(np.ones((8, 8), bool))
masks = {"all": None, "causal": causal, "causal, two steps are padding": causal & padding}
for axis, (title, mask) in zip(axes, masks.items()):
    _, weights = scaled_dot_product_attention(x, x, x, mask)
    axis.imshow(np.asarray(weights)[0], cmap="Blues", vmin=0, vmax=1)
    axis.set(title=title, xlabel="key", ylabel="query")
plt.show()

# %% [markdown]
# ## Self-attention against recurrence: look it up
#
# Steps with a name and its number, then a name alone: what was its number? Attention can ask. A recurrent network has
# to carry all pairs along in one state. And a task where attention is at a loss without positions: which of two
# symbols came first?

# %%
names, numbers, pairs = 12, 8, 8


def lookups(count):
    """(count, pairs + 1, 2): a name and its number at each step, then a name alone; and its number."""
    order = np.argsort(generator.random((count, names)), 1)[:, :pairs]
    value = generator.integers(0, numbers, (count, pairs))
    asked, rows = generator.integers(0, pairs, count), np.arange(count)
    question = np.stack([order[rows, asked], np.full(count, numbers)], 1)[:, None]
    return np.concatenate([np.stack([order, value], 2), question], 1), value[rows, asked]


def first_of_two(count, time=13):
    """(count, time, 2): among other names one 0 and one 1; whether the 0 comes first."""
    tokens = generator.integers(2, names, (count, time))
    places = np.argsort(generator.random((count, time - 1)), 1)[:, :2]
    rows = np.arange(count)
    tokens[rows, places[:, 0]], tokens[rows, places[:, 1]] = 0, 1
    return np.stack([tokens, np.full_like(tokens, numbers)], 2), (places[:, 0] < places[:, 1]).astype(int)


def embedded():
    inputs = keras.Input((None, 2), dtype="int32")
    return inputs, keras.layers.Embedding(names, 48)(inputs[..., 0]) + keras.layers.Embedding(numbers + 1, 48)(inputs[..., 1])


def recurrent(classes):
    inputs, x = embedded()
    return keras.Model(inputs, keras.layers.Dense(classes)(GRU(96)(x)))


def attending(classes, positions=True):
    inputs, x = embedded()
    if positions:
        x = keras.layers.Rescaling(0.2)(PositionalEncoding()(keras.layers.Rescaling(5.0)(x)))
    for _ in range(2):
        normal = keras.layers.LayerNormalization()(x)
        x = x + MultiHeadAttention(4, 16)(normal, normal)
        x = x + keras.layers.Dense(48)(keras.layers.Dense(96, "relu")(keras.layers.LayerNormalization()(x)))
    x = keras.layers.LayerNormalization()(x)
    return keras.Model(inputs, keras.layers.Dense(classes)(ops.take(x, -1, axis=1)))


curves = {}
for task, make, classes in (("look it up", lookups, numbers), ("which came first", first_of_two, 2)):
    x, y = make(12_000)
    for name, build in (
        ("recurrent", recurrent),
        ("attention", attending),
        ("attention without positions", lambda classes: attending(classes, positions=False)),
    ):
        keras.utils.set_random_seed(0)
        model = build(classes)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(2e-3, global_clipnorm=1.0), loss, metrics=["accuracy"])
        history = model.fit(x[:11_000], y[:11_000], validation_data=(x[11_000:], y[11_000:]), epochs=8, batch_size=100, verbose=0)
        curves[task, name] = history.history["val_accuracy"]
        print(f"{task:<18} {name:<28} {curves[task, name][-1]:.2f}")

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 3.2), sharey=True, layout="constrained")
for (task, name), values in curves.items():
    axis = axes[int(task != "look it up")]
    axis.plot(range(1, 9), values, label=name, linestyle="--" if name == "recurrent" else "-")
    axis.set(title=task, xlabel="epoch", ylim=(0, 1.03))
axes[0].set_ylabel("validation accuracy")
axes[1].legend()
plt.show()

# %% [markdown]
# **Seen:** attention is a look-up that can be trained. Scaling keeps its softmax soft; masks say what may be attended to. It
# is blind to order unless positions are added; a recurrent network has order for free, and has to squeeze all it may
# be asked into its state.
