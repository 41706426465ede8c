"""The translator: an encoder of the whole source, a decoder that attends to it and generates the target.

m_j  = [forward_j ; backward_j]                      the encoder's output at source token j
o_t  = decoder(y_1 … y_{t-1}, m)                     see apps/common/decoding/attention_decoder.py
p(y_t | y_1 … y_{t-1}, x) = softmax(E o_t + b)       E: the embedding of the target (Press & Wolf 2017)
"""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

import layers
from apps.common.cells import CELLS
from apps.common.decoding.attention_decoder import AttentionDecoder, Memory
from apps.common.decoding.sequences import embed
from apps.common.training.losses import sampled_cross_entropy, scaled
from data_pipelines.vocabulary import BOS, PADDING

Tensor = Any


@keras.saving.register_keras_serializable(package="unfold")
class RecurrentEncoder(keras.layers.Layer):
    """Stacked recurrent layers, in both directions or in one: (batch, time, size) -> (batch, time, units), final states."""

    def __init__(self, units: int, cell: str, num_layers: int, bidirectional: bool, dropout: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.cell, self.num_layers = units, cell, num_layers
        self.bidirectional, self.dropout = bidirectional, dropout
        self.supports_masking = True
        self.rnn_layers = []
        for n in range(num_layers):
            name, options = f"rnn_{n + 1}", {"return_sequences": True, "return_state": True, "dtype": self.dtype_policy}
            if bidirectional:
                self.rnn_layers.append(
                    layers.Bidirectional(CELLS[cell](units // 2, **options), name=name, dtype=self.dtype_policy)
                )
            else:
                self.rnn_layers.append(CELLS[cell](units, **options, name=name))
        self.drop = keras.layers.Dropout(dropout, dtype=self.dtype_policy)

    def build(self, shape: tuple) -> None:
        for layer in self.rnn_layers:
            if not layer.built:
                layer.build(shape)
            shape = (*shape[:-1], self.units)

    def call(self, x: Tensor, mask: Tensor | None = None, training: bool = False) -> tuple[Tensor, list[list[Tensor]]]:
        states = []
        for n, layer in enumerate(self.rnn_layers):
            x, *final = layer(self.drop(x, training=training) if n else x, mask=mask, training=training)
            states.append(final)
        return x, states

    def compute_mask(self, x: Any, mask: Any = None) -> Any:
        return None

    def get_config(self) -> dict[str, Any]:
        names = ("units", "cell", "num_layers", "bidirectional", "dropout")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="unfold")
class SelfAttentionEncoder(keras.layers.Layer):
    """Encode the position; then, in each block, let every token attend to all others (Vaswani et al. 2017, section 3.1,
    normalised before each part: Xiong et al. 2020, https://arxiv.org/abs/2002.04745)."""

    def __init__(self, units: int, num_layers: int, heads: int, dropout: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.num_layers, self.heads, self.dropout = units, num_layers, heads, dropout
        self.supports_masking = True
        options = {"dtype": self.dtype_policy}
        self.enter = keras.layers.Dense(units, name="enter", **options)
        self.position = layers.PositionalEncoding(**options)
        self.blocks = [
            {
                "norm_1": keras.layers.LayerNormalization(epsilon=1e-6, **options),
                "attention": layers.MultiHeadAttention(heads, units // heads, dropout=dropout, **options),
                "norm_2": keras.layers.LayerNormalization(epsilon=1e-6, **options),
                "wide": keras.layers.Dense(4 * units, "relu", **options),
                "narrow": keras.layers.Dense(units, **options),
            }
            for _ in range(num_layers)
        ]
        self.norm = keras.layers.LayerNormalization(epsilon=1e-6, **options)
        self.drop = keras.layers.Dropout(dropout, **options)

    def build(self, shape: tuple) -> None:
        inner = (*shape[:-1], self.units)
        parts: list[tuple[Any, tuple]] = [(self.enter, (shape,)), (self.norm, (inner,))]
        for block in self.blocks:
            parts += [(block["attention"], (inner, inner)), (block["norm_1"], (inner,)), (block["norm_2"], (inner,))]
            parts += [(block["wide"], (inner,)), (block["narrow"], ((*shape[:-1], 4 * self.units),))]
        for layer, shapes in parts:
            if not layer.built:
                layer.build(*shapes)

    def call(self, x: Tensor, mask: Tensor | None = None, training: bool = False) -> tuple[Tensor, None]:
        x = self.drop(self.position(self.enter(x)), training=training)
        for block in self.blocks:
            y = block["norm_1"](x)
            y = block["attention"](y, y, query_mask=mask, value_mask=mask, training=training)
            x = x + self.drop(y, training=training)
            y = block["narrow"](block["wide"](block["norm_2"](x)))
            x = x + self.drop(y, training=training)
        return self.norm(x), None

    def compute_mask(self, x: Any, mask: Any = None) -> Any:
        return None

    def get_config(self) -> dict[str, Any]:
        names = ("units", "num_layers", "heads", "dropout")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="unfold")
class Translator(keras.Model):
    """`{"source": ids (batch, time), "target": decoder inputs (batch, time)}` -> logits of the targets (batch, time, vocabulary).

    Args:
        source_size, target_size: of the vocabularies; joint: one embedding for both.
        embedding_size, units, cell, encoder_layers, decoder_layers, attention, input_feeding, dropout: see the two parts.
        encoder: `recurrent`, in both directions; `forward`, in one, whose final states initialise the decoder; `self-attention`.
        reverse_source: feed the source's last token first (Sutskever et al. 2014).
        heads: of self-attention.
        scheduled_sampling: rate of the decoder inputs replaced by the model's own predictions in training (Bengio et al. 2015,
            https://arxiv.org/abs/1506.03099; from one pass over the true ones: Mihaylova & Martins 2019,
            https://aclanthology.org/P19-2049).
        sampled_softmax: in training, compare each target token with so many sampled ones instead of with the whole vocabulary,
            and without label smoothing; 0: exact. See `sampled_cross_entropy`.
    """

    def __init__(
        self,
        source_size: int,
        target_size: int,
        *,
        joint: bool = True,
        embedding_size: int = 256,
        units: int = 256,
        cell: str = "gru",
        encoder: str = "recurrent",
        encoder_layers: int = 1,
        decoder_layers: int = 2,
        attention: str = "additive",
        input_feeding: bool = False,
        reverse_source: bool = False,
        heads: int = 4,
        dropout: float = 0.0,
        scheduled_sampling: float = 0.0,
        sampled_softmax: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.settings = {name: value for name, value in locals().items() if name not in ("self", "kwargs", "__class__")}
        self.reverse_source, self.scheduled_sampling = reverse_source, scheduled_sampling
        self.sampled_softmax = sampled_softmax
        normal = keras.initializers.RandomNormal(stddev=embedding_size**-0.5)
        self.target_embedding = keras.layers.ReversibleEmbedding(
            target_size, embedding_size, embeddings_initializer=normal, reverse_dtype="float32", name="target_embedding"
        )
        self.source_embedding = (
            self.target_embedding
            if joint
            else keras.layers.Embedding(source_size, embedding_size, normal, name="source_embedding")
        )
        if encoder == "self-attention":
            self.encoder: Any = SelfAttentionEncoder(units, encoder_layers, heads, dropout, name="encoder")
        else:
            self.encoder = RecurrentEncoder(units, cell, encoder_layers, encoder == "recurrent", dropout, name="encoder")
        self.decoder = AttentionDecoder(
            units,
            embedding_size,
            cell=cell,
            num_layers=decoder_layers,
            attention=attention,
            input_feeding=input_feeding,
            init_state_from_memory=encoder != "forward",
            dropout=dropout,
            name="decoder",
        )
        self.drop = keras.layers.Dropout(dropout)
        self.seed_generator = keras.random.SeedGenerator()

    def build(self, shapes: Any = None) -> None:
        size, units = self.settings["embedding_size"], self.settings["units"]
        for layer in (self.target_embedding, self.source_embedding):
            if not layer.built:
                layer.build()
        if not self.encoder.built:
            self.encoder.build((None, None, size))
        if not self.decoder.built:
            self.decoder.build((None, None, size), (None, None, units))
        self.bias = self.add_weight(shape=(self.settings["target_size"],), initializer="zeros", autocast=False, name="bias")

    # -- its parts

    def encode(self, source: Tensor, training: bool = False) -> tuple[Tensor, Tensor, Any]:
        """Source ids -> the encoder's values (batch, time, units), their mask, its states if the decoder starts from them."""
        mask = ops.not_equal(source, PADDING)
        if self.reverse_source:  # the tokens, not the padding: a row's positions don't depend on its batch
            lengths = tf.math.count_nonzero(mask, axis=1, dtype=tf.int32)
            source = tf.reverse_sequence(source, lengths, seq_axis=1)
        x = self.drop(self.source_embedding(source), training=training)
        values, states = self.encoder(x, mask=mask, training=training)
        if self.reverse_source:  # the attention is to the source as it was
            values = tf.reverse_sequence(values, lengths, seq_axis=1)
        return values, mask, (states if self.settings["encoder"] == "forward" else None)

    def prepare_decoder(self, source: Tensor) -> tuple[Memory, Tensor]:
        """Source ids -> what the decoder attends to, and its initial state."""
        values, mask, states = self.encode(source)
        memory = self.decoder.setup_memory(values, mask)
        return memory, self.decoder.get_initial_state(memory, states)

    def logits(self, outputs: Tensor) -> Tensor:
        flat = ops.reshape(outputs, (-1, outputs.shape[-1]))  # one large product is faster than one for each example
        logits = self.target_embedding(flat, reverse=True) + self.bias
        return ops.reshape(logits, (*ops.shape(outputs)[:-1], logits.shape[-1]))

    def decode(self, target: Tensor, encoded: tuple, training: bool = False, samples: int = 1) -> tuple[Tensor, Any]:
        """Decoder inputs (batch, time) -> its outputs (batch, time, embedding_size), the attention (batch, time, source time).
        For `samples` see `AttentionDecoder.call`."""
        values, mask, states = encoded
        tokens = self.drop(self.target_embedding(target), training=training)
        return self.decoder(tokens, values, values_mask=mask, states=states, training=training, samples=samples)

    @property
    def has_attention(self) -> bool:
        return self.decoder.attention != "none"

    def attention_weights(self, target: Tensor, memory: Memory, state: Tensor) -> Tensor | None:
        """The attention (batch, time, source time) of decoder inputs (batch, time) to what `prepare_decoder` gave; None: the
        model has none."""
        return self.decoder.unfold(self.target_embedding(target), memory, state)[1]

    def call(self, inputs: dict[str, Tensor], training: bool = False) -> Tensor:
        target = inputs["target"]
        encoded = self.encode(inputs["source"], training)
        if training and self.scheduled_sampling:
            guess = ops.cast(ops.argmax(self.logits(self.decode(target, encoded, training=True)[0]), axis=-1), target.dtype)
            guess = ops.concatenate([target[:, :1], guess[:, :-1]], axis=1)
            coin = keras.random.uniform(ops.shape(target), seed=self.seed_generator) < self.scheduled_sampling
            target = ops.where(ops.logical_and(coin, target > BOS), ops.stop_gradient(guess), target)
        outputs, _ = self.decode(target, encoded, training)
        return outputs if training and self.sampled_softmax else self.logits(outputs)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Tensor:
        if not (training and self.sampled_softmax):
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        uniform = keras.random.uniform((self.sampled_softmax,), seed=self.seed_generator)
        loss, count = sampled_cross_entropy(y, y_pred, self.target_embedding.embeddings, self.bias, uniform)
        return scaled(loss / ops.maximum(count, 1.0), sample_weight)

    def sample_logits(self, encoded: tuple, target: Tensor, samples: int) -> Tensor:
        """Decoder inputs (batch samples, time), those of a source one after another -> logits, in training."""
        return self.logits(self.decode(target, encoded, training=True, samples=samples)[0])

    def step(self, tokens: Tensor, state: Tensor, memory: Memory) -> tuple[Tensor, Tensor, Tensor | None]:
        """One step of `apps.common.decoding.search`: tokens (batch, beam) -> logits, state, attention."""
        output, weights, state = self.decoder.step(embed(self.target_embedding, tokens), state, memory)
        return self.logits(output), state, weights

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.settings}
