"""Loops whose steps depend on each other, on two backends: `scan` over sequences, `for_loop` over indices."""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
from keras import ops

Tensor = Any

STEPS_ON_A_GPU = 8  # of a sequence in one iteration of JAX's loop: there the iteration costs more than the step

_in_order = contextvars.ContextVar("writes_in_order", default=False)


def flatten(structure: Any) -> list[Tensor]:
    """The tensors of nested tuples and lists; None is where there is none."""
    return [x for x in keras.tree.flatten(structure) if x is not None]


def pack(structure: Any, tensors: Iterable[Tensor]) -> Any:
    """The inverse of `flatten`: the structure with these tensors in place of its own."""
    rest = iter(tensors)
    return keras.tree.map_structure(lambda x: None if x is None else next(rest), structure)


@contextlib.contextmanager
def writes_in_order() -> Iterator[None]:
    """In this block, loops from the last step to the first are traced so that they write their results in the order of the
    loop, and reverse them afterwards. It costs a copy; tf2onnx silently takes the order of writing for that of the results.
    """
    token = _in_order.set(True)
    try:
        yield
    finally:
        _in_order.reset(token)


def scan(
    step: Callable[[list, Any], tuple[list, list]],
    carry: list,
    sequences: Any,
    widths: Sequence[int],
    reverse: bool = False,
    differentiable: bool = False,
    count: Tensor | None = None,
    unroll: int = 1,
) -> tuple[list, list]:
    """`carry, outputs_t = step(carry, sequences_t)` for every t; outputs stacked along the first axis.

    The sequences are tensors (time, batch, …) in any structure, of which `sequences_t` has the step t. The outputs of a step
    are tensors (batch, width), one for each of `widths`, in the dtype of the first carry. With `differentiable` the loop may
    be differentiated by the backend; without, reading a step is cheaper. With `count` the sequences have that many steps and
    padding after them (TensorFlow only); what is stacked there has no meaning. `unroll`: steps in one iteration of a loop of
    TensorFlow's, of which an iteration costs more than a few operations.
    """
    if keras.backend.backend() == "jax":
        import jax

        unroll = STEPS_ON_A_GPU if jax.default_backend() == "gpu" else 1
        return jax.lax.scan(lambda c, e: step(list(c), e), list(carry), sequences, reverse=reverse, unroll=unroll)
    import tensorflow as tf

    flat = flatten(sequences)
    size = flat[0].shape[0]
    if size is None:
        size = tf.shape(flat[0])[0]
    sources = flat
    if differentiable:  # the gradient of an array's read is a write; that of a gather would be a whole sequence
        sources = [tf.TensorArray(s.dtype, size, element_shape=s.shape[1:]).unstack(s) for s in flat]

    def at(t: Tensor, carry: list) -> tuple[list, list]:
        return step(carry, pack(sequences, [s.read(t) if differentiable else tf.gather(s, t) for s in sources]))

    carry = [tf.convert_to_tensor(c) for c in carry]
    shapes = [(flat[0].shape[1], width) for width in widths]
    return _tensorflow_loop(size, size if count is None else count, at, carry, shapes, carry[0].dtype, reverse, unroll)


def for_loop(
    count: Any, function: Callable[[Tensor, list], tuple[list, list]], carry: list, shapes: Sequence[tuple], dtype: Any
) -> tuple[list, list]:
    """`carry, outputs = function(i, carry)` for i from 0 to count - 1; the outputs, of these shapes, stacked.

    The backend can't differentiate it.
    """
    if keras.backend.backend() == "jax":
        import jax

        return jax.lax.scan(lambda c, i: function(i, list(c)), carry, ops.arange(count))
    return _tensorflow_loop(count, count, function, carry, shapes, dtype, reverse=False)


def _tensorflow_loop(size, count, function, carry, shapes, dtype, reverse, unroll=1):
    import tensorflow as tf

    flip = reverse and _in_order.get()

    def body(steps, i, carry, stacks):  # i is carried: computed from count, XLA would compile anew for each count
        for _ in range(steps):
            new, outputs = function(i, list(carry))
            for after, before in zip(new, carry):
                after.set_shape(before.shape)
            place = count - 1 - i if flip else i
            stacks = tuple(stack.write(place, output) for stack, output in zip(stacks, outputs))
            i, carry = i - 1 if reverse else i + 1, tuple(new)
        return i, carry, stacks

    stacks = tuple(tf.TensorArray(dtype, size, element_shape=shape) for shape in shapes)
    state = (count - 1 if reverse else 0, tuple(carry), stacks)
    for steps in (unroll, 1) if unroll > 1 and not _in_order.get() else (1,):  # tf2onnx loses arrays between two loops
        end = steps - 1 if reverse else count - steps
        state = tf.while_loop(
            lambda i, *_, end=end: i >= end if reverse else i <= end,
            functools.partial(body, steps),
            state,
            maximum_iterations=size // steps,
            parallel_iterations=1,
        )
    _, carry, stacks = state
    return list(carry), [tf.reverse(stack.stack(), [0]) if flip else stack.stack() for stack in stacks]
