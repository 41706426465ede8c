# %% [markdown]
# # Music generation with `model.fit`
#
# **Question: what does a network have to remember to write a tune?**
#
# What `python -m apps.music_generation.train` does, by hand: Irish tunes in ABC notation, a recurrent network that
# predicts the next character, sampling, sheet music and sound. For your own tunes change one line: `DATA`.

# %% nbmake={"mock": {"EPOCHS": 1}}
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tempfile
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from IPython.display import SVG, Audio, display

from apps.music_generation.sound import notes_of, synthesize, to_wav
from apps.music_generation.tunes.engraver import engrave
from apps.music_generation.tunes.scores import with_open_repeats
from data_pipelines.tunes import load_tunes, train_tune_vocabulary, tune_streams, whole_tunes
from data_pipelines.vocabulary import BOS, EOS
from layers import GRU

keras.utils.set_random_seed(0)
generator = np.random.default_rng(0)
DATA, UNITS, EPOCHS, ROWS, STEPS = "embedded", 192, 5, 32, 64  # DATA: or a folder with .abc files

# %% [markdown]
# ## Data
#
# A tune is a text: metre, unit of length, key, then notes and bars. The tunes follow each other in 32 streams, cut
# into chunks of 64 characters.

# %%
tunes = load_tunes(DATA)
train, held_out = tunes.splits["train"], tunes.splits["validation"]
vocabulary = train_tune_vocabulary(train, "characters", transposed=False)
print(f"{len(train):,} tunes to learn from, {len(held_out):,} held out, {vocabulary.size} tokens\n")
print(train[0].text)
streams = tune_streams(train, vocabulary, batch_size=ROWS, steps=STEPS, epochs=EPOCHS, seed=0)


def weighted(inputs, following):
    """Padding is masked out."""
    return inputs["tokens"], following, tf.cast(following != 0, tf.float32)


# %% [markdown]
# ## Model


# %%
def network(rows=None, steps=None, stateful=False):
    return keras.Sequential(
        [
            keras.Input((steps,), batch_size=rows, dtype="int32"),
            keras.layers.Embedding(vocabulary.size, 64),
            GRU(UNITS, return_sequences=True, stateful=stateful),
            keras.layers.Dropout(0.2),
            GRU(UNITS, return_sequences=True, stateful=stateful),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(vocabulary.size),
        ]
    )


model = network()
schedule = keras.optimizers.schedules.CosineDecay(5e-3, EPOCHS * streams.steps_per_epoch, alpha=0.02)
model.compile(
    keras.optimizers.Adam(schedule, global_clipnorm=1.0),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    weighted_metrics=["accuracy"],
)
history = model.fit(
    streams.dataset.map(weighted), steps_per_epoch=streams.steps_per_epoch, epochs=EPOCHS, shuffle=False, verbose=0
).history
accuracy = model.evaluate(whole_tunes(held_out, vocabulary).map(weighted), verbose=0)[1]
plt.figure(figsize=(5, 2.6), layout="constrained")
plt.plot(range(1, EPOCHS + 1), history["accuracy"], marker="o", label="training")
plt.plot(EPOCHS, accuracy, "s", label="tunes held out")
plt.xlabel("epoch")
plt.ylabel("next characters that are right")
plt.legend()
plt.show()

# %% [markdown]
# ## Where is it sure?
#
# The surprise, $-\log_2 p$, of each character of a tune that it has never seen. Bar lines hold no surprise: it counts the
# beats.

# %% tags=["picture"]
text = held_out[0].text
ids = vocabulary.encode(tf.constant([text])).to_tensor().numpy()
p = tf.nn.softmax(model(np.concatenate([[[BOS]], ids[:, :-1]], axis=1))).numpy()[0]
surprise = -np.log2(p[np.arange(ids.shape[1]), ids[0]])
characters = list(text)[:110]
plt.figure(figsize=(14, 2.6), layout="constrained")
plt.bar(range(len(characters)), surprise[: len(characters)], color=["C1" if c in "|:" else "C0" for c in characters])
plt.xticks(range(len(characters)), [c if c != "\n" else "¶" for c in characters], fontsize=8)
plt.ylabel("bits")
plt.title("surprise at each character (orange: bar lines)")
plt.show()
bars = np.array([character in "|" for character in text])
print(f"bits a bar line {surprise[bars].mean():.2f}, bits another character {surprise[~bars].mean():.2f}")

# %% [markdown]
# ## Generate
#
# The network's inputs are its own tokens. A temperature below 1 and the most probable tokens that make up 95% keep it from
# nonsense.

# %%
writer = network(1, 1, stateful=True)
for variable, value in zip(writer.trainable_variables, model.trainable_variables):
    variable.assign(value)


def write(prompt, temperature=0.7, top_p=0.95, longest=400):
    for layer in writer.layers:
        if isinstance(layer, GRU):
            layer.reset_state()
    known = vocabulary.encode(tf.constant([prompt])).to_list()[0]
    out = [BOS, *known]
    for token in out:
        logits = writer(np.array([[token]]))
    while out[-1] != EOS and len(out) < longest:
        p = tf.nn.softmax(logits[0, 0] / temperature).numpy()
        order = np.argsort(-p)
        kept = order[: 1 + int((np.cumsum(p[order]) < top_p).sum())]
        out.append(int(generator.choice(kept, p=p[kept] / p[kept].sum())))
        logits = writer(np.array([[out[-1]]]))
    ids = [token for token in out[1:] if token != EOS]
    return vocabulary.detokenize(tf.ragged.constant([ids]))[0].numpy().decode()


score = None
for _ in range(8):
    abc = write("M:6/8\nL:1/8\nK:Dmaj\n")
    score = engrave([with_open_repeats("X:1\n" + abc)], files=True)[0]
    if score is not None and len(abc) > 80:
        break
print(abc)

# %%
if score is not None:
    display(SVG(score.pages[0]))
    samples = synthesize(notes_of(score.midi))
    display(Audio(to_wav(samples[:80_000])))  # the beginning

# %% [markdown]
# ## Save, reload, export

# %%
folder = Path(tempfile.mkdtemp())
model.save(folder / "model.keras")
again = keras.models.load_model(folder / "model.keras")
print("the same after loading:", np.array_equal(model.predict(ids, verbose=0), again.predict(ids, verbose=0)))


@tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
def surprise_of(text):
    """Bits per character of each tune: how far it is from what was learned."""
    ids = vocabulary.encode(text).to_tensor()
    before = tf.pad(ids[:, :-1], [[0, 0], [1, 0]], constant_values=BOS)
    nats = keras.losses.sparse_categorical_crossentropy(ids, model(before), from_logits=True)
    there = tf.cast(ids != 0, tf.float32)
    return {"bits": tf.reduce_sum(nats * there, 1) / tf.reduce_sum(there, 1) / tf.math.log(2.0)}


archive = keras.export.ExportArchive()
archive.track(model)
archive.track(vocabulary)
archive.add_endpoint("serving_default", surprise_of)
archive.write_out(str(folder / "1"), verbose=False)
served = tf.saved_model.load(str(folder / "1")).signatures["serving_default"]
shuffled = "".join(generator.permutation(list(text)))
bits = served(text=tf.constant([text, abc, shuffled]))["bits"].numpy()
print(
    "bits per character: a real tune {:.2f}, the generated one {:.2f}, the real one's characters at random {:.2f}".format(*bits)
)

# %% [markdown]
# **Seen:** to predict characters, the network learned the key, the beat and where bars end. The application adds whole
# states through time, a grammar that keeps each bar full, piano rolls, and an export that generates tunes: `python -m
# apps.music_generation.train`.
