"""Cells whose gates depend on the input alone: MinGRU, SSRU, and QRNN in `layers/qrnn.py`.

The products of all steps are one, and what is left of time is `c_t = f_t * c_{t-1} + (1 - f_t) * x~_t`, which
`layers.linear_recurrence` solves. They train faster than an LSTM of as many units, on a processor by what they save in products,
and are weaker: the state is an average of what the input chose, so no number of layers knows the parity of sequences of every
length (Grazzi et al. 2024, https://arxiv.org/abs/2411.12537), and counts fade. Two to four layers are meant.

A new cell is ten lines. This one averages its inputs, each unit over its own time:

>>> import keras, numpy as np
>>> from layers import RNN, LinearCell
>>> @keras.saving.register_keras_serializable()
... class AverageCell(LinearCell):
...     gates = 2
...     @staticmethod
...     def recurrence(x, phi, sigma):
...         decay = sigma(x[0])
...         return decay, (1 - decay) * x[1]
>>> RNN(AverageCell(8))(np.ones((2, 5, 3), "float32")).shape
TensorShape([2, 8])
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from layers import linear_recurrences
from layers.base_cell import RecurrentCell, Tensor
from layers.linear_recurrences import emit

NO_PRODUCT = (
    "recurrent_initializer",
    "recurrent_regularizer",
    "recurrent_constraint",
    "recurrent_dropout",
    "recurrent_weight_dropout",
)


class LinearCell(RecurrentCell):
    """What the cells share whose state is a linear recurrence,

        c' = decay(x) * c + inputs(x)
        h' = output(x, c')

    The state is c. A subclass sets `gates` and writes `recurrence`, the pointwise function of the projected input that gives
    decay and inputs, and `output` where h is not c. Both are static methods, and the backend differentiates them; the recurrence
    has a gradient by hand. A subclass that overrides `step` or `call` is run step by step.

    Args: those of `RecurrentCell`, without the four of the recurrent product. `dropout` drops inputs.

    Raises:
        ValueError: as `RecurrentCell`; an argument of the recurrent product.
    """

    def __init__(
        self,
        units: int,
        activation: str | Callable | None = "linear",
        recurrent_activation: str | Callable | None = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        **kwargs: Any,
    ) -> None:
        for name in ("equations", "gradient", "recur"):
            if getattr(type(self), name) is not getattr(RecurrentCell, name):
                raise ValueError(f"{type(self).__name__}: `{name}` is not used by a LinearCell. Write `recurrence` instead.")
        for name in NO_PRODUCT:
            if kwargs.pop(name, None):
                raise ValueError(f"{type(self).__name__}: {name} is set, but the cell has no recurrent product. Leave it out.")
        super().__init__(
            units, activation, recurrent_activation, use_bias, kernel_initializer, bias_initializer=bias_initializer, **kwargs
        )

    @property
    def call_is_step(self) -> bool:
        return type(self).call is LinearCell.call and "call" not in vars(self)

    @property
    def is_unfolded(self) -> bool:  # type: ignore[override]
        return self._author("step") >= self._author("unfold_steps")

    @property
    def recurrent_kernel_shape(self) -> None:
        return None

    @staticmethod
    def recurrence(x: list, phi: Callable, sigma: Callable) -> tuple[Tensor, Tensor]:
        """The decay and the inputs of the recurrence, from the projected inputs of each gate."""
        raise NotImplementedError(
            "LinearCell: the class has no recurrence(x, phi, sigma). Write it; see layers/linear_cells.py for ten lines."
        )

    @staticmethod
    def output(x: list, c: Tensor, phi: Callable, sigma: Callable) -> Tensor:
        return c

    def decay_and_inputs(self, projected: list, training: bool) -> tuple[Tensor, Tensor]:
        return self.recurrence(projected, self.activation, self.recurrent_activation)

    def step(
        self, projected: list, states: list, dropout_mask: Tensor | None = None, training: bool = False
    ) -> tuple[Tensor, list]:
        decay, inputs = self.decay_and_inputs(projected, training)
        c = decay * states[0] + inputs
        return self.output(projected, c, self.activation, self.recurrent_activation), [c]

    def call(self, inputs: Tensor, states: Any, training: bool = False) -> tuple[Tensor, Any]:
        dropped, _ = self.dropout_masks(inputs, inputs, training)
        projected = self.project(inputs if dropped is None else inputs * dropped)
        return self.step(projected, keras.tree.flatten(states), training=training)

    def unfold_steps(self, inputs, states, mask, dropout_mask, reverse, sequences, training, jit_compile):
        """All steps at once: inputs (time, batch, features), mask (time, batch, 1) -> last output, outputs, final states."""
        return self.solve(self.project(inputs), states, mask, reverse, sequences, training, jit_compile)

    def solve(self, projected, states, mask, reverse, sequences, training, jit_compile):
        how = (mask, reverse, training, jit_compile)
        decay, inputs = self.decay_and_inputs(projected, training)
        c, last_c = linear_recurrences.run(decay, inputs, states[0], *how)
        if type(self).output is LinearCell.output:  # h is c
            return last_c, (c if sequences else None), [last_c]

        def output(c, *projected):
            return self.output(list(projected), c, self.activation, self.recurrent_activation)

        return *emit(output, [c, *projected], sequences, *how), [last_c]

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        for name in NO_PRODUCT:
            config.pop(name, None)
        return config


@keras.saving.register_keras_serializable(package="unfold")
class MinGRUCell(LinearCell):
    """The minimal GRU (Feng et al. 2024, https://arxiv.org/abs/2410.01201), not in log space: its states may be negative.

        z  = sigma(W_z x + b_z)
        h' = (1 - z) * h + z * phi(W_h x + b_h)       phi = linear, as in the paper

    Weight columns are in the order z, h. Args: those of `LinearCell`.

    >>> import numpy as np
    >>> output, states = MinGRUCell(4)(np.ones((2, 3), "float32"), [np.zeros((2, 4), "float32")])
    >>> output.shape == (2, 4) and len(states) == 1
    True
    """

    gates = 2

    @staticmethod
    def recurrence(x, phi, sigma):
        z = sigma(x[0])
        return 1 - z, z * phi(x[1])


@keras.saving.register_keras_serializable(package="unfold")
class SSRUCell(LinearCell):
    """The simpler simple recurrent unit (Kim et al. 2019, https://aclanthology.org/D19-5632), made for fast decoders.

        f  = sigma(W_f x + b_f)
        c' = f * c + (1 - f) * W_c x
        h' = phi(c')                                  phi = relu

    Weight columns are in the order f, c; the state is c. Args: those of `LinearCell`.

    >>> import numpy as np
    >>> output, (c,) = SSRUCell(4)(np.ones((2, 3), "float32"), [np.zeros((2, 4), "float32")])
    >>> bool(np.all(np.asarray(output) >= 0))
    True
    """

    gates = 2

    def __init__(self, units: int, activation: str | Callable | None = "relu", *args: Any, **kwargs: Any) -> None:
        super().__init__(units, activation, *args, **kwargs)

    @property
    def bias_shape(self) -> tuple[int, ...]:
        return (self.units,)

    def input_bias(self) -> Tensor | None:
        bias = self.bias if self.bias is None else ops.convert_to_tensor(self.bias)
        return None if bias is None else ops.concatenate([bias, ops.zeros_like(bias)], axis=0)

    @staticmethod
    def recurrence(x, phi, sigma):
        f = sigma(x[0])
        return f, (1 - f) * x[1]

    @staticmethod
    def output(x, c, phi, sigma):
        return phi(c)
