"""The captioner: what an encoder saw in each region of a picture, and a recurrent decoder that attends to the regions.

m_j = tanh(W f_j + p_j)                               f_j: features of region j; p_j: learned, where the region is
h_0 = tanh(V [mean_j m_j ; max_j m_j])
o_t = decoder(y_1 … y_{t-1}, m, h_0)                  see apps/common/attention_decoder.py
p(y_t | y_1 … y_{t-1}, picture) = softmax(E o_t + b)  E: the embedding of the words

after Show, Attend and Tell (Xu et al. 2015, https://arxiv.org/abs/1502.03044).
"""

from typing import Any

import keras
from keras import ops

from apps.common.attention_decoder import AttentionDecoder, Memory
from apps.common.training.workers import Workers
from apps.image_captioning.small_cnn import SmallCNN
from data_pipelines.vocabulary import PADDING, UNKNOWN

Tensor = Any


@keras.saving.register_keras_serializable(package="unfold")
class Captioner(keras.Model):
    """`{"image": (batch, rows, columns, channels), "caption": ids so far (batch, time)}` -> logits of what follows (batch, time,
    vocabulary).

    Args:
        vocabulary_size: with padding, BOS and EOS.
        image_shape: of what the model reads: pixels, or the features of a frozen front.
        encoder: what turns it into a grid of features; None: it is one already.
        encoder_in_inference: call the encoder as in use, with its batch statistics fixed.
        embedding_size, units, cell, num_layers, attention, dropout: see `AttentionDecoder`.
        memory_size: of m_j.
        word_dropout: share of the words read that training hides, BOS not.
        attention_penalty: weight of the doubly stochastic regularisation, `mean_j (1 - sum_t a_tj)^2` (Xu et al. 2015,
            section 4.2.1): every region should be looked at some time.
    """

    def __init__(
        self,
        vocabulary_size: int,
        image_shape: tuple[int, ...],
        encoder: keras.layers.Layer | None = None,
        encoder_in_inference: bool = False,
        *,
        embedding_size: int = 256,
        units: int = 512,
        memory_size: int = 512,
        cell: str = "lstm",
        num_layers: int = 2,
        attention: str = "additive",
        dropout: float = 0.0,
        word_dropout: float = 0.0,
        attention_penalty: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        apart = ("self", "kwargs", "__class__", "encoder", "apart")
        self.settings = {name: value for name, value in locals().items() if name not in apart}
        self.image_shape, self.encoder, self.encoder_in_inference = tuple(image_shape), encoder, encoder_in_inference
        self.word_dropout, self.attention_penalty = word_dropout, attention_penalty
        normal = keras.initializers.RandomNormal(stddev=embedding_size**-0.5)
        self.embedding = keras.layers.ReversibleEmbedding(
            vocabulary_size, embedding_size, embeddings_initializer=normal, reverse_dtype="float32", name="embedding"
        )
        self.project = keras.layers.Dense(memory_size, name="project")
        self.decoder = AttentionDecoder(
            units,
            embedding_size,
            cell=cell,
            num_layers=num_layers,
            attention=attention,
            own_start=False,
            dropout=dropout,
            name="decoder",
        )
        self.starts = [
            [keras.layers.Dense(units, "tanh", name=f"start_{n + 1}_{i + 1}") for i in range(len(level.state_sizes))]
            for n, level in enumerate(self.decoder.levels)
        ]
        self.drop = keras.layers.Dropout(dropout)
        self.seed_generator = keras.random.SeedGenerator()

    def build(self, shapes: Any = None) -> None:
        grid: tuple[Any, ...] = (None, *self.image_shape)
        if self.encoder is not None:
            if not self.encoder.built:
                self.encoder.build(grid)
            grid = tuple(self.encoder.compute_output_shape(grid))
        self.grid: tuple[int, int] = grid[1:3]
        positions, size = self.grid[0] * self.grid[1], self.settings["memory_size"]
        for layer, shape in (
            (self.embedding, ((None, None),)),
            (self.project, ((None, positions, grid[-1]),)),
            (self.decoder, ((None, None, self.settings["embedding_size"]), (None, positions, size))),
            *((start, ((None, 2 * size),)) for starts in self.starts for start in starts),
        ):
            if not layer.built:
                layer.build(*shape)
        self.position = self.add_weight(
            shape=(positions, size), initializer=keras.initializers.RandomNormal(stddev=0.1), name="position"
        )
        self.bias = self.add_weight(shape=(self.settings["vocabulary_size"],), initializer="zeros", name="bias")

    def set_workers(self, workers: Workers) -> None:
        """Each worker sees some of the rows of a batch."""
        if isinstance(self.encoder, SmallCNN):
            self.encoder.set_workers(workers)

    # -- its parts

    def see(self, image: Tensor, training: bool = False) -> Tensor:
        """Pictures, or features of a front, -> m (batch, regions, memory_size)."""
        x = ops.cast(image, self.compute_dtype)
        if self.encoder is not None:
            x = self.encoder(x, training=training and not self.encoder_in_inference)
        x = ops.reshape(x, (-1, x.shape[1] * x.shape[2], x.shape[3]))
        x = ops.tanh(self.project(self.drop(x, training=training)) + ops.cast(self.position, x.dtype))
        return self.drop(x, training=training)

    def encode(self, image: Tensor) -> tuple[Memory, dict[str, Any]]:
        """What the decoder attends to, and its state before the first word."""
        values = self.see(image)
        memory = self.decoder.remember(values)
        return memory, self.decoder.start(memory, self.start(values))

    def start(self, values: Tensor) -> list[list[Tensor]]:
        """The decoder's first states: from the mean over the regions, and from what is largest in any of them."""
        whole = ops.concatenate([ops.mean(values, axis=1), ops.max(values, axis=1)], axis=-1)
        return [[start(whole) for start in starts] for starts in self.starts]

    def logits(self, outputs: Tensor) -> Tensor:
        rows = ops.reshape(outputs, (-1, outputs.shape[-1]))  # one large product is faster than one for each row of a batch
        logits = self.embedding(rows, reverse=True) + self.bias
        return ops.reshape(logits, (-1, ops.shape(outputs)[1], logits.shape[-1]))

    def write(self, caption: Tensor, values: Tensor, training: bool = False) -> tuple[Tensor, Tensor | None]:
        """The logits of what follows each word, and the attention (batch, time, regions)."""
        words = caption
        if training and self.word_dropout:
            hidden = keras.random.uniform(ops.shape(caption), seed=self.seed_generator) < self.word_dropout
            words = ops.where(ops.logical_and(hidden, caption > UNKNOWN + 1), UNKNOWN, caption)
        words = self.drop(self.embedding(words), training=training)
        outputs, weights = self.decoder(words, values, states=self.start(values), training=training)
        return self.logits(outputs), weights

    def call(self, inputs: dict[str, Tensor], training: bool = False) -> Tensor:
        caption = inputs["caption"]
        logits, weights = self.write(caption, self.see(inputs["image"], training), training)
        if training and self.attention_penalty and weights is not None:
            there = ops.cast(ops.not_equal(caption, PADDING), weights.dtype)[..., None]
            seen = ops.cast(ops.sum(weights * there, axis=1), "float32")  # (batch, regions)
            self.add_loss(self.attention_penalty * ops.mean(ops.square(1.0 - seen)))
        return logits

    def step(self, tokens: Tensor, state: Any, memory: Memory) -> tuple[Tensor, Any, Tensor | None]:
        """One step of `apps.common.decoding`: tokens (batch, width) -> logits, state, attention. UNKNOWN is never written."""
        output, weights, state = self.decoder.step(self.embedding(tokens), state, memory)
        never = -1e9 * ops.one_hot(UNKNOWN, self.settings["vocabulary_size"], dtype="float32")
        return self.logits(output) + never, state, weights

    def get_config(self) -> dict[str, Any]:
        encoder = None if self.encoder is None else keras.saving.serialize_keras_object(self.encoder)
        return {**super().get_config(), **self.settings, "encoder": encoder}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Captioner":
        encoder = config.pop("encoder")
        return cls(encoder=encoder and keras.saving.deserialize_keras_object(encoder), **config)
