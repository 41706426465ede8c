"""What language models and models of tunes and piano rolls share: recurrent layers that carry their states from chunk to chunk.

    h_t = stack(x_t, h_{t-1})

The last state of a chunk is the first of the next, without a gradient (truncated backpropagation through time, Williams and
Peng 1990, https://doi.org/10.1162/neco.1990.2.4.490).
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from apps.common.cells import CELLS
from apps.common.training.workers import Workers
from data_pipelines.sources import DataError

Tensor = Any


class StatefulStack(keras.Model):
    """A stack of recurrent layers that, in training, starts each chunk from where the chunk before it ended.

    Args:
        batch_size: streams side by side in training.
        units, num_layers, cell: of the stack.
        dropout: of each layer's input and of the last layer's output.
        locked_dropout: drop the same units at every step of a chunk (Gal and Ghahramani 2016, https://arxiv.org/abs/1512.05287).
        recurrent_dropout: of the states, one mask a chunk (the same).
        weight_dropout: of single recurrent weights, the same ones in a chunk (Merity et al. 2018, https://arxiv.org/abs/1708.02182).
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
        locked_dropout: bool = False,
        recurrent_dropout: float = 0.0,
        weight_dropout: float = 0.0,
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
        self.settings |= {
            "recurrent_dropout": recurrent_dropout,
            "weight_dropout": weight_dropout,
            "locked_dropout": locked_dropout,
            "irnn": irnn,
        }
        options: dict[str, Any] = {"return_sequences": True, "return_state": True, "recurrent_dropout": recurrent_dropout}
        if weight_dropout:
            options["recurrent_weight_dropout"] = weight_dropout
        if irnn:
            options |= {"activation": "relu", "recurrent_initializer": "identity"}
        self.rnn_layers = [CELLS[cell](units, **options, name=f"rnn_{i + 1}") for i in range(num_layers)]
        self.drop = (keras.layers.SpatialDropout1D if locked_dropout else keras.layers.Dropout)(dropout)
        self.attention: Any = None  # of a subclass: after the first layer, (x, tokens, memory) -> (x, memory)
        self.own_rows = slice(None)
        self.gather_rows: Callable[[Tensor], Tensor] = lambda rows: rows

    def set_workers(self, workers: Workers) -> None:
        """Each worker computes its part of the rows; all of them carry the states of all rows.

        Raises:
            DataError: the rows can't be shared evenly.
        """
        rows = self.settings["batch_size"]
        if rows % workers.count:
            raise DataError(
                f"--batch-size {rows}: can't be shared by {workers.count} workers. Pass a multiple of {workers.count}."
            )
        share = rows // workers.count
        self.own_rows = slice(workers.index * share, (workers.index + 1) * share)
        self.gather_rows = workers.gather

    def build_stack(self, features: int) -> None:
        for rnn in self.rnn_layers:
            if not rnn.built:
                rnn.build((None, None, features))
            features = self.settings["units"]
        self.carried = [
            [
                self.add_weight(shape=(self.settings["batch_size"], size), initializer="zeros", trainable=False, name="carried")
                for size in sizes
            ]
            for sizes in self.state_sizes
        ]

    @property
    def state_sizes(self) -> list[list[int]]:
        """Of each layer, and of the attention's memory."""
        sizes = [list(rnn.state_sizes) for rnn in self.rnn_layers]
        return sizes if self.attention is None else [*sizes, self.attention.state_sizes]

    def unfold(
        self, x: Tensor, is_continuation: Tensor | None = None, training: bool = False, tokens: Tensor | None = None
    ) -> Tensor:
        """(batch, steps, features) -> (batch, steps, units), from zeros or, in training, from the chunk before.

        The attention, if there is one, gets the tokens (batch, steps) that x stands for.
        """
        carries = training and is_continuation is not None
        states = self.get_initial_state(ops.shape(x)[0])
        if carries:
            states = [
                [
                    ops.cast(state[self.own_rows], zeros.dtype) * ops.cast(is_continuation, zeros.dtype)[:, None]
                    for state, zeros in zip(of_layer, initial)
                ]
                for of_layer, initial in zip(self.carried, states)
            ]
        after = []
        for i, rnn in enumerate(self.rnn_layers):
            x = self.drop(x, training=training)
            x, *new = rnn(x, initial_state=states[i] if carries else None, training=training)
            after.append(new)
            if self.attention is not None and i == 0:
                x, memory = self.attention(x, tokens, states[-1], training=training)
        if self.attention is not None:
            after.append(memory)
        for variables, new in zip(self.carried, after if carries else []):
            for variable, state in zip(variables, new):
                variable.assign(self.gather_rows(ops.cast(ops.stop_gradient(state), variable.dtype)))
        return self.drop(x, training=training)

    def get_initial_state(self, batch_size: Any) -> list[list[Tensor]]:
        """The states before the first step."""
        return [[ops.zeros((batch_size, size), dtype) for size in sizes] for sizes, dtype in zip(self.state_sizes, self._dtypes)]

    @property
    def _dtypes(self) -> list[str]:
        """Of the states: a memory has numbers of tokens and bars, which must be exact."""
        return [self.compute_dtype] * len(self.rnn_layers) + ["float32"] * (self.attention is not None)

    def encode(self, x: Tensor, states: list[list[Tensor]], mask: Tensor | None = None) -> tuple[Tensor, list[list[Tensor]]]:
        """(batch, steps, features) from these states -> (batch, steps, units), and the states after the last unmasked step."""
        if self.attention is not None:
            raise ValueError("encode: has no tokens for the attention of this model. Call step for each of them.")
        after = []
        for rnn, state in zip(self.rnn_layers, states):
            x, *new = rnn(x, initial_state=state, mask=mask)
            after.append(new)
        return x, after

    def step(self, x: Tensor, states: list[list[Tensor]], tokens: Tensor = None) -> tuple[Tensor, list[list[Tensor]]]:
        """One step: (batch, features), of tokens (batch,), -> (batch, units) and the states after it."""
        after = []
        for i, (rnn, state) in enumerate(zip(self.rnn_layers, states)):
            x, new = rnn.cell(x, state)
            after.append(list(new))
            if self.attention is not None and i == 0:
                x, memory = self.attention(x[:, None], tokens[:, None], states[-1])
                x = x[:, 0]
        return x, after if self.attention is None else [*after, memory]

    @property
    def state_size(self) -> int:
        return sum(map(sum, self.state_sizes))

    def pack(self, states: list[list[Tensor]]) -> Tensor:
        """All states of each row as one vector (batch, state_size), as a client keeps it."""
        return ops.concatenate([ops.cast(state, "float32") for of_layer in states for state in of_layer], axis=1)

    def unpack(self, packed: Tensor) -> list[list[Tensor]]:
        """What `pack` packed."""
        sizes = [size for sizes in self.state_sizes for size in sizes]
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
        parts = iter(ops.split(packed, ends, axis=1) if ends else [packed])
        return [[ops.cast(next(parts), dtype) for _ in sizes] for sizes, dtype in zip(self.state_sizes, self._dtypes)]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.settings}
