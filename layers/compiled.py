"""Where a loop runs: as it stands, as a graph of its own, or compiled by XLA, for one length or for many."""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Hashable, Iterator
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


_portable = contextvars.ContextVar("portable", default=False)


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """In this block, layers are traced for any machine: what is exported in it runs without a GPU and without XLA.

    On TensorFlow layers take no cuDNN and nothing that is faster on a GPU alone, and compile no loops, in training either. On JAX
    the block changes nothing. A `tf.function` that was traced before the block keeps its graph: make a new one.

    >>> import keras, tempfile
    >>> from layers import LSTM, portable
    >>> model = keras.Sequential([keras.Input((None, 3)), LSTM(4)])
    >>> with tempfile.TemporaryDirectory() as folder, portable():
    ...     model.export(folder, verbose=False)
    """
    token = _portable.set(True)
    try:
        yield
    finally:
        _portable.reset(token)


def is_portable() -> bool:
    """Whether the caller is in a block of `portable`."""
    return _portable.get()


def is_compiled(training: bool, jit_compile: bool) -> bool:
    """Whether the loops of a call are compiled by XLA, each on its own: on TensorFlow, in training."""
    return training and jit_compile and keras.backend.backend() == "tensorflow" and not is_portable()


def has_gpu() -> bool:
    """Whether the backend finds a GPU. TensorFlow's are those that are not hidden now; in a block of `portable`, none."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.default_backend() == "gpu"
    import tensorflow as tf

    return not is_portable() and bool(tf.config.list_logical_devices("GPU"))
