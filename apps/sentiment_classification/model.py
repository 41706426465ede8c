"""The sentiment classifier: embedding, stacked bidirectional recurrent layers, attention pooling, class scores.

e_t = E[word_t]
h_t = [forward_t ; backward_t]            one or more recurrent layers
k_t = tanh(W h_t)                         what position t offers
a   = softmax(q . k_t / sqrt(d))          how much each position weighs; q is learned
y   = softmax(V sum_t a_t h_t)
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

import layers
from apps.common.attention_decoder import CELLS
from apps.common.sequences import within
from data_pipelines.batching import truncate_middle
from data_pipelines.vocabulary import PADDING, UNKNOWN, Vocabulary

LARGEST_REQUEST = 2**19  # tokens, padding counted


@keras.saving.register_keras_serializable(package="unfold")
class WordDropout(keras.layers.Layer):
    """In training, take a share of the words for unknown (Iyyer et al. 2015, https://aclanthology.org/P15-1162)."""

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate, self.seed = rate, seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, ids: Any, training: bool = False) -> Any:
        if not training or not self.rate:
            return ids
        drop = keras.random.uniform(ops.shape(ids), seed=self.seed_generator) < self.rate
        return ops.where(ops.logical_and(drop, ids != PADDING), ops.cast(UNKNOWN, ids.dtype), ids)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


