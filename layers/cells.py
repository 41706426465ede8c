"""One step of a recurrent network: the equations, and nothing about time.

Every cell computes, from the input x, the state s before it and a small set of weights, the state after it. With
`x = x W + b` for the projected input and `r = s U` for the recurrent product, a cell is one pointwise function of x, r
and s: its `equations`. The derivative of that function is its `gradient`. Matrix products, dropout, masks and time
belong to `layers.recurrence`.

A new cell is ten lines. This one is the update gate alone, with the reset of a GRU left out:

>>> import keras, numpy as np
>>> from layers import RNN, RecurrentCell
>>> class LeakyCell(RecurrentCell):
...     gates = 1
...     @staticmethod
...     def equations(x, r, states, phi, sigma):
...         s = states[0]
...         return [0.9 * s + 0.1 * phi(x[0] + r[0])], []
>>> RNN(LeakyCell(8))(np.ones((2, 5, 3), "float32")).shape
TensorShape([2, 8])
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import activations, constraints, initializers, ops, regularizers

Tensor = Any

# The derivative of an activation, from its output.
SLOPES: dict[Callable, Callable] = {
    activations.tanh: lambda y: 1 - y * y,
    activations.sigmoid: lambda y: y * (1 - y),
    activations.relu: lambda y: ops.cast(y > 0, y.dtype),
    activations.linear: ops.ones_like,
}


class Activation(NamedTuple):
    """`phi(z)` is the activation; `phi.slope(y)` its derivative where the output is y."""

    function: Callable

    def __call__(self, z: Tensor) -> Tensor:
        return self.function(z)

    def slope(self, y: Tensor) -> Tensor:
        return SLOPES[self.function](y)


class Pointwise(NamedTuple):
    """The pointwise part of a cell without its weights: what the two loops of the engine run at each step."""

    cell: type["RecurrentCell"]
    phi: Any
    sigma: Any

    @property
    def kept(self) -> int:
        return self.cell.kept

    @property
    def products(self) -> int:
        return self.cell.products

    def equations(self, x: list, r: list, states: list) -> tuple[list, list]:
        return self.cell.equations(x, r, states, self.phi, self.sigma)

    def gradient(self, d_states: list, before: list, after: list, kept: list) -> tuple[list, list, list]:
        return self.cell.gradient(d_states, before, after, kept, self.phi, self.sigma)


class RecurrentCell(keras.layers.Layer):
    """What the cells share: the weights, the two matrix products and the arguments of Keras' own cells.

    A subclass sets `gates` and `state_count` and writes `equations`. With `gradient` (and `kept`, `products`) its layer
    trains on the fast path; without, the backend differentiates the equations.

    Args:
        units: size of the state.
        activation: phi, for the candidate state. Default `tanh`.
        recurrent_activation: sigma, for the gates. Default `sigmoid`.
        use_bias: whether the projections have a bias.
        kernel_initializer, recurrent_initializer, bias_initializer: as in Keras; `glorot_uniform`, `orthogonal`, `zeros`.
        kernel_regularizer, recurrent_regularizer, bias_regularizer: as in Keras.
        kernel_constraint, recurrent_constraint, bias_constraint: as in Keras.
        dropout: share of the inputs dropped, the same ones at every step of a sequence (Gal & Ghahramani 2016,
            https://arxiv.org/abs/1512.05287).
        recurrent_dropout: share of the state dropped before the recurrent product, the same units at every step.
        seed: for both dropouts.

    Shapes:
        `cell(inputs, states)`: inputs (batch, features), states a list of (batch, units); returns `(output, states)`.

    Raises:
        ValueError: `units` is not a positive integer, or a dropout rate is outside [0, 1).
    """

    gates = 1  # blocks of `units` columns in the kernels
    state_count = 1
    kept = 0  # tensors that `equations` keeps for `gradient`
    products = 0  # of how many last gates the gradients of x and r differ

    def __init__(
        self,
        units: int,
        activation: str | Callable | None = "tanh",
        recurrent_activation: str | Callable | None = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        name = type(self).__name__
        if isinstance(units, bool) or not isinstance(units, int) or units <= 0:
            raise ValueError(f"{name}: units is {units!r}; expected a positive integer. Pass the size of the state.")
        for label, rate in (("dropout", dropout), ("recurrent_dropout", recurrent_dropout)):
            if not 0 <= rate < 1:
                raise ValueError(f"{name}: {label} is {rate!r}; expected a share in [0, 1). Pass the share of units to drop.")
        super().__init__(**kwargs)
        self.units = units
        self.activation = activations.get(activation)
        self.recurrent_activation = activations.get(recurrent_activation)
        self.use_bias = use_bias
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.recurrent_initializer = initializers.get(recurrent_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.recurrent_regularizer = regularizers.get(recurrent_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.kernel_constraint = constraints.get(kernel_constraint)
        self.recurrent_constraint = constraints.get(recurrent_constraint)
        self.bias_constraint = constraints.get(bias_constraint)
        self.dropout = dropout
        self.recurrent_dropout = recurrent_dropout
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    @property
    def state_size(self) -> int | list[int]:
        return self.units if self.state_count == 1 else [self.units] * self.state_count

    @property
    def output_size(self) -> int:
        return self.units

    @property
    def bias_shape(self) -> tuple[int, ...]:
        return (self.gates * self.units,)

    def build(self, input_shape: tuple) -> None:
        width = self.gates * self.units
        self.kernel = self.add_weight(
            shape=(input_shape[-1], width),
            name="kernel",
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        self.recurrent_kernel = self.add_weight(
            shape=(self.units, width),
            name="recurrent_kernel",
            initializer=self.recurrent_initializer,
            regularizer=self.recurrent_regularizer,
            constraint=self.recurrent_constraint,
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                shape=self.bias_shape,
                name="bias",
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )
        self.built = True

    # -- the two matrix products

    def input_bias(self) -> Tensor | None:
        return self.bias

    def recurrent_bias(self) -> Tensor | None:
        return None

    def project(self, inputs: Tensor) -> list[Tensor]:
        """`x W + b` for inputs of any leading shape: (…, features) -> for each gate (…, units)."""
        kernels = ops.split(ops.cast(self.kernel, inputs.dtype), self.gates, axis=-1)
        projected = [ops.matmul(inputs, kernel) for kernel in kernels]
        bias = self.input_bias()
        if bias is None:
            return projected
        return [x + b for x, b in zip(projected, ops.split(ops.cast(bias, inputs.dtype), self.gates))]

    def recur(self, hidden: Tensor) -> list[Tensor]:
        """`s U`, with the recurrent bias where a cell has one: (batch, units) -> for each gate (batch, units)."""
        product = ops.matmul(hidden, ops.cast(self.recurrent_kernel, hidden.dtype))
        bias = self.recurrent_bias()
        return ops.split(product if bias is None else product + ops.cast(bias, product.dtype), self.gates, axis=-1)

    # -- one step

    @staticmethod
    def equations(x: list, r: list, states: list, phi: Callable, sigma: Callable) -> tuple[list, list]:
        """The pointwise step. Returns the new states, and what `gradient` needs besides the states."""
        raise NotImplementedError("A RecurrentCell needs equations(x, r, states, phi, sigma).")

    gradient: Any = None  # (d_states, before, after, kept, phi, sigma) -> (d_x, d_r, d_before)

    @property
    def has_gradient(self) -> bool:
        """Whether the engine may use `gradient`: it is written, and the activations have a slope in `SLOPES`."""
        return self.gradient is not None and {self.activation, self.recurrent_activation} <= SLOPES.keys()

    @property
    def pointwise(self) -> Pointwise:
        return Pointwise(type(self), Activation(self.activation), Activation(self.recurrent_activation))

    def step(self, projected: list, states: list, dropout_mask: Tensor | None = None) -> tuple[Tensor, list]:
        """One step from a projected input: `(output, new states)`."""
        hidden = states[0] if dropout_mask is None else states[0] * dropout_mask
        new, _ = self.equations(projected, self.recur(hidden), states, self.activation, self.recurrent_activation)
        return new[0], new

    def call(self, inputs: Tensor, states: Any, training: bool = False) -> tuple[Tensor, Any]:
        states = keras.tree.flatten(states)
        dropped, dropout_mask = self.dropout_masks(inputs, states[0], training)
        return self.step(self.project(inputs if dropped is None else inputs * dropped), states, dropout_mask)

    def dropout_masks(self, inputs: Tensor, hidden: Tensor, training: bool) -> tuple[Tensor | None, Tensor | None]:
        """Masks for inputs (batch, features) and state (batch, units): 0 or 1 / keep share; None where nothing drops."""

        def draw(like, rate):
            if not (training and rate):
                return None
            return keras.random.dropout(ops.ones_like(like), rate, seed=self.seed_generator)

        return draw(inputs, self.dropout), draw(hidden, self.recurrent_dropout)

    def get_initial_state(self, batch_size: int | None = None) -> list[Tensor]:
        return [ops.zeros((batch_size, self.units), dtype=self.compute_dtype) for _ in range(self.state_count)]

    def get_config(self) -> dict[str, Any]:
        config = {name: getattr(self, name) for name in ("units", "use_bias", "dropout", "recurrent_dropout", "seed")}
        for name in ("activation", "recurrent_activation"):
            config[name] = activations.serialize(getattr(self, name))
        for part in ("kernel", "recurrent", "bias"):
            config[f"{part}_initializer"] = initializers.serialize(getattr(self, f"{part}_initializer"))
            config[f"{part}_regularizer"] = regularizers.serialize(getattr(self, f"{part}_regularizer"))
            config[f"{part}_constraint"] = constraints.serialize(getattr(self, f"{part}_constraint"))
        return {**super().get_config(), **config}


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

    def __init__(self, units: int, activation: str | Callable | None = "tanh", **kwargs: Any) -> None:
        super().__init__(units, activation, recurrent_activation="linear", **kwargs)

    @staticmethod
    def equations(x, r, states, phi, sigma):
        return [phi(x[0] + r[0])], []

    @staticmethod
    def gradient(d_states, before, after, kept, phi, sigma):
        d_z = [d_states[0] * phi.slope(after[0])]
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
    kept = 2

    @staticmethod
    def equations(x, r, states, phi, sigma):
        s = states[0]
        g = sigma(x[0] + r[0])
        candidate = phi(x[1] + r[1])
        return [s + g * (candidate - s)], [g, candidate]

    @staticmethod
    def gradient(d_states, before, after, kept, phi, sigma):
        d, s, (g, candidate) = d_states[0], before[0], kept
        d_z = [d * (candidate - s) * sigma.slope(g), d * g * phi.slope(candidate)]
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
    kept = 4
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
    def gradient(d_states, before, after, kept, phi, sigma):
        d, h, (z, reset, candidate, r_h) = d_states[0], before[0], kept
        d_z = d * (h - candidate) * sigma.slope(z)
        d_candidate = d * (1 - z) * phi.slope(candidate)
        d_reset = d_candidate * r_h * sigma.slope(reset)
        return [d_z, d_reset, d_candidate], [d_z, d_reset, d_candidate * reset], [d * z]

    @property
    def has_gradient(self) -> bool:
        return self.reset_after and super().has_gradient

    def step(self, projected: list, states: list, dropout_mask: Tensor | None = None) -> tuple[Tensor, list]:
        if self.reset_after:
            return super().step(projected, states, dropout_mask)
        h = states[0]
        hidden = h if dropout_mask is None else h * dropout_mask
        kernel = ops.cast(self.recurrent_kernel, h.dtype)
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
    kept = 4

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
    def gradient(d_states, before, after, kept, phi, sigma):
        (d_h, d_c), (_, c_before), (_, c), (i, f, g, o) = d_states, before, after, kept
        phi_c = phi(c)
        d_c = d_c + d_h * o * phi.slope(phi_c)
        d_z = [
            d_c * g * sigma.slope(i),
            d_c * c_before * sigma.slope(f),
            d_c * i * phi.slope(g),
            d_h * phi_c * sigma.slope(o),
        ]
        return d_z, d_z, [None, d_c * f]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "unit_forget_bias": self.unit_forget_bias}
