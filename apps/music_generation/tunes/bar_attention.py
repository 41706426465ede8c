"""Attention over a tune so far, bar by bar: what stood here some bars before, and what came next; see `BarAttention`."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from layers.loops import scan

Tensor = Any

BARS_AGO = (1, 2, 4, 8)  # of each head
PLACES, BARS = 96, 16  # that have vectors
SIZE = 32  # of a key
BLOCK = 16  # steps at once without training: all scores of a long text don't fit into memory
QUARTERS = 4  # of a unit length: what places in a bar are counted in
SHORTEST_BAR = 3 * QUARTERS  # an upbeat is none
NOTES = frozenset("ABCDEFGabcdefgzx")


def quarters(before: str, character: str) -> int:
    """What a character adds to the time of its bar, in quarters of a unit length, given the character before it.

    Not followed: a broken rhythm, which moves time from a note to its neighbour; durations of two digits; fractions of 4 with a
    numerator; a metre within the tune.

    >>> text = "(3AB^c d3/2"
    >>> sum(quarters(before, character) for before, character in zip(" " + text, text)) / QUARTERS
    3.5
    """
    if character in NOTES:
        return QUARTERS
    if character == "/":
        return -2 * int(before) if before.isdecimal() else -1 if before == "/" else -2 if before in NOTES or before in ",'" else 0
    if not character.isdecimal() or character == "0":
        return 0
    if before == "(":
        return -QUARTERS if character == "3" else 0  # three in the time of two
    if before == "/":
        return -1 if character == "4" else 0
    return QUARTERS * (int(character) - 1) if before in NOTES or before in ",'" else 0


def clock(words: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The last character of each token (tokens,), as a number; the quarters (last characters, tokens) that a token adds after one
    with such a last character; and which tokens (tokens,) end a bar.

    Args:
        words: the tokens, "" for those that are no text.
    """
    characters = sorted({word[-1:] for word in words})
    last = np.array([characters.index(word[-1:]) for word in words], np.int32)
    ends = np.array([bool(set("|:\n") & set(word)) for word in words])
    adds = [[sum(quarters(a, b) for a, b in zip((before or " ") + word, word)) for word in words] for before in characters]
    return last, np.array(adds, np.float32) * ~ends, ends.astype(np.float32)