@keras.saving.register_keras_serializable(package="unfold")
class AttentionPooling(keras.layers.Layer):
    """The weighted mean of a sequence: one learned query asks all positions (Yang et al. 2016,
    https://aclanthology.org/N16-1174). Returns `(pooled (batch, size), weights (batch, time))`.

    An empty row gives zeros.
    """

    def __init__(self, units: int = 64, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.key = keras.layers.Dense(units, activation="tanh", name="key")
        self.attend = layers.ScaledDotProductAttention()

    def build(self, shape: tuple) -> None:
        if not self.key.built:
            self.key.build(shape)
        self.query = self.add_weight(shape=(1, self.units), initializer="glorot_uniform", name="query")

    def call(self, sequence: Any, mask: Any = None) -> Any:
        query = ops.cast(self.query, sequence.dtype) * self.units**0.5  # undoes the scale, under which q learns too slowly
        query = ops.broadcast_to(query, (ops.shape(sequence)[0], 1, self.units))
        pooled, weights = self.attend(query, sequence, key=self.key(sequence), value_mask=mask, return_attention_scores=True)
        return pooled[:, 0], weights[:, 0]

    def compute_mask(self, sequence: Any, mask: Any = None) -> Any:
        return [None, None]

    def compute_output_shape(self, shape: tuple) -> Any:
        return (shape[0], shape[-1]), tuple(shape[:2])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable(package="unfold")
class LastState(keras.layers.Layer):
    """The vector as it is; it has no attention, so all kept positions get equal weights."""

    def call(self, ids: Any, states: Any) -> Any:
        kept = ops.cast(ids != PADDING, self.compute_dtype)
        return states, kept / ops.maximum(ops.sum(kept, axis=1, keepdims=True), 1)


@keras.saving.register_keras_serializable(package="unfold")
class WordPresence(keras.layers.Layer):
    """The sum of the embeddings of the distinct words of a text: order and repetition are lost."""

    def __init__(self, vocabulary_size: int, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.vocabulary_size, self.units = vocabulary_size, units
        self.embedding = keras.layers.Embedding(vocabulary_size, units, embeddings_initializer="zeros")

    def build(self, shape: tuple) -> None:
        if not self.embedding.built:
            self.embedding.build(shape)

    def call(self, ids: Any) -> Any:
        ids = ops.sort(ids, axis=1)
        new = ops.concatenate([ops.ones_like(ids[:, :1], dtype="bool"), ids[:, 1:] != ids[:, :-1]], axis=1)
        kept = ops.logical_and(new, ids != PADDING)
        return ops.sum(self.embedding(ids) * ops.cast(kept, self.compute_dtype)[..., None], axis=1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "vocabulary_size": self.vocabulary_size, "units": self.units}


def recurrent_classifier(
    vocabulary_size: int,
    classes: int,
    *,
    cell: str,
    units: int,
    num_layers: int,
    embedding_size: int,
    pooling: str,
    dropout: float,
    embedding_dropout: float,
    word_dropout: float,
) -> keras.Model:
    """ids (batch, time) -> `{"logits": (batch, classes), "attention": (batch, time)}`."""
    ids = keras.Input((None,), dtype="int32", name="ids")
    x = WordDropout(word_dropout)(ids)
    x = keras.layers.Embedding(vocabulary_size, embedding_size, mask_zero=True, name="embedding")(x)
    x = keras.layers.SpatialDropout1D(embedding_dropout)(x)
    for level in range(num_layers):
        sequences = level < num_layers - 1 or pooling == "attention"
        x = layers.Bidirectional(CELLS[cell](units, return_sequences=sequences), name=f"recurrent_{level + 1}")(x)
        if level < num_layers - 1:
            x = keras.layers.Dropout(dropout)(x)
    pooled, attention = AttentionPooling(name="pooling")(x) if pooling == "attention" else LastState(name="pooling")(ids, x)
    pooled = keras.layers.Dropout(dropout)(pooled)
    logits = keras.layers.Dense(classes, dtype="float32", name="logits")(pooled)
    return keras.Model(ids, {"logits": logits, "attention": keras.layers.Identity(dtype="float32", name="attention")(attention)})


def bag_of_words_classifier(vocabulary_size: int, classes: int) -> keras.Model:
    """Logistic regression on which words occur: the comparison that shows what word order is worth."""
    ids = keras.Input((None,), dtype="int32", name="ids")
    logits = WordPresence(vocabulary_size, classes, name="logits", dtype="float32")(ids)
    _, attention = LastState(name="attention", dtype="float32")(ids, logits)
    return keras.Model(ids, {"logits": logits, "attention": attention})


def serving_signatures(model: keras.Model, vocabulary: Vocabulary, labels: Sequence[str], max_length: int) -> dict[str, Any]:
    """Strings in, labels out: the functions of the export with their input specs.

    `serving_default` gives `label`, `probability`, `tokens`, `attention`, and which of the tokens are `unknown` to the
    vocabulary; `serving_greedy` the first two; `probabilities` gives all classes.
    """
    names = tf.constant(list(labels))

    def run(text: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        tokens = truncate_middle(vocabulary.tokenize(text), max_length)
        ids = vocabulary.tokens_to_ids(tokens).to_tensor(PADDING)  # (n, t)
        missing = tf.maximum(0, 1 - tf.shape(ids)[1])  # a batch of empty texts still has one column
        ids = within(tf.pad(ids, [[0, 0], [0, missing]]), LARGEST_REQUEST)
        outputs = model(ids, training=False)
        padded = tf.pad(tokens.to_tensor(""), [[0, 0], [0, missing]])
        return tf.nn.softmax(outputs["logits"]), padded, outputs["attention"], tf.equal(ids, UNKNOWN)

    def best(probabilities: tf.Tensor) -> dict[str, tf.Tensor]:
        label = tf.gather(names, tf.argmax(probabilities, axis=1))
        return {"label": label, "probability": tf.reduce_max(probabilities, axis=1)}

    def classify(text: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities, tokens, attention, unknown = run(text)
        return {**best(probabilities), "tokens": tokens, "attention": attention, "unknown": unknown}

    def classify_fast(text: tf.Tensor) -> dict[str, tf.Tensor]:
        return best(run(text)[0])

    def probabilities(text: tf.Tensor) -> dict[str, tf.Tensor]:
        values, *_ = run(text)
        return {"probabilities": values, "labels": tf.repeat(names[None], tf.shape(values)[0], axis=0)}

    specs = [tf.TensorSpec((None,), tf.string, name="text")]
    functions = {"serving_default": classify, "serving_greedy": classify_fast, "probabilities": probabilities}
    return {name: (function, specs) for name, function in functions.items()}
