"""Training of the four applications against the same networks of `keras.layers` on plain tf.data.

    python -m benchmarks.applications --imdb FILE.tsv.gz --multi30k FOLDER --flickr8k FOLDER --tunes FILE.abc
        [--steps 40] [--rounds 3] [--save benchmarks/results/applications]

Networks, batch sizes and optimizers are the applications' defaults. Data come as in keras.io's examples and TensorFlow's
tutorials: texts through `TextVectorization` to one length, in batches of equal size; pictures read, decoded and seen by the
frozen backbone in every step; characters in windows that follow each other. Ours buckets by length, keeps what a frozen
backbone saw, and uses its own layers and loss. The two take turns; each takes steps on real batches. Examples are reviews,
pairs of sentences, captions, and characters. "Waits" is the fraction of the time in which the step waits for the next batch.
"""

import argparse
import atexit
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from apps.common.cli import flags_of
from apps.common.training.losses import TokenLoss
from apps.image_captioning.config import Config as CaptionConfig
from apps.image_captioning.config import ModelFlags as CaptionFlags
from apps.image_captioning.encoders import image_encoder
from apps.image_captioning.model import Captioner
from apps.music_generation.config import StackFlags, TuneConfig
from apps.music_generation.tunes.model import TuneModel
from apps.sentiment_classification.config import Config as SentimentConfig
from apps.sentiment_classification.config import ModelFlags as SentimentFlags
from apps.sentiment_classification.model import recurrent_classifier
from apps.translation.config import Config as TranslationConfig
from apps.translation.config import ModelFlags as TranslationFlags
from apps.translation.model import Translator
from benchmarks import keras_networks
from benchmarks.saving import save
from data_pipelines.batching import bucket_boundaries
from data_pipelines.captions import caption_batches, load_captions
from data_pipelines.image_store import store_images
from data_pipelines.reviews import encode_reviews, load_reviews, review_batches
from data_pipelines.translations import Vocabularies, load_translations, translation_batches
from data_pipelines.translations import encode as encode_pairs
from data_pipelines.tunes import load_tunes, train_tune_vocabulary, tune_streams
from data_pipelines.vocabulary import BOS, train_vocabulary

WARM_UP = 40  # steps in which every length is met and compiled


class Side(NamedTuple):
    """A compiled model, its batches, and how many examples one holds."""

    model: keras.Model
    batches: tf.data.Dataset
    examples: Callable[[Any], int]


def adam(config: Any) -> keras.optimizers.Optimizer:
    average = getattr(config, "ema_momentum", 0.0)
    return keras.optimizers.Adam(1e-4, global_clipnorm=config.clip_norm, use_ema=average > 0, ema_momentum=average or 0.99)


def rows(batch: Any) -> int:
    return int(keras.tree.flatten(batch)[0].shape[0])


# -- one function an application: ours and Keras'


def sentiment(path: str) -> tuple[Side, Side]:
    config = SentimentConfig()
    reviews = load_reviews(path)
    train = reviews.splits["train"]
    texts = [review.text for review in train]
    vocabulary = train_vocabulary(config.tokenizer, texts, config.vocabulary_size, config.min_count)
    rows = encode_reviews(train, reviews.labels, vocabulary, config.max_length)
    boundaries = bucket_boundaries([*rows[0].row_lengths().numpy().tolist(), config.max_length], config.max_length)
    options = {"boundaries": boundaries, "batch_size": config.batch_size}
    model = recurrent_classifier(vocabulary.size, 2, **flags_of(config, SentimentFlags))
    ours = keras.Model(model.input, model.output["logits"])
    theirs = keras_networks.classifier(vocabulary.size, 2, config)
    for network in (ours, theirs):
        network.compile(adam(config), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    batches = review_batches(rows, **options, shuffle_seed=0).dataset

    vectorize = keras.layers.TextVectorization(vocabulary.size, output_sequence_length=config.max_length)
    vectorize.adapt(texts)
    classes = [reviews.labels.index(review.label) for review in train]
    plain = tf.data.Dataset.from_tensor_slices((texts, classes)).cache().shuffle(len(texts), seed=0).repeat()
    plain = plain.batch(config.batch_size).map(lambda text, label: (vectorize(text), label), tf.data.AUTOTUNE).prefetch(4)
    return Side(ours, batches, rows), Side(theirs, plain, rows)


def translation(path: str) -> tuple[Side, Side]:
    config = TranslationConfig()
    pairs = load_translations(path, config.source_lang, config.target_lang).splits["train"]
    vocabularies = Vocabularies.train(pairs, config.tokenizer, config.vocabulary_size, joint=True)
    encoded = encode_pairs(pairs, vocabularies, config.max_length)
    boundaries = bucket_boundaries(encoded.lengths, config.max_length, config.buckets, multiple=4)
    size = vocabularies.source.size
    ours = Translator(size, size, **flags_of(config, TranslationFlags))
    ours.compile(adam(config), TokenLoss(config.label_smoothing))
    batches = translation_batches(encoded, max_tokens=config.max_tokens, boundaries=boundaries, shuffle_seed=0).dataset

    theirs = keras_networks.translator(size, config.embedding_size, config.units, config.dropout)
    theirs.compile(adam(config), keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0))
    length = int(np.percentile(encoded.lengths, 99))  # longer ones are cut
    source = encoded.source.to_tensor(shape=[None, length]).numpy()
    targets = encoded.target.to_tensor(shape=[None, length]).numpy()
    target = np.concatenate([np.full((len(targets), 1), BOS), targets[:, :-1]], axis=1)
    plain = (
        tf.data.Dataset.from_tensor_slices(({"source": source, "target": target}, targets))
        .shuffle(len(source), seed=0)
        .repeat()
        .batch(64)
        .prefetch(4)
    )
    return Side(ours, batches, rows), Side(theirs, plain, rows)


