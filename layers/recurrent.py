"""The recurrent layers by name: SimpleRNN, GatedRNN, GRU, LSTM.

They take the arguments of their Keras twins, have the same weights in the same order, obey any mask, and run on the
engine of `layers.recurrence`.
"""

from collections.abc import Callable
from typing import Any

import keras

from layers.cells import GatedRNNCell, GRUCell, LSTMCell, SimpleRNNCell
from layers.rnn import LAYER_ARGUMENTS, RNN


class _CellRNN(RNN):
    """An RNN that makes its own cell: cell arguments and layer arguments in one call, as in Keras."""

    cell_class: Callable[..., Any]

    def __init__(self, units: int, *args: Any, **kwargs: Any) -> None:
        layer_kwargs = {k: kwargs.pop(k) for k in (*LAYER_ARGUMENTS, "name", "trainable", "activity_regularizer") if k in kwargs}
        dtype = kwargs.pop("dtype", None)
        super().__init__(self.cell_class(units, *args, dtype=dtype, **kwargs), dtype=dtype, **layer_kwargs)

    @property
    def units(self) -> int:
        return self.cell.units

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["cell"]
        cell_config = self.cell.get_config()
        return {**cell_config, **config}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict | None = None) -> "_CellRNN":
        return cls(**config)


@keras.saving.register_keras_serializable(package="unfold")
class SimpleRNN(_CellRNN):
    """The Elman network: `s' = phi(W_sx x + W_ss s + b)`; see `layers.SimpleRNNCell` for the equation and its source.

    Args: those of `layers.SimpleRNNCell`, then those of `layers.RNN`. Weights as in `keras.layers.SimpleRNN`.

    >>> import numpy as np
    >>> SimpleRNN(4, return_sequences=True)(np.ones((2, 5, 3), "float32")).shape == (2, 5, 4)
    True
    """

    cell_class = SimpleRNNCell


@keras.saving.register_keras_serializable(package="unfold")
class GatedRNN(_CellRNN):
    """The minimal gated unit: one gate, two thirds of a GRU's weights; see `layers.GatedRNNCell` for the equations.

    Args: those of `layers.GatedRNNCell`, then those of `layers.RNN`.

    >>> import numpy as np
    >>> GatedRNN(4)(np.ones((2, 5, 3), "float32")).shape == (2, 4)
    True
    """

    cell_class = GatedRNNCell


@keras.saving.register_keras_serializable(package="unfold")
class GRU(_CellRNN):
    """The gated recurrent unit; see `layers.GRUCell` for the equations.

    Args: those of `layers.GRUCell`, then those of `layers.RNN`. Weights as in `keras.layers.GRU`.

    >>> import numpy as np
    >>> GRU(4, dropout=0.2, recurrent_dropout=0.2)(np.ones((2, 5, 3), "float32"), training=True).shape == (2, 4)
    True
    """

    cell_class = GRUCell


@keras.saving.register_keras_serializable(package="unfold")
class LSTM(_CellRNN):
    """Long short-term memory; see `layers.LSTMCell` for the equations. The state is (h, c).

    Args: those of `layers.LSTMCell`, then those of `layers.RNN`. Weights as in `keras.layers.LSTM`.

    >>> import numpy as np
    >>> x = np.ones((2, 5, 3), "float32")
    >>> _, h, c = LSTM(4, return_state=True)(x)          # an encoder's states …
    >>> LSTM(4)(x, initial_state=[h, c]).shape == (2, 4)  # … start a decoder
    True
    """

    cell_class = LSTMCell
