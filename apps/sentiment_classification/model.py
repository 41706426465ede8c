"""The sentiment classifier: embedding, stacked bidirectional recurrent layers, attention pooling, class scores.

e_t = E[word_t]
h_t = [forward_t ; backward_t]            one or more recurrent layers
k_t = tanh(W h_t)                         the key of position t
a   = softmax(q . k_t / sqrt(d))          the attention to each position; q is learned
y   = softmax(V sum_t a_t h_t)
"""

from typing import Any

import keras
from keras import ops

import layers
from apps.common.cells import CELLS
from data_pipelines.vocabulary import PADDING, UNKNOWN


@keras.saving.register_keras_serializable(package="unfold")
class WordDropout(keras.layers.Layer):
    """In training, replace words by the unknown token at random (Iyyer et al. 2015, https://aclanthology.org/P15-1162)."""

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
    """The weighted mean of a sequence: one learned query attends to all positions (Yang et al. 2016,
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
        mask = ops.logical_and(new, ids != PADDING)
        return ops.sum(self.embedding(ids) * ops.cast(mask, self.compute_dtype)[..., None], axis=1)

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
    """ids (batch, time) -> `{"logits": (batch, classes), "attention": (batch, time)}`; no attention with `pooling="last"`, which
    takes the final states of both directions."""
    ids = keras.Input((None,), dtype="int32", name="ids")
    x = WordDropout(word_dropout)(ids)
    x = keras.layers.Embedding(vocabulary_size, embedding_size, mask_zero=True, name="embedding")(x)
    x = keras.layers.SpatialDropout1D(embedding_dropout)(x)
    for n in range(num_layers):
        sequences = n < num_layers - 1 or pooling == "attention"
        x = layers.Bidirectional(CELLS[cell](units, return_sequences=sequences), name=f"recurrent_{n + 1}")(x)
        if n < num_layers - 1:
            x = keras.layers.Dropout(dropout)(x)
    outputs = {}
    if pooling == "attention":
        x, attention = AttentionPooling(name="pooling")(x)
        outputs["attention"] = keras.layers.Identity(dtype="float32", name="attention")(attention)
    outputs["logits"] = keras.layers.Dense(classes, dtype="float32", name="logits")(keras.layers.Dropout(dropout)(x))
    return keras.Model(ids, outputs)


def bag_of_words_classifier(vocabulary_size: int, classes: int) -> keras.Model:
    """Logistic regression on which words occur: the comparison that shows what word order is worth.

    ids (batch, time) -> `{"logits": (batch, classes)}`.
    """
    ids = keras.Input((None,), dtype="int32", name="ids")
    return keras.Model(ids, {"logits": WordPresence(vocabulary_size, classes, name="logits", dtype="float32")(ids)})
