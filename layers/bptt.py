"""Backpropagation through time: run a cell over a sequence, forward and, with a hand-written gradient, backward.

A recurrent network applies one cell at every step,

    s_t = cell(x_t, s_{t-1}),

and backpropagation through time (Werbos 1990, https://doi.org/10.1109/5.58337) visits the same steps in reverse.
Done naively both passes are slow: every step multiplies small matrices and every step adds to the gradient of every
weight. The engine keeps in the loop only what truly depends on the previous step:

* before the loop, ONE product projects the inputs of all steps (`cell.project`);
* the loop holds the recurrent product `s_{t-1} U` and the pointwise `cell.equations`;
* the backward loop computes only what flows to the step before (`cell.gradient`);
* after it, the gradient of `U` is ONE product over all (time x batch) rows.

On TensorFlow both loops are compiled in training, and where there is no GPU, the two halves of a batch go through them
concurrently, as each loop keeps one core busy. Memory is linear in time. A cell that has no hand-written gradient is
differentiated by the backend instead, and so is every second derivative.
"""

import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from layers.compiled import has_gpu, has_own_loop, is_compiled, run_loop
from layers.gradients import with_gradient
from layers.loops import flatten, pack, scan
from layers.pointwise import Pointwise

Tensor = Any


def unfold(
    cell: Any,
    inputs: Tensor,
    initial_state: Sequence[Tensor],
    *,
    mask: Tensor | None = None,
    recurrent_dropout_mask: Tensor | None = None,
    reverse: bool = False,
    sequences: bool = True,
    training: bool = False,
    jit_compile: bool = True,
    concurrency: int = 1,
) -> tuple[Tensor, Tensor | None, list[Tensor]]:
    """Run `cell` over every step of `inputs`.

    Args:
        cell: a `layers.RecurrentCell` whose step is `cell.step`.
        inputs: (batch, time, features).
        initial_state: one tensor (batch, units) for each state of the cell; the first state is the output.
        mask: booleans (batch, time), True = keep. At a masked step every state is held.
        recurrent_dropout_mask: (batch, units), multiplies the state before the recurrent product at every step.
        reverse: run from the last step to the first. Outputs keep the place of their inputs.
        sequences: also return the outputs of all steps.
        training: keep the activations for the backward pass.
        jit_compile: on TensorFlow, in training, compile both loops with XLA, whether or not what calls them is.
        concurrency: how many such calls can run at the same time. Where cores are left, halves of the batch do, too.

    Returns:
        `(last_output, outputs, final_states)`: (batch, units); (batch, time, units), or None if not `sequences`; and a list
        of (batch, units).
    """

    def run(inputs: Tensor, states: list, mask: Tensor | None, dropout_mask: Tensor | None) -> tuple:
        time_mask = None if mask is None else ops.expand_dims(ops.transpose(mask), -1)  # (time, batch, 1)
        time_major = ops.transpose(inputs, (1, 0, 2))  # (time, batch, features)
        how = type(cell).unfold_steps if cell.is_unfolded else unfold_by_hand if cell.has_gradient else unfold_by_autodiff
        last, outputs, final = how(cell, time_major, states, time_mask, dropout_mask, reverse, sequences, training, jit_compile)
        return last, (None if outputs is None else ops.transpose(outputs, (1, 0, 2))), final

    arguments = (inputs, list(initial_state), mask, recurrent_dropout_mask)
    compiled = is_compiled(training, jit_compile)
    in_halves = compiled and (cell.has_gradient or cell.is_unfolded) and _halves_pay(inputs.shape[0], concurrency)
    results = _in_halves(run, *arguments) if in_halves else run(*arguments)
    if keras.backend.backend() == "tensorflow":  # a loop that was traced for any size doesn't know its own
        batch, time = inputs.shape[:2]
        for result in flatten(results):
            result.set_shape((batch, *[time] * (len(result.shape) - 2), result.shape[-1]))
    return results


def _halves_pay(batch: int | None, concurrency: int) -> bool:
    """Whether the two halves of a batch train faster concurrently: each loop keeps one core of a processor busy."""
    return (batch is None or batch >= 8) and (os.cpu_count() or 1) >= 2 * concurrency and not has_gpu()


