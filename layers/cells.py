"""One step of a recurrent network: the equations, and nothing about time.

Every cell computes, from the input x, the state s before it and a small set of weights, the state after it. With
`x = x W + b` for the projected input and `r = s U` for the recurrent product, a cell is one pointwise function of x, r
and s: its `equations`. The derivative of that function is its `gradient`. Matrix products, dropout, masks and time
belong to `layers.bptt`.

A new cell is ten lines. This one is a leaky integrator, which moves a tenth of the way to the candidate at every step:

>>> import keras, numpy as np
>>> from layers import RNN, RecurrentCell
>>> @keras.saving.register_keras_serializable()
... class LeakyCell(RecurrentCell):
...     gates = 1
...     @staticmethod
...     def equations(x, r, states, phi, sigma):
...         s = states[0]
...         return [0.9 * s + 0.1 * phi(x[0] + r[0])], []
>>> RNN(LeakyCell(8))(np.ones((2, 5, 3), "float32")).shape
TensorShape([2, 8])
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from layers.base_cell import RecurrentCell, Tensor


@keras.saving.register_keras_serializable(package="unfold")
class SimpleRNNCell(RecurrentCell):
    """The Elman network (Elman 1990, https://doi.org/10.1207/s15516709cog1402_1).

        s' = phi(W_sx x + W_ss s + b)                 phi = tanh

    With `activation="relu", recurrent_initializer="identity"` it is the IRNN (Le, Jaitly & Hinton 2015,
    https://arxiv.org/abs/1504.00941): it starts as an adder that neither forgets nor explodes.

    Args: those of `RecurrentCell`; there is no gate, so no `recurrent_activation`.

    >>> import numpy as np
    >>> cell = SimpleRNNCell(4, activation="relu", recurrent_initializer="identity")
    >>> output, states = cell(np.zeros((2, 3), "float32"), [np.ones((2, 4), "float32")])
    >>> print(np.asarray(output))
    [[1. 1. 1. 1.]
     [1. 1. 1. 1.]]
    """

    def __init__(
        self, units: int, activation: str | Callable | None = "tanh", use_bias: bool = True, *initializers: Any, **kwargs: Any
    ) -> None:
        super().__init__(units, activation, "linear", use_bias, *initializers, **kwargs)

    @staticmethod
    def equations(x, r, states, phi, sigma):
        return [phi(x[0] + r[0])], []

    @staticmethod
    def gradient(d_states, before, after, residuals, phi, sigma):
        d_z = [d_states[0] * phi.derivative(after[0])]
        return d_z, d_z, [None]

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["recurrent_activation"]
        return config


@keras.saving.register_keras_serializable(package="unfold")
class GatedRNNCell(RecurrentCell):
    """The minimal gated unit: one gate that decides how much of the state is written anew (Zhou et al. 2016,
    https://arxiv.org/abs/1603.09420; here without the gate inside the candidate).

        g  = sigma(W_gx x + W_gs s + b_g)
        s' = (1 - g) * s + g * phi(W_sx x + W_ss s + b)

    Weight columns are in the order g, s. Args: those of `RecurrentCell`.

    >>> import numpy as np
    >>> output, states = GatedRNNCell(4)(np.ones((2, 3), "float32"), [np.zeros((2, 4), "float32")])
    >>> output.shape == (2, 4) and len(states) == 1
    True
    """

    gates = 2
    residuals = 2

    @staticmethod
    def equations(x, r, states, phi, sigma):
        s = states[0]
        g = sigma(x[0] + r[0])
        candidate = phi(x[1] + r[1])
        return [s + g * (candidate - s)], [g, candidate]

    @staticmethod
    def gradient(d_states, before, after, residuals, phi, sigma):
        d, s, (g, candidate) = d_states[0], before[0], residuals
        d_z = [d * (candidate - s) * sigma.derivative(g), d * g * phi.derivative(candidate)]
        return d_z, d_z, [d * (1 - g)]


@keras.saving.register_keras_serializable(package="unfold")
class GRUCell(RecurrentCell):
    """The gated recurrent unit (Cho et al. 2014, https://arxiv.org/abs/1406.1078).

        z  = sigma(W_z x + U_z h + b_z)               update gate
        r  = sigma(W_r x + U_r h + b_r)               reset gate
        h~ = phi(W_h x + r * (U_h h + b_u) + b_h)     reset_after=True, the default, as in Keras and cuDNN
        h~ = phi(W_h x + U_h (r * h) + b_h)           reset_after=False, as in the paper
        h' = z * h + (1 - z) * h~

    Weight columns are in the order z, r, h; with `reset_after` the bias has two rows, for x and for h. All are those of
    `keras.layers.GRU`. `reset_after=False` is differentiated by the backend and trains more slowly.

    Args: those of `RecurrentCell`, and `reset_after`.

    >>> import numpy as np
    >>> output, states = GRUCell(4)(np.ones((2, 3), "float32"), [np.zeros((2, 4), "float32")])
    >>> output.shape == (2, 4) and len(states) == 1
    True
    """

    gates = 3
    residuals = 4
    products = 1

    def __init__(self, units: int, *args: Any, reset_after: bool = True, **kwargs: Any) -> None:
        super().__init__(units, *args, **kwargs)
        self.reset_after = reset_after

    @property
    def bias_shape(self) -> tuple[int, ...]:
        return (2, 3 * self.units) if self.reset_after else (3 * self.units,)

    def input_bias(self) -> Tensor | None:
        return self.bias if self.bias is None or not self.reset_after else self.bias[0]

    def recurrent_bias(self) -> Tensor | None:
        return None if self.bias is None or not self.reset_after else self.bias[1]

    @staticmethod
    def equations(x, r, states, phi, sigma):
        h = states[0]
        z, reset = sigma(x[0] + r[0]), sigma(x[1] + r[1])
        candidate = phi(x[2] + reset * r[2])
        return [z * h + (1 - z) * candidate], [z, reset, candidate, r[2]]

    @staticmethod
    def gradient(d_states, before, after, residuals, phi, sigma):
        d, h, (z, reset, candidate, r_h) = d_states[0], before[0], residuals
        d_z = d * (h - candidate) * sigma.derivative(z)
        d_candidate = d * (1 - z) * phi.derivative(candidate)
        d_reset = d_candidate * r_h * sigma.derivative(reset)
        return [d_z, d_reset, d_candidate], [d_z, d_reset, d_candidate * reset], [d * z]

    def why_no_gradient(self) -> str:
        return super().why_no_gradient() if self.reset_after else "it is written for reset_after=True. Use that, as cuDNN does."

    def step(self, projected: list, states: list, dropout_mask: Tensor | None = None) -> tuple[Tensor, list]:
        if self.reset_after:
            return super().step(projected, states, dropout_mask)
        h = states[0]
        hidden = h if dropout_mask is None else h * dropout_mask
        kernel = ops.cast(self.recurrent_weights, h.dtype)
        x_z, x_r, x_h = projected
        u_z, u_r, u_h = ops.split(kernel, 3, axis=-1)
        z = self.recurrent_activation(x_z + ops.matmul(hidden, u_z))
        reset = self.recurrent_activation(x_r + ops.matmul(hidden, u_r))
        candidate = self.activation(x_h + ops.matmul(reset * hidden, u_h))
        h = z * h + (1 - z) * candidate
        return h, [h]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "reset_after": self.reset_after}


@keras.saving.register_keras_serializable(package="unfold")
class LSTMCell(RecurrentCell):
    """Long short-term memory (Hochreiter & Schmidhuber 1997, https://doi.org/10.1162/neco.1997.9.8.1735, with the
    forget gate of Gers et al. 2000, https://doi.org/10.1162/089976600300015015).

        i = sigma(W_i x + U_i h + b_i)                input gate
        f = sigma(W_f x + U_f h + b_f)                forget gate
        g = phi(W_g x + U_g h + b_g)                  candidate
        o = sigma(W_o x + U_o h + b_o)                output gate
        c' = f * c + i * g
        h' = o * phi(c')

    Weight columns are in the order i, f, g, o; the state is (h, c). Both are those of `keras.layers.LSTM`.

    Args: those of `RecurrentCell`, and `unit_forget_bias`: start with b_f = 1, so that the cell remembers (Jozefowicz
        et al. 2015, https://proceedings.mlr.press/v37/jozefowicz15.html). Default True.

    >>> import numpy as np
    >>> zeros = np.zeros((2, 4), "float32")
    >>> output, (h, c) = LSTMCell(4)(np.ones((2, 3), "float32"), [zeros, zeros])
    >>> output.shape == h.shape == c.shape == (2, 4)
    True
    """

    gates = 4
    state_count = 2
    residuals = 4

    def __init__(self, units: int, *args: Any, unit_forget_bias: bool = True, **kwargs: Any) -> None:
        super().__init__(units, *args, **kwargs)
        self.unit_forget_bias = unit_forget_bias

    def build(self, input_shape: tuple) -> None:
        given, units = self.bias_initializer, self.units
        if self.unit_forget_bias:

            def with_forget_bias(shape, dtype=None):
                i, g_o = given((units,), dtype=dtype), given((2 * units,), dtype=dtype)
                return ops.concatenate([i, ops.ones((units,), dtype=dtype), g_o], axis=0)

            self.bias_initializer = with_forget_bias
        super().build(input_shape)
        self.bias_initializer = given

    @staticmethod
    def equations(x, r, states, phi, sigma):
        _, c = states
        i, f, o = sigma(x[0] + r[0]), sigma(x[1] + r[1]), sigma(x[3] + r[3])
        g = phi(x[2] + r[2])
        c = f * c + i * g
        return [o * phi(c), c], [i, f, g, o]

    @staticmethod
    def gradient(d_states, before, after, residuals, phi, sigma):
        (d_h, d_c), (_, c_before), (_, c), (i, f, g, o) = d_states, before, after, residuals
        phi_c = phi(c)
        d_c = d_c + d_h * o * phi.derivative(phi_c)
        d_z = [
            d_c * g * sigma.derivative(i),
            d_c * c_before * sigma.derivative(f),
            d_c * i * phi.derivative(g),
            d_h * phi_c * sigma.derivative(o),
        ]
        return d_z, d_z, [None, d_c * f]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "unit_forget_bias": self.unit_forget_bias}
