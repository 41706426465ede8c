"""Beam search with a captioner, and the signatures of the export: bytes of images in, captions out."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from apps.common.decoding.ensemble import Ensemble
from apps.common.decoding.search import decode, detokenize
from apps.common.decoding.sequences import NEG_INF, Sequences
from apps.common.metrics import caption_metrics
from apps.image_captioning.encoders import ImageEncoder, ImageEncoders
from apps.image_captioning.model import Captioner, CaptionerEnsemble
from data_pipelines.captions import Example
from data_pipelines.image_store import ImageStore
from data_pipelines.images import decode_images
from data_pipelines.vocabulary import BOS, EOS, PADDING, Vocabulary

MOST_PICTURES, MOST_LARGEST = 32, 8  # of a request: of any size, and of the largest


def search(model: Captioner | Ensemble, images: Any, max_length: int, prepared: Any = None, **settings: Any) -> Sequences:
    """Caption images (or their features), or what the model's `prepare_decoder` made of them; `settings` are those of
    `apps.common.decoding.search.decode`."""
    memory, state = prepared or model.prepare_decoder(images)

    def step(tokens: tf.Tensor, state: Any) -> tuple[tf.Tensor, Any, tf.Tensor | None]:
        return model.step(tokens, state, memory)

    batch_size = tf.shape(tf.nest.flatten(state)[0])[0]
    return decode(step, state, batch_size=batch_size, start=BOS, end=EOS, max_length=max_length, **settings)


def search_captions(
    model: Captioner, vocabulary: Vocabulary, examples: Sequence[Example], store: ImageStore, max_length: int, beam_size: int
) -> Callable[[], dict[str, float]]:
    """A function that captions the images by search with the current weights, and returns the metrics."""
    paths = tf.data.Dataset.from_tensor_slices([store.paths[e.image] for e in examples])
    images = paths.map(store.load, num_parallel_calls=2).batch(64).prefetch(2)

    @tf.function(reduce_retracing=True, autograph=False)
    def describe(images: tf.Tensor) -> tf.Tensor:
        found = search(model, images, max_length, beam_size=beam_size, length_penalty=1.0)
        return detokenize(vocabulary, found)[:, 0]

    def measure() -> dict[str, float]:
        captions = [text.decode() for batch in images for text in describe(batch).numpy()]
        metrics = caption_metrics(captions, [e.captions for e in examples], meteor=False)
        return {name: metrics[name] for name in ("bleu_4", "cider")}

    return measure


def serving_signatures(
    encoder: ImageEncoder | ImageEncoders,
    model: Captioner | CaptionerEnsemble,
    vocabulary: Vocabulary,
    *,
    size: int,
    max_pixels: int,
    max_length: int,
    **settings: Any,
) -> dict[str, tuple[Any, list[tf.TensorSpec]]]:
    """Bytes of pictures in, captions out: `caption` and `score`; `alternatives` with their scores, best first; the `words` of the
    caption and their `attention` to each region, if the model has it; `error`, "" or why there is no caption. `serving_greedy`
    searches with a beam of 1, and returns `caption`, `score` and `error`.

    Every score is that of `beam_search`, `log p / ((5 + length) / 6)^length_penalty`.
    """

    def encode_images(image_bytes: tf.Tensor) -> tuple[Any, tf.Tensor]:
        """The inputs of the captioner, at least one, as convolutions want; and what is wrong with each image."""
        count = tf.shape(image_bytes)[0]
        message = tf.strings.format(
            "image_bytes: {} pictures; expected at most " + f"{MOST_PICTURES} in a request. Send several.", count
        )
        with tf.control_dependencies([tf.debugging.Assert(count <= MOST_PICTURES, [message])]):
            image_bytes = tf.identity(image_bytes)
        missing = tf.cast(tf.shape(image_bytes)[:1] == 0, tf.int32)
        pixels, problems = decode_images(
            tf.concat([image_bytes, tf.fill(missing, "")], axis=0), size, max_pixels, MOST_LARGEST * max_pixels
        )
        places = tf.strings.as_string(tf.range(tf.shape(problems)[0]))
        problems = tf.where(problems == "", "", tf.strings.join(["image_bytes[", places, "]: ", problems]))
        return encoder.encode_image(pixels), problems

    def decode(images: Any, problems: tf.Tensor, **changed: Any) -> tuple[Sequences, tf.Tensor]:
        found = search(model, images, max_length, **{**settings, **changed})
        good = problems[:, None] == ""
        found = found._replace(lengths=tf.where(good, found.lengths, 0), scores=tf.where(good, found.scores, NEG_INF))
        return found, detokenize(vocabulary, found)

    def describe_greedily(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        images, problems = encode_images(image_bytes)
        found, strings = decode(images, problems, beam_size=1, n_best=1)
        outputs = {"caption": strings[:, 0], "score": found.scores[:, 0], "error": problems}
        return {name: value[: tf.shape(image_bytes)[0]] for name, value in outputs.items()}

    def describe(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        images, problems = encode_images(image_bytes)
        prepared = model.prepare_decoder(images)
        found, strings = decode(images, problems, prepared=prepared)
        longest = tf.maximum(1, tf.reduce_max(found.lengths[:, 0]))
        best = tf.where(tf.range(longest) < found.lengths[:, :1], found.tokens[:, 0, :longest], PADDING)
        decoder_inputs = tf.concat([tf.fill([tf.shape(best)[0], 1], BOS), best[:, :-1]], axis=1)
        attention = model.attention_weights(decoder_inputs, *prepared)
        outputs = {
            "caption": strings[:, 0],
            "score": found.scores[:, 0],
            "alternatives": strings,
            "alternative_scores": found.scores,
            "words": tf.where(best != PADDING, vocabulary.ids_to_tokens(best), ""),
            "error": problems,
        }
        if attention is not None:
            attention = tf.where((best != PADDING)[:, :, None], tf.cast(attention, tf.float32), 0.0)
            outputs["attention"] = tf.reshape(attention, [-1, longest, *model.grid])
        return {name: value[: tf.shape(image_bytes)[0]] for name, value in outputs.items()}

    specs = [tf.TensorSpec((None,), tf.string, name="image_bytes")]
    return {"serving_default": (describe, specs), "serving_greedy": (describe_greedily, specs)}


def example_image(size: int = 32) -> bytes:
    """A plain picture, for warm-up requests."""
    return tf.io.encode_jpeg(np.full((size, size, 3), 127, "uint8")).numpy()
