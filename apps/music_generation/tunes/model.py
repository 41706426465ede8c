"""A language model of tunes, character by character: recurrent layers that look back, bar by bar.

    e_t = E[x_t]
    h_t = layer_1(e_t, h_{t-1})
    y_t = h_t + what came next where the tune was like now: `BarAttention` over the states h of this tune before t
    o_t = layer_n(… layer_2(y_t, …))
    p(x_{t+1} | x_1 … x_t) = softmax(W o_t + b)

Real tunes repeat a bar, two, four or eight bars after it stood first. The layers above the attention see what came next there
before they say what comes next here, and whether they copy is learned. Looking back by bars is of Waite 2016 (Lookback RNN,
https://magenta.tensorflow.org/2016/07/15/lookback-rnn-attention-rnn), a memory of past states of Grave et al. 2017
(https://arxiv.org/abs/1612.04426).
"""

from collections.abc import Sequence
from typing import Any

import keras

from apps.common.stateful_stack import StatefulStack
from apps.music_generation.tunes.bar_attention import BarAttention

Tensor = Any


@keras.saving.register_keras_serializable(package="unfold")
class TuneModel(StatefulStack):
    """`{"tokens": ids (batch, steps), "is_continuation": (batch,)}` -> logits of what follows (batch, steps, vocabulary).

    `is_continuation` is 1 where a row continues the chunk before, 0 where a tune begins; without it every row is a whole tune.

    Args:
        vocabulary_size: with padding and markers.
        embedding_size: of a token's vector.
        attention_length: how many tokens back the attention reaches; 0: none.
        words: the tokens from id 4 on, for the attention.
        settings: those of the stack.
    """

    def __init__(
        self, vocabulary_size: int, embedding_size: int = 128, *, attention_length: int = 0, words: Sequence[str] = (),
        **settings: Any,
    ) -> None:  # fmt: skip
        super().__init__(**settings)
        self.settings |= {"vocabulary_size": vocabulary_size, "embedding_size": embedding_size}
        self.settings |= {"attention_length": attention_length, "words": list(words)}
        if attention_length:
            self.attention = BarAttention(attention_length, ["", "", "", "", *words], embedding_size, name="attention")
        self.embedding = keras.layers.Embedding(vocabulary_size, embedding_size, name="embedding")
        self.dense = keras.layers.Dense(vocabulary_size, dtype="float32", name="logits")

    def build(self, shapes: Any = None) -> None:
        if not self.embedding.built:
            self.embedding.build((None, None))
        self.build_stack(self.settings["embedding_size"])
        if self.attention is not None and not self.attention.built:
            self.attention.build((None, None, self.settings["units"]))
        if not self.dense.built:
            self.dense.build((None, None, self.settings["units"]))

    def call(self, inputs: dict[str, Tensor], training: bool = False) -> Tensor:
        tokens = inputs["tokens"]
        return self.dense(self.unfold(self.embedding(tokens), inputs.get("is_continuation"), training, tokens))

    def decode_step(self, tokens: Tensor, states: Any) -> tuple[Tensor, Any]:
        """tokens (batch,) -> logits (batch, vocabulary) and the states."""
        x, states = self.step(self.embedding(tokens), states, tokens)
        return self.dense(x), states
