"""Recurrent models of music: of tunes, sign by sign, and of piano rolls, frame by frame.

    h_t = stack(x_t, h_{t-1})

The sequence goes on from chunk to chunk: the last state of a chunk is the first of the next, without a gradient
(truncated backpropagation through time, Williams and Peng 1990, https://doi.org/10.1162/neco.1990.2.4.490).
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from apps.common.training.workers import Workers
from data_pipelines.sources import DataError
from layers import GRU, LSTM, GatedRNN, SimpleRNN

Tensor = Any

CELLS = {"simple_rnn": SimpleRNN, "gated_rnn": GatedRNN, "gru": GRU, "lstm": LSTM}


class _Carrying(keras.Model):
    """A stack of recurrent layers that, in training, starts each chunk from where the chunk before it ended.

    Args:
        batch_size: streams side by side in training.
        units, num_layers, cell: of the stack.
        dropout: of each layer's input and of the last layer's output.
        recurrent_dropout: of the states, one mask a chunk (Gal and Ghahramani 2016, https://arxiv.org/abs/1512.05287).
        irnn: start the recurrent weights of `simple_rnn` as the identity, with ReLU (Le et al. 2015,
            https://arxiv.org/abs/1504.00941).
    """

    def __init__(
        self,
        batch_size: int = 32,
        *,
        units: int = 512,
        num_layers: int = 2,
        cell: str = "lstm",
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        irnn: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if irnn and cell != "simple_rnn":
            raise ValueError(f"irnn: the cell is {cell}; this initialisation is for simple_rnn. Pass that cell, or no irnn.")
        self.settings: dict[str, Any] = {
            "batch_size": batch_size,
            "units": units,
            "num_layers": num_layers,
            "cell": cell,
            "dropout": dropout,
        }
        self.settings |= {"recurrent_dropout": recurrent_dropout, "irnn": irnn}
        options: dict[str, Any] = {"return_sequences": True, "return_state": True, "recurrent_dropout": recurrent_dropout}
        if irnn:
            options |= {"activation": "relu", "recurrent_initializer": "identity"}
        self.levels = [CELLS[cell](units, **options, name=f"level_{i + 1}") for i in range(num_layers)]
        self.drop = keras.layers.Dropout(dropout)
        self.own_rows = slice(None)
        self.gather_rows: Callable[[Tensor], Tensor] = lambda rows: rows

    def share_rows(self, workers: Workers) -> None:
        """Each worker reads some of the rows; all of them carry the states of all rows.

        Raises:
            DataError: the rows can't be shared evenly.
        """
        rows = self.settings["batch_size"]
        if rows % workers.count:
            raise DataError(
                f"--batch-size {rows}: can't be shared by {workers.count} workers. Pass a multiple of {workers.count}."
            )
        each = rows // workers.count
        self.own_rows = slice(workers.index * each, (workers.index + 1) * each)
        self.gather_rows = workers.gather

    def build_stack(self, features: int) -> None:
        for level in self.levels:
            if not level.built:
                level.build((None, None, features))
            features = self.settings["units"]
        self.carried = [
            [
                self.add_weight(shape=(self.settings["batch_size"], size), initializer="zeros", trainable=False, name="carried")
                for size in level.state_sizes
            ]
            for level in self.levels
        ]

    def unfold(self, x: Tensor, is_continuation: Tensor | None = None, training: bool = False) -> Tensor:
        """(batch, steps, features) -> (batch, steps, units), from zeros or, in training, from the chunk before."""
        for level, carried in zip(self.levels, self.carried):
            x = self.drop(x, training=training)
            if training and is_continuation is not None:
                states = [
                    ops.cast(state[self.own_rows], x.dtype) * ops.cast(is_continuation, x.dtype)[:, None] for state in carried
                ]
                x, *states = level(x, initial_state=states, training=True)
                for variable, state in zip(carried, states):
                    variable.assign(self.gather_rows(ops.cast(ops.stop_gradient(state), variable.dtype)))
            else:
                x, *_ = level(x, training=training)
        return self.drop(x, training=training)

    def start(self, batch_size: Any) -> list[list[Tensor]]:
        """The states before the first step."""
        return [[ops.zeros((batch_size, size), self.compute_dtype) for size in level.state_sizes] for level in self.levels]

    def advance(self, x: Tensor, states: list[list[Tensor]]) -> tuple[Tensor, list[list[Tensor]]]:
        """One step: (batch, features) -> (batch, units) and the states after it."""
        after = []
        for level, state in zip(self.levels, states):
            x, new = level.cell(x, state)
            after.append(list(new))
        return x, after

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.settings}


@keras.saving.register_keras_serializable(package="unfold")
class TuneModel(_Carrying):
    """`{"tokens": ids (batch, steps), "is_continuation": (batch,)}` -> logits of what follows (batch, steps, vocabulary).

    `is_continuation` is 1 where a row continues the chunk before, 0 where a tune begins; without it every row is a whole tune.

    Args:
        vocabulary_size: with padding, BOS and EOS.
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

    def step(self, tokens: Tensor, states: Any) -> tuple[Tensor, Any]:
        """tokens (batch,) -> logits (batch, vocabulary) and the states."""
        x, states = self.advance(self.embedding(tokens), states)
        return self.dense(x), states


@keras.saving.register_keras_serializable(package="unfold")
class RollModel(_Carrying):
    """Piano rolls: `{"frames": the frame before each (batch, steps, keys), "targets": the frames, "is_continuation"}` -> logits
    of the keys of each frame.

    With `frame="independent"` the keys of a frame depend on the past only: `p(x_k) = sigmoid(b_k + V_k h)`. With `"nade"` also
    on the lower keys of the frame (RNN-NADE, Boulanger-Lewandowski et al. 2012, https://arxiv.org/abs/1206.6392):

        a_k = c + C h + sum_{j<k} x_j W_j
        p(x_k | x_<k, past) = sigmoid(b_k + B_k h + V_k sigmoid(a_k))

    Both give the exact likelihood of a frame, the product over its keys.

    Args:
        keys: of a frame.
        frame: `nade` or `independent`.
        hidden: size of a_k.
        settings: those of the stack.
    """

    def __init__(self, keys: int = 88, frame: str = "nade", hidden: int = 128, **settings: Any) -> None:
        super().__init__(**settings)
        self.settings |= {"keys": keys, "frame": frame, "hidden": hidden}
        self.bias = keras.layers.Dense(keys, dtype="float32", bias_initializer=keras.initializers.Constant(-3.0), name="bias")
        self.condition = keras.layers.Dense(hidden, dtype="float32", name="condition") if frame == "nade" else None

    def build(self, shapes: Any = None) -> None:
        keys, hidden = self.settings["keys"], self.settings["hidden"]
        self.build_stack(keys)
        for layer in (self.bias, self.condition):
            if layer is not None and not layer.built:
                layer.build((None, None, self.settings["units"]))
        if self.condition is not None:
            self.below = self.add_weight(shape=(keys, hidden), initializer="glorot_uniform", name="below")  # W
            self.above = self.add_weight(shape=(keys, hidden), initializer="glorot_uniform", name="above")  # V

    def call(self, inputs: dict[str, Tensor], training: bool = False) -> Tensor:
        h = self.unfold(ops.cast(inputs["frames"], self.compute_dtype), inputs.get("is_continuation"), training)
        logits = self.bias(h)
        if self.condition is None:
            return logits
        x = ops.cast(inputs["targets"], "float32")[..., None, :]  # (batch, steps, 1, keys)
        lower = ops.tril(ops.ones((self.settings["keys"],) * 2), -1)
        a = self.condition(h)[..., None, :] + ops.matmul(x * lower, self.below)  # (batch, steps, keys, hidden)
        return logits + ops.sum(ops.sigmoid(a) * self.above, axis=-1)

    def step(self, frame: Tensor, states: Any) -> tuple[tuple[Tensor, Tensor | None], Any]:
        """The frame before (batch, keys) -> what the next one depends on, for `key_logits`, and the states."""
        h, states = self.advance(ops.cast(frame, self.compute_dtype), states)
        return (self.bias(h), None if self.condition is None else self.condition(h)), states

    def get_config(self) -> dict[str, Any]:
        return super().get_config()
