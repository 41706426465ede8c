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
from apps.common.language_model import drop_words
from data_pipelines.vocabulary import EOS, PADDING, UNKNOWN


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


@keras.saving.register_keras_serializable(package="unfold")
class LanguageEncoder(keras.layers.Layer):
    """The levels of a language model: ids (batch, time) -> features (batch, time + 2, directions x units), and their mask.

    A text stands between two EOS, as the streams that the language model was trained on have it. Each direction has levels of its
    own, and reads the EOS that it begins with; neither is in the mask.

    Args:
        vocabulary_size, embedding_size, cell, units, num_layers: of the language model.
        directions: 1, forward, or 2.
        dropout: of the units before and after each level, the same at every step.
        embedding_dropout: of whole words of the vocabulary, the same in all texts of a batch.
        weight_dropout: of recurrent weights.
    """

    def __init__(
        self,
        vocabulary_size: int,
        embedding_size: int,
        *,
        directions: int,
        cell: str,
        units: int,
        num_layers: int,
        dropout: float = 0.0,
        embedding_dropout: float = 0.0,
        weight_dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        given = locals()
        names = "vocabulary_size embedding_size directions cell units num_layers dropout embedding_dropout weight_dropout"
        self.settings = {name: given[name] for name in names.split()}
        self.embedding = keras.layers.Embedding(vocabulary_size, embedding_size, name="level_0")
        options: dict[str, Any] = {"return_sequences": True}
        if weight_dropout:
            options["recurrent_weight_dropout"] = weight_dropout
        self.levels = [
            [CELLS[cell](units, go_backwards=d == 1, **options, name=f"level_{i + 1}_{d}") for i in range(num_layers)]
            for d in range(directions)
        ]
        self.drop = keras.layers.SpatialDropout1D(dropout)
        self.seed_generator = keras.random.SeedGenerator()

    def build(self, shape: tuple) -> None:
        if not self.embedding.built:
            self.embedding.build()
        for levels in self.levels:
            for i, rnn in enumerate(levels):
                if not rnn.built:
                    rnn.build((None, None, self.settings["units" if i else "embedding_size"]))

    def call(self, ids: Any, training: bool = False) -> Any:
        marked, lengths = self.mark(ids)
        return self.encode(self.embed(marked, training), lengths, training)

    def mark(self, ids: Any) -> tuple[Any, Any]:
        """The ids between two EOS (batch, time + 2), and the lengths of the texts (batch, 1)."""
        lengths = ops.sum(ops.cast(ids != PADDING, "int32"), axis=1, keepdims=True)
        marked = ops.pad(ids, [[0, 0], [1, 1]])
        place = ops.arange(ops.shape(marked)[1])[None]
        return ops.where(ops.logical_or(place == 0, place == lengths + 1), ops.cast(EOS, ids.dtype), marked), lengths

    def embed(self, marked: Any, training: bool = False) -> Any:
        x, rate = self.embedding(marked), self.settings["embedding_dropout"]
        if not (training and rate):
            return x
        return drop_words(x, marked, self.settings["vocabulary_size"], rate, self.seed_generator)

    def encode(self, x: Any, lengths: Any, training: bool = False) -> tuple[Any, Any]:
        """Vectors (batch, time + 2, embedding_size) -> features and mask."""
        place = ops.arange(ops.shape(x)[1])[None]
        begins, ends = place >= 1, place <= lengths
        features = []
        for levels, mask in zip(self.levels, (ends, ops.logical_and(begins, place <= lengths + 1))):
            h = x
            for rnn in levels:
                h = rnn(self.drop(h, training=training), mask=mask, training=training, in_order=True)
            features.append(h)
        joined = features[0] if len(features) == 1 else ops.concatenate(features, axis=-1)
        return joined, ops.logical_and(begins, ends)

    def compute_output_spec(self, ids: Any, training: bool = False) -> Any:
        steps = None if ids.shape[1] is None else ids.shape[1] + 2
        width = self.settings["directions"] * self.settings["units"]
        return (
            keras.KerasTensor((ids.shape[0], steps, width), self.compute_dtype),
            keras.KerasTensor((ids.shape[0], steps), "bool"),
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.settings}


@keras.saving.register_keras_serializable(package="unfold")
class ConcatPooling(keras.layers.Layer):
    """Last state of each direction, mean and maximum over the text, side by side (Howard and Ruder 2018,
    https://aclanthology.org/P18-1031): features (batch, time, size) and mask -> (batch, 3 size). An empty text gives zeros for
    mean and maximum."""

    def __init__(self, directions: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.directions, self.supports_masking = directions, True

    def compute_mask(self, *inputs: Any, **masks: Any) -> None:
        return None

    def call(self, features: Any, is_text: Any) -> Any:
        kept = ops.cast(is_text, features.dtype)[..., None]
        forward, *backward = ops.split(features, self.directions, axis=-1)
        last = [forward[:, -1], *(h[:, 0] for h in backward)]  # at masked steps a state is held
        mean = ops.sum(features * kept, axis=1) / ops.maximum(ops.sum(kept, axis=1), 1)
        lowest = ops.where(kept > 0, features, ops.cast(-1e4, features.dtype))
        largest = ops.where(ops.any(is_text, axis=1, keepdims=True), ops.max(lowest, axis=1), 0)
        return ops.concatenate([*last, mean, largest], axis=-1)

    def compute_output_shape(self, features_shape: tuple, is_text_shape: tuple) -> tuple:
        return (features_shape[0], 3 * features_shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "directions": self.directions}


def fine_tuned_classifier(
    language_model: Any, classes: int, *, dropout: float, embedding_dropout: float, weight_dropout: float, level_dropout: float
) -> keras.Model:
    """ids (batch, time) -> `{"logits": (batch, classes)}`, with the vectors and the levels of a language model."""
    settings, stack = language_model.settings, language_model.stacks[0].settings
    encoder = LanguageEncoder(
        settings["vocabulary_size"],
        settings["embedding_size"],
        directions=len(language_model.stacks),
        **{name: stack[name] for name in ("cell", "units", "num_layers")},
        dropout=level_dropout,
        embedding_dropout=embedding_dropout,
        weight_dropout=weight_dropout,
        name="encoder",
    )
    ids = keras.Input((None,), dtype="int32", name="ids")
    features, mask = encoder(ids)
    encoder.embedding.set_weights([language_model.embedding.embeddings])
    for levels, trained in zip(encoder.levels, language_model.stacks):
        for rnn, source in zip(levels, trained.rnn_layers):
            rnn.cell.set_weights(source.cell.get_weights())
    x = ConcatPooling(len(language_model.stacks), name="pooling")(features, mask)
    x = keras.layers.Dropout(dropout)(x)
    return keras.Model(ids, {"logits": keras.layers.Dense(classes, dtype="float32", name="logits")(x)})


def bag_of_words_classifier(vocabulary_size: int, classes: int) -> keras.Model:
    """Logistic regression on which words occur: the comparison that shows what word order is worth.

    ids (batch, time) -> `{"logits": (batch, classes)}`.
    """
    ids = keras.Input((None,), dtype="int32", name="ids")
    return keras.Model(ids, {"logits": WordPresence(vocabulary_size, classes, name="logits", dtype="float32")(ids)})
