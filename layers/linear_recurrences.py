"""The linear recurrence: all that is left of time where the gates don't depend on the state.

    h_t = a_t * h_{t-1} + b_t                      a: decay, b: inputs, all elementwise

Its gradient is the same recurrence in the opposite direction. With g_t = dL/dh_t as far as it comes from the outputs,

    d_t = g_t + a_{t+1} * d_{t+1}                  d_t = dL/dh_t, all told
    dL/db_t = d_t,   dL/da_t = d_t * h_{t-1},   dL/dh_0 = a_1 * d_1

On a processor both are loops: step after step costs least. On a GPU, where a step costs more than what it computes, both are
scans in about log2(time) rounds (Blelloch 1990, "Prefix sums and their applications"), as two steps are one of the same kind:

    (a_1, b_1), (a_2, b_2)  ->  (a_2 * a_1, a_2 * b_1 + b_2)
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from layers.bptt import shift
from layers.compiled import has_gpu, has_own_loop, is_compiled, run_loop
from layers.gradients import with_gradient
from layers.loops import scan

Tensor = Any

UNROLL = 8  # steps in an iteration of a plain loop: an iteration costs as much as several of them


def linear_recurrence(
    decay: Tensor,
    inputs: Tensor,
    initial_state: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    reverse: bool = False,
    training: bool = False,
    jit_compile: bool = True,
) -> Tensor:
    """`h_t = decay_t * h_{t-1} + inputs_t` for every step.

    Args:
        decay, inputs: (batch, time, units). Decays are meant to be in [-1, 1], and nothing checks that: others grow without
            bound. 0 and 1 are exact where states are finite.
        initial_state: h_0, (batch, units); default zeros.
        mask: booleans (batch, time), True = keep. At a masked step the state is held.
        reverse: from the last step to the first. Outputs keep the place of their inputs.
        training: on TensorFlow without a GPU, compile the loop with XLA unless `jit_compile` is False. Leave it False in what
            is exported.

    Returns:
        (batch, time, units), in the dtype of `inputs`. In half precision the states are float32 from step to step.

    >>> import numpy as np
    >>> halves, ones = np.full((1, 4, 1), 0.5, "float32"), np.ones((1, 4, 1), "float32")
    >>> print(np.asarray(linear_recurrence(halves, ones))[0, :, 0])
    [1.    1.5   1.75  1.875]
    >>> print(np.asarray(linear_recurrence(halves, ones, mask=np.array([[True, False, False, True]])))[0, :, 0])
    [1.  1.  1.  1.5]
    """
    decay, inputs = ops.convert_to_tensor(decay), ops.convert_to_tensor(inputs)
    mask = None if mask is None else ops.convert_to_tensor(mask)
    initial_state = None if initial_state is None else ops.convert_to_tensor(initial_state)
    _check(decay, inputs, initial_state, mask)
    if inputs.shape[1] == 0:
        return inputs
    if initial_state is None:
        initial_state = ops.zeros((ops.shape(inputs)[0], inputs.shape[-1]), inputs.dtype)
    time_mask = None if mask is None else ops.expand_dims(ops.transpose(mask), -1)
    decay, inputs = (ops.transpose(x, (1, 0, 2)) for x in (decay, inputs))
    outputs, _ = run(decay, inputs, initial_state, time_mask, reverse, training, jit_compile)
    return ops.transpose(outputs, (1, 0, 2))


def _check(decay, inputs, initial_state, mask):
    if len(inputs.shape) != 3 or not _fits(decay.shape, inputs.shape):
        raise ValueError(
            f"linear_recurrence: decay has shape {tuple(decay.shape)}, inputs {tuple(inputs.shape)}; expected both "
            "(batch, time, units). Give each input a decay, by ops.broadcast_to, say."
        )
    if "float" not in keras.backend.standardize_dtype(inputs.dtype):
        raise ValueError(f"linear_recurrence: inputs are {inputs.dtype}; expected floating-point numbers. Cast them.")
    batch, time, units = inputs.shape
    for name, tensor, expected in (("initial_state", initial_state, (batch, units)), ("mask", mask, (batch, time))):
        if tensor is not None and not _fits(tensor.shape, expected):
            raise ValueError(
                f"linear_recurrence: {name} has shape {tuple(tensor.shape)}; expected {expected}. Pass one of that shape."
            )


def _fits(shape, expected):
    return len(shape) == len(expected) and all(a is None or b is None or a == b for a, b in zip(shape, expected))


def run(
    decay: Tensor,
    inputs: Tensor,
    state: Tensor,
    mask: Tensor | None = None,
    reverse: bool = False,
    training: bool = False,
    jit_compile: bool = True,
) -> tuple[Tensor, Tensor]:
    """`linear_recurrence`, time-major: (time, batch, units), and a mask (time, batch, 1). Returns the states of all steps and the
    last one, in the dtype of `inputs`."""
    dtype = inputs.dtype
    if mask is not None:
        mask = ops.cast(mask, "bool")
        decay, inputs = ops.where(mask, decay, 1.0), ops.where(mask, inputs, 0.0)
    if keras.backend.standardize_dtype(dtype) in ("float16", "bfloat16"):
        decay, inputs, state = (ops.cast(x, "float32") for x in (decay, inputs, state))
    else:
        decay, state = ops.cast(decay, dtype), ops.cast(state, dtype)
    compiled = is_compiled(training, jit_compile) and not has_gpu()
    padded = compiled and not has_own_loop((_forward, reverse), inputs.shape[0])

    def solve(loop, tensors, state, reverse):
        if has_gpu():
            return _scan_in_rounds(*tensors, state, reverse, shifted=loop is _backward)
        unroll = 1 if compiled else UNROLL
        final, stacked = run_loop(loop, (reverse, False, unroll), (), (state,), tensors, compiled, padded)
        return stacked[0][: ops.shape(inputs)[0]] if padded else stacked[0], final[0]

    def definition(decay, inputs, state):
        final, stacked = _forward(reverse, True, 1, None, (), (state,), (decay, inputs))
        return [*stacked, *final]

    def forward(decay, inputs, state):
        outputs, final = solve(_forward, (decay, inputs), state, reverse)
        return [outputs, final], outputs

    def backward(tensors, outputs, states, upstream):
        decay, _, first = tensors
        d, d_first = solve(_backward, (decay, upstream[0]), upstream[1], not reverse)
        return [d * shift(first, states, reverse), d, d_first]

    outputs, final = with_gradient(definition, forward, backward, [decay, inputs, state])
    return ops.cast(outputs, dtype), ops.cast(final, dtype)


def hold(x: Tensor, first: Tensor, mask: Tensor, reverse: bool, training: bool, jit_compile: bool) -> tuple[Tensor, Tensor]:
    """At each masked step the value of the last unmasked one before it, `first` before there is any; and the last value."""
    return run(ops.zeros_like(x), x, first, mask, reverse, training, jit_compile)


def emit(
    output: Callable[..., Tensor], steps: Sequence[Tensor], sequences: bool, mask: Tensor | None, reverse: bool, *how: bool
) -> tuple[Tensor, Tensor | None]:
    """The last of the outputs `output(*steps)`, and all of them if `sequences`: (time, batch, units) each.

    An output that no state holds is held at masked steps, zeros before the first.
    """
    if mask is None and not sequences:
        steps = [x[:1] if reverse else x[-1:] for x in steps]
    outputs = output(*steps)
    if mask is None:
        last = outputs[0 if reverse else -1]
    else:
        outputs, last = hold(outputs, ops.zeros_like(outputs[0]), mask, reverse, *how)
    return last, (outputs if sequences else None)


def _forward(reverse, differentiable, unroll, count, constants, states, sequences):
    """h_t = a_t * h_{t-1} + b_t."""

    def step(states, now):
        decay, inputs = now
        h = decay * states[0] + inputs
        return [h], [h]

    return scan(step, list(states), sequences, [states[0].shape[-1]], reverse, differentiable, count, unroll)


def _backward(reverse, differentiable, unroll, count, constants, carried, sequences):
    """d_t = g_t + a_{t+1} * d_{t+1}; from step to step a_t * d_t is carried."""

    def step(carried, now):
        decay, upstream = now
        d = upstream + carried[0]
        return [decay * d], [d]

    return scan(step, list(carried), sequences, [carried[0].shape[-1]], reverse, differentiable, count, unroll)


def _scan_in_rounds(decay, inputs, state, reverse, shifted):
    """The same by a scan; `shifted`: `_backward`, in which the decay of the step before counts."""
    if reverse:
        decay, inputs = ops.flip(decay, 0), ops.flip(inputs, 0)
    last = decay[-1]
    if shifted:
        decay = ops.concatenate([ops.ones_like(decay[:1]), decay[:-1]], axis=0)
    inputs = ops.concatenate([inputs[:1] + decay[:1] * ops.expand_dims(state, 0), inputs[1:]], axis=0)
    outputs = _prefixes(decay, inputs)
    final = last * outputs[-1] if shifted else outputs[-1]
    return ops.flip(outputs, 0) if reverse else outputs, final


def _prefixes(decay, inputs):
    if keras.backend.backend() == "jax":
        import jax

        def combine(before, after):
            return after[0] * before[0], after[0] * before[1] + after[1]

        return jax.lax.associative_scan(combine, (decay, inputs))[1]
    import tensorflow as tf

    time, shape = tf.shape(inputs)[0], inputs.shape

    def body(reach, decay, inputs):
        ones, zeros = tf.ones_like(decay[:reach]), tf.zeros_like(inputs[:reach])
        before = tf.concat([ones, decay[:-reach]], 0), tf.concat([zeros, inputs[:-reach]], 0)
        new = decay * before[0], decay * before[1] + inputs
        for tensor in new:
            tensor.set_shape(shape)
        return 2 * reach, *new

    rounds = None if shape[0] is None else max(1, int(shape[0]).bit_length())
    return tf.while_loop(lambda reach, *_: reach < time, body, (1, decay, inputs), maximum_iterations=rounds)[2]
