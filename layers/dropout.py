"""What is dropped in a recurrent cell: inputs, units of the state, and single weights of the recurrent product."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops
from keras.src.layers.rnn.dropout_rnn_cell import DropoutRNNCell

Tensor = Any


class CellDropout(DropoutRNNCell):
    """The dropouts of `RecurrentCell`, whose docstring has the rates and their sources."""

    dropout: float
    recurrent_dropout: float
    recurrent_weight_dropout: float
    recurrent_kernel: Any
    seed_generator: keras.random.SeedGenerator
    _dropped_weights: Tensor | None = None

    @property
    def recurrent_weights(self) -> Tensor:
        """U, in a block of `weight_dropout` without what is dropped."""
        return self.recurrent_kernel if self._dropped_weights is None else self._dropped_weights

    @contextlib.contextmanager
    def weight_dropout(self, training: bool) -> Iterator[None]:
        """In this block, and in those inside, some weights of U are 0, and the others 1 / (1 - rate) times as large."""
        if self._dropped_weights is not None:
            yield
            return
        if training and self.recurrent_weight_dropout:
            weights = ops.convert_to_tensor(self.recurrent_kernel)
            self._dropped_weights = keras.random.dropout(weights, self.recurrent_weight_dropout, seed=self.seed_generator)
        try:
            yield
        finally:
            self._dropped_weights = None

    def dropout_masks(self, inputs: Tensor, hidden: Tensor, training: bool) -> tuple[Tensor | None, Tensor | None]:
        """Masks for inputs (batch, features) and state (batch, units): 0 or 1 / (1 - rate); None where nothing is dropped.

        Drawn anew, unless an RNN has drawn them for the whole sequence.
        """
        if not training:
            return None, None
        masks = []
        for like, rate, drawn in (
            (inputs, self.dropout, self._dropout_mask),
            (hidden, self.recurrent_dropout, self._recurrent_dropout_mask),
        ):
            masks.append(self._create_dropout_mask(like, rate) if rate and drawn is None else drawn)
        return masks[0], masks[1]
