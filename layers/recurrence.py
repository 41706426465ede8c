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

from layers.gradients import with_gradient
from layers.loops import scan

Tensor = Any

FEW_LENGTHS = 4  # of so many known lengths each has a loop compiled for it; more share loops
CAPACITIES = [*range(8, 64, 8), *(2**k * n // 4 for k in range(6, 21) for n in range(4, 8))]  # steps that these have room for


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
    options: tuple[str, ...]  # of `input_bias`, `bias`, `mask`, `dropout_mask`, those that there are
    reverse: bool
    sequences: bool

    @property
    def gates(self) -> int:
        return self.pointwise.cell.gates

    @property
    def states(self) -> int:
        return self.pointwise.cell.state_count

    def unpack(self, tensors: Sequence[Tensor]) -> tuple[Tensor, list, list, dict[str, Tensor]]:
        """The kernel, for each gate the projected inputs (time, batch, units), the initial states, and the options."""
        kernel, *rest = tensors
        states = rest[self.gates :]
        return kernel, rest[: self.gates], states[: self.states], dict(zip(self.options, states[self.states :]))


def _unfold_by_hand(cell, inputs, initial_state, mask, dropout_mask, reverse, sequences, training, jit_compile):
    projected = cell.project(inputs, add_bias=False)
    dtype = projected[0].dtype
    biases = {"input_bias": cell.input_bias(), "bias": cell.recurrent_bias()}  # added in the loop, where it costs no pass
    options = {**biases, "mask": mask, "dropout_mask": dropout_mask}
    options = {k: ops.cast(v, dtype) for k, v in options.items() if v is not None}
    walk = Walk(cell.pointwise, cell.units, tuple(options), reverse, sequences)
    tensors = [ops.cast(cell.recurrent_kernel, dtype), *projected, *initial_state, *options.values()]
    results = with_gradient(*walks(walk, training, jit_compile), tensors)
    outputs, final = (results[0], results[1:]) if sequences else (None, results)
    return final[0], outputs, final


def walks(walk: Walk, training: bool, jit_compile: bool) -> tuple[Callable, Callable, Callable]:
    """The definition, the forward and the backward pass of `walk`, as `with_gradient` takes them."""
    compiled = training and jit_compile and keras.backend.backend() == "tensorflow"

    def function(*tensors):
        final, stacked = _forward(walk, False, True, None, *tensors)
        return [*stacked, *final]

    def forward(*tensors):
        first = tensors[1]
        padded = compiled and not _has_own_loop(walk, first.shape[0])
        final, saved = _run(_forward, (walk, training, False), tensors, compiled, padded)
        outputs = [_cut(x, first) if padded else x for x in saved[: int(walk.sequences)]]
        return [*outputs, *final], (saved, padded)

    def backward(tensors, outputs, residuals, upstream):
        saved, padded = residuals
        if not training:
            _, saved = _run(_forward, (walk, True, False), tensors)
        kernel, (first, *_), states, options = walk.unpack(tensors)
        after = [_cut(x, first) if padded else x for x in saved[: walk.states]]
        previous = [_shift(before, later, walk.reverse) for before, later in zip(states, after)]
        d_outputs, d_final = (upstream[:1], upstream[1:]) if walk.sequences else ([], upstream)
        everything = [kernel, *options.values(), *d_final, *previous, *saved, *d_outputs]
        d_initial, d_products = _run(_backward, (walk,), everything, compiled, padded)
        d_products = [_cut(d, first) if padded else d for d in d_products]
        d_projected, d_recurrent = d_products[: walk.gates], _recurrent(walk, d_products)
        left = previous[0] * options["dropout_mask"] if "dropout_mask" in options else previous[0]
        rows = ops.transpose(_rows(left))  # (units, time x batch)
        d_kernel = ops.concatenate([ops.matmul(rows, _rows(d)) for d in d_recurrent], axis=-1)
        d_options = {k: ops.zeros_like(v) for k, v in options.items()}
        for name, d in (("input_bias", d_projected), ("bias", d_recurrent)):
            if name in options:
                d_options[name] = ops.concatenate([ops.sum(_rows(x), axis=0) for x in d], axis=0)
        return [d_kernel, *d_projected, *d_initial, *d_options.values()]

    return function, forward, backward


def _forward(walk, keep, differentiable, count, *tensors):
    """Walk the steps; return the final states and, stacked over time, states and kept activations."""
    kernel, projected, states, options = walk.unpack(tensors)

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
        _check_count(walk, "equations", "new states", "state_count", new)
        _check_count(walk, "equations", "tensors to keep", "kept", activations)
        if m:
            new = [ops.where(m[0] > 0, a, b) for a, b in zip(new, states)]
        outputs = [*new, *activations] if keep else [new[0]] if walk.sequences else []
        return list(new), outputs

    elements = [*projected, options["mask"]] if "mask" in options else list(projected)
    widths = [walk.units] * (walk.states + walk.pointwise.kept if keep else int(walk.sequences))
    return scan(step, list(states), elements, widths, walk.reverse, differentiable, count)


def _backward(walk, count, kernel, *tensors):
    """Walk the steps in the opposite direction; return the gradients of the initial states and, stacked over time, of the
    projections and of those recurrent products where they differ."""
    rest = list(tensors)
    options = {name: rest.pop(0) for name in walk.options}
    d_final = [rest.pop(0) for _ in range(walk.states)]
    kernel_transposed = ops.transpose(kernel)

    def step(d_states, elements):
        before, after, activations = elements[: walk.states], elements[walk.states : 2 * walk.states], elements[2 * walk.states :]
        m = activations.pop() > 0 if "mask" in options else None
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
        _check_count(walk, "gradient", "gradients of r that are not those of x", "products", differing)
        return d_before, [*d_x, *differing]

    elements = [*rest, options["mask"]] if "mask" in options else rest
    widths = [walk.units] * (walk.gates + walk.pointwise.products)
    return scan(step, d_final, elements, widths, not walk.reverse, count=count)


def _check_count(walk, function, what, name, found):
    cell = walk.pointwise.cell
    if len(found) != getattr(cell, name):
        raise ValueError(
            f"{cell.__name__}.{function} returned {len(found)} {what}; expected {getattr(cell, name)}. "
            f"Set `{name} = {len(found)}` in the class."
        )


def _recurrent(walk, d_products):
    """The gradients of the recurrent products, from those of the projections and the last ones, which may differ."""
    return [*d_products[: walk.gates - walk.pointwise.products], *d_products[walk.gates :]]


def _run(loop: Callable, settings: tuple, tensors: Sequence[Tensor], compiled: bool = False, padded: bool = False) -> Any:
    """`loop(*settings, count, *tensors)`.

    On TensorFlow a `compiled` loop is compiled by XLA whatever calls it. Other loops stay plain graph operations, so that
    an export runs on a server without XLA; called eagerly they run as a graph of their own. With `padded` the loop has
    room for more steps than there are, so that few loops serve any length.
    """
    if keras.backend.backend() != "tensorflow":
        return loop(*settings, None, *tensors)
    import tensorflow as tf

    if not compiled and not tf.executing_eagerly():
        return loop(*settings, None, *tensors)
    count = []
    if padded:
        count = [tf.reduce_min([tf.shape(x)[0] for x in tensors if len(x.shape) == 3])]
        capacity = tf.reduce_min(tf.where(tf.constant(CAPACITIES) >= count[0], CAPACITIES, CAPACITIES[-1]))
        tensors = [tf.pad(x, [[0, capacity - tf.shape(x)[0]], [0, 0], [0, 0]]) if len(x.shape) == 3 else x for x in tensors]
    specs = tuple(tf.TensorSpec([*[None] * (len(x.shape) - 1), x.shape[-1]], x.dtype) for x in tensors)
    if not tf.executing_eagerly():  # TensorFlow loses tensors that a branch of `tf.cond` hands to a compiled function
        tensors = [tf.identity(x) for x in tensors]
    return _concrete(loop, settings, compiled, padded, specs)(*count, *tensors)


@functools.cache
def _concrete(loop: Callable, settings: tuple, compiled: bool, padded: bool, specs: tuple) -> Callable:
    """The loop as a TensorFlow function of any batch size and number of steps, shared by all layers that have the same."""
    import tensorflow as tf

    def run(*tensors):
        return loop(*settings, *tensors) if padded else loop(*settings, None, *tensors)

    count = [tf.TensorSpec([], tf.int32)] if padded else []
    with tf.init_scope():
        return tf.function(run, jit_compile=compiled, autograph=False).get_concrete_function(*count, *specs)


_lengths: dict[Walk, set[int]] = {}


def _has_own_loop(walk: Walk, time: int | None) -> bool:
    """Whether a loop is compiled for sequences of just this length: for the first few lengths that are known."""
    lengths = _lengths.setdefault(walk, set())
    if time is not None and len(lengths) < FEW_LENGTHS:
        lengths.add(time)
    return time in lengths


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
