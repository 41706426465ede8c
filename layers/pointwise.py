"""The pointwise part of a cell: its equations, their gradient, and activations with a derivative."""

from collections.abc import Callable
from typing import Any, NamedTuple

from keras import activations, ops

Tensor = Any

# The derivative of an activation, from its output.
DERIVATIVES: dict[Callable, Callable] = {
    activations.tanh: lambda y: 1 - y * y,
    activations.sigmoid: lambda y: y * (1 - y),
    activations.relu: lambda y: ops.cast(y > 0, y.dtype),
    activations.linear: ops.ones_like,
}


class Activation(NamedTuple):
    """`phi(z)` is the activation; `phi.derivative(y)` its derivative where the output is y."""

    function: Callable

    def __call__(self, z: Tensor) -> Tensor:
        return self.function(z)

    def derivative(self, y: Tensor) -> Tensor:
        return DERIVATIVES[self.function](y)


class Pointwise(NamedTuple):
    """The pointwise part of a cell without its weights: what the two loops of the engine run at each step.

    The loops are compiled once for each, so all that `equations` may read of the class is a part of it.
    """

    cell: Any  # the class
    phi: Any
    sigma: Any
    settings: tuple = ()

    def equations(self, x: list, r: list, states: list) -> tuple[list, list]:
        result = self.cell.equations(list(x), list(r), list(states), self.phi, self.sigma)
        return self.cell.checked("equations", result, new_states=self.cell.state_count, residuals=self.cell.residuals)

    def gradient(self, d_states: list, before: list, after: list, residuals: list) -> tuple[list, list, list]:
        result = self.cell.gradient(list(d_states), list(before), list(after), list(residuals), self.phi, self.sigma)
        counts = {"d_x": self.cell.gates, "d_r": self.cell.recurrent_gates, "d_before": self.cell.state_count}
        return self.cell.checked("gradient", result, **counts)
