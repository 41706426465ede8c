"""What every recurrent cell has: weights, the two matrix products, dropout, and the equations left to the subclass."""

import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import activations, constraints, initializers, ops, regularizers

from layers.dropout import CellDropout
from layers.pointwise import DERIVATIVES, Activation, Pointwise
from layers.products import Dense

Tensor = Any


class RecurrentCell(keras.layers.Layer, CellDropout):
    """What the cells share: the weights, the two matrix products and the arguments of Keras' own cells.

    A subclass sets `gates` and `state_count` and writes `equations`. With `gradient` (and `residuals`, `products`) its layer
    trains on the fast path; without, the backend differentiates the equations. Both are static methods then; `gradient`
    returns three lists: d_x and d_r, a tensor for each gate, and d_before, one for each state. The loop is compiled once:
    `equations` may read attributes of the class, but not globals that change. `layers.check_gradient(cell)` compares the
    two. A subclass of such a cell that overrides `equations`, `project`, `recur`, `step` or `call` is differentiated by the
    backend, unless it also writes a `gradient` of its own.

    Args:
        units: size of the state.
        activation: phi, for the candidate state. Default `tanh`.
        recurrent_activation: sigma, for the gates. Default `sigmoid`.
        use_bias: whether the projections have a bias.
        kernel_initializer, recurrent_initializer, bias_initializer: as in Keras; `glorot_uniform`, `orthogonal`, `zeros`.
        kernel_regularizer, recurrent_regularizer, bias_regularizer: as in Keras.
        kernel_constraint, recurrent_constraint, bias_constraint: as in Keras.
        dropout: rate at which inputs are dropped, the same ones at every step of a sequence (Gal & Ghahramani 2016,
            https://arxiv.org/abs/1512.05287).
        recurrent_dropout: rate at which units of the state are dropped before the recurrent product, the same ones at every step.
        recurrent_weight_dropout: rate at which single weights of the recurrent product are dropped in training, the same ones at
            every step of a batch (Merity et al. 2018, https://arxiv.org/abs/1708.02182).
        seed: for all three.
        implementation: accepted for Keras' configurations; there is one.

    Shapes:
        `cell(inputs, states)`: inputs (batch, features), states a list of (batch, units); returns `(output, states)`.

    Raises:
        ValueError: `units` is not a positive integer, or a dropout rate is outside [0, 1).
    """

    gates = 1  # blocks of `units` columns in the kernels
    state_count = 1
    residuals = 0  # tensors that `equations` keeps for `gradient`
    products = 0  # of how many last gates the gradients of x and r differ
    product: Any = Dense  # how the gates depend on the state
    recurrent_gates = 1  # how many do, the first ones: all, unless a class says otherwise
    is_unfolded = False  # whether `unfold_steps` computes all steps at once; see `LinearCell`
    unfold_steps: Any = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "gates" in vars(cls) and "recurrent_gates" not in vars(cls):
            cls.recurrent_gates = cls.gates

    def __init__(
        self,
        units: int,
        activation: str | Callable | None = "tanh",
        recurrent_activation: str | Callable | None = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        *,
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        recurrent_weight_dropout: float = 0.0,
        seed: int | None = None,
        implementation: int = 2,
        **kwargs: Any,
    ) -> None:
        name = type(self).__name__
        if isinstance(units, bool) or not isinstance(units, (int, np.integer)) or units <= 0:
            raise ValueError(f"{name}: units is {units!r}; expected a positive integer. Pass the size of the state.")
        rates = {"dropout": dropout, "recurrent_dropout": recurrent_dropout, "recurrent_weight_dropout": recurrent_weight_dropout}
        for label, rate in rates.items():
            if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate < 1:
                raise ValueError(f"{name}: {label} is {rate!r}; expected a rate in [0, 1). Pass the fraction to drop.")
        super().__init__(**kwargs)
        self.units = int(units)
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
        self.recurrent_weight_dropout = recurrent_weight_dropout
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.reset_dropout_mask()
        self.reset_recurrent_dropout_mask()

    @property
    def state_size(self) -> int | list[int]:
        return self.units if self.state_count == 1 else [self.units] * self.state_count

    @property
    def output_size(self) -> int:
        return self.units

    @property
    def bias_shape(self) -> tuple[int, ...]:
        return (self.gates * self.units,)

    @property
    def recurrent_kernel_shape(self) -> tuple[int, ...] | None:
        return self.product.shape(self.units, self.recurrent_gates)

    def build(self, input_shape: tuple) -> None:
        self._add_weights(input_shape[-1], self.gates * self.units)
        self.built = True

    def _add_weights(self, features: int, width: int) -> None:
        self.kernel = self.add_weight(
            shape=(features, width),
            name="kernel",
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        if self.recurrent_kernel_shape:
            self.recurrent_kernel = self.add_weight(
                shape=self.recurrent_kernel_shape,
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

    # -- the two matrix products

    def input_bias(self) -> Tensor | None:
        return self.bias

    def recurrent_bias(self) -> Tensor | None:
        return None

    def project(self, inputs: Tensor, add_bias: bool = True) -> list[Tensor]:
        """`x W + b` for inputs of any leading shape: (…, features) -> for each gate (…, units).

        The inputs of all steps are multiplied gate by gate, as loops read contiguous buffers faster; those of one step at once,
        as cutting up W would cost more than the product.
        """
        kernel = ops.cast(self.kernel, inputs.dtype)
        bias, blocks = self.input_bias() if add_bias else None, kernel.shape[-1] // self.units
        bias = None if bias is None else ops.cast(bias, inputs.dtype)
        if len(inputs.shape) == 2:
            product = ops.matmul(inputs, kernel)
            return ops.split(product if bias is None else product + bias, blocks, axis=-1)
        projected = [ops.matmul(inputs, part) for part in ops.split(kernel, blocks, axis=-1)]
        return projected if bias is None else [x + b for x, b in zip(projected, ops.split(bias, blocks))]

    def recur(self, hidden: Tensor) -> list[Tensor]:
        """`s U`, with the recurrent bias where a cell has one: (batch, units) -> for each gate (batch, units)."""
        kernel, bias = ops.cast(self.recurrent_weights, hidden.dtype), self.recurrent_bias()
        bias = None if bias is None else ops.cast(bias, hidden.dtype)
        return self.product.forward(hidden, kernel, bias, self.recurrent_gates)

    # -- one step

    @staticmethod
    def equations(x: list, r: list, states: list, phi: Callable, sigma: Callable) -> tuple[list, list]:
        """The pointwise step. Returns the new states, and what `gradient` needs besides the states."""
        raise NotImplementedError(
            "RecurrentCell: the class has no equations(x, r, states, phi, sigma). Write them; see layers/cells.py for ten lines."
        )

    @classmethod
    def checked(cls, function: str, result: Any, **counts: int | None) -> Any:
        """What `equations` or `gradient` returned, if it has the form that the engine needs.

        Raises:
            ValueError: it is not a tuple of lists of these lengths.
        """
        names = f"({', '.join(counts)})"
        lists = (
            isinstance(result, tuple) and len(result) == len(counts) and all(isinstance(part, (list, tuple)) for part in result)
        )
        if not lists:
            raise ValueError(
                f"{cls.__name__}.{function} returned a {type(result).__name__}; expected {names}, each a list. Return a tuple."
            )
        for (name, count), part in zip(counts.items(), result):
            if count is not None and len(part) != count:
                remedy = (
                    f"Set `residuals = {len(part)}` in the class." if name == "residuals" else "Check `gates` and `state_count`."
                )
                raise ValueError(
                    f"{cls.__name__}.{function} returned {len(part)} tensor(s) as {name}; expected {count}. {remedy}"
                )
        return result

    gradient: Any = None  # (d_states, before, after, residuals, phi, sigma) -> (d_x, d_r, d_before)

    @property
    def has_gradient(self) -> bool:
        """Whether the engine may use `gradient`: it is that of the equations in force, and the activations have a derivative."""
        return not self.why_no_gradient()

    def why_no_gradient(self) -> str:
        """Why the backend differentiates this cell; empty if it does not."""
        if self.gradient is None:
            return "it has none. Write `gradient` next to `equations`."
        for activation in (self.activation, self.recurrent_activation):
            if activation not in DERIVATIVES:
                name = getattr(activation, "__name__", activation)
                return f"the derivative of {name} is not known. Use tanh, sigmoid, relu or linear."
        author = self._author("gradient")
        for name in ("equations", "project", "recur", "step", "call"):
            if author > self._author(name):
                return f"a subclass overrides `{name}`. Write `gradient` in the class that does, or leave it to the backend."
        for name in ("equations", "gradient"):
            if not isinstance(inspect.getattr_static(self, name), staticmethod):
                return f"`{name}` is not a static method. Write @staticmethod above it, and no self."
        return ""

    @property
    def call_is_step(self) -> bool:
        """Whether a step is `step` of the projected input, so that the inputs of all steps can be projected at once."""
        return type(self).call is RecurrentCell.call and "call" not in vars(self)

    @property
    def has_plain_project(self) -> bool:
        """Whether `project` treats each row alone, however many axes are before it: another one need not."""
        return type(self).project is RecurrentCell.project and "project" not in vars(self)

    def _author(self, name: str) -> int:
        """How far up the class that wrote this method is: -1 the cell itself, 0 its class, 1 the parent…"""
        if name in vars(self):
            return -1
        return next(i for i, parent in enumerate(type(self).__mro__) if name in vars(parent))

    @property
    def pointwise(self) -> Pointwise:
        classes = [parent for parent in type(self).__mro__ if issubclass(parent, RecurrentCell)]
        values = [item for parent in classes for item in vars(parent).items()]
        settings = tuple(item for item in values if isinstance(item[1], (bool, int, float, str, staticmethod)))
        return Pointwise(type(self), Activation(self.activation), Activation(self.recurrent_activation), settings)

    def step(self, projected: list, states: list, dropout_mask: Tensor | None = None) -> tuple[Tensor, list]:
        """One step from a projected input: `(output, new states)`."""
        hidden = states[0] if dropout_mask is None else states[0] * dropout_mask
        result = self.equations(projected, self.recur(hidden), states, self.activation, self.recurrent_activation)
        new, _ = self.checked("equations", result, new_states=self.state_count, residuals=None)
        return new[0], list(new)

    def call(self, inputs: Tensor, states: Any, training: bool = False) -> tuple[Tensor, Any]:
        states = keras.tree.flatten(states)
        dropped, dropout_mask = self.dropout_masks(inputs, states[0], training)
        with self.weight_dropout(training):
            return self.step(self.project(inputs if dropped is None else inputs * dropped), states, dropout_mask)

    def get_initial_state(self, batch_size: int | None = None) -> list[Tensor]:
        return [ops.zeros((batch_size, size), dtype=self.compute_dtype) for size in keras.tree.flatten(self.state_size)]

    def get_config(self) -> dict[str, Any]:
        config = {name: getattr(self, name) for name in ("units", "use_bias", "dropout", "recurrent_dropout", "seed")}
        for name in ("activation", "recurrent_activation"):
            config[name] = activations.serialize(getattr(self, name))
        for part in ("kernel", "recurrent", "bias"):
            config[f"{part}_initializer"] = initializers.serialize(getattr(self, f"{part}_initializer"))
            config[f"{part}_regularizer"] = regularizers.serialize(getattr(self, f"{part}_regularizer"))
            config[f"{part}_constraint"] = constraints.serialize(getattr(self, f"{part}_constraint"))
        if self.recurrent_weight_dropout:  # the twins of Keras don't know it
            config["recurrent_weight_dropout"] = self.recurrent_weight_dropout
        return {**super().get_config(), **config}