def captions(path: str, images: int = 600) -> tuple[Side, Side]:
    config = CaptionConfig(backbone="mobilenet")
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    table = some_images(Path(path), images, folder)
    data = load_captions(str(table), 0)
    shape = (config.image_size, config.image_size, 3)
    backbone = keras.applications.MobileNet(shape, config.alpha, include_top=False, weights=None)
    backbone.save_weights(folder / "backbone.weights.h5")  # random ones take the same time
    weights = str(folder / "backbone.weights.h5")
    encoder = image_encoder("mobilenet", config.image_size, weights, config.alpha, "", 0)
    begun = time.perf_counter()
    store = store_images(
        data.images, folder / "store", encoder.key, encoder.encode_image, size=config.image_size, max_pixels=10**8
    )
    print(f"the store of {len(data.images)} pictures took {time.perf_counter() - begun:.1f} s, once")
    examples = data.splits["train"]
    texts = [caption for example in examples for caption in example.captions]
    vocabulary = train_vocabulary(config.tokenizer, texts, config.vocabulary_size, config.min_count, has_bos_eos=True)
    lengths = vocabulary.tokenize(tf.constant(texts)).row_lengths().numpy() + 1
    boundaries = bucket_boundaries(lengths.tolist(), config.max_length, config.buckets, multiple=2)
    ours = Captioner(vocabulary.size, store.shape, encoder.trainable_top, encoder.is_pretrained, **flags_of(config, CaptionFlags))
    ours.compile(adam(config), TokenLoss(config.label_smoothing))
    batches = caption_batches(
        examples, store, vocabulary, batch_size=config.batch_size, boundaries=boundaries, shuffle_seed=0
    ).dataset

    theirs = keras_networks.captioner(vocabulary.size, backbone, config)
    theirs.compile(adam(config), keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0))
    vectorize = keras.layers.TextVectorization(vocabulary.size, output_sequence_length=boundaries[-1] + 1)
    vectorize.adapt(texts)
    files = [str(folder / example.image.name) for example in examples for _ in example.captions]
    return Side(ours, batches, rows), Side(theirs, plain_captions(files, texts, vectorize, config), rows)


