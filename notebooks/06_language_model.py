# %% [markdown]
# # A next-word language model
#
# **Question: what does a network know that predicts the next word?**
#
# Embedding, two LSTMs, a softmax over the words. Perplexity, sampling at several temperatures, teacher forcing, and
# the nearest neighbours of what was learned. The text here is written by a small grammar, so that it runs offline and
# its lowest perplexity is known. Set `TEXT` to the path of a folder with `train.txt.gz` and `valid.txt` (the Penn
# Treebank, for instance) for real language.

# %%
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import gzip
import math
from collections import Counter
from functools import partial
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from layers import LSTM

keras.utils.set_random_seed(0)
generator = np.random.default_rng(0)
TEXT, UNITS, EPOCHS, ROWS, STEPS = os.environ.get("TEXT", ""), 64, 6, 20, 24
if TEXT:
    UNITS, EPOCHS, ROWS, STEPS = 200, int(os.environ.get("EPOCHS", "20")), 20, 35

# %% [markdown]
# ## The text
#
# Animals eat and sleep, people read and cook; plural subjects take plural verbs, however far away.

# %%
ANIMALS, PEOPLE = "cat dog horse bird cow".split(), "teacher doctor farmer singer baker".split()
PLACES, FOODS, THINGS = "house garden river forest".split(), "bread grass corn fish".split(), "book letter song story".split()


def noun(kinds, plural):
    return generator.choice(kinds) + ("s" if plural else "")


def phrase():
    plural, animal = generator.integers(0, 2, 2)
    words = ["the", noun(ANIMALS if animal else PEOPLE, plural)]
    if generator.random() < 0.4:
        words += ["near", "the", noun(PLACES, generator.integers(0, 2))]  # what stands between must not confuse the verb
    end = "" if plural else "s"
    if animal:
        words += ["sleep" + end] if generator.random() < 0.3 else ["eat" + end, generator.choice(FOODS)]
    else:
        words += [generator.choice(["read", "write"]) + end, "a", generator.choice(THINGS)]
    return [*words, "<eos>"]


if TEXT:
    with gzip.open(Path(TEXT) / "train.txt.gz", "rt") as file:
        train = file.read().replace("\n", " <eos> ").split()
    valid = (Path(TEXT) / "valid.txt").read_text().replace("\n", " <eos> ").split()
else:
    train = [word for _ in range(9000) for word in phrase()]
    valid = [word for _ in range(900) for word in phrase()]
    unsure = [-p * math.log2(p) - (1 - p) * math.log2(1 - p) for p in (0.4, 0.3)]  # near or not, sleeps or eats
    bits = 2 + math.log2(5) + unsure[0] + 0.4 * 3 + 0.5 * (unsure[1] + 0.7 * 2) + 0.5 * 3  # of a phrase
    lowest = 2 ** (bits / (4 + 0.4 * 3 + 0.5 * 0.7 + 0.5 * 2))  # a phrase has so many words on average
words = [word for word, _ in Counter(train).most_common(10_000)]
number = {word: i for i, word in enumerate(words)}
print(f"{len(train):,} words to learn from, {len(valid):,} for validation, {len(words):,} different ones")
print(" ".join(train[:24]))


