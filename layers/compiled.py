"""Where a loop runs: as it stands, as a graph of its own, or compiled by XLA, for one length or for many."""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import keras

from layers.loops import flatten, pack

FEW_LENGTHS = 4  # each of so many known lengths has a loop compiled for it; all others share loops
CAPACITIES = [*range(16, 64, 8), *(2**k * n // 4 for k in range(6, 21) for n in range(4, 8))]  # steps that these have room for


def run_loop(
    loop: Callable, settings: tuple, constants: Any, carry: Any, sequences: Any, compiled: bool = False, padded: bool = False
) -> tuple[list, list]:
    """`loop(*settings, count, constants, carry, sequences)`: the final carry and the stacked outputs.

    On TensorFlow a `compiled` loop is compiled by XLA whatever calls it. Other loops stay plain graph operations, so that
    an export runs on a server without XLA; called eagerly they run as a graph of their own. With `padded` the compiled
    loop has room for more steps than there are, so that few loops serve any length; outputs have padding after them.
    Constants, carry and sequences are nested tuples of tensors and None.
    """
    given = (constants, carry, sequences)
    if keras.backend.backend() != "tensorflow":
        return loop(*settings, None, *given)
    import tensorflow as tf

    if not compiled and not tf.executing_eagerly():
        return loop(*settings, None, *given)
    specs = pack(given, [tf.TensorSpec([*[None] * (len(x.shape) - 1), x.shape[-1]], x.dtype) for x in flatten(given)])
    tensors = flatten(given)
    if padded:
        steps = flatten(sequences)
        time = tf.reduce_min([tf.shape(x)[0] for x in steps])
        room = tf.reduce_min(tf.where(tf.constant(CAPACITIES) >= time, CAPACITIES, CAPACITIES[-1]))
        steps = [tf.pad(x, [[0, room - tf.shape(x)[0]], [0, 0], [0, 0]]) for x in steps]
        tensors = [time, *flatten((constants, carry)), *steps]
    if not tf.executing_eagerly():  # TensorFlow loses tensors that a branch of `tf.cond` hands to a compiled function
        tensors = [tf.identity(x) for x in tensors]
    return _concrete(loop, settings, compiled, padded, specs)(*tensors)


@functools.cache
def _concrete(loop: Callable, settings: tuple, compiled: bool, padded: bool, specs: tuple) -> Callable:
    """The loop as a TensorFlow function of any batch size and number of steps, shared by all layers that have the same."""
    import tensorflow as tf

    def run(*tensors):
        count, *rest = tensors if padded else (None, *tensors)
        return loop(*settings, count, *pack(specs, rest))

    count = [tf.TensorSpec([], tf.int32)] if padded else []
    with tf.init_scope():
        function = tf.function(run, jit_compile=compiled, autograph=False)
        return function.get_concrete_function(*count, *flatten(specs))


_lengths: dict[Hashable, set[int]] = {}


def has_own_loop(loop: Hashable, time: int | None) -> bool:
    """Whether a loop is compiled for sequences of just this length: for the first few lengths that are known."""
    lengths = _lengths.setdefault(loop, set())
    if time is not None and len(lengths) < FEW_LENGTHS:
        lengths.add(time)
    return time in lengths
