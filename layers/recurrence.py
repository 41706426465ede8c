"""Time: unfold a cell over a sequence, forward and, by hand, backward.

A recurrent network applies one cell at every step,

    s_t = cell(x_t, s_{t-1}),

and backpropagation through time (Werbos 1990, https://doi.org/10.1109/5.58337) walks the same steps in reverse.
Done naively both walks are slow: every step multiplies small matrices and every step adds to the gradient of every
weight. The engine keeps in the loop only what truly depends on the previous step:

* before the loop, ONE product projects the inputs of all steps (`cell.project`);
* the loop holds the recurrent product `s_{t-1} U` and the pointwise `cell.equations`;
* the backward loop computes only what flows to the step before (`cell.gradient`);
* after it, the gradient of `U` is ONE product over all (time x batch) rows.

On TensorFlow both loops are compiled in training, and where there is no GPU, the two halves of a batch go through them
concurrently, as each loop keeps one core busy. Memory is linear in time. A cell that has no hand-written gradient is
differentiated by the backend instead, and so is every second derivative.
"""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from layers.compiled import has_own_loop, run_loop
from layers.gradients import with_gradient
from layers.loops import scan

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
        reverse: walk from the last step to the first. Outputs keep the place of their inputs.
        sequences: also return the outputs of all steps.
        training: keep the activations for the backward pass.
        jit_compile: on TensorFlow, in training, compile both loops with XLA, whether or not what calls them is.
        concurrency: how many such calls can run at the same time. Where cores are left, halves of the batch do, too.

    Returns:
        `(last_output, outputs, final_states)`: (batch, units); (batch, time, units), or None if not `sequences`; and a list
        of (batch, units).
    """
    by_hand = cell.has_gradient

    def walk(inputs: Tensor, states: list, options: dict[str, Tensor]) -> list:
        time_mask = ops.expand_dims(ops.transpose(options["mask"]), -1) if "mask" in options else None  # (time, batch, 1)
        time_major = ops.transpose(inputs, (1, 0, 2))  # (time, batch, features)
        arguments = (cell, time_major, states, time_mask, options.get("recurrent_dropout_mask"), reverse, sequences)
        if by_hand:
            last, outputs, states = _unfold_by_hand(*arguments, training, jit_compile)
        else:
            last, outputs, states = _unfold_by_autodiff(*arguments)
        return [last, *([ops.transpose(outputs, (1, 0, 2))] if sequences else []), *states]

    options = {"mask": mask, "recurrent_dropout_mask": recurrent_dropout_mask}
    options = {name: value for name, value in options.items() if value is not None}
    everything = (inputs, list(initial_state), options)
    if training and by_hand and jit_compile and _halves_pay(inputs.shape[0], concurrency):
        results = [ops.concatenate(both, axis=0) for both in zip(*(walk(*part) for part in _halves(everything)))]
    else:
        results = walk(*everything)
    if keras.backend.backend() == "tensorflow":  # a loop that was traced for any size tells none
        batch, time = inputs.shape[:2]
        for result in results:
            result.set_shape((batch, *[time] * (len(result.shape) - 2), result.shape[-1]))
    last, *rest = results
    return (last, rest[0], rest[1:]) if sequences else (last, None, rest)


def _halves_pay(batch: int | None, concurrency: int) -> bool:
    """Whether the two halves of a batch train faster concurrently: each loop keeps one core of a processor busy."""
    if keras.backend.backend() != "tensorflow" or (batch is not None and batch < 8):
        return False
    return (os.cpu_count() or 1) >= 2 * concurrency and not _gpus()


def _halves(tensors: Any) -> Iterator[Any]:
    """A structure of tensors (batch, …), cut in two. (The gradient of `split` is one copy, that of two slices three.)"""
    import tensorflow as tf

    flat = keras.tree.flatten(tensors)
    batch = ops.shape(flat[0])[0]
    pairs = [tf.split(x, [batch // 2, batch - batch // 2]) for x in flat]
    return (keras.tree.pack_sequence_as(tensors, part) for part in zip(*pairs))


@functools.cache
def _gpus() -> list:
    import tensorflow as tf

    return tf.config.list_physical_devices("GPU")


# -- the hand-written path ---------------------------------------------------------------------------------------------


class Walk(NamedTuple):
    """What a loop is made from: the pointwise part of a cell and the options of the call."""

    pointwise: Any
    units: int
    options: tuple[str, ...]  # of `input_bias`, `bias`, `dropout_mask`, those that there are
    masked: bool
    reverse: bool
    sequences: bool

    @property
    def gates(self) -> int:
        return self.pointwise.cell.gates

    @property
    def states(self) -> int:
        return self.pointwise.cell.state_count

    def unpack(self, tensors: Sequence[Tensor]) -> tuple[list, list, list]:
        """The kernel and the options; the initial states; for each gate the projected inputs (time, batch, units), and the
        mask (time, batch, 1) if there is one."""
        first, rest = tensors[: 1 + len(self.options)], tensors[1 + len(self.options) :]
        return list(first), list(rest[: self.states]), list(rest[self.states :])


def _unfold_by_hand(cell, inputs, initial_state, mask, dropout_mask, reverse, sequences, training, jit_compile):
    projected = cell.project(inputs, add_bias=False)
    dtype = projected[0].dtype
    biases = {"input_bias": cell.input_bias(), "bias": cell.recurrent_bias()}  # added in the loop, where it costs no pass
    options = {k: ops.cast(v, dtype) for k, v in {**biases, "dropout_mask": dropout_mask}.items() if v is not None}
    walk = Walk(cell.pointwise, cell.units, tuple(options), mask is not None, reverse, sequences)
    tensors = [ops.cast(cell.recurrent_kernel, dtype), *options.values(), *initial_state, *projected]
    tensors += [] if mask is None else [ops.cast(mask, dtype)]
    results = with_gradient(*walks(walk, training, jit_compile), tensors)
    outputs, final = (results[0], results[1:]) if sequences else (None, results)
    return final[0], outputs, final


def walks(walk: Walk, training: bool, jit_compile: bool) -> tuple[Callable, Callable, Callable]:
    """The definition, the forward and the backward pass of `walk`, as `with_gradient` takes them."""
    compiled = training and jit_compile and keras.backend.backend() == "tensorflow"

    def function(*tensors):
        final, stacked = _forward(walk, False, True, None, *walk.unpack(tensors))
        return [*stacked, *final]

    def forward(*tensors):
        parts = walk.unpack(tensors)
        padded = compiled and not has_own_loop(walk, parts[2][0].shape[0])
        final, saved = run_loop(_forward, (walk, training, False), *parts, compiled, padded)
        outputs = [_cut(x, parts[2][0]) if padded else x for x in saved[: int(walk.sequences)]]
        return [*outputs, *final], (saved, padded)

    def backward(tensors, outputs, residuals, upstream):
        saved, padded = residuals
        constants, states, sequences = walk.unpack(tensors)
        if not training:
            _, saved = run_loop(_forward, (walk, True, False), constants, states, sequences)
        after = [_cut(x, sequences[0]) if padded else x for x in saved[: walk.states]]
        previous = [_shift(before, later, walk.reverse) for before, later in zip(states, after)]
        d_outputs, d_final = (upstream[:1], upstream[1:]) if walk.sequences else ([], upstream)
        parts = [constants, d_final, [*previous, *saved, *d_outputs, *sequences[walk.gates :]]]
        d_initial, d_products = run_loop(_backward, (walk,), *parts, compiled, padded)
        d_products = [_cut(d, sequences[0]) if padded else d for d in d_products]
        d_projected, d_recurrent = d_products[: walk.gates], _recurrent(walk, d_products)
        options = dict(zip(walk.options, constants[1:]))
        left = previous[0] * options["dropout_mask"] if "dropout_mask" in options else previous[0]
        rows = ops.transpose(_rows(left))  # (units, time x batch)
        d_kernel = ops.concatenate([ops.matmul(rows, _rows(d)) for d in d_recurrent], axis=-1)
        d_options = {k: ops.zeros_like(v) for k, v in options.items()}
        for name, d in (("input_bias", d_projected), ("bias", d_recurrent)):
            if name in options:
                d_options[name] = ops.concatenate([ops.sum(_rows(x), axis=0) for x in d], axis=0)
        return [d_kernel, *d_options.values(), *d_initial, *d_projected, *map(ops.zeros_like, sequences[walk.gates :])]

    return function, forward, backward


def _forward(walk, keep, differentiable, count, constants, states, sequences):
    """Walk the steps; return the final states and, stacked over time, states and kept activations."""
    kernel, options = constants[0], dict(zip(walk.options, constants[1:]))

    def step(states, elements):
        x, m = elements[: walk.gates], elements[walk.gates :]
        if "input_bias" in options:
            x = [a + b for a, b in zip(x, ops.split(options["input_bias"], walk.gates))]
        hidden = states[0]
        if "dropout_mask" in options:
            hidden = hidden * options["dropout_mask"]
        recurrent = ops.matmul(hidden, kernel)  # (batch, gates x units)
        if "bias" in options:
            recurrent = recurrent + options["bias"]
        new, activations = walk.pointwise.equations(x, ops.split(recurrent, walk.gates, axis=-1), states)
        if m:
            new = [ops.where(m[0] > 0, a, b) for a, b in zip(new, states)]
        outputs = [*new, *activations] if keep else [new[0]] if walk.sequences else []
        return list(new), outputs

    widths = [walk.units] * (walk.states + walk.pointwise.kept if keep else int(walk.sequences))
    return scan(step, states, sequences, widths, walk.reverse, differentiable, count)


def _backward(walk, count, constants, d_final, sequences):
    """Walk the steps in the opposite direction; return the gradients of the initial states and, stacked over time, of the
    projections and of those recurrent products where they differ."""
    options = dict(zip(walk.options, constants[1:]))
    kernel_transposed = ops.transpose(constants[0])

    def step(d_states, elements):
        before, after, activations = elements[: walk.states], elements[walk.states : 2 * walk.states], elements[2 * walk.states :]
        m = activations.pop() > 0 if walk.masked else None
        if walk.sequences:
            d_states = [d_states[0] + activations.pop(), *d_states[1:]]
        live = d_states if m is None else [ops.where(m, d, ops.zeros_like(d)) for d in d_states]
        d_x, d_recurrent, d_before = walk.pointwise.gradient(live, before, after, activations)
        d_hidden = ops.matmul(ops.concatenate(d_recurrent, axis=-1), kernel_transposed)
        if "dropout_mask" in options:
            d_hidden = d_hidden * options["dropout_mask"]
        d_before = [d_hidden if d_before[0] is None else d_before[0] + d_hidden, *d_before[1:]]
        if m is not None:
            d_before = [ops.where(m, a, b) for a, b in zip(d_before, d_states)]
        differing = [d for d, same in zip(d_recurrent, d_x) if d is not same]
        if len(differing) != walk.pointwise.products:
            raise ValueError(
                f"{walk.pointwise.cell.__name__}.gradient returned {len(differing)} tensor(s) in d_r that are not those in d_x; "
                f"expected {walk.pointwise.products}. Return the same objects in both, or set `products = {len(differing)}`."
            )
        return d_before, [*d_x, *differing]

    widths = [walk.units] * (walk.gates + walk.pointwise.products)
    return scan(step, d_final, sequences, widths, not walk.reverse, count=count)


def _recurrent(walk, d_products):
    """The gradients of the recurrent products, from those of the projections and the last ones, which may differ."""
    return [*d_products[: walk.gates - walk.pointwise.products], *d_products[walk.gates :]]


def _cut(x: Tensor, like: Tensor) -> Tensor:
    return x[: ops.shape(like)[0]]


def _shift(first: Tensor, later: Tensor, reverse: bool) -> Tensor:
    """The state before each step: `later` moved by one step, with the initial state in the free place."""
    first = ops.expand_dims(first, 0)
    return ops.concatenate([later[1:], first] if reverse else [first, later[:-1]], axis=0)


def _rows(x: Tensor) -> Tensor:
    return ops.reshape(x, (-1, x.shape[-1]))  # (time x batch, width)


# -- the automatic path ------------------------------------------------------------------------------------------------


def _unfold_by_autodiff(cell, inputs, initial_state, mask, dropout_mask, reverse, sequences):
    projected = cell.project(inputs)

    def step(carry, elements):
        output, new = cell.step(elements[: len(projected)], carry[1:], dropout_mask)
        after = [output, *new]
        if mask is not None:
            after = [ops.where(elements[-1], a, b) for a, b in zip(after, carry)]
        return after, [after[0]] if sequences else []

    first = ops.zeros((ops.shape(inputs)[1], cell.output_size), dtype=initial_state[0].dtype)
    elements = [*projected] if mask is None else [*projected, ops.cast(mask, "bool")]
    widths = [cell.output_size] * sequences
    (last, *final), stacked = scan(step, [first, *initial_state], elements, widths, reverse, differentiable=True)
    return last, (stacked[0] if sequences else None), final
