"""A language model of tunes, character by character: `StatefulStack` between an embedding and a softmax."""

from typing import Any

import keras

from apps.common.stateful_stack import StatefulStack

Tensor = Any


@keras.saving.register_keras_serializable(package="unfold")
class TuneModel(StatefulStack):
    """`{"tokens": ids (batch, steps), "is_continuation": (batch,)}` -> logits of what follows (batch, steps, vocabulary).

    `is_continuation` is 1 where a row continues the chunk before, 0 where a tune begins; without it every row is a whole tune.

    Args:
        vocabulary_size: with padding and markers.
        embedding_size: of a token's vector.
        settings: those of the stack.
    """

    def __init__(self, vocabulary_size: int, embedding_size: int = 128, **settings: Any) -> None:
        super().__init__(**settings)
        self.settings |= {"vocabulary_size": vocabulary_size, "embedding_size": embedding_size}
        self.embedding = keras.layers.Embedding(vocabulary_size, embedding_size, name="embedding")
        self.dense = keras.layers.Dense(vocabulary_size, dtype="float32", name="logits")

    def build(self, shapes: Any = None) -> None:
        if not self.embedding.built:
            self.embedding.build((None, None))
        self.build_stack(self.settings["embedding_size"])
        if not self.dense.built:
            self.dense.build((None, None, self.settings["units"]))

    def call(self, inputs: dict[str, Tensor], training: bool = False) -> Tensor:
        return self.dense(self.unfold(self.embedding(inputs["tokens"]), inputs.get("is_continuation"), training))

    def decode_step(self, tokens: Tensor, states: Any) -> tuple[Tensor, Any]:
        """tokens (batch,) -> logits (batch, vocabulary) and the states."""
        x, states = self.step(self.embedding(tokens), states)
        return self.dense(x), states