@keras.saving.register_keras_serializable(package="unfold")
class BarAttention(keras.layers.Layer):
    """What came next where the tune was like now.

        score_tj = q_t · k_j / sqrt(d) + w [bar_j = bar_t - n and place_j = place_t]        j = t - N … t - 1
        a_t = softmax(score_t, z_t)
        y_t = h_t + W Σ_j a_tj e(x_{j+1}) + P[place_t] + B[bar_t mod 16]

    q, k and z are linear in h; z is the score of attending to nothing (Merity et al. 2017, https://arxiv.org/abs/1609.07843);
    x_{j+1} is the token that followed j. There is a head, with its own q, w, z and W, for each n of 1, 2, 4 and 8 bars. A token's
    place is the time since its bar line, its bar the number of full ones before.

    The memory of a row has the N last keys, tokens, bars and places; a memory of zeros is the beginning of a tune.

    Args:
        length: N.
        words: the tokens, "" for those that are no text; 0 is padding.
        embedding_size: of e.
    """

    def __init__(self, length: int, words: Sequence[str], embedding_size: int = 64, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)  # the memory has numbers of tokens and bars, which must be exact
        self.settings: dict[str, Any] = {"length": length, "words": list(words), "embedding_size": embedding_size}
        self.length, self.heads = length, len(BARS_AGO)
        self.state_sizes = [length * SIZE, length, length, length]
        self.last, self.adds, self.ends = clock(words)
        self.key = keras.layers.Dense(SIZE, use_bias=False, name="key")
        self.query = keras.layers.Dense(SIZE * self.heads, use_bias=False, name="query")
        self.nothing = keras.layers.Dense(self.heads, name="nothing")
        self.value = keras.layers.Embedding(len(words), embedding_size, name="value")

    def build(self, h_shape: Any) -> None:
        self.output_layer = keras.layers.Dense(h_shape[-1], name="output")
        self.place = keras.layers.Embedding(PLACES, h_shape[-1], name="place")
        self.bar = keras.layers.Embedding(BARS, h_shape[-1], name="bar")
        for layer in (self.key, self.query, self.nothing):
            layer.build(h_shape)
        for layer in (self.value, self.place, self.bar):
            layer.build((None, None))
        self.output_layer.build((None, None, self.heads * self.settings["embedding_size"]))
        self.preference = self.add_weight(shape=(self.heads, 1), initializer=keras.initializers.Constant(4.0), name="preference")

    def call(self, h: Tensor, tokens: Tensor, memory: list[Tensor], training: bool = False) -> tuple[Tensor, list[Tensor]]:
        """h (batch, steps, units) after the tokens (batch, steps), and the memory before -> y, and the memory after."""
        if training or (h.shape[1] is not None and h.shape[1] <= BLOCK):
            return self.attend(h, tokens, memory)
        batch, steps, units = ops.shape(h)[0], ops.shape(h)[1], h.shape[-1]
        blocks = (steps + BLOCK - 1) // BLOCK  # ONNX rounds quotients of negative numbers towards zero
        sequences = []
        for x in (h, ops.cast(tokens, "float32")[..., None]):
            x = ops.pad(x, [[0, 0], [0, blocks * BLOCK - steps], [0, 0]])
            sequences.append(ops.transpose(ops.reshape(x, (batch, blocks, BLOCK, x.shape[-1])), (1, 0, 2, 3)))

        def block(memory: list[Tensor], inputs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
            y, memory = self.attend(inputs[0], inputs[1][..., 0], memory)
            return memory, [ops.reshape(ops.cast(y, "float32"), (-1, BLOCK * units))]

        memory, (y,) = scan(block, memory, sequences, [BLOCK * units])
        y = ops.transpose(ops.reshape(y, (blocks, batch, BLOCK, units)), (1, 0, 2, 3))
        return ops.cast(ops.reshape(y, (batch, blocks * BLOCK, units))[:, :steps], h.dtype), memory

    def attend(self, h: Tensor, tokens: Tensor, memory: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        steps, n = ops.shape(h)[1], self.length
        own = (ops.cast(tokens, "float32"), *self.positions(tokens, memory))
        tokens, bars, places = (ops.concatenate([before, now], axis=1) for before, now in zip(memory[1:], own))
        keys = ops.concatenate([ops.reshape(ops.cast(memory[0], h.dtype), (-1, n, SIZE)), self.key(h)], axis=1)
        after = [ops.reshape(ops.cast(keys[:, steps:], "float32"), (-1, n * SIZE))]
        after += [x[:, steps:] for x in (tokens, bars, places)]

        query = ops.reshape(self.query(h), (-1, steps, self.heads, SIZE))
        scores = ops.cast(ops.einsum("bthd,bjd->bthj", query, keys[:, :-1]), "float32") * SIZE**-0.5
        ago = own[1][:, :, None] - bars[:, None, :-1]
        same = own[2][:, :, None] == places[:, None, :-1]
        is_there = ops.stack([same & (ago == bars_ago) for bars_ago in BARS_AGO], axis=2)
        scores += ops.cast(self.preference, "float32") * ops.cast(is_there, "float32")
        distance = n + ops.arange(steps)[:, None] - ops.arange(n + steps - 1)
        mask = (distance >= 1) & (distance <= n) & (tokens[:, None, :-1] != 0)
        scores = ops.where(mask[:, :, None], scores, -1e9)
        nothing = ops.cast(self.nothing(h), "float32")[..., None]
        weights = ops.cast(ops.softmax(ops.concatenate([scores, nothing], axis=-1))[..., :-1], h.dtype)
        found = ops.einsum("bthj,bje->bthe", weights, self.value(self.ids(tokens[:, 1:])))
        y = h + self.output_layer(ops.reshape(found, (-1, steps, self.heads * found.shape[-1])))
        bar, place = (ops.cast(x, "int32") for x in own[1:])
        return y + self.place(ops.clip(place, 0, PLACES - 1)) + self.bar(bar % BARS), after

    def ids(self, tokens: Tensor) -> Tensor:
        """Tokens of the vocabulary, whatever a memory holds that a client sent."""
        return ops.clip(ops.cast(tokens, "int32"), 0, len(self.ends) - 1)

    def positions(self, tokens: Tensor, memory: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The numbers of the bars of tokens (batch, steps), and the places in them in quarters of a unit length."""
        tokens = self.ids(tokens)
        before = ops.concatenate([self.ids(memory[1][:, -1:]), tokens[:, :-1]], axis=1)
        adds = ops.take(ops.reshape(self.adds, (-1,)), ops.take(self.last, before) * len(self.ends) + tokens)
        ends = ops.take(self.ends, tokens)
        lines = ops.cumsum(ends, axis=1)  # bar lines among these tokens
        steps = ops.arange(ops.shape(tokens)[1])
        together = (lines[:, :, None] == lines[:, None]) & (steps[:, None] >= steps)
        places = ops.sum(adds[:, None] * ops.cast(together, "float32"), axis=-1)
        places += memory[3][:, -1:] * ops.cast(lines == 0, "float32")
        ended = ops.concatenate([memory[3][:, -1:], places[:, :-1]], axis=1) >= SHORTEST_BAR
        return memory[2][:, -1:] + ops.cumsum(ends * ops.cast(ended, "float32"), axis=1), places

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.settings}
