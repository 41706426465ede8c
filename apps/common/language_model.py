"""A recurrent language model: embedding, recurrent layers that carry their states, a softmax tied to the embedding.

    e_t = E[w_t]
    h_t = stack(e_t, h_{t-1})
    o_t = W h_t + c
    p(w_{t+1} | w_1 … w_t) = softmax(E o_t + b)          E: the same matrix (Press and Wolf 2017, https://aclanthology.org/E17-2025)

With `direction="both"` a second stack reads the text from its end, with the same E and b: p(w_{t-1} | w_t … w_T).
"""

from typing import Any

import keras
from keras import ops

from apps.common.stateful_stack import StatefulStack
from apps.common.training.losses import sampled_cross_entropy, scaled
from apps.common.training.workers import Workers

Tensor = Any


def drop_words(vectors: Tensor, tokens: Tensor, vocabulary_size: int, rate: float, seed: keras.random.SeedGenerator) -> Tensor:
    """The vectors (batch, steps, size) of tokens, those of some words of the vocabulary 0 wherever they stand (Gal and Ghahramani
    2016, https://arxiv.org/abs/1512.05287), the others 1 / (1 - rate) times as large."""
    kept = keras.random.dropout(ops.ones((vocabulary_size, 1), vectors.dtype), rate, seed=seed)
    return vectors * ops.take(kept, tokens, axis=0)


@keras.saving.register_keras_serializable(package="unfold")
class LanguageModel(keras.Model):
    """`{"tokens": ids (batch, steps), "is_continuation": (batch,)}` -> logits of the next tokens (batch, steps, vocabulary).

    `is_continuation` is 1 where a row continues the chunk before; without it every row begins a text. With `direction="both"`
    there is also `reversed` (batch, steps), a text from its end, and the logits are (batch, 2 steps, vocabulary), the second
    half its.

    Args:
        vocabulary_size: with padding and markers.
        embedding_size: of a token's vector.
        direction: `forward` or `both`.
        embedding_dropout: rate of words; see `drop_words`.
        activity_penalty: a: adds a mean(h_t^2) + a mean((h_t - h_{t-1})^2) to the loss, h after dropout (Merity et al. 2017,
            https://arxiv.org/abs/1708.01009).
        sampled_softmax: in training, compare each target with so many sampled tokens instead of with the whole vocabulary; 0:
            exact. See `sampled_cross_entropy`.
        settings: those of the stack.
    """

    def __init__(
        self,
        vocabulary_size: int,
        embedding_size: int = 256,
        *,
        direction: str = "forward",
        embedding_dropout: float = 0.0,
        activity_penalty: float = 0.0,
        sampled_softmax: int = 0,
        dtype: Any = None,
        name: str | None = None,
        trainable: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(dtype=dtype, name=name, trainable=trainable)
        own = ("vocabulary_size", "embedding_size", "direction", "embedding_dropout", "activity_penalty", "sampled_softmax")
        given = locals()
        self.settings: dict[str, Any] = {name: given[name] for name in own} | settings
        normal = keras.initializers.RandomNormal(stddev=embedding_size**-0.5)
        self.embedding = keras.layers.ReversibleEmbedding(
            vocabulary_size, embedding_size, embeddings_initializer=normal, reverse_dtype="float32", name="embedding"
        )
        names = ["forward", "backward"][: 1 + (direction == "both")]
        self.stacks = [StatefulStack(**settings, locked_dropout=True, name=name) for name in names]
        self.outputs_of = [keras.layers.Dense(embedding_size, name=f"output_{name}") for name in names]
        self.seed_generator = keras.random.SeedGenerator()

    def set_workers(self, workers: Workers) -> None:
        for stack in self.stacks:
            stack.set_workers(workers)

    def build(self, shapes: Any = None) -> None:
        if not self.embedding.built:
            self.embedding.build()
        for stack, output in zip(self.stacks, self.outputs_of):
            stack.build_stack(self.settings["embedding_size"])
            stack.built = True
            if not output.built:
                output.build((None, None, stack.settings["units"]))
        self.bias = self.add_weight(shape=(self.settings["vocabulary_size"],), initializer="zeros", autocast=False, name="bias")

    def embed(self, tokens: Tensor, training: bool = False) -> Tensor:
        x, rate = self.embedding(tokens), self.settings["embedding_dropout"]
        if not (training and rate):
            return x
        return drop_words(x, tokens, self.settings["vocabulary_size"], rate, self.seed_generator)

    def logits(self, outputs: Tensor) -> Tensor:
        """(…, embedding_size) -> (…, vocabulary)."""
        flat = ops.reshape(outputs, (-1, outputs.shape[-1]))  # one large product is faster than one for each example
        logits = self.embedding(flat, reverse=True) + self.bias
        return ops.reshape(logits, (*ops.shape(outputs)[:-1], logits.shape[-1]))

    def call(self, inputs: dict[str, Tensor], training: bool = False) -> Tensor:
        outputs = []
        for name, stack, output in zip(("tokens", "reversed"), self.stacks, self.outputs_of):
            h = stack.unfold(self.embed(inputs[name], training), inputs.get("is_continuation"), training)
            if training and self.settings["activity_penalty"]:
                h32 = ops.cast(h, "float32")
                change = h32[:, 1:] - h32[:, :-1]
                changes = ops.maximum(ops.cast(ops.size(change), "float32"), 1.0)  # a chunk of one step has none
                self.add_loss(self.settings["activity_penalty"] * (ops.mean(h32**2) + ops.sum(change**2) / changes))
            outputs.append(output(h))
        joined = outputs[0] if len(outputs) == 1 else ops.concatenate(outputs, axis=1)
        return joined if training and self.settings["sampled_softmax"] else self.logits(joined)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Tensor:
        if not (training and self.settings["sampled_softmax"]):
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        uniform = keras.random.uniform((self.settings["sampled_softmax"],), seed=self.seed_generator)
        loss, count = sampled_cross_entropy(y, y_pred, self.embedding.embeddings, self.bias, uniform)
        return scaled(loss / ops.maximum(count, 1.0), sample_weight) + sum(self.losses)

    # -- without training: states in, states out

    def get_initial_state(self, batch_size: Any, direction: int = 0) -> list[list[Tensor]]:
        return self.stacks[direction].get_initial_state(batch_size)

    def encode(self, tokens: Tensor, states: Any, mask: Tensor | None = None, direction: int = 0) -> tuple[Tensor, Any]:
        """ids (batch, steps) from these states -> outputs (batch, steps, embedding_size), and the states after them."""
        h, states = self.stacks[direction].encode(self.embed(tokens), states, mask)
        return self.outputs_of[direction](h), states

    def decode_step(self, tokens: Tensor, states: Any) -> tuple[Tensor, Any]:
        """ids (batch,) -> logits of the next tokens (batch, vocabulary), and the states."""
        h, states = self.stacks[0].step(self.embed(tokens), states)
        return self.logits(self.outputs_of[0](h)), states

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.settings}