def plain_captions(files: list[str], texts: list[str], vectorize: Any, config: CaptionConfig) -> tf.data.Dataset:
    """Pictures read and decoded in every step, as tutorials do."""

    def read(file: tf.Tensor, text: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pixels = tf.image.resize(tf.io.decode_jpeg(tf.io.read_file(file), channels=3), (config.image_size, config.image_size))
        return pixels / 127.5 - 1.0, vectorize("start " + text)

    plain = tf.data.Dataset.from_tensor_slices((files, texts)).shuffle(len(files), seed=0).repeat()
    plain = plain.map(read, tf.data.AUTOTUNE).batch(config.batch_size)
    return plain.map(lambda image, ids: ({"image": image, "caption": ids[:, :-1]}, ids[:, 1:])).prefetch(4)


def some_images(source: Path, count: int, folder: Path) -> Path:
    """The first pictures of a set with `train_captions.tsv` and `train_images.zip`, as a table and a folder."""
    lines = (source / "train_captions.tsv").read_text().splitlines()
    chosen = list(dict.fromkeys(line.split("\t")[0] for line in lines[1:]))[:count]
    with zipfile.ZipFile(source / "train_images.zip") as archive:
        members = {Path(name).name: name for name in archive.namelist()}
        for name in chosen:
            (folder / name).write_bytes(archive.read(members[name]))
    table = folder / "captions.tsv"
    table.write_text("\n".join([lines[0], *(line for line in lines[1:] if line.split("\t")[0] in set(chosen))]) + "\n")
    return table


def music(path: str) -> tuple[Side, Side]:
    config = TuneConfig()
    tunes = load_tunes(path).splits["train"]
    vocabulary = train_tune_vocabulary(tunes, config.tokenizer, config.transpose_prob > 0)
    order = {"batch_size": config.batch_size, "steps": config.bptt_steps, "seed": 0, "transpose_prob": config.transpose_prob}
    batches = tune_streams(tunes, vocabulary, **order, epochs=config.epochs).dataset
    ours = TuneModel(vocabulary.size, config.embedding_size, **flags_of(config, StackFlags))
    ours.compile(adam(config), TokenLoss())

    theirs = keras_networks.tune_writer(vocabulary.size, config)
    theirs.compile(adam(config), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    text = "\n".join(tune.text for tune in tunes)
    ids = vocabulary.encode(tf.constant([text])).flat_values.numpy()
    length = len(ids) // config.batch_size
    streams = ids[: config.batch_size * length].reshape(config.batch_size, length)

    def windows() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        while True:
            for start in range(0, length - config.bptt_steps, config.bptt_steps):
                part = streams[:, start : start + config.bptt_steps + 1]
                yield part[:, :-1], part[:, 1:]

    spec = tf.TensorSpec((config.batch_size, config.bptt_steps), tf.int32)
    plain = tf.data.Dataset.from_generator(windows, output_signature=(spec, spec)).prefetch(4)

    def tokens(batch: Any) -> int:
        return int(np.count_nonzero(batch[1]))

    return Side(ours, batches, tokens), Side(theirs, plain, tokens)


APPLICATIONS = {"imdb": sentiment, "multi30k": translation, "flickr8k": captions, "tunes": music}
EXAMPLES = {"imdb": "reviews", "multi30k": "pairs", "flickr8k": "captions", "tunes": "characters"}


def turn(side: Side, iterator: Iterator[Any], steps: int) -> tuple[int, float, float]:
    """Examples, seconds, and seconds of waiting in so many steps."""
    examples, waited = 0, 0.0
    begun = time.perf_counter()
    for _ in range(steps):
        asked = time.perf_counter()
        batch = next(iterator)
        waited += time.perf_counter() - asked
        side.model.train_on_batch(*batch)
        examples += side.examples(batch)
    return examples, time.perf_counter() - begun, waited


def measure(sides: tuple[Side, Side], steps: int, rounds: int) -> dict[str, Any]:
    iterators = [iter(side.batches) for side in sides]
    for side, iterator in zip(sides, iterators):
        turn(side, iterator, WARM_UP)
    totals = np.zeros((2, 3))
    for _ in range(rounds):
        for n in range(2):
            totals[n] += turn(sides[n], iterators[n], steps)
    (ours, seconds, waited), (theirs, their_seconds, their_waiting) = totals
    return {
        "ours": ours / seconds,
        "keras": theirs / their_seconds,
        "over": ours / seconds / (theirs / their_seconds),
        "waits": waited / seconds,
        "keras_waits": their_waiting / their_seconds,
        "parameters": [side.model.count_params() for side in sides],
    }


def report(found: dict[str, dict[str, Any]]) -> str:
    lines = [
        f"{os.cpu_count()} cores, TensorFlow {tf.__version__}, Keras {keras.__version__}",
        "",
        "| training on | examples | ours, a second | Keras, a second | ours is faster by | ours waits | Keras waits |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for name, row in found.items():
        lines.append(
            f"| {name} | {EXAMPLES[name]} | {row['ours']:,.0f} | {row['keras']:,.0f} | {row['over']:.2f} | "
            f"{100 * row['waits']:.1f}% | {100 * row['keras_waits']:.1f}% |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.applications", allow_abbrev=False)
    for name in APPLICATIONS:
        parser.add_argument(f"--{name}", help="path of the data; left out: not measured")
    parser.add_argument("--steps", type=int, default=40, help="of a turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side")
    parser.add_argument("--save", default="benchmarks/results/applications", help="writes .json and .md")
    arguments = parser.parse_args()
    found = {}
    for name, prepare in APPLICATIONS.items():
        if path := getattr(arguments, name):
            keras.utils.set_random_seed(0)
            found[name] = measure(prepare(path), arguments.steps, arguments.rounds)
            print(name, found[name], flush=True)
    save(arguments.save, report(found), found)


if __name__ == "__main__":
    main()
