# %% [markdown]
# # Image captioning with `model.fit`
#
# **Question: how does a network say what it sees, and what does it attend to for each word?**
#
# What `python -m apps.image_captioning.train` does, by hand: scenes of shapes, a small convolutional network, a
# recurrent decoder with attention over the regions of the picture. For your own photographs change one line: `DATA`
# (and use a pretrained backbone, as the application does).

# %% nbmake={"mock": {"TRAIN": 1600, "EPOCHS": 2}}
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tempfile
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from keras import ops

from data_pipelines.captions import load_captions
from data_pipelines.images import decode_images
from data_pipelines.vocabulary import BOS, EOS, train_vocabulary
from layers import GRU, BahdanauAttention

keras.utils.set_random_seed(0)
generator = np.random.default_rng(0)
DATA, SIZE, TRAIN, TEST, UNITS, EPOCHS = "embedded", 64, 7000, 200, 128, 10  # DATA: or a folder of images with captions.tsv

# %% [markdown]
# ## Data
#
# Pictures as pixels, captions as ids between BOS and EOS.

# %%
captions = load_captions(DATA)
decode = tf.function(lambda data: decode_images(data, SIZE, 10_000_000))


def examples(part, count):
    pixels, chosen = [], []
    for i in range(0, min(count, len(part)), 100):
        block = part[i : min(i + 100, count)]
        images, problems = decode(tf.constant([example.image.read() for example in block]))
        fine = problems.numpy() == b""  # what can't be decoded is skipped
        pixels.append(images.numpy()[fine])
        chosen += [example for example, is_fine in zip(block, fine) if is_fine]
    return np.concatenate(pixels), [example.captions[0] for example in chosen], chosen


images, texts, _ = examples(captions.splits["train"], TRAIN)
test_images, test_texts, test_examples = examples(captions.splits["validation"], TEST)
vocabulary = train_vocabulary("words", texts, 1000, min_count=1, has_bos_eos=True)


def ids_of(texts):
    ids = vocabulary.encode(tf.constant(texts))
    return tf.concat([tf.fill([len(texts), 1], BOS), ids, tf.fill([len(texts), 1], EOS)], axis=1).to_tensor().numpy()


ids, test_ids = ids_of(texts), ids_of(test_texts)
print(f"{len(images):,} pictures of {SIZE} x {SIZE}, {vocabulary.size} words, captions of up to {ids.shape[1] - 2}")
figure, axes = plt.subplots(1, 4, figsize=(12, 3.2), layout="constrained")
for axis, image, text in zip(axes, images, texts):
    axis.imshow(image.astype("uint8"))
    axis.set_title(text, fontsize=8, wrap=True)
    axis.axis("off")
plt.show()

# %% [markdown]
# ## Model
#
# Convolutions make a grid of 8 x 8 regions. The decoder gets the caption so far and attends, at each word, to all regions:
# $c_t = \sum_j a_{tj} m_j$. A learned vector for each region encodes its position.

# %%
picture = keras.Input((SIZE, SIZE, 3), name="image")
caption = keras.Input((None,), dtype="int32", name="caption")
x = keras.layers.Rescaling(1 / 127.5, -1.0)(picture)
for filters in (24, 48, 96):  # halve the picture, then add to it what one more convolution sees
    x = keras.layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False)(x)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))
    again = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
    x = x + keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(again))
regions = keras.layers.Reshape((64, 96))(x)
places = keras.layers.Embedding(64, 96, name="places")(ops.arange(64))
memory = keras.layers.Dense(UNITS, "tanh")(regions + places)
start = keras.layers.Dense(UNITS, "tanh")(keras.layers.GlobalAveragePooling1D()(memory))
words = keras.layers.Embedding(vocabulary.size, 64, mask_zero=True)(caption)
queries = GRU(UNITS, return_sequences=True)(words, initial_state=[start])
context, attention = BahdanauAttention(UNITS)(queries, memory, return_attention_scores=True)
told = GRU(UNITS, return_sequences=True)(keras.layers.Concatenate()([queries, context]))
logits = keras.layers.Dense(vocabulary.size)(keras.layers.Concatenate()([told, context]))
model = keras.Model([picture, caption], logits)

