# %% [markdown]
# # Translation with `model.fit`
#
# **Question: how does an encoder hand a sentence to a decoder, and what does attention show?**
#
# What `python -m apps.translation.train` does, by hand. For your own sentences change one line: `DATA`.

# %% nbmake={"mock": {"EPOCHS": 2}}
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tempfile
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from data_pipelines.batching import bucket_boundaries
from data_pipelines.translations import Vocabularies, encode, load_translations, translation_batches
from data_pipelines.vocabulary import BOS, EOS
from layers import GRU, BahdanauAttention, Bidirectional

keras.utils.set_random_seed(0)
DATA, SOURCE, TARGET = "embedded", "en", "de"  # or a folder with train.en, train.de, val.en, val.de
UNITS, SIZE, EPOCHS = 128, 128, 12

# %% [markdown]
# ## Data: sentences of dates, numbers and places, in subwords

# %%
data = load_translations(DATA, SOURCE, TARGET)
pairs, held_out = data.splits["train"], data.splits["validation"]
for pair in pairs[:3]:
    print(f"{pair.source}\n    {pair.target}")
vocabularies = Vocabularies.train(pairs, "bpe", 600, joint=True)
encoded, encoded_held_out = (encode(part, vocabularies, 60) for part in (pairs, held_out))
boundaries = bucket_boundaries(encoded.lengths, 60, 4, multiple=4)
training = translation_batches(encoded, max_tokens=1024, boundaries=boundaries, shuffle_seed=0)
validation = translation_batches(encoded_held_out, max_tokens=4096, boundaries=[*boundaries, 60])
print(f"{len(pairs):,} pairs, {vocabularies.source.size:,} subwords, {training.steps_per_epoch} steps an epoch")

# %% [markdown]
# ## Model
#
# The encoder is bidirectional. The decoder gets the target so far; at each step it attends to all encoder states
# (additive attention, Bahdanau et al. 2015) and concatenates the context to its own output. Embedding and output share one
# matrix.

# %%
source = keras.Input((None,), dtype="int32", name="source")
target = keras.Input((None,), dtype="int32", name="target")
embedding = keras.layers.Embedding(vocabularies.source.size, SIZE, mask_zero=True)
memory = Bidirectional(GRU(UNITS, return_sequences=True), name="encoder")(keras.layers.Dropout(0.1)(embedding(source)))
queries = GRU(2 * UNITS, return_sequences=True, name="decoder")(keras.layers.Dropout(0.1)(embedding(target)))
context, attention = BahdanauAttention(UNITS)(queries, memory, return_attention_scores=True)
joined = keras.layers.Dense(SIZE, "tanh")(keras.layers.Concatenate()([queries, context]))
logits = keras.layers.Dense(vocabularies.target.size, name="logits")(keras.layers.Dropout(0.1)(joined))
model = keras.Model({"source": source, "target": target}, logits)


def weighted(inputs, targets):
    """Padding is masked out."""
    return inputs, targets, tf.cast(targets != 0, tf.float32)


model.compile(
    keras.optimizers.Adam(4e-3, global_clipnorm=1.0),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    weighted_metrics=["accuracy"],
)
history = model.fit(
    training.dataset.map(weighted),
    steps_per_epoch=training.steps_per_epoch,
    validation_data=validation.dataset.map(weighted),
    epochs=EPOCHS,
    shuffle=False,
    verbose=0,
).history
plt.figure(figsize=(5, 2.6), layout="constrained")
for name in ("loss", "val_loss"):
    plt.plot(range(1, EPOCHS + 1), history[name], marker="o", label={"loss": "training", "val_loss": "validation"}[name])
plt.xlabel("epoch")
plt.ylabel("cross entropy")
plt.legend()
plt.show()
print("validation: next-token accuracy", round(history["val_accuracy"][-1], 3))

# %% [markdown]
# ## Translate
#
# Greedy search: the decoder's inputs are its own outputs. (The application searches with a beam, in the graph, one step a
# token.)

