"""The recurrent layers by name: SimpleRNN, GatedRNN, GRU, LSTM, SRU, QRNN, MinGRU, SSRU.

They support arbitrary masks and run on the engine of `layers.bptt`, those without a recurrent product on
`layers.linear_recurrences`. SimpleRNN, GRU and LSTM take the arguments of their Keras counterparts, have the same weights in the
same order, and are instances of their counterparts, too.
"""

import inspect
import operator
from typing import Any, ClassVar

import keras

from layers.base_cell import RecurrentCell
from layers.cells import GatedRNNCell, GRUCell, LSTMCell, SimpleRNNCell
from layers.linear_cells import MinGRUCell, SSRUCell
from layers.qrnn import QRNNCell
from layers.rnn import RNN
from layers.sru import SRUCell

CELL_ARGUMENTS = [name for name in inspect.signature(RecurrentCell).parameters if name != "kwargs"]


class CellRNN(RNN):
    """An RNN that makes its own cell: cell arguments and layer arguments in one call, as in Keras."""

    cell_class: ClassVar[type]

    def __init__(self, units: int, *args: Any, **kwargs: Any) -> None:
        has_cudnn = isinstance(self, (keras.layers.GRU, keras.layers.LSTM))
        use_cudnn = kwargs.pop("use_cudnn", "auto") if has_cudnn else "auto"
        if use_cudnn not in ("auto", True, False):
            raise ValueError(
                f"{type(self).__name__}: use_cudnn is {use_cudnn!r}; expected one of 'auto', True, False. Leave it out: "
                "'auto' takes cuDNN where it computes the same."
            )
        names = [*CELL_ARGUMENTS, *inspect.signature(self.cell_class).parameters]
        cell_kwargs = {name: kwargs.pop(name) for name in names if name in kwargs and name != "kwargs"}
        super().__init__(self.cell_class(units, *args, dtype=kwargs.get("dtype"), **cell_kwargs), **kwargs)
        if has_cudnn:
            self.use_cudnn = use_cudnn if use_cudnn == "auto" else bool(use_cudnn)  # 0 is no False
            if use_cudnn == "auto" and keras.backend.backend() == "jax":
                self.use_cudnn = False  # else keras.layers.Bidirectional takes JAX' cuDNN, whatever the equations of the cell

    def get_config(self) -> dict[str, Any]:
        config = {**self.cell.get_config(), **RNN.get_config(self)}
        del config["cell"]
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "CellRNN":
        return cls(**config)


for _name in {*CELL_ARGUMENTS, "reset_after", "unit_forget_bias", "window", "zoneout", "highway_bias", "rescale"} - {
    "seed",
    "implementation",
}:  # layer.units and so on, as in Keras
    setattr(CellRNN, _name, property(operator.attrgetter(f"cell.{_name}")))


@keras.saving.register_keras_serializable(package="unfold")
class SimpleRNN(CellRNN, keras.layers.SimpleRNN):
    """The Elman network: `s' = phi(W_sx x + W_ss s + b)`; see `layers.SimpleRNNCell` for the equation and its source.

    Args: those of `layers.SimpleRNNCell`, then those of `layers.RNN`. Weights as in `keras.layers.SimpleRNN`.

    >>> import numpy as np
    >>> SimpleRNN(4, return_sequences=True)(np.ones((2, 5, 3), "float32")).shape == (2, 5, 4)
    True
    """

    cell_class = SimpleRNNCell


@keras.saving.register_keras_serializable(package="unfold")
class GatedRNN(CellRNN):
    """The minimal gated unit: one gate, two thirds of a GRU's weights; see `layers.GatedRNNCell` for the equations.

    Args: those of `layers.GatedRNNCell`, then those of `layers.RNN`.

    >>> import numpy as np
    >>> GatedRNN(4)(np.ones((2, 5, 3), "float32")).shape == (2, 4)
    True
    """

    cell_class = GatedRNNCell


@keras.saving.register_keras_serializable(package="unfold")
class GRU(CellRNN, keras.layers.GRU):
    """The gated recurrent unit; see `layers.GRUCell` for the equations.

    Args: those of `layers.GRUCell`, then those of `layers.RNN`, and `use_cudnn` as in `layers.LSTM`. Weights as in
        `keras.layers.GRU`.

    >>> import numpy as np
    >>> GRU(4, dropout=0.2, recurrent_dropout=0.2)(np.ones((2, 5, 3), "float32"), training=True).shape == (2, 4)
    True
    """

    cell_class = GRUCell


@keras.saving.register_keras_serializable(package="unfold")
class LSTM(CellRNN, keras.layers.LSTM):
    """Long short-term memory; see `layers.LSTMCell` for the equations. The state is (h, c).

    Args: those of `layers.LSTMCell`, then those of `layers.RNN`. Weights as in `keras.layers.LSTM`.
        use_cudnn: `auto` runs on cuDNN what it computes with the same results, on TensorFlow with a GPU: see `layers.cudnn`.
            With True it is an error if no batch can run there. Second derivatives (gradient penalties, say) and forward mode
            need False: TensorFlow has none of cuDNN, and raises a LookupError. As in Keras it is not saved.

    Raises:
        ValueError: `use_cudnn=True`, and cuDNN can't compute this layer here.

    >>> import numpy as np
    >>> x = np.ones((2, 5, 3), "float32")
    >>> _, h, c = LSTM(4, return_state=True)(x)          # an encoder's states …
    >>> LSTM(4)(x, initial_state=[h, c]).shape == (2, 4)  # … start a decoder
    True
    """

    cell_class = LSTMCell


@keras.saving.register_keras_serializable(package="unfold")
class SRU(CellRNN):
    """The simple recurrent unit; see `layers.SRUCell` for the equations. The state is (h, c).

    Args: those of `layers.SRUCell`, then those of `layers.RNN`.

    >>> import numpy as np
    >>> SRU(4, highway_bias=-2.0, return_sequences=True)(np.ones((2, 5, 3), "float32")).shape == (2, 5, 4)
    True
    """

    cell_class = SRUCell


@keras.saving.register_keras_serializable(package="unfold")
class QRNN(CellRNN):
    """The quasi-recurrent network; see `layers.QRNNCell` for the equations. The state is (h, c), and with `window=2` a third.

    Args: those of `layers.QRNNCell`, then those of `layers.RNN`.

    >>> import numpy as np
    >>> QRNN(4, window=1, zoneout=0.1)(np.ones((2, 5, 3), "float32"), training=True).shape == (2, 4)
    True
    """

    cell_class = QRNNCell


@keras.saving.register_keras_serializable(package="unfold")
class MinGRU(CellRNN):
    """The minimal GRU; see `layers.MinGRUCell` for the equations.

    Args: those of `layers.MinGRUCell`, then those of `layers.RNN`.

    >>> import numpy as np
    >>> MinGRU(4)(np.ones((2, 5, 3), "float32")).shape == (2, 4)
    True
    """

    cell_class = MinGRUCell


@keras.saving.register_keras_serializable(package="unfold")
class SSRU(CellRNN):
    """The simpler simple recurrent unit; see `layers.SSRUCell` for the equations. The state is (h, c).

    Args: those of `layers.SSRUCell`, then those of `layers.RNN`.

    >>> import numpy as np
    >>> SSRU(4)(np.ones((2, 5, 3), "float32")).shape == (2, 4)
    True
    """

    cell_class = SSRUCell
