"""Run over a sequence in both directions."""

import inspect
from typing import Any

import keras
from keras import ops

Tensor = Any


@keras.saving.register_keras_serializable(package="unfold")
class Bidirectional(keras.layers.Bidirectional):
    """Two networks, one from each end (Schuster & Paliwal 1997, https://doi.org/10.1109/78.650093).

        forward_t  = cell(x_t, forward_{t-1})
        backward_t = cell'(x_t, backward_{t+1})
        outputs_t  = merge(forward_t, backward_t)

    Both have read x_t at step t. Under a mask each direction holds its state over padding, wherever it lies, so padding
    never reaches an unmasked step; with `return_sequences` masked steps give zeros, as in Keras.

    Args:
        layer: a recurrent layer, ours or Keras'. It becomes the forward direction under its own configuration.
        merge_mode: `concat`, `sum`, `ave`, `mul`, or None for a pair of outputs.
        weights: initial weights of both, as in Keras.
        backward_layer: the backward direction; default a copy of `layer`. Must differ in `go_backwards` only.

    Call arguments: those of `layers.RNN`; `initial_state` is the list of the forward states, then the backward states.

    Returns:
        The merged output, or with `return_state` a tuple of it, the forward states and the backward states.

    Raises:
        ValueError: the two layers do not fit, the merge mode is unknown, or the number of states is wrong.

    >>> import numpy as np
    >>> from layers import LSTM
    >>> output, *states = Bidirectional(LSTM(4, return_sequences=True, return_state=True))(np.ones((2, 5, 3), "float32"))
    >>> print(output.shape, len(states))
    (2, 5, 8) 4
    """

    def __init__(self, layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> None:
        super().__init__(layer, *args, **kwargs)
        self.supports_masking = True  # keras 3.16 says False
        for direction in (self.forward_layer, self.backward_layer):
            direction.concurrency = 2

    def build(self, sequences_shape: tuple, initial_state_shape: Any = None) -> None:
        for layer in (self.forward_layer, self.backward_layer):
            if not layer.built:
                layer.build(sequences_shape)
            if not self.trainable:
                layer.trainable = False

    def call(
        self,
        sequences: Tensor,
        initial_state: Any = None,
        mask: Tensor | None = None,
        training: bool = False,
        sequences_mask: Tensor | None = None,
    ) -> Any:
        mask = sequences_mask if mask is None else mask
        forward_state, backward_state = self._split_states(initial_state)
        forward, *forward_states = self._run(self.forward_layer, sequences, forward_state, mask, training)
        backward, *backward_states = self._run(self.backward_layer, sequences, backward_state, mask, training)
        output = self._merge(ops.cast(forward, self.compute_dtype), ops.cast(backward, self.compute_dtype))
        if not self.return_state:
            return output
        outputs = output if self.merge_mode is None else (output,)
        return (*outputs, *forward_states, *backward_states)

    def _run(self, layer, sequences, initial_state, mask, training):
        """The outputs of a direction, in the order of the inputs, and its states."""
        parameters = inspect.signature(layer.call).parameters
        takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        options = {"initial_state": initial_state, "mask": mask, "training": training}
        options = {name: value for name, value in options.items() if value is not None and (takes_all or name in parameters)}
        in_order = {"in_order": True} if "in_order" in parameters else {}
        result = layer(sequences, **options, **in_order)
        outputs, *states = result if self.return_state else (result,)
        if layer.go_backwards and self.return_sequences and not in_order:
            outputs = ops.flip(outputs, axis=1)
        return outputs, *states

    def _split_states(self, initial_state):
        if initial_state is None:
            return None, None
        half = len(keras.tree.flatten(getattr(self.forward_layer, "state_size", initial_state[: len(initial_state) // 2])))
        states = keras.tree.flatten(initial_state)
        if len(states) != 2 * half:
            raise ValueError(
                f"Bidirectional {self.name!r}: initial_state has {len(states)} tensor(s); expected {2 * half}: "
                "the forward states, then the backward states. Pass all that a Bidirectional encoder returns."
            )
        return states[:half], states[half:]

    def _merge(self, forward, backward):
        if self.merge_mode == "concat":
            return ops.concatenate([forward, backward], axis=-1)
        if self.merge_mode == "sum":
            return forward + backward
        if self.merge_mode == "ave":
            return (forward + backward) / 2
        if self.merge_mode == "mul":
            return forward * backward
        return forward, backward

    def compute_mask(self, sequences: Any, mask: Any = None) -> Any:
        mask = keras.tree.flatten(mask)[0] if self.return_sequences else None
        outputs = [mask] * (2 if self.merge_mode is None else 1)
        if self.return_state:
            return outputs + [None] * 2 * len(keras.tree.flatten(self.forward_layer.state_size))
        return outputs if self.merge_mode is None else mask
