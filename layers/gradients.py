"""Gradients written by hand that may be differentiated again."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

Tensor = Any


def with_gradient(
    function: Callable[..., Sequence[Tensor]],
    forward: Callable[..., tuple[Sequence[Tensor], Any]],
    backward: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor],
) -> list[Tensor]:
    """`function(*inputs)`, computed by `forward` and differentiated by `backward`.

    Both are written by hand and faster than what the backend makes of `function`. Only the first derivative is: it is a
    function of the inputs and of the upstream gradient, `J^T u`, and the gradient of that is the backend's.

    Args:
        function: (*inputs) -> outputs; the definition.
        forward: (*inputs) -> outputs, and residuals that `backward` can use.
        backward: (inputs, outputs, residuals, upstream) -> the gradient of each input.
        inputs: floating-point tensors.

    Returns:
        The outputs.
    """
    count = len(inputs)

    @ops.custom_gradient
    def run(*inputs):
        constants = [ops.stop_gradient(x) for x in inputs]  # else an eager tape would record the steps of `forward`
        outputs, residuals = forward(*constants)

        def gradient(*upstream):
            @ops.custom_gradient
            def product(*tensors):
                stopped = [ops.stop_gradient(u) for u in tensors[count:]]
                result = backward(constants, outputs, residuals, stopped)

                def definition(*both):
                    return vector_jacobian_product(function, both[:count], both[count:])

                def second(*d):
                    return vector_jacobian_product(definition, tensors, keras.tree.flatten(d))

                return _anchored(definition, tensors, result), second

            return list(product(*inputs, *keras.tree.flatten(upstream)))

        return _anchored(function, inputs, outputs), gradient

    return list(run(*inputs))


def vector_jacobian_product(
    function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor], upstream: Sequence[Tensor]
) -> list[Tensor]:
    """`J^T u`: the backend's gradient of `function(*inputs)`, a sequence of tensors, each weighed with an upstream one."""
    if keras.backend.backend() == "jax":
        import jax

        return list(jax.vjp(lambda *x: list(function(*x)), *inputs)[1](list(upstream)))
    import tensorflow as tf

    count = len(inputs)

    def product(*tensors):
        copies = [tf.identity(x) for x in tensors]  # else what an upstream gradient owes to the inputs would count, too
        outputs = list(function(*copies[:count]))
        return tf.gradients(outputs, copies[:count], copies[count:], unconnected_gradients="zero")

    tensors = [tf.convert_to_tensor(x) for x in (*inputs, *upstream)]
    if tf.executing_eagerly():  # in a graph: eager tapes record nothing while a ForwardAccumulator runs
        specs = [tf.TensorSpec.from_tensor(x) for x in tensors]
        product = tf.function(product, autograph=False).get_concrete_function(*specs)
    return list(product(*tensors))


def _anchored(function, inputs, outputs):
    """The outputs, which `forward` or `backward` made of constants; on JAX with the tangents that those of `function` have,
    from which it makes the derivatives after the first. (TensorFlow knows outputs as those of the custom gradient.)"""
    outputs = list(outputs)
    if keras.backend.backend() != "jax":
        return outputs
    import jax

    @jax.custom_jvp
    def hold(inputs, outputs):
        return outputs

    @hold.defjvp
    def tangents(primals, tangents):
        return hold(*primals), jax.jvp(lambda *x: list(function(*x)), tuple(primals[0]), tuple(tangents[0]))[1]

    return hold(list(inputs), outputs)