# %%
with_attention = keras.Model(model.inputs, [logits, attention])


def translate(text, limit=50):
    """The subwords of the source and of the translation, and what each of these attended to."""
    source = vocabularies.source.encode(tf.constant([text])).to_tensor()
    written = [BOS]
    for _ in range(limit):
        scores, weights = with_attention({"source": source, "target": tf.constant([written])})
        written.append(int(tf.argmax(scores[0, -1])))
        if written[-1] == EOS:
            break
    return source, written[1:], weights[0].numpy()


def words(vocabulary, ids):
    return [token.decode() for token in vocabulary.ids_to_tokens(tf.constant(ids)).numpy()]


for pair in held_out[:4]:
    _, written, _ = translate(pair.source)
    text = vocabularies.target.detokenize(tf.RaggedTensor.from_tensor([[i for i in written if i != EOS]]))[0].numpy().decode()
    print(f"source      {pair.source}\nreference   {pair.target}\ntranslation {text}\n")

# %% [markdown]
# ## What did it attend to?

# %% tags=["picture"]
figure, axes = plt.subplots(1, 2, figsize=(13, 5.5), layout="constrained")
for axis, pair in zip(axes, held_out[:2]):
    source_ids, written, weights = translate(pair.source)
    rows, columns = words(vocabularies.target, written), words(vocabularies.source, source_ids[0])
    axis.imshow(weights[: len(rows)], cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axis.set(yticks=range(len(rows)), xticks=range(len(columns)), ylabel="written", xlabel="read")
    axis.set_yticklabels(rows, fontsize=7)
    axis.set_xticklabels(columns, fontsize=7, rotation=70)
figure.suptitle("attention: German puts its words in another order")
plt.show()

# %% [markdown]
# ## Save, reload, export

# %%
folder = Path(tempfile.mkdtemp())
model.save(folder / "model.keras")
again = keras.models.load_model(folder / "model.keras", compile=False)
batch = next(iter(validation.dataset))[0]
print("the same after loading:", np.array_equal(model.predict(batch, verbose=0), again.predict(batch, verbose=0)))

# %% [markdown]
# The export holds the tokenizer and a greedy loop. The state here is recomputed for each token, which is simple and
# slow; the application's decoder keeps it.


# %%
@tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
def serve(text):
    source = vocabularies.source.encode(text).to_tensor()
    written = tf.fill([tf.shape(text)[0], 1], BOS)
    done = tf.fill([tf.shape(text)[0]], False)

    def step(written, done):
        token = tf.argmax(model({"source": source, "target": written})[:, -1], -1, output_type=tf.int32)
        token = tf.where(done, 0, token)
        return tf.concat([written, token[:, None]], 1), done | (token == EOS)

    shapes = (tf.TensorShape([None, None]), tf.TensorShape([None]))
    written, _ = tf.while_loop(
        lambda written, done: ~tf.reduce_all(done) & (tf.shape(written)[1] < 50), step, (written, done), shape_invariants=shapes
    )
    kept = tf.ragged.boolean_mask(written[:, 1:], (written[:, 1:] != 0) & (written[:, 1:] != EOS))
    return {"translation": vocabularies.target.detokenize(kept)}


archive = keras.export.ExportArchive()
archive.track(model)
for vocabulary in {id(v): v for v in (vocabularies.source, vocabularies.target)}.values():
    archive.track(vocabulary)
archive.add_endpoint("serving_default", serve)
archive.write_out(str(folder / "1"), verbose=False)
served = tf.saved_model.load(str(folder / "1")).signatures["serving_default"]
for text, answer in zip(held_out[4:6], served(text=tf.constant([pair.source for pair in held_out[4:6]]))["translation"].numpy()):
    print(f"{text.source}\n    {answer.decode()}")

# %% [markdown]
# **Seen:** the decoder attends to what it translates, in the order of its own language. For real sentences, beam
# search, BLEU, resuming and fast decoding: `python -m apps.translation.train --data FOLDER`.
