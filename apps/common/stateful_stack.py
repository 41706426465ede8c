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
                for size in rnn.state_sizes
            ]
            for rnn in self.rnn_layers
        ]

    def unfold(self, x: Tensor, is_continuation: Tensor | None = None, training: bool = False) -> Tensor:
        """(batch, steps, features) -> (batch, steps, units), from zeros or, in training, from the chunk before."""
        for rnn, carried in zip(self.rnn_layers, self.carried):
            x = self.drop(x, training=training)
            if training and is_continuation is not None:
                states = [
                    ops.cast(state[self.own_rows], x.dtype) * ops.cast(is_continuation, x.dtype)[:, None] for state in carried
                ]
                x, *states = rnn(x, initial_state=states, training=True)
                for variable, state in zip(carried, states):
                    variable.assign(self.gather_rows(ops.cast(ops.stop_gradient(state), variable.dtype)))
            else:
                x, *_ = rnn(x, training=training)
        return self.drop(x, training=training)

    def get_initial_state(self, batch_size: Any) -> list[list[Tensor]]:
        """The states before the first step."""
        return [[ops.zeros((batch_size, size), self.compute_dtype) for size in rnn.state_sizes] for rnn in self.rnn_layers]

    def encode(self, x: Tensor, states: list[list[Tensor]], mask: Tensor | None = None) -> tuple[Tensor, list[list[Tensor]]]:
        """(batch, steps, features) from these states -> (batch, steps, units), and the states after the last unmasked step."""
        after = []
        for rnn, state in zip(self.rnn_layers, states):
            x, *new = rnn(x, initial_state=state, mask=mask)
            after.append(new)
        return x, after

    def step(self, x: Tensor, states: list[list[Tensor]]) -> tuple[Tensor, list[list[Tensor]]]:
        """One step: (batch, features) -> (batch, units) and the states after it."""
        after = []
        for rnn, state in zip(self.rnn_layers, states):
            x, new = rnn.cell(x, state)
            after.append(list(new))
        return x, after

    @property
    def state_size(self) -> int:
        return sum(sum(rnn.state_sizes) for rnn in self.rnn_layers)

    def pack(self, states: list[list[Tensor]]) -> Tensor:
        """All states of each row as one vector (batch, state_size), as a client keeps it."""
        return ops.cast(ops.concatenate([state for of_layer in states for state in of_layer], axis=1), "float32")

    def unpack(self, packed: Tensor) -> list[list[Tensor]]:
        """What `pack` packed."""
        sizes = [size for rnn in self.rnn_layers for size in rnn.state_sizes]
        packed, ends = ops.cast(packed, self.compute_dtype), [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
        parts = iter(ops.split(packed, ends, axis=1) if ends else [packed])
        return [[next(parts) for _ in rnn.state_sizes] for rnn in self.rnn_layers]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.settings}