def streams(text, rows, steps):
    """One long text as `rows` streams side by side, cut into chunks: inputs and the words that follow."""
    ids = np.array([number.get(word, number.get("<unk>", 0)) for word in text])
    length = (len(ids) - 1) // (rows * steps) * steps
    x, y = (part[: rows * length].reshape(rows, length) for part in (ids[:-1], ids[1:]))
    return [np.concatenate(np.split(part, length // steps, axis=1)) for part in (x, y)]


# %% [markdown]
# ## The model, with its state carried on
#
# The chunks of a stream follow each other, and so do the states (`stateful=True`): truncated backpropagation through
# time. In training the network is fed the true words, whatever it would have said: teacher forcing.


# %%
def language_model(rows, steps, stateful=True):
    return keras.Sequential(
        [
            keras.Input((steps,), batch_size=rows, dtype="int32"),
            keras.layers.Embedding(len(words), UNITS, keras.initializers.RandomUniform(-0.1, 0.1)),
            keras.layers.Dropout(0.25),
            LSTM(UNITS, return_sequences=True, stateful=stateful),
            keras.layers.Dropout(0.25),
            LSTM(UNITS, return_sequences=True, stateful=stateful),
            keras.layers.Dropout(0.25),
            keras.layers.Dense(len(words)),
        ]
    )


model = language_model(ROWS, STEPS)
x, y = streams(train, ROWS, STEPS)
held_out = streams(valid, ROWS, STEPS)
schedule = partial(keras.optimizers.schedules.CosineDecay, decay_steps=EPOCHS * len(x) // ROWS, alpha=0.01)
if TEXT:  # steepest descent with a small norm, as in Zaremba et al. 2014: Adam does worse on many rare words
    optimizer = keras.optimizers.SGD(schedule(30.0), global_clipnorm=0.15)
else:
    optimizer = keras.optimizers.Adam(schedule(4e-3), global_clipnorm=1.0)
model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=True)


def fresh():
    for layer in model.layers:
        if isinstance(layer, LSTM):
            layer.reset_state()


perplexities = []
for epoch in range(EPOCHS):
    fresh()
    trained = model.fit(x, y, batch_size=ROWS, shuffle=False, verbose=0).history["loss"][0]
    fresh()
    tested = model.evaluate(*held_out, batch_size=ROWS, verbose=0)
    perplexities.append((math.exp(trained), math.exp(tested)))
    if TEXT:
        print(f"epoch {epoch + 1}: validation perplexity {math.exp(tested):.1f}", flush=True)
plt.figure(figsize=(5, 2.8), layout="constrained")
for values, name in zip(zip(*perplexities), ("training (with dropout)", "validation")):
    plt.plot(range(1, EPOCHS + 1), values, marker="o", label=name)
plt.axhline(len(words), color="grey", linestyle="--", label="guessing")
if not TEXT:
    plt.axhline(lowest, color="grey", linestyle=":", label="who knows the grammar")
plt.yscale("log")
plt.xlabel("epoch")
plt.ylabel("perplexity")
plt.legend(fontsize=8)
plt.show()
print(f"validation perplexity {perplexities[-1][1]:.2f}: as unsure as among so many words that are equally probable")
if not TEXT:
    print(f"who knows the grammar has {lowest:.2f}")

# %% [markdown]
# With `TEXT` set, the same cells train two LSTMs of 200 units on real language. Measured on the Penn Treebank, 20 epochs
# in 47 minutes on two cores that had other work, too: validation perplexity 95.3. The small LSTM of Zaremba et al.
# 2014, https://arxiv.org/abs/1409.2329, as large but without dropout, has 120.7.
#
# ## Warm start and sampling
#
# The states first read a beginning (warm start); then the network reads its own words. The temperature divides the
# logits: low is safe and repeats itself, high is colourful and wrong.

# %%
writer = language_model(1, 1)
for variable, value in zip(writer.trainable_variables, model.trainable_variables):
    variable.assign(value)


def decode_step(beginning, count, temperature):
    for layer in writer.layers:
        if isinstance(layer, LSTM):
            layer.reset_state()
    out = []
    for word in beginning:
        logits = writer(np.array([[number.get(word, 0)]]))
    for _ in range(count):
        z = logits.numpy()[0, 0] / temperature
        p = np.exp(z - z.max())
        out.append(words[generator.choice(len(words), p=p / p.sum())])
        logits = writer(np.array([[number[out[-1]]]]))
    return out


for temperature in (0.3, 0.8, 1.0, 1.6):
    print(f"temperature {temperature}: the … {' '.join(decode_step(['<eos>', 'the'], 22, temperature))}")

# %% [markdown]
# ## Does it know what it is talking about?
#
# The verb agrees with the subject even when a place in the other number stands between. Probability of the plural
# among both verbs:

# %% tags=["picture"]
if not TEXT:
    agreement = {}
    for subject in ("cat", "cats", "doctor", "doctors"):
        for between in ([], ["near", "the", "river"], ["near", "the", "rivers"]):
            for layer in writer.layers:
                if isinstance(layer, LSTM):
                    layer.reset_state()
            for word in ["<eos>", "the", subject, *between]:
                logits = writer(np.array([[number[word]]]))
            p = tf.nn.softmax(logits[0, 0]).numpy()
            verb = "eat" if subject.startswith("cat") else "read"
            agreement[subject, " ".join(between) or "nothing"] = p[number[verb]] / (p[number[verb]] + p[number[verb + "s"]])
    table = np.array(list(agreement.values())).reshape(4, 3)
    plt.figure(figsize=(6, 2.6), layout="constrained")
    plt.imshow(table, cmap="RdBu", vmin=0, vmax=1, aspect="auto")
    plt.yticks(range(4), ["cat", "cats", "doctor", "doctors"])
    plt.xticks(range(3), ["nothing", "near the river", "near the rivers"])
    for i in range(4):
        for j in range(3):
            plt.text(j, i, f"{table[i, j]:.2f}", ha="center", va="center", color="white")
    plt.title("plural verb, by subject and what stands between")
    plt.show()

# %% [markdown]
# ## Nearest neighbours
#
# Words that are used alike get vectors that are alike; nobody told the network what an animal is.

# %%
vectors = model.layers[0].get_weights()[0]
vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
for word in ("monday", "company", "million") if TEXT else ("cat", "teachers", "eats", "book"):
    if word in number:
        near = np.argsort(-(vectors @ vectors[number[word]]))[1:6]
        print(f"{word:<10} {', '.join(words[i] for i in near)}")
if not TEXT:
    _, _, axes = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    flat = (vectors - vectors.mean(0)) @ axes[:2].T
    plt.figure(figsize=(8, 4.6), layout="constrained")
    plt.scatter(*flat.T, s=6, color="grey")
    for word, place in zip(words, flat):
        plt.annotate(word, place, fontsize=7)
    plt.title("word vectors on their two principal axes")
    plt.show()

# %% [markdown]
# **Seen:** to guess the next word, the network learned which words are of a kind, and carries the number of the
# subject past what stands between.
