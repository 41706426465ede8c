# %% [markdown]
# # Sentiment classification with `model.fit`
#
# **Question: how do the layers become an application, from the user's file to a SavedModel?**
#
# What `python -m apps.sentiment_classification.train` does, by hand: data, model, training, a look at what was
# learned, saving, and an export that takes strings. For your own texts change one line: `DATA`.

# %%
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tempfile
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from apps.sentiment_classification.model import AttentionPooling
from data_pipelines.batching import bucket_boundaries
from data_pipelines.reviews import encode_reviews, load_reviews, review_batches
from data_pipelines.vocabulary import train_vocabulary
from layers import GRU, Bidirectional

keras.utils.set_random_seed(0)
DATA = "embedded"  # or "reviews.csv" with the columns text and label, a folder of splits, or "tfds:imdb_reviews"

# %% [markdown]
# ## Data
#
# The pipeline finds splits, checks rows, and makes batches of few fixed lengths. The vocabulary is built from the
# training split alone.

# %%
reviews = load_reviews(DATA)
for name, part in reviews.splits.items():
    print(f"{name:<11}{len(part):>6,}   {part[0].label:<9} {part[0].text[:70]}")
texts = [review.text for review in reviews.splits["train"]]
vocabulary = train_vocabulary("words", texts, 20_000, min_count=1)
train, held_out = (encode_reviews(reviews.splits[split], reviews.labels, vocabulary, 200) for split in ("train", "validation"))
options = {"boundaries": bucket_boundaries([*train[0].row_lengths().numpy().tolist(), 200], 200), "batch_size": 32}
training = review_batches(train, **options, shuffle_seed=0)
validation = review_batches(held_out, **options)

# %% [markdown]
# ## Model
#
# A word becomes a vector, a bidirectional GRU encodes the text in both directions, and attention decides which positions count.
# Its weights are an output of their own, so that we can plot them.

# %%
ids = keras.Input((None,), dtype="int32", name="ids")
x = keras.layers.Embedding(vocabulary.size, 48, mask_zero=True)(ids)
x = keras.layers.SpatialDropout1D(0.1)(x)
x = Bidirectional(GRU(48, return_sequences=True))(x)
pooled, weights = AttentionPooling()(x)
logits = keras.layers.Dense(len(reviews.labels), name="logits")(keras.layers.Dropout(0.5)(pooled))
model = keras.Model(ids, logits)
model.compile(
    keras.optimizers.Adam(3e-3, global_clipnorm=1.0),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
history = model.fit(
    training.dataset,
    steps_per_epoch=training.steps_per_epoch,
    validation_data=validation.dataset,
    epochs=4,
    shuffle=False,
    verbose=0,
).history
plt.figure(figsize=(5, 2.6), layout="constrained")
for name, values in (("training", history["accuracy"]), ("validation", history["val_accuracy"])):
    plt.plot(range(1, len(values) + 1), values, marker="o", label=name)
plt.xlabel("epoch")
plt.ylabel("accuracy")
plt.xticks(range(1, 5))
plt.legend()
plt.show()
print("validation accuracy", round(history["val_accuracy"][-1], 4))

# %% [markdown]
# ## Which words counted?
#
# The sentences below differ in their order only. A bag of words can't distinguish them.

# %% tags=["picture"]
explain = keras.Model(ids, [logits, weights])
sentences = [
    "the food was good , not bad at all .",
    "the food was bad , not good at all .",
    reviews.splits["validation"][0].text,
    reviews.splits["validation"][1].text,
]
figure, axes = plt.subplots(len(sentences), 1, figsize=(12, 0.7 * len(sentences) + 0.6), layout="constrained")
for axis, text in zip(axes, sentences):
    tokens = [token.decode() for token in vocabulary.tokenize(tf.constant([text])).to_list()[0]][:26]
    scores, attention = explain(vocabulary.encode(tf.constant([text])).to_tensor())
    probabilities = tf.nn.softmax(scores[0]).numpy()
    axis.imshow(attention.numpy()[:, : len(tokens)], cmap="Oranges", vmin=0, aspect="auto")
    axis.set(yticks=[], xticks=range(len(tokens)))
    axis.set_xticklabels(tokens, fontsize=7)
    best = int(probabilities.argmax())
    axis.set_ylabel(f"{reviews.labels[best]}\n{probabilities[best]:.2f}", rotation=0, ha="right", va="center", fontsize=9)
plt.show()

# %% [markdown]
# ## Save and reload

# %%
folder = Path(tempfile.mkdtemp())
model.save(folder / "model.keras")
again = keras.models.load_model(folder / "model.keras")
batch, _ = next(iter(validation.dataset))
print("the same after loading:", np.array_equal(model.predict(batch, verbose=0), again.predict(batch, verbose=0)))

# %% [markdown]
# ## Export: strings in, labels out
#
# Tokenizer, vocabulary and labels go into the graph. TF Serving loads the same export; here it is called from
# Python.


# %%
@tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
def classify(text):
    probabilities = tf.nn.softmax(model(vocabulary.encode(text).to_tensor()))
    labels = tf.gather(tf.constant(reviews.labels), tf.argmax(probabilities, axis=1))
    return {"label": labels, "probability": tf.reduce_max(probabilities, axis=1)}


archive = keras.export.ExportArchive()
archive.track(model)
archive.track(vocabulary)
archive.add_endpoint("serving_default", classify)
archive.write_out(str(folder / "1"), verbose=False)

served = tf.saved_model.load(str(folder / "1")).signatures["serving_default"]
answers = served(text=tf.constant(sentences[:2]))
for text, label, probability in zip(sentences, answers["label"].numpy(), answers["probability"].numpy()):
    print(f"{label.decode():<9} {probability:.3f}   {text}")

# %% [markdown]
# **Seen:** the word order decides, and the attention shows by which words. The application does the same with
# checkpoints, resuming, metrics, plots and several signatures: `python -m apps.sentiment_classification.train --data
# reviews.csv`.
#
# Where labels are few and texts are many, a language model of these texts,
# [apps/language_model](../apps/language_model/README.md), learns its vectors and its layers without any label.