schedule = keras.optimizers.schedules.CosineDecay(4e-3, EPOCHS * len(images) // 32, alpha=0.02)
model.compile(
    keras.optimizers.Adam(schedule, global_clipnorm=1.0),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    weighted_metrics=["accuracy"],
)
history = model.fit(
    [images, ids[:, :-1]],
    ids[:, 1:],
    sample_weight=(ids[:, 1:] != 0).astype("float32"),
    validation_data=([test_images, test_ids[:, :-1]], test_ids[:, 1:], (test_ids[:, 1:] != 0).astype("float32")),
    epochs=EPOCHS,
    verbose=0,
).history
plt.figure(figsize=(5, 2.6), layout="constrained")
for name, label in (("accuracy", "training"), ("val_accuracy", "validation")):
    plt.plot(range(1, EPOCHS + 1), history[name], marker="o", label=label)
plt.xlabel("epoch")
plt.ylabel("next words that are right")
plt.legend()
plt.show()

# %% [markdown]
# ## Captions, and what each word attended to

# %%
with_attention = keras.Model(model.inputs, [logits, attention])


@tf.function(reduce_retracing=True)
def attended(images, written):
    return with_attention([images, written])


def describe(images, longest=24):
    """Greedy: words (n, t) and attention (n, t, 64)."""
    written = np.full((len(images), 1), BOS, np.int32)
    for _ in range(longest):
        scores, weights = attended(tf.constant(images), tf.constant(written))
        written = np.concatenate([written, tf.argmax(scores[:, -1], -1, output_type=tf.int32).numpy()[:, None]], 1)
    return written[:, 1:], weights.numpy()


written, weights = describe(test_images[:3])
for n in range(3):
    row = written[n].tolist()
    count = row.index(EOS) if EOS in row else len(row)
    said = [word.decode() for word in vocabulary.ids_to_tokens(tf.constant(row[:count])).numpy()]
    print(f"{' '.join(said)}\n    reference: {test_texts[n]}")

# %% tags=["picture"]
row = written[0].tolist()
said = [
    word.decode() for word in vocabulary.ids_to_tokens(tf.constant(row[: row.index(EOS) if EOS in row else len(row)])).numpy()
]
columns = 7
figure, axes = plt.subplots(
    -(-(len(said) + 1) // columns), columns, figsize=(12, 2.0 * -(-(len(said) + 1) // columns)), layout="constrained"
)
for axis in axes.flat:
    axis.axis("off")
axes.flat[0].imshow(test_images[0].astype("uint8"))
for axis, word, a in zip(axes.flat[1:], said, weights[0]):
    axis.imshow(test_images[0].astype("uint8"))
    axis.imshow(a.reshape(8, 8), extent=(0, SIZE, SIZE, 0), cmap="gray", alpha=0.65, interpolation="bilinear")
    axis.set_title(word, fontsize=9)
plt.show()

# %% [markdown]
# The captions of the scenes can be checked: are they true?

# %%
if DATA == "embedded":
    from data_pipelines.embedded.scenes import embedded_scenes, is_true

    scenes = {scene.name: scene for scene in embedded_scenes()["validation"]}
    written, _ = describe(test_images)
    true = 0
    for row, example in zip(written.tolist(), test_examples):
        row = row[: row.index(EOS)] if EOS in row else row
        text = vocabulary.detokenize(tf.ragged.constant([row], dtype=tf.int32))[0].numpy().decode()
        true += is_true(text, scenes[example.image.name])
    print(f"{100 * true / len(written):.0f}% of the captions are true of their pictures")

# %% [markdown]
# ## Save, reload, export

# %%
folder = Path(tempfile.mkdtemp())
model.save(folder / "model.keras")
again = keras.models.load_model(folder / "model.keras")
batch = [test_images[:8], test_ids[:8, :-1]]
print("the same after loading:", np.array_equal(model.predict(batch, verbose=0), again.predict(batch, verbose=0)))


@tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
def serve(image_bytes):
    pixels, _ = decode_images(image_bytes, SIZE, 10_000_000)
    pixels = tf.cast(pixels, tf.float32)
    written = tf.fill([tf.shape(image_bytes)[0], 1], BOS)

    def step(written):
        return tf.concat([written, tf.argmax(model([pixels, written])[:, -1], -1, output_type=tf.int32)[:, None]], 1)

    shape = (tf.TensorShape([None, None]),)
    (written,) = tf.while_loop(lambda written: tf.shape(written)[1] < 25, lambda w: (step(w),), (written,), shape)
    before_end = tf.cumsum(tf.cast(written[:, 1:] == EOS, tf.int32), axis=1) == 0
    return {"caption": vocabulary.detokenize(tf.ragged.boolean_mask(written[:, 1:], before_end))}


archive = keras.export.ExportArchive()
archive.track(model)
archive.track(vocabulary)
archive.add_endpoint("serving_default", serve)
archive.write_out(str(folder / "1"), verbose=False)
served = tf.saved_model.load(str(folder / "1")).signatures["serving_default"]
print(served(image_bytes=tf.constant([test_examples[0].image.read()]))["caption"].numpy()[0].decode())

# %% [markdown]
# **Seen:** the words for colours and sizes attend to the thing that they name, those for shapes and places next to it or
# at both. Two minutes of training make four captions of five wholly true. The application trains longer, on more,
# and adds a beam, pretrained backbones, CIDEr, and an export that handles broken images: `python -m
# apps.image_captioning.train --data FOLDER`; 97% of its captions of such scenes are true.
