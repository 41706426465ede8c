"""A cell whose gates depend on the input, and on each unit of the state alone: SRU."""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from layers import bptt
from layers.base_cell import RecurrentCell, Tensor
from layers.linear_recurrences import emit
from layers.products import Elementwise


@keras.saving.register_keras_serializable(package="unfold")
class SRUCell(RecurrentCell):
    """The simple recurrent unit (Lei et al. 2018, https://arxiv.org/abs/1709.02755).

        f  = sigma(W_f x + v_f * c + b_f)             forget gate
        r  = sigma(W_r x + v_r * c + b_r)             reset gate
        c' = f * c + (1 - f) * W_c x
        h' = r * phi(c') + (1 - r) * x~               phi = linear; x~ = a x, or W_x x where x has not `units` features

    The gates depend on the state, each unit on itself alone, so c is no linear recurrence: its loop is that of the other cells,
    without their product. All else is computed after it, for all steps at once. a = sqrt(1 + 2 exp(highway_bias)) keeps the
    variance of x in h, and the weights start as published: W in +-sqrt(3 / features), v in +-sqrt(3), both times sqrt(1/2) in the
    gates. Weight columns are in the order f, r, c, x; the state is c.

    Args: those of `RecurrentCell`, and
        highway_bias: b_r at the start; below 0 the layer is nearer to its input.
        rescale: False leaves out a and the sqrt(1/2).

    >>> import numpy as np
    >>> output, (c,) = SRUCell(4)(np.ones((2, 3), "float32"), [np.zeros((2, 4), "float32")])
    >>> output.shape == c.shape == (2, 4)
    True
    """

    gates = 2  # of the loop: f and the candidate
    residuals = 2
    product = Elementwise
    recurrent_gates = 1

    def __init__(
        self,
        units: int,
        activation: str | Callable | None = "linear",
        recurrent_activation: str | Callable | None = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "lecun_uniform",
        recurrent_initializer: Any = None,
        *args: Any,
        highway_bias: float = 0.0,
        rescale: bool = True,
        **kwargs: Any,
    ) -> None:
        if recurrent_initializer is None:
            recurrent_initializer = keras.initializers.RandomUniform(-(1.5**0.5), 1.5**0.5)
        super().__init__(
            units, activation, recurrent_activation, use_bias, kernel_initializer, recurrent_initializer, *args, **kwargs
        )
        if isinstance(highway_bias, bool) or not isinstance(highway_bias, (int, float)) or not abs(highway_bias) <= 100:
            raise ValueError(f"SRUCell: highway_bias is {highway_bias!r}; expected a number in [-100, 100]. Pass -2, say, or 0.")
        if highway_bias and not self.use_bias:
            raise ValueError("SRUCell: highway_bias is set, but use_bias is False. Leave one of them out.")
        if type(self).recur is not RecurrentCell.recur:
            raise ValueError("SRUCell: `recur` is not used. Override `step`.")
        self.highway_bias, self.rescale = highway_bias, rescale

    @property
    def skip_scale(self) -> float:
        """a."""
        return (1 + 2 * math.exp(self.highway_bias)) ** 0.5 if self.rescale else 1.0

    @property
    def bias_shape(self) -> tuple[int, ...]:
        return (2 * self.units,)

    def build(self, input_shape: tuple) -> None:
        given, given_bias, units, gate_scale = self.kernel_initializer, self.bias_initializer, self.units, 0.5**0.5
        blocks = 3 if input_shape[-1] == units else 4
        scales = [gate_scale, gate_scale, 1.0, self.skip_scale][:blocks] if self.rescale else [1.0] * blocks

        def scaled(shape, dtype=None):
            columns = ops.split(given(shape, dtype=dtype), blocks, axis=-1)
            return ops.concatenate([scale * part for scale, part in zip(scales, columns)], axis=-1)

        def with_highway_bias(shape, dtype=None):
            f, r = ops.split(given_bias(shape, dtype=dtype), 2)
            return ops.concatenate([f, r + self.highway_bias], axis=0)

        self.kernel_initializer, self.bias_initializer = scaled, with_highway_bias
        self._add_weights(input_shape[-1], blocks * units)
        self.kernel_initializer, self.bias_initializer = given, given_bias
        self.built = True

    @property
    def recurrent_kernel_shape(self) -> tuple[int, ...]:
        return (2 * self.units,)

    def project(self, inputs: Tensor, add_bias: bool = True) -> list[Tensor]:
        """W_f x, W_r x, W_c x and x~; the biases belong to the gates."""
        projected = super().project(inputs, add_bias=False)
        return projected if len(projected) == 4 else [*projected, self.skip_scale * inputs]

    def _vectors(self, dtype: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """v_f, v_r, b_f, b_r."""
        v = ops.cast(self.recurrent_weights, dtype)
        b = ops.zeros_like(v) if self.bias is None else ops.cast(self.bias, dtype)
        return *ops.split(v, 2), *ops.split(b, 2)

    def step(self, projected: list, states: list, dropout_mask: Tensor | None = None) -> tuple[Tensor, list]:
        x_f, x_r, x_c, skip = projected
        v_f, v_r, b_f, b_r = self._vectors(skip.dtype)
        hidden = states[0] if dropout_mask is None else states[0] * dropout_mask
        (c,), _ = self.equations([x_f, x_c], [v_f * hidden + b_f], states, self.activation, self.recurrent_activation)
        return self._output(x_r + v_r * hidden + b_r, c, skip), [c]

    def _output(self, z: Tensor, c: Tensor, skip: Tensor) -> Tensor:
        return skip + self.recurrent_activation(z) * (self.activation(c) - skip)

    @property
    def is_unfolded(self) -> bool:  # type: ignore[override]
        return self.has_gradient

    def unfold_steps(self, inputs, states, mask, dropout_mask, reverse, sequences, training, jit_compile):
        """All steps: inputs (time, batch, features), mask (time, batch, 1) -> last output, outputs, final states."""
        x_f, x_r, x_c, skip = self.project(inputs)
        v_f, v_r, b_f, b_r = self._vectors(skip.dtype)
        loop = bptt.Loop(self.pointwise, self.units, reverse, sequences=True)
        constants = bptt.Constants(v_f, recurrent_bias=b_f, dropout_mask=dropout_mask)
        last_c, c, _ = bptt.run(loop, bptt.Inputs(constants, tuple(states), ((x_f, x_c), mask)), training, jit_compile)
        hidden = constants.drop(bptt.shift(states[0], c, reverse))

        def output(hidden, x_r, c, skip):
            return self._output(x_r + v_r * hidden + b_r, c, skip)

        return *emit(output, [hidden, x_r, c, skip], sequences, mask, reverse, training, jit_compile), [last_c]

    @staticmethod
    def equations(x, r, states, phi, sigma):
        f = sigma(x[0] + r[0])
        return [x[1] + f * (states[0] - x[1])], [f, x[1]]

    @staticmethod
    def gradient(d_states, before, after, residuals, phi, sigma):
        d, (f, candidate) = d_states[0], residuals
        d_f = d * (before[0] - candidate) * sigma.derivative(f)
        return [d_f, d * (1 - f)], [d_f], [d * f]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "highway_bias": self.highway_bias, "rescale": self.rescale}
