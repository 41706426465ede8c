"""Check a gradient written by hand."""

from typing import Any

import keras
import numpy as np
from keras import ops

from layers.base_cell import RecurrentCell
from layers.bptt import Constants, Inputs, Loop, passes
from layers.gradients import vector_jacobian_product, with_gradient


def check_gradient(cell: Any, tolerance: float = 1e-4, seed: int = 0) -> float:
    """Compare the hand-written `gradient` of a cell with the backend's own, over a few steps of random numbers.

    In float32, in both directions, with a mask, a dropout mask and a bias; with respect to the projected inputs, the
    recurrent kernel and bias, and the initial states.

    Args:
        cell: a `layers.RecurrentCell` with a `gradient`, built or not.
        tolerance: largest difference allowed, relative to the largest element of each gradient.
        seed: of the numbers.

    Returns:
        The largest relative difference.

    Raises:
        ValueError: the cell has no gradient in force, or one that differs.

    >>> from layers import LSTMCell, check_gradient
    >>> check_gradient(LSTMCell(4)) < 1e-5
    True
    """
    if not isinstance(cell, RecurrentCell):
        raise ValueError(
            f"check_gradient: cell is {cell!r}; expected a layers.RecurrentCell. Pass the cell of a layer, layer.cell."
        )
    name = type(cell).__name__
    if cell.why_no_gradient():
        raise ValueError(f"check_gradient: {name} has no gradient in force, because {cell.why_no_gradient()}")
    time, batch, units, gates = 4, 3, cell.units, cell.gates
    rng = np.random.default_rng(seed)
    shapes = [
        ("recurrent kernel", cell.product.shape(units, cell.recurrent_gates)),
        ("recurrent bias", (cell.recurrent_gates * units,)),
        ("dropout mask", (batch, units)),
    ]
    shapes += [(f"state {k}", (batch, units)) for k in range(cell.state_count)]
    shapes += [*[(f"x[{k}]", (time, batch, units)) for k in range(gates)], ("mask", (time, batch, 1))]
    arrays = [rng.random(shape) > 0.3 if "mask" in label else rng.normal(size=shape) * 0.5 for label, shape in shapes]
    kernel, bias, dropout_mask, *rest = tensors = [ops.convert_to_tensor(array, "float32") for array in arrays]
    constants = Constants(kernel, recurrent_bias=bias, dropout_mask=dropout_mask)
    given = Inputs(constants, tuple(rest[: cell.state_count]), (tuple(rest[cell.state_count : -1]), rest[-1]))
    worst = 0.0
    for reverse in (False, True):
        loop = Loop(cell.pointwise, units, reverse, sequences=True)
        function, forward, backward = passes(loop, given, training=True, jit_compile=False)
        upstream = [rng.normal(size=shape) for shape in [(time, batch, units), *[(batch, units)] * cell.state_count]]
        upstream = [ops.convert_to_tensor(u, "float32") for u in upstream]
        by_hand = vector_jacobian_product(lambda *x: with_gradient(function, forward, backward, x), tensors, upstream)  # noqa: B023
        automatic = vector_jacobian_product(function, tensors, upstream)
        for (label, _), got, expected in zip(shapes, by_hand, automatic):
            if "mask" in label:
                continue
            scale = max(float(ops.max(ops.abs(expected))), keras.config.epsilon())
            difference = float(ops.max(ops.abs(got - expected))) / scale
            if not difference <= tolerance:
                raise ValueError(
                    f"check_gradient: {name}.gradient with respect to {label} differs from the backend's by {difference:.2g} of "
                    f"its largest element; expected {tolerance} at most. Derive it from `equations` again."
                )
            worst = max(worst, difference)
    return worst