def _in_halves(function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)`, tensors (batch, …) in any structure, for the two halves of the batch concurrently."""
    import tensorflow as tf

    tensors = flatten(arguments)
    batch = ops.shape(tensors[0])[0]
    halves = zip(*(tf.split(x, [batch // 2, batch - batch // 2]) for x in tensors))  # two slices have a slower gradient
    results = [function(*pack(arguments, half)) for half in halves]
    return pack(results[0], [ops.concatenate(both, axis=0) for both in zip(*map(flatten, results))])


# -- the hand-written path ---------------------------------------------------------------------------------------------


class Loop(NamedTuple):
    """What the loops are made from: the pointwise part of a cell and the options of the call."""

    pointwise: Pointwise
    units: int
    reverse: bool
    sequences: bool

    @property
    def cell(self) -> Any:
        return self.pointwise.cell  # the class


class Constants(NamedTuple):
    """What is the same at every step."""

    kernel: Tensor  # (units, gates x units), or of `product.shape`
    input_bias: Tensor | None = None  # (gates x units,)
    recurrent_bias: Tensor | None = None  # (gates x units,)
    dropout_mask: Tensor | None = None  # (batch, units)

    def drop(self, hidden: Tensor) -> Tensor:
        return hidden if self.dropout_mask is None else hidden * self.dropout_mask


class Inputs(NamedTuple):
    """What the forward loop is given. Its gradient has the same structure, and `flatten` and `pack` make it flat and back."""

    constants: Constants
    states: tuple[Tensor, ...]  # (batch, units)
    sequences: tuple[tuple[Tensor, ...], Tensor | None]  # for each gate (time, batch, units), projected; mask (time, batch, 1)


def unfold_by_hand(cell, inputs, initial_state, mask, dropout_mask, reverse, sequences, training, jit_compile):
    if keras.backend.backend() == "tensorflow" and not is_compiled(training, jit_compile) and cell.has_plain_project:
        time, batch, features = ops.shape(inputs)  # one product of rank 2; each operation of a step costs more than its sums
        flat = cell.project(ops.reshape(inputs, (-1, features)))
        projected, bias = [ops.reshape(x, (time, batch, cell.units)) for x in flat], None
    else:
        projected, bias = cell.project(inputs, add_bias=False), cell.input_bias()  # added in the loop, where it costs no pass
    constants = Constants(cell.recurrent_weights, bias, cell.recurrent_bias(), dropout_mask)
    given = Inputs(constants, tuple(initial_state), (tuple(projected), mask))
    return run(Loop(cell.pointwise, cell.units, reverse, sequences), given, training, jit_compile)


def run(loop: Loop, given: Inputs, training: bool, jit_compile: bool) -> tuple[Tensor, Tensor | None, list[Tensor]]:
    """The last output, the outputs (time, batch, units) if the loop has `sequences`, and the final states."""
    given = pack(given, [ops.cast(x, given.sequences[0][0].dtype) for x in flatten(given)])
    results = with_gradient(*passes(loop, given, training, jit_compile), flatten(given))
    outputs, final = (results[0], results[1:]) if loop.sequences else (None, results)
    return final[0], outputs, final


def passes(loop: Loop, given: Inputs, training: bool, jit_compile: bool) -> tuple[Callable, Callable, Callable]:
    """The definition, the forward and the backward pass as `with_gradient` takes them, for tensors such as `flatten(given)`."""
    compiled = is_compiled(training, jit_compile)
    kind = (loop, keras.tree.map_structure(lambda x: x is None, given))
    padded = compiled and not has_own_loop(kind, given.sequences[0][0].shape[0])

    def definition(*tensors):
        final, stacked = _forward(loop, False, True, None, *pack(given, tensors))
        return [*stacked, *final]

    def forward(*tensors):
        inputs = pack(given, tensors)
        final, saved = run_loop(_forward, (loop, training, False), *inputs, compiled, padded)
        return [*_cut(saved[: int(loop.sequences)], inputs, padded), *final], saved

    def backward(tensors, outputs, saved, upstream):
        inputs = pack(given, tensors)
        if not training:
            _, saved = run_loop(_forward, (loop, True, False), *inputs)
        return flatten(_gradient(loop, inputs, saved, upstream, compiled, padded))

    return definition, forward, backward


def _gradient(loop, inputs, saved, upstream, compiled, padded):
    """Backpropagation through time: the gradient of `inputs`, from what the forward loop saved and the upstream gradient."""
    constants, states, (_, mask) = inputs
    d_outputs, d_final = (upstream[0], upstream[1:]) if loop.sequences else (None, upstream)
    after, residuals = tuple(saved[: loop.cell.state_count]), tuple(saved[loop.cell.state_count :])
    before = tuple(shift(first, later, loop.reverse) for first, later in zip(states, _cut(after, inputs, padded)))
    sequences = (before, after, residuals, d_outputs, mask)
    d_states, stacked = run_loop(_backward, (loop,), constants, tuple(d_final), sequences, compiled, padded)
    stacked = _cut(stacked, inputs, padded)
    d_projected, differing = stacked[: loop.cell.gates], stacked[loop.cell.gates :]
    d_recurrent = [*d_projected[: loop.cell.recurrent_gates - len(differing)], *differing]
    hidden = constants.drop(before[0])
    d_constants = Constants(
        kernel=loop.cell.product.kernel_gradient(hidden, d_recurrent),
        input_bias=None if constants.input_bias is None else _sums(d_projected),
        recurrent_bias=None if constants.recurrent_bias is None else _sums(d_recurrent),
        dropout_mask=None if constants.dropout_mask is None else ops.zeros_like(constants.dropout_mask),
    )
    return Inputs(d_constants, tuple(d_states), (tuple(d_projected), None if mask is None else ops.zeros_like(mask)))


def _forward(loop, save, differentiable, count, constants, states, sequences):
    """Run the steps; return the final states and, stacked over time, states and residuals if `save`, else the output."""

    def step(states, now):
        x, mask = now
        if constants.input_bias is not None:
            x = [a + b for a, b in zip(x, ops.split(constants.input_bias, loop.cell.gates))]
        hidden = constants.drop(states[0])
        recurrent = loop.cell.product.forward(hidden, constants.kernel, constants.recurrent_bias, loop.cell.recurrent_gates)
        new, residuals = loop.pointwise.equations(x, recurrent, states)
        if mask is not None:
            new = [ops.where(mask > 0, a, b) for a, b in zip(new, states)]
        outputs = [*new, *residuals] if save else [new[0]] if loop.sequences else []
        return list(new), outputs

    widths = [loop.units] * (loop.cell.state_count + loop.cell.residuals if save else int(loop.sequences))
    unroll = 1 if save or differentiable else loop.cell.product.unroll
    return scan(step, states, sequences, widths, loop.reverse, differentiable, count, unroll)


def _backward(loop, count, constants, d_final, sequences):
    """Run the steps in the opposite direction; return the gradients of the initial states and, stacked over time, of the
    projections and of those recurrent products where they differ."""
    transposed = loop.cell.product.transposed(constants.kernel)

    def step(d_states, now):
        before, after, residuals, d_output, mask = now
        if d_output is not None:
            d_states = [d_states[0] + d_output, *d_states[1:]]
        live = d_states if mask is None else [ops.where(mask > 0, d, ops.zeros_like(d)) for d in d_states]
        d_x, d_recurrent, d_before = loop.pointwise.gradient(live, before, after, residuals)
        d_hidden = constants.drop(loop.cell.product.state_gradient(d_recurrent, transposed))
        d_before = [ops.zeros_like(a) if d is None else d for d, a in zip(d_before, before)]
        d_before[0] += d_hidden
        if mask is not None:
            d_before = [ops.where(mask > 0, a, b) for a, b in zip(d_before, d_states)]
        differing = [d for d, same in zip(d_recurrent, d_x) if d is not same]
        if len(differing) != loop.cell.products:
            raise ValueError(
                f"{loop.cell.__name__}.gradient returned {len(differing)} tensor(s) in d_r that are not those in d_x; "
                f"expected {loop.cell.products}. Return the same objects in both, or set `products = {len(differing)}`."
            )
        return d_before, [*d_x, *differing]

    widths = [loop.units] * (loop.cell.gates + loop.cell.products)
    return scan(step, d_final, sequences, widths, not loop.reverse, count=count)


def _cut(stacked: Sequence[Tensor], inputs: Inputs, padded: bool) -> list[Tensor]:
    """Without the padding after the steps of the inputs, if there is any."""
    time = ops.shape(inputs.sequences[0][0])[0]
    return [x[:time] if padded else x for x in stacked]


def shift(first: Tensor, later: Tensor, reverse: bool) -> Tensor:
    """The state before each step: `later` moved by one step, with the initial state in the free place."""
    first = ops.expand_dims(first, 0)
    return ops.concatenate([later[1:], first] if reverse else [first, later[:-1]], axis=0)


def _sums(d: Sequence[Tensor]) -> Tensor:
    """The gradient of a bias: (time, batch, units) for each gate -> (gates x units,)."""
    return ops.concatenate([ops.sum(x, axis=(0, 1)) for x in d], axis=0)


# -- the automatic path ------------------------------------------------------------------------------------------------


def unfold_by_autodiff(cell, inputs, initial_state, mask, dropout_mask, reverse, sequences, training=False, jit_compile=True):
    mask = None if mask is None else ops.cast(mask, "bool")
    options = {"training": training} if "training" in inspect.signature(cell.step).parameters else {}

    def step(carry, now):
        projected, mask = now
        output, new = cell.step(projected, carry[1:], dropout_mask, **options)
        after = [output, *new]
        if mask is not None:
            after = [ops.where(mask, a, b) for a, b in zip(after, carry)]
        return after, [after[0]] if sequences else []

    first = ops.zeros((ops.shape(inputs)[1], cell.output_size), dtype=initial_state[0].dtype)
    steps, widths = (cell.project(inputs), mask), [cell.output_size] * sequences
    (last, *final), stacked = scan(step, [first, *initial_state], steps, widths, reverse, differentiable=True)
    return last, (stacked[0] if sequences else None), final
