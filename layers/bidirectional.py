"""Read a sequence in both directions."""

from typing import Any

import keras
from keras import ops

from layers.rnn import RNN

Tensor = Any

MERGE_MODES = ("concat", "sum", "ave", "mul", None)


@keras.saving.register_keras_serializable(package="unfold")
class Bidirectional(keras.layers.Layer):
    """Two networks, one from each end (Schuster & Paliwal 1997, https://doi.org/10.1109/78.650093).

        forward_t  = cell(x_t, forward_{t-1})
        backward_t = cell'(x_t, backward_{t+1})
        outputs_t  = merge(forward_t, backward_t)

    Both have seen x_t at step t. Under a mask each direction holds its state over padding, wherever it lies, so padding
    never reaches a kept step; with `return_sequences` masked steps give zeros, as in Keras.

    Args:
        layer: one of our recurrent layers. It becomes the forward direction under its own configuration.
        merge_mode: `concat`, `sum`, `ave`, `mul`, or None for a pair of outputs.
        backward_layer: the backward direction; default a copy of `layer`. Must differ in `go_backwards` only.

    Call arguments: those of `layers.RNN`; `initial_state` is the list of the forward states, then the backward states.

    Returns:
        The merged output, or with `return_state` a tuple of it, the forward states and the backward states.

    Raises:
        ValueError: `layer` is not one of our recurrent layers, the two do not fit, or the merge mode is unknown.

    >>> import numpy as np
    >>> from layers import LSTM
    >>> output, *states = Bidirectional(LSTM(4, return_sequences=True, return_state=True))(np.ones((2, 5, 3), "float32"))
    >>> print(output.shape, len(states))
    (2, 5, 8) 4
    """

    def __init__(self, layer: RNN, merge_mode: str | None = "concat", backward_layer: RNN | None = None, **kwargs: Any) -> None:
        for name, given in (("layer", layer), ("backward_layer", backward_layer)):
            if not isinstance(given, RNN) and not (name == "backward_layer" and given is None):
                raise ValueError(
                    f"Bidirectional: {name} is {given!r}; expected one of our recurrent layers. "
                    "Pass layers.LSTM(64) or layers.RNN(cell); keras.layers.Bidirectional wraps Keras' own."
                )
        if merge_mode not in MERGE_MODES:
            raise ValueError(
                f"Bidirectional: merge_mode is {merge_mode!r}; expected one of {MERGE_MODES}. Pass 'concat' to keep both."
            )
        super().__init__(**kwargs)
        self.forward_layer = self._copy(layer, "forward", layer.go_backwards)
        self.backward_layer = self._copy(backward_layer or layer, "backward", not layer.go_backwards)
        if backward_layer is not None:
            self._check_fit(layer, backward_layer)
        self.merge_mode = merge_mode
        self.supports_masking = True

    @staticmethod
    def _copy(layer: RNN, direction: str, go_backwards: bool) -> RNN:
        config = layer.get_config()
        config["name"] = f"{direction}_{layer.name.removeprefix(direction + '_')}"
        config["go_backwards"] = go_backwards
        config["zero_output_for_mask"] = layer.return_sequences
        return type(layer).from_config(config)

    def _check_fit(self, layer, backward_layer):
        for name, wanted in (
            ("go_backwards", not layer.go_backwards),
            ("return_sequences", layer.return_sequences),
            ("return_state", layer.return_state),
            ("stateful", layer.stateful),
        ):
            if getattr(backward_layer, name) != wanted:
                raise ValueError(
                    f"Bidirectional: backward_layer.{name} is {getattr(backward_layer, name)}; expected {wanted}. "
                    "The two layers differ in go_backwards and agree in everything else they return."
                )

    @property
    def return_sequences(self) -> bool:
        return self.forward_layer.return_sequences

    @property
    def return_state(self) -> bool:
        return self.forward_layer.return_state

    @property
    def stateful(self) -> bool:
        return self.forward_layer.stateful

    def build(self, sequences_shape: tuple, initial_state_shape: Any = None) -> None:
        for layer in (self.forward_layer, self.backward_layer):
            if not layer.built:
                layer.build(sequences_shape)
                layer.built = True

    def reset_state(self) -> None:
        """Set the carried states of both directions to zeros."""
        self.forward_layer.reset_state()
        self.backward_layer.reset_state()

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
        forward, forward_states = self.forward_layer.run(sequences, forward_state, mask, training, beside=2)
        backward, backward_states = self.backward_layer.run(sequences, backward_state, mask, training, beside=2)
        output = self._merge(forward, backward)
        if not self.return_state:
            return output
        outputs = output if self.merge_mode is None else (output,)
        return (*outputs, *forward_states, *backward_states)

    def _split_states(self, initial_state):
        if initial_state is None:
            return None, None
        states = keras.tree.flatten(initial_state)
        half = len(self.forward_layer.state_sizes)
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

    def compute_output_shape(self, sequences_shape: tuple, initial_state_shape: Any = None) -> Any:
        shape = self.forward_layer.compute_output_shape(sequences_shape)
        output, states = (shape[0], shape[1:]) if self.return_state else (shape, ())
        if self.merge_mode == "concat":
            output = (*output[:-1], 2 * output[-1])
        outputs = (output, output) if self.merge_mode is None else (output,)
        return (*outputs, *states, *states) if self.return_state or self.merge_mode is None else output

    def compute_mask(self, sequences: Any, mask: Any = None) -> Any:
        mask = keras.tree.flatten(mask)[0] if mask is not None else None
        output_mask = mask if self.return_sequences else None
        outputs = [output_mask] * (2 if self.merge_mode is None else 1)
        if self.return_state:
            return outputs + [None] * 2 * len(self.forward_layer.state_sizes)
        return outputs if self.merge_mode is None else output_mask

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "merge_mode": self.merge_mode,
            "layer": keras.saving.serialize_keras_object(self.forward_layer),
            "backward_layer": keras.saving.serialize_keras_object(self.backward_layer),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict | None = None) -> "Bidirectional":
        config = dict(config)
        for name in ("layer", "backward_layer"):
            config[name] = keras.saving.deserialize_keras_object(config[name], custom_objects=custom_objects)
        return cls(**config)
