"""The signatures of the export: from texts to labels."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from apps.common.decoding.sequences import check_request_size, check_text_size
from data_pipelines.batching import truncate_middle
from data_pipelines.vocabulary import PADDING, UNKNOWN, Vocabulary

LARGEST_REQUEST = 2**19  # tokens, padding counted
LEAST_ROW = 16  # a shorter text counts as so many: it has a state, too


def serving_signatures(model: keras.Model, vocabulary: Vocabulary, labels: Sequence[str], max_length: int) -> dict[str, Any]:
    """Strings in, labels out: the signatures with their input specs.

    `serving_default` returns `label`, `probability`, `tokens`, their `attention` if the model has it, and which of them are
    `unknown` to the vocabulary; `serving_greedy` the first two; `probabilities` returns all classes.
    """
    names = tf.constant(list(labels))

    def run(text: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Probabilities (n, classes), and for each token its attention and whether it is unknown."""
        tokens = truncate_middle(vocabulary.tokenize(check_text_size(text)), max_length)
        tokens = check_request_size(tokens, LARGEST_REQUEST, least=LEAST_ROW)
        ids = vocabulary.tokens_to_ids(tokens).to_tensor(PADDING)  # (n, t)
        missing = tf.maximum(0, 1 - tf.shape(ids)[1])  # a batch of empty texts still has one column
        ids = tf.pad(ids, [[0, 0], [0, missing]])
        outputs = model(ids, training=False)
        padded = tf.pad(tokens.to_tensor(""), [[0, 0], [0, missing]])
        probabilities = tf.nn.softmax(outputs.pop("logits"))
        return probabilities, {"tokens": padded, **outputs, "unknown": tf.equal(ids, UNKNOWN)}

    def best(probabilities: tf.Tensor) -> dict[str, tf.Tensor]:
        label = tf.gather(names, tf.argmax(probabilities, axis=1))
        return {"label": label, "probability": tf.reduce_max(probabilities, axis=1)}

    def classify(text: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities, tokens = run(text)
        return {**best(probabilities), **tokens}

    def classify_only(text: tf.Tensor) -> dict[str, tf.Tensor]:
        return best(run(text)[0])

    def probabilities(text: tf.Tensor) -> dict[str, tf.Tensor]:
        values, _ = run(text)
        return {"probabilities": values, "labels": tf.repeat(names[None], tf.shape(values)[0], axis=0)}

    specs = [tf.TensorSpec((None,), tf.string, name="text")]
    functions = {"serving_default": classify, "serving_greedy": classify_only, "probabilities": probabilities}
    return {name: (function, specs) for name, function in functions.items()}
