"""The applications' networks, layer by layer, of `keras.layers`: what ours are compared with."""

from typing import Any

import keras
from keras import layers, ops


class Bias(keras.layers.Layer):
    def build(self, shape: tuple) -> None:
        self.bias = self.add_weight(shape=(shape[-1],), initializer="zeros")

    def call(self, x: Any) -> Any:
        return x + self.bias


class Position(Bias):
    """A vector of its own for each place (batch, places, size)."""

    def build(self, shape: tuple) -> None:
        self.bias = self.add_weight(shape=shape[1:], initializer=keras.initializers.RandomNormal(stddev=0.1))


def classifier(vocabulary: int, classes: int, config: Any) -> keras.Model:
    """The sentiment classifier; the attention pooling asks by a `Dense` of one unit."""
    ids = keras.Input((None,), dtype="int32")
    embedded = layers.Embedding(vocabulary, config.embedding_size, mask_zero=True)(ids)
    x = layers.SpatialDropout1D(config.embedding_dropout)(embedded)
    x = layers.Bidirectional(layers.GRU(config.units, return_sequences=True))(x)
    scores = layers.Dense(1, use_bias=False)(layers.Dense(64, "tanh")(x))
    weights = ops.softmax(scores + ops.where(ops.not_equal(ids, 0), 0.0, -1e9)[..., None], axis=1)
    pooled = layers.Dropout(config.dropout)(ops.sum(weights * x, axis=1))
    return keras.Model(ids, layers.Dense(classes)(pooled))


def translator(vocabulary: int, embedding_size: int, units: int, dropout: float) -> keras.Model:
    source, target = (keras.Input((None,), dtype="int32", name=name) for name in ("source", "target"))
    embedding, drop = layers.ReversibleEmbedding(vocabulary, embedding_size), layers.Dropout(dropout)
    mask = ops.not_equal(source, 0)
    read = layers.Bidirectional(layers.GRU(units // 2, return_sequences=True))(drop(embedding(source)), mask=mask)
    kept = ops.cast(mask, "float32")[..., None]
    mean = ops.sum(read * kept, axis=1) / ops.maximum(ops.sum(kept, axis=1), 1)
    tokens = drop(embedding(target))
    first = layers.GRU(units, return_sequences=True)(tokens, initial_state=layers.Dense(units, "tanh")(mean))
    query, keys = layers.Dense(units)(first), layers.Dense(units, use_bias=False)(read)
    context = layers.AdditiveAttention()([query, read, keys], mask=[None, mask])
    below = drop(ops.concatenate([first, context], axis=-1))
    second = layers.GRU(units, return_sequences=True)(below, initial_state=layers.Dense(units, "tanh")(mean))
    outputs = drop(layers.Dense(embedding_size, "tanh")(ops.concatenate([second, context, tokens], axis=-1)))
    return keras.Model({"source": source, "target": target}, Bias()(embedding(outputs, reverse=True)))


def captioner(vocabulary: int, backbone: keras.Model, config: Any) -> keras.Model:
    """Pixels and the caption so far -> logits; the backbone is frozen, and runs in every step."""
    backbone.trainable = False
    image, caption = keras.Input(backbone.input_shape[1:], name="image"), keras.Input((None,), dtype="int32", name="caption")
    drop = layers.Dropout(config.dropout)
    features = layers.Reshape((-1, backbone.output_shape[-1]))(backbone(image, training=False))
    memory = drop(ops.tanh(Position()(layers.Dense(config.memory_size)(drop(features)))))
    whole = ops.concatenate([ops.mean(memory, axis=1), ops.max(memory, axis=1)], axis=-1)
    embedding = layers.ReversibleEmbedding(vocabulary, config.embedding_size)
    words = drop(embedding(caption))

    def level(x: Any) -> Any:
        start = [layers.Dense(config.units, "tanh")(whole) for _ in range(2)]
        return layers.LSTM(config.units, return_sequences=True)(x, initial_state=start)

    first = level(words)
    keys = layers.Dense(config.units, use_bias=False)(memory)
    context = layers.AdditiveAttention()([layers.Dense(config.units)(first), memory, keys])
    second = level(drop(ops.concatenate([first, context], axis=-1)))
    outputs = drop(layers.Dense(config.embedding_size, "tanh")(ops.concatenate([second, context, words], axis=-1)))
    return keras.Model({"image": image, "caption": caption}, Bias()(embedding(outputs, reverse=True)))


def tune_writer(vocabulary: int, config: Any) -> keras.Model:
    """Every row continues the row of the batch before, as in ours: the layers are `stateful`."""
    tokens = keras.Input(batch_shape=(config.batch_size, config.bptt_steps), dtype="int32")
    x = layers.Embedding(vocabulary, config.embedding_size)(tokens)
    for _ in range(config.num_layers):
        x = layers.LSTM(config.units, return_sequences=True, stateful=True)(layers.Dropout(config.dropout)(x))
    return keras.Model(tokens, layers.Dense(vocabulary)(layers.Dropout(config.dropout)(x)))
