"""A cell whose gates depend on this input and the one before: QRNN."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from layers.base_cell import Tensor
from layers.linear_cells import LinearCell
from layers.linear_recurrences import hold


@keras.saving.register_keras_serializable(package="unfold")
class QRNNCell(LinearCell):
    """The quasi-recurrent network (Bradbury et al. 2017, https://arxiv.org/abs/1611.01576), pooled with forget and output gate.

        g  = phi(W_g x + V_g x- + b_g)                phi = tanh
        f  = sigma(W_f x + V_f x- + b_f)              x-: the input of the step before, with `window=2`
        o  = sigma(W_o x + V_o x- + b_o)
        c' = f * c + (1 - f) * g
        h' = o * c'

    "Before" is what the layer has processed: with `go_backwards` the step after, and the last step that was not masked.
    Weight columns are in the order g, f, o, rows in the order x, x-; the state is c, with `window=2` (c, V x).

    Args: those of `LinearCell`, and
        window: 1 or 2.
        zoneout: rate at which, in training, units of single steps keep their state, f = 1 (Krueger et al. 2017,
            https://arxiv.org/abs/1606.01305).

    >>> import numpy as np
    >>> states = QRNNCell(4).get_initial_state(2)
    >>> output, states = QRNNCell(4)(np.ones((2, 3), "float32"), states)
    >>> [tuple(s.shape) for s in states]
    [(2, 4), (2, 12)]
    """

    gates = 3

    def __init__(
        self,
        units: int,
        activation: str | Callable | None = "tanh",
        *args: Any,
        window: int = 2,
        zoneout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, activation, *args, **kwargs)
        if isinstance(window, (bool, float)) or window not in (1, 2):
            raise ValueError(f"{type(self).__name__}: window is {window!r}; expected 1 or 2. Pass 2 to use the step before, too.")
        if isinstance(zoneout, bool) or not isinstance(zoneout, (int, float)) or not 0 <= zoneout < 1:
            raise ValueError(f"{type(self).__name__}: zoneout is {zoneout!r}; expected a rate in [0, 1). Pass 0 for none.")
        self.window, self.zoneout, self.state_count = window, zoneout, window

    @property
    def state_size(self) -> int | list[int]:
        return self.units if self.window == 1 else [self.units, 3 * self.units]

    def build(self, input_shape: tuple) -> None:
        super().build((*input_shape[:-1], self.window * input_shape[-1]))

    def project(self, inputs: Tensor, add_bias: bool = True) -> list[Tensor]:
        """For each gate W x + b; with `window=2` V x for all gates after them, for the step after this one."""
        if self.window == 1:
            return super().project(inputs, add_bias)
        now, before = ops.split(ops.cast(self.kernel, inputs.dtype), 2, axis=0)
        product = ops.matmul(inputs, now)
        if add_bias and self.bias is not None:
            product = product + ops.cast(self.bias, inputs.dtype)
        return [*ops.split(product, 3, axis=-1), ops.matmul(inputs, before)]

    @property
    def is_unfolded(self) -> bool:  # type: ignore[override]
        return super().is_unfolded and self._author("project") >= self._author("unfold_steps")

    @staticmethod
    def recurrence(x, phi, sigma):
        f = sigma(x[1])
        return f, (1 - f) * phi(x[0])

    @staticmethod
    def output(x, c, phi, sigma):
        return sigma(x[2]) * c

    def decay_and_inputs(self, projected: list, training: bool) -> tuple[Tensor, Tensor]:
        decay, inputs = super().decay_and_inputs(projected, training)
        if not (training and self.zoneout):
            return decay, inputs
        keeps = keras.random.uniform(ops.shape(decay), seed=self.seed_generator) < self.zoneout
        return ops.where(keeps, ops.ones_like(decay), decay), ops.where(keeps, ops.zeros_like(inputs), inputs)

    def step(
        self, projected: list, states: list, dropout_mask: Tensor | None = None, training: bool = False
    ) -> tuple[Tensor, list]:
        if self.window == 1:
            return super().step(projected, states, dropout_mask, training)
        *projected, after = projected
        projected = [x + before for x, before in zip(projected, ops.split(states[1], 3, axis=-1))]
        h, state = super().step(projected, states[:1], dropout_mask, training)
        return h, [*state, after]

    def unfold_steps(self, inputs, states, mask, dropout_mask, reverse, sequences, training, jit_compile):
        if self.window == 1:
            return super().unfold_steps(inputs, states, mask, dropout_mask, reverse, sequences, training, jit_compile)
        now, before = ops.split(ops.cast(self.kernel, inputs.dtype), 2, axis=0)
        bias = ops.zeros_like(now[0]) if self.bias is None else ops.cast(self.bias, inputs.dtype)
        x, last_x, first = inputs, inputs[0 if reverse else -1], states[1]
        if mask is not None:
            x, last_x = hold(x, ops.zeros_like(last_x), mask, reverse, training, jit_compile)
            seen = ops.cumsum(ops.cast(ops.flip(mask, 0) if reverse else mask, "int32"), axis=0) > 0
            seen = ops.flip(seen, 0) if reverse else seen
        x = x[1:] if reverse else x[:-1]  # and then the product: moved after it, three times as much is copied
        projected = []
        for w, v, b, s in zip(*(ops.split(part, 3, axis=-1) for part in (now, before, bias, first))):
            moved = ops.matmul(x, v)
            if mask is not None:
                moved = ops.where(seen[1:] if reverse else seen[:-1], moved, s)
            moved = ops.concatenate([moved, s[None]] if reverse else [s[None], moved], axis=0)
            projected.append(ops.matmul(inputs, w) + b + moved)
        after = ops.matmul(last_x, before)
        if mask is not None:
            after = ops.where(seen[0 if reverse else -1], after, first)
        last, outputs, final = self.solve(projected, states[:1], mask, reverse, sequences, training, jit_compile)
        return last, outputs, [*final, after]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "window": self.window, "zoneout": self.zoneout}
