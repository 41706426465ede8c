"""How a cell's gates depend on its state: by a matrix, or each unit on itself alone. Forward, and the two gradients."""

from collections.abc import Sequence
from typing import Any

from keras import ops

Tensor = Any


class Dense:
    """r = s U + b, U (units, gates x units), for each gate (batch, units)."""

    unroll = 1  # steps in an iteration of a plain loop

    @staticmethod
    def shape(units: int, gates: int) -> tuple[int, ...]:
        return (units, gates * units)

    @staticmethod
    def forward(state: Tensor, kernel: Tensor, bias: Tensor | None, gates: int) -> list[Tensor]:
        product = ops.matmul(state, kernel)
        return ops.split(product if bias is None else product + bias, gates, axis=-1)

    transposed = staticmethod(ops.transpose)

    @staticmethod
    def state_gradient(d: Sequence[Tensor], kernel_transposed: Tensor) -> Tensor:
        return ops.matmul(ops.concatenate(d, axis=-1), kernel_transposed)

    @staticmethod
    def kernel_gradient(states: Tensor, d: Sequence[Tensor]) -> Tensor:
        """From all steps at once: states and d (time, batch, units)."""
        units = states.shape[-1]
        rows = ops.transpose(ops.reshape(states, (-1, units)))  # (units, time x batch)
        return ops.concatenate([ops.matmul(rows, ops.reshape(x, (-1, units))) for x in d], axis=-1)


class Elementwise:
    """r = s * v + b, v (gates x units,)."""

    unroll = 8  # its steps cost less than an iteration does

    @staticmethod
    def shape(units: int, gates: int) -> tuple[int, ...]:
        return (gates * units,)

    @staticmethod
    def forward(state: Tensor, kernel: Tensor, bias: Tensor | None, gates: int) -> list[Tensor]:
        products = [state * v for v in ops.split(kernel, gates)]
        return products if bias is None else [r + b for r, b in zip(products, ops.split(bias, gates))]

    @staticmethod
    def transposed(kernel: Tensor) -> Tensor:
        return kernel

    @staticmethod
    def state_gradient(d: Sequence[Tensor], kernel: Tensor) -> Tensor:
        return sum(x * v for x, v in zip(d, ops.split(kernel, len(d))))

    @staticmethod
    def kernel_gradient(states: Tensor, d: Sequence[Tensor]) -> Tensor:
        return ops.concatenate([ops.sum(states * x, axis=(0, 1)) for x in d], axis=0)
