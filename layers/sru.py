"""A cell whose gates depend on the input, and on each unit of the state alone: SRU."""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from layers.base_cell import RecurrentCell, Tensor
from layers.products import Elementwise


@keras.saving.register_keras_serializable(package="unfold")
class SRUCell(RecurrentCell):
    """The simple recurrent unit (Lei et al. 2018, https://arxiv.org/abs/1709.02755).

        f  = sigma(W_f x + v_f * c + b_f)             forget gate
        r  = sigma(W_r x + v_r * c + b_r)             reset gate
        c' = f * c + (1 - f) * W_c x
        h' = r * phi(c') + (1 - r) * x~               phi = linear; x~ = a x, or W_x x where x has not `units` features

    The gates depend on the state, each unit on itself alone, so c is no linear recurrence: the loop is that of the other cells,
    without its product. a = sqrt(1 + 2 exp(highway_bias)) keeps the variance of x in h, and the weights start as published: W in
    +-sqrt(3 / features), v in +-sqrt(3), both times sqrt(1/2) in the gates. Weight columns are in the order f, r, c, x; the state
    is (h, c).

    Args: those of `RecurrentCell`, and
        highway_bias: b_r at the start; below 0 the layer is nearer to its input.
        rescale: False leaves out a and the sqrt(1/2).

    >>> import numpy as np
    >>> zeros = np.zeros((2, 4), "float32")
    >>> output, (h, c) = SRUCell(4)(np.ones((2, 3), "float32"), [zeros, zeros])
    >>> output.shape == h.shape == c.shape == (2, 4)
    True
    """

    gates = 4
    state_count = 2
    residuals = 4
    product = Elementwise
    recurrent_state = 1
    recurrent_gates = 2

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
        self.highway_bias, self.rescale = highway_bias, rescale

    @property
    def skip_scale(self) -> float:
        """a."""
        return (1 + 2 * math.exp(self.highway_bias)) ** 0.5 if self.rescale else 1.0

    @property
    def bias_shape(self) -> tuple[int, ...]:
        return (2 * self.units,)

    def input_bias(self) -> Tensor | None:
        return None

    def recurrent_bias(self) -> Tensor | None:
        return self.bias

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

    def project(self, inputs: Tensor, add_bias: bool = True) -> list[Tensor]:
        projected = super().project(inputs, add_bias)
        return projected if len(projected) == 4 else [*projected, self.skip_scale * inputs]

    @staticmethod
    def equations(x, r, states, phi, sigma):
        _, c = states
        f, reset = sigma(x[0] + r[0]), sigma(x[1] + r[1])
        c = x[2] + f * (c - x[2])
        return [x[3] + reset * (phi(c) - x[3]), c], [f, reset, x[2], x[3]]

    @staticmethod
    def gradient(d_states, before, after, residuals, phi, sigma):
        (d_h, d_c), (_, c_before), (_, c), (f, reset, candidate, skip) = d_states, before, after, residuals
        phi_c = phi(c)
        d_c = d_c + d_h * reset * phi.derivative(phi_c)
        d_f = d_c * (c_before - candidate) * sigma.derivative(f)
        d_reset = d_h * (phi_c - skip) * sigma.derivative(reset)
        return [d_f, d_reset, d_c * (1 - f), d_h * (1 - reset)], [d_f, d_reset], [None, d_c * f]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "highway_bias": self.highway_bias, "rescale": self.rescale}
