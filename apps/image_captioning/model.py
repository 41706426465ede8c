"""The captioner: an encoder of the regions of a picture, and a recurrent decoder that attends to them.

m_j = tanh(W f_j + p_j)                               f_j: features of region j; p_j: learned, where the region is
h_0 = tanh(V [mean_j m_j ; max_j m_j])
o_t = decoder(y_1 … y_{t-1}, m, h_0)                  see apps/common/decoding/attention_decoder.py
p(y_t | y_1 … y_{t-1}, picture) = softmax(E o_t + b)  E: the embedding of the words

after Show, Attend and Tell (Xu et al. 2015, https://arxiv.org/abs/1502.03044).
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from apps.common.decoding.attention_decoder import AttentionDecoder, Memory
from apps.common.decoding.ensemble import Ensemble
from apps.common.decoding.sequences import embed
from apps.common.training.workers import Workers
from apps.image_captioning.small_cnn import SmallCNN
from data_pipelines.vocabulary import PADDING, UNKNOWN

Tensor = Any


@keras.saving.register_keras_serializable(package="unfold")
class Captioner(keras.Model):
    """`{"image": (batch, rows, columns, channels), "caption": decoder inputs (batch, time)}` -> logits of the targets
    (batch, time, vocabulary).

    Args:
        vocabulary_size: with padding, BOS and EOS.
        image_shape: of the input: pixels, or the features of a frozen backbone.
        encoder: what turns it into a grid of features; None: it is one already.
        freeze_batch_norm: normalise by the moving averages of the encoder's batch normalisation in training, too.
        embedding_size, units, cell, num_layers, attention, dropout: see `AttentionDecoder`.
        memory_size: of m_j.
        word_dropout: rate of the decoder inputs, BOS apart, replaced by the unknown token in training.
        attention_penalty: weight of the doubly stochastic regularisation, `mean_j (1 - sum_t a_tj)^2` (Xu et al. 2015,
            section 4.2.1): every region should be attended to some time.
    """

    def __init__(
        self,
        vocabulary_size: int,
        image_shape: tuple[int, ...],
        encoder: keras.layers.Layer | None = None,
        freeze_batch_norm: bool = False,
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
        self.image_shape, self.encoder, self.freeze_batch_norm = tuple(image_shape), encoder, freeze_batch_norm
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
            init_state_from_memory=False,
            dropout=dropout,
            name="decoder",
        )
        self.bridges = [
            [keras.layers.Dense(size, "tanh", name=f"bridge_{n + 1}_{i + 1}") for i, size in enumerate(layer.state_sizes)]
            for n, layer in enumerate(self.decoder.rnn_layers)
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
            *((bridge, ((None, 2 * size),)) for bridges in self.bridges for bridge in bridges),
        ):
            if not layer.built:
                layer.build(*shape)
        self.position = self.add_weight(
            shape=(positions, size), initializer=keras.initializers.RandomNormal(stddev=0.1), name="position"
        )
        self.bias = self.add_weight(shape=(self.settings["vocabulary_size"],), initializer="zeros", autocast=False, name="bias")

    def set_workers(self, workers: Workers) -> None:
        """Each worker sees some of the examples of a batch."""
        if isinstance(self.encoder, SmallCNN):
            self.encoder.set_workers(workers)

    # -- its parts

    def encode(self, image: Tensor, training: bool = False) -> Tensor:
        """Pictures, or features of a frozen backbone, -> m (batch, regions, memory_size)."""
        x = ops.cast(image, self.compute_dtype)
        if self.encoder is not None:
            x = self.encoder(x, training=training and not self.freeze_batch_norm)
        x = ops.reshape(x, (-1, x.shape[1] * x.shape[2], x.shape[3]))
        x = ops.tanh(self.project(self.drop(x, training=training)) + ops.cast(self.position, x.dtype))
        return self.drop(x, training=training)

    def prepare_decoder(self, image: Tensor) -> tuple[Memory, Tensor]:
        """What the decoder attends to, and its initial state."""
        values = self.encode(image)
        memory = self.decoder.setup_memory(values)
        return memory, self.decoder.get_initial_state(memory, self.get_initial_state(values))

    def get_initial_state(self, values: Tensor) -> list[list[Tensor]]:
        """The decoder's initial states, from the mean and the maximum over the regions."""
        whole = ops.concatenate([ops.mean(values, axis=1), ops.max(values, axis=1)], axis=-1)
        return [[bridge(whole) for bridge in bridges] for bridges in self.bridges]

    def logits(self, outputs: Tensor) -> Tensor:
        flat = ops.reshape(outputs, (-1, outputs.shape[-1]))  # one large product is faster than one for each example
        logits = self.embedding(flat, reverse=True) + self.bias
        return ops.reshape(logits, (*ops.shape(outputs)[:-1], logits.shape[-1]))

    def decode(self, caption: Tensor, values: Tensor, training: bool = False, samples: int = 1) -> tuple[Tensor, Tensor | None]:
        """Decoder inputs (batch, time) -> the logits of the targets, and the attention (batch, time, regions). For `samples`
        see `AttentionDecoder.call`."""
        words = self.drop(self.embedding(caption), training=training)
        states = self.get_initial_state(values)
        outputs, weights = self.decoder(words, values, states=states, training=training, samples=samples)
        return self.logits(outputs), weights

    @property
    def has_attention(self) -> bool:
        return self.decoder.attention != "none"

    def attention_weights(self, caption: Tensor, memory: Memory, state: Tensor) -> Tensor | None:
        """The attention (batch, time, regions) of decoder inputs (batch, time) to what `prepare_decoder` gave; None: there is
        none."""
        return self.decoder.unfold(self.embedding(caption), memory, state)[1]

    def call(self, inputs: dict[str, Tensor], training: bool = False) -> Tensor:
        caption = words = inputs["caption"]
        if training and self.word_dropout:
            hidden = keras.random.uniform(ops.shape(caption), seed=self.seed_generator) < self.word_dropout
            words = ops.where(ops.logical_and(hidden, caption > UNKNOWN + 1), UNKNOWN, caption)
        logits, weights = self.decode(words, self.encode(inputs["image"], training), training)
        if training and self.attention_penalty and weights is not None:
            mask = ops.cast(ops.not_equal(caption, PADDING), weights.dtype)[..., None]
            total = ops.cast(ops.sum(weights * mask, axis=1), "float32")  # (batch, regions)
            self.add_loss(self.attention_penalty * ops.mean(ops.square(1.0 - total)))
        return logits

    def sample_logits(self, values: Tensor, caption: Tensor, samples: int) -> Tensor:
        """Decoder inputs (batch samples, time), those of a picture one after another -> the logits of `step`, in training."""
        return self.decode(caption, values, training=True, samples=samples)[0] + self._never_unknown()

    def step(self, tokens: Tensor, state: Tensor, memory: Memory) -> tuple[Tensor, Tensor, Tensor | None]:
        """One step of `apps.common.decoding.search`: tokens (batch, beam) -> logits, state, attention. Never UNKNOWN."""
        output, weights, state = self.decoder.step(embed(self.embedding, tokens), state, memory)
        return self.logits(output) + self._never_unknown(), state, weights

    def _never_unknown(self) -> Tensor:
        return -1e9 * ops.one_hot(UNKNOWN, self.settings["vocabulary_size"], dtype="float32")

    def get_config(self) -> dict[str, Any]:
        encoder = None if self.encoder is None else keras.saving.serialize_keras_object(self.encoder)
        return {**super().get_config(), **self.settings, "encoder": encoder}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Captioner":
        encoder = config.pop("encoder")
        return cls(encoder=encoder and keras.saving.deserialize_keras_object(encoder), **config)


class CaptionerEnsemble(Ensemble):
    """Captioners as one; each has its own input, and all the same grid of regions.

    Args:
        models: the captioners.
        encoders: what makes their inputs of pixels, `apps.image_captioning.encoders.ImageEncoders`.
    """

    def __init__(self, models: Sequence[Captioner], encoders: Any) -> None:
        super().__init__(models)
        self.encoders, self.grid = encoders, models[0].grid
