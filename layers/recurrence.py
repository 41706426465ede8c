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
beside each other, as each loop keeps one core busy. Memory is linear in time. A cell that has no hand-written gradient is
differentiated by the backend instead.
"""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
from keras import ops

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
    beside: int = 1,
) -> tuple[Tensor | None, list[Tensor]]:
    """Run `cell` over every step of `inputs`.

    Args:
        cell: a `layers.RecurrentCell`, or any Keras cell: `cell(inputs_t, states) -> (output_t, states)`.
        inputs: (batch, time, features).
        initial_state: one tensor (batch, size) for each state of the cell; the first state is the output.
        mask: booleans (batch, time), True = keep. At a masked step every state is held.
        recurrent_dropout_mask: (batch, units), multiplies the state before the recurrent product at every step.
        reverse: walk from the last step to the first. Outputs keep the place of their inputs.
        sequences: also return the outputs of all steps.
        training: keep the activations for the backward pass, and on TensorFlow compile both loops with XLA.
        beside: how many such calls can run at the same time. Where cores are left, halves of the batch do, too.

    Returns:
        `(outputs, final_states)`: (batch, time, units), or None if not `sequences`, and a list of (batch, size).
    """
    by_hand = getattr(cell, "has_gradient", False)

    def rows(inputs: Tensor, states: list, options: dict[str, Tensor]) -> list:
        time_mask = ops.expand_dims(ops.transpose(options["mask"]), -1) if "mask" in options else None  # (time, batch, 1)
        time_major = ops.transpose(inputs, (1, 0, 2))  # (time, batch, features)
        walk = _unfold_by_hand if by_hand else _unfold_by_autodiff
        outputs, states = walk(
            cell, time_major, states, time_mask, options.get("recurrent_dropout_mask"), reverse, sequences, training
        )
        return [ops.transpose(outputs, (1, 0, 2)), *states] if sequences else list(states)

    options = {"mask": mask, "recurrent_dropout_mask": recurrent_dropout_mask}
    options = {name: value for name, value in options.items() if value is not None}
    everything = (inputs, list(initial_state), options)
    if training and by_hand and _halves_pay(inputs.shape[0], beside):
        results = [ops.concatenate(both, axis=0) for both in zip(*(rows(*part) for part in _halves(everything)))]
    else:
        results = rows(*everything)
    if keras.backend.backend() == "tensorflow":  # a loop that was traced for any size tells none
        shapes = [(*inputs.shape[:2], None)] * sequences + [state.shape for state in initial_state]
        for result, shape in zip(results, shapes):
            result.set_shape(shape)
    return (results[0], results[1:]) if sequences else (None, results)


def _halves_pay(batch: int | None, beside: int) -> bool:
    """Whether the two halves of a batch train faster beside each other: each loop keeps one core of a processor busy."""
    if keras.backend.backend() != "tensorflow" or (batch is not None and batch < 8):
        return False
    return (os.cpu_count() or 1) >= 2 * beside and not _gpus()


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


def _unfold_by_hand(cell, inputs, initial_state, mask, dropout_mask, reverse, sequences, training):
    projected = cell.project(inputs, add_bias=False)  # for each gate (time, batch, units)
    gates = len(projected)
    dtype = projected[0].dtype
    kernel = ops.cast(cell.recurrent_kernel, dtype)
    biases = {"input_bias": cell.input_bias(), "bias": cell.recurrent_bias()}  # added in the loop, where it costs no pass
    optional = {**biases, "mask": mask, "dropout_mask": dropout_mask}
    optional = {k: ops.cast(v, dtype) for k, v in optional.items() if v is not None}
    count = len(initial_state)
    settings = (cell.units, cell.pointwise, reverse)
    forward_lean = _loop(training, _forward, *settings, False, sequences)
    forward_keep = _loop(training, _forward, *settings, True, True)
    backward = _loop(training, _backward, *settings, sequences)

    @ops.custom_gradient
    def run(*tensors):
        kernel, *rest = map(ops.stop_gradient, tensors)  # else an eager tape would look into the compiled loop
        projected, states, rest = rest[:gates], rest[gates : gates + count], rest[gates + count :]
        options = dict(zip(optional, rest))
        forward = forward_keep if training else forward_lean
        final, saved = forward(projected, kernel, states, options)

        def gradient(*upstream):
            upstream = keras.tree.flatten(upstream)
            kept = saved if training else forward_keep(projected, kernel, states, options)[1]
            d_outputs, d_final = (upstream[0], upstream[1:]) if sequences else (None, upstream)
            previous = [_shift(first, later, reverse) for first, later in zip(states, kept)]
            d_projected, d_recurrent, d_initial = backward(d_outputs, d_final, previous, kept, kernel, options)
            left = previous[0] * options["dropout_mask"] if "dropout_mask" in options else previous[0]
            rows = ops.transpose(_rows(left))  # (units, time x batch)
            d_kernel = ops.concatenate([ops.matmul(rows, _rows(d)) for d in d_recurrent], axis=-1)
            d_options = {k: ops.zeros_like(v) for k, v in options.items()}
            for name, d_products in (("input_bias", d_projected), ("bias", d_recurrent)):
                if name in options:
                    d_options[name] = ops.concatenate([ops.sum(_rows(d), axis=0) for d in d_products], axis=0)
            return [d_kernel, *d_projected, *d_initial, *d_options.values()]

        return ((saved[0], *final) if sequences else tuple(final)), gradient

    results = run(kernel, *projected, *initial_state, *optional.values())
    return (results[0], results[1:]) if sequences else (None, results)


def _forward(units, pointwise, reverse, keep, sequences, projected, kernel, states, options):
    """Walk the steps; return the final states and, stacked over time, states and kept activations."""

    gates = len(projected)

    def step(states, elements):
        x, m = elements[:gates], elements[gates:]
        if "input_bias" in options:
            x = [a + b for a, b in zip(x, ops.split(options["input_bias"], gates))]
        hidden = states[0]
        if "dropout_mask" in options:
            hidden = hidden * options["dropout_mask"]
        recurrent = ops.matmul(hidden, kernel)  # (batch, gates x units)
        if "bias" in options:
            recurrent = recurrent + options["bias"]
        new, activations = pointwise.equations(x, ops.split(recurrent, gates, axis=-1), states)
        if m:
            new = [ops.where(m[0] > 0, a, b) for a, b in zip(new, states)]
        outputs = [*new, *activations] if keep else [new[0]] if sequences else []
        return list(new), outputs

    elements = [*projected, options["mask"]] if "mask" in options else list(projected)
    widths = [units] * (len(states) + pointwise.kept) if keep else [units] if sequences else []
    return scan(step, list(states), elements, widths, reverse)


def _backward(units, pointwise, reverse, sequences, d_outputs, d_final, previous, kept, kernel, options):
    """Walk the steps in the opposite direction; return the gradients of projections, recurrent products and states."""
    count = len(previous)
    kernel_transposed = ops.transpose(kernel)

    def step(d_states, elements):
        before, after, activations = elements[:count], elements[count : 2 * count], elements[2 * count :]
        d_output = activations.pop() if sequences else None
        m = activations.pop() > 0 if "mask" in options else None
        if d_output is not None:
            d_states = [d_states[0] + d_output, *d_states[1:]]
        live = d_states if m is None else [ops.where(m, d, ops.zeros_like(d)) for d in d_states]
        d_x, d_recurrent, d_before = pointwise.gradient(live, before, after, activations)
        d_hidden = ops.matmul(ops.concatenate(d_recurrent, axis=-1), kernel_transposed)
        if "dropout_mask" in options:
            d_hidden = d_hidden * options["dropout_mask"]
        d_before = [d_hidden if d_before[0] is None else d_before[0] + d_hidden, *d_before[1:]]
        if m is not None:
            d_before = [ops.where(m, a, b) for a, b in zip(d_before, d_states)]
        return d_before, [*d_x, *(d for d, same in zip(d_recurrent, d_x) if d is not same)]

    elements = [*previous, *kept]
    if "mask" in options:
        elements.append(options["mask"])
    if sequences:
        elements.append(d_outputs)
    gates = pointwise.cell.gates
    widths = [units] * (gates + pointwise.products)
    d_initial, d_products = scan(step, list(d_final), elements, widths, not reverse)
    d_x, differing = d_products[:gates], d_products[gates:]
    return d_x, [*d_x[: gates - len(differing)], *differing], d_initial


@functools.cache
def _loop(compiled: bool, function: Callable, *settings: Any) -> Callable:
    """The loop as one callable, shared by all layers with the same equations and units.

    On TensorFlow training loops are compiled by XLA, whether or not what calls them is. Other loops stay plain graph
    operations, so that an export runs on a server without XLA; called eagerly they run as a graph of their own.
    """
    loop = functools.partial(function, *settings)
    if keras.backend.backend() != "tensorflow":
        return loop
    import tensorflow as tf

    if compiled:
        return tf.function(loop, jit_compile=True, autograph=False)
    graph = tf.function(loop, autograph=False, reduce_retracing=True)
    return lambda *args: (graph if tf.executing_eagerly() else loop)(*args)


def _shift(first: Tensor, later: Tensor, reverse: bool) -> Tensor:
    """The state before each step: `later` moved by one step, with the initial state in the free place."""
    first = ops.expand_dims(first, 0)
    return ops.concatenate([later[1:], first] if reverse else [first, later[:-1]], axis=0)


def _rows(x: Tensor) -> Tensor:
    return ops.reshape(x, (-1, x.shape[-1]))  # (time x batch, width)


# -- the automatic path ------------------------------------------------------------------------------------------------


def _unfold_by_autodiff(cell, inputs, initial_state, mask, dropout_mask, reverse, sequences, training):
    one_step = _stepper(cell, dropout_mask, training)
    projected = cell.project(inputs) if hasattr(cell, "project") else [inputs]

    width = getattr(cell, "output_size", None) or keras.tree.flatten(cell.state_size)[0]
    if hasattr(cell, "equations"):  # the output is the state
        no_output = initial_state[0]
    else:
        no_output = ops.zeros((ops.shape(inputs)[1], width), dtype=initial_state[0].dtype)

    def step(carry, elements):
        x, m, (_, *states) = elements[: len(projected)], elements[len(projected) :], carry
        output, new = one_step(x, states)
        if m:
            output, *new = [ops.where(m[0], a, b) for a, b in zip([output, *new], carry)]
        return [output, *new], [output] if sequences else []

    elements = [*projected] if mask is None else [*projected, ops.cast(mask, "bool")]
    widths = [width] if sequences else []
    (_, *final), stacked = scan(step, [no_output, *initial_state], elements, widths, reverse, differentiable=True)
    return (stacked[0] if sequences else None), final


def _stepper(cell, dropout_mask, training):
    if hasattr(cell, "step"):
        return lambda x, states: cell.step(x, states, dropout_mask)
    kwargs = {"training": training} if getattr(cell, "_call_has_training_arg", False) else {}

    def one_step(x, states):
        output, new = cell(x[0], states, **kwargs)
        return output, keras.tree.flatten(new)

    return one_step
