"""RNN: a Keras layer around any cell, on the engine of `layers.recurrence`."""

from typing import Any

import keras
from keras import ops

from layers import recurrence

Tensor = Any

LAYER_ARGUMENTS = ("return_sequences", "return_state", "go_backwards", "stateful", "zero_output_for_mask")


@keras.saving.register_keras_serializable(package="unfold")
class RNN(keras.layers.Layer):
    """Unfold a cell over a sequence: `s_t = cell(x_t, s_{t-1})`, `outputs_t` = the first state.

    Args:
        cell: a `layers.RecurrentCell` or any Keras cell with `state_size` and `call(inputs, states)`.
        return_sequences: return the outputs of all steps instead of the last one.
        return_state: also return the final states.
        go_backwards: walk from the last step to the first; outputs are in the order of the walk, as in Keras.
        stateful: start each batch from the final states of the batch before; `reset_state()` returns to zeros. Needs a
            fixed batch size.
        zero_output_for_mask: give zeros at masked steps instead of repeating the last output.

    Call arguments:
        sequences: (batch, time, features).
        initial_state: one tensor (batch, size) for each state of the cell, in a list; default zeros.
        mask: booleans (batch, time), True = keep. Left, right, holes and empty rows are all right: at a masked step the
            state is held.
        training: whether dropout is active.
        sequences_mask: the mask where Keras sets it beside an `initial_state`; leave it alone.

    Returns:
        (batch, units), or with `return_sequences` (batch, time, units); with `return_state` a tuple of that and the
        final states.

    Raises:
        ValueError: an input, state or mask of the wrong rank or size.

    >>> import numpy as np
    >>> from layers import LSTMCell
    >>> x = np.ones((2, 5, 3), "float32")
    >>> output, h, c = RNN(LSTMCell(4), return_sequences=True, return_state=True)(x)
    >>> print(output.shape, h.shape, c.shape)
    (2, 5, 4) (2, 4) (2, 4)
    """

    def __init__(
        self,
        cell: Any,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        zero_output_for_mask: bool = False,
        **kwargs: Any,
    ) -> None:
        if not hasattr(cell, "state_size") or not callable(cell):
            raise ValueError(
                f"RNN: cell is {cell!r}; expected a cell with state_size and call(inputs, states). "
                "Pass a layers.RecurrentCell such as LSTMCell(64), or a Keras cell."
            )
        super().__init__(**kwargs)
        self.cell = cell
        self.return_sequences = return_sequences
        self.return_state = return_state
        self.go_backwards = go_backwards
        self.stateful = stateful
        self.zero_output_for_mask = zero_output_for_mask
        self.supports_masking = True
        self.states: list[keras.Variable] | None = None

    @property
    def state_sizes(self) -> list[int]:
        return keras.tree.flatten(self.cell.state_size)

    @property
    def output_size(self) -> int:
        return getattr(self.cell, "output_size", None) or self.state_sizes[0]

    # -- shapes and variables

    def build(self, sequences_shape: tuple, initial_state_shape: Any = None) -> None:
        if len(sequences_shape) != 3 or sequences_shape[-1] is None:
            raise ValueError(
                f"{self._title}: inputs have shape {tuple(sequences_shape)}; expected (batch, time, features) with a known "
                "number of features. Add the missing axis, or state the size in keras.Input."
            )
        if isinstance(self.cell, keras.layers.Layer) and not self.cell.built:
            self.cell.build((sequences_shape[0], sequences_shape[2]))
            self.cell.built = True
        if self.stateful and self.states is None:
            self._create_states(sequences_shape[0])

    def _create_states(self, batch_size: int | None) -> None:
        if batch_size is None:
            raise ValueError(
                f"{self._title}: stateful=True with an unknown batch size; expected a fixed one. "
                "Build the model with keras.Input(batch_shape=(batch, time, features))."
            )
        self.states = [
            self.add_weight(shape=(batch_size, size), initializer="zeros", trainable=False, name="state")
            for size in self.state_sizes
        ]

    def reset_state(self) -> None:
        """Set the carried states of a stateful layer to zeros."""
        for state in self.states or []:
            state.assign(ops.zeros(state.shape, dtype=state.dtype))

    def get_initial_state(self, batch_size: int | None) -> list[Tensor]:
        return [ops.zeros((batch_size, size), dtype=self.compute_dtype) for size in self.state_sizes]

    def compute_output_shape(self, sequences_shape: tuple, initial_state_shape: Any = None) -> Any:
        batch, time = sequences_shape[:2]
        output = (batch, time, self.output_size) if self.return_sequences else (batch, self.output_size)
        return (output, *[(batch, size) for size in self.state_sizes]) if self.return_state else output

    def compute_mask(self, sequences: Any, mask: Any = None) -> Any:
        mask = keras.tree.flatten(mask)[0] if mask is not None else None
        output_mask = mask if self.return_sequences else None
        return [output_mask] + [None] * len(self.state_sizes) if self.return_state else output_mask

    # -- the call

    def call(
        self,
        sequences: Tensor,
        initial_state: Any = None,
        mask: Tensor | None = None,
        training: bool = False,
        sequences_mask: Tensor | None = None,
    ) -> Any:
        mask = sequences_mask if mask is None else mask
        output, states = self.run(sequences, initial_state, mask, training)
        if self.return_sequences and self.go_backwards:
            output = ops.flip(output, axis=1)
        return (output, *states) if self.return_state else output

    def run(
        self, sequences: Tensor, initial_state: Any = None, mask: Tensor | None = None, training: bool = False, beside: int = 1
    ) -> tuple[Tensor, list[Tensor]]:
        """`call`, but outputs keep the place of their inputs whatever the direction: `(output, final states)`.

        `beside` is how many such calls can run at the same time.
        """
        sequences = ops.convert_to_tensor(sequences, dtype=self.compute_dtype)
        self._check_mask(mask, sequences)
        states = self._initial_states(initial_state, sequences)
        starts_at_zero = initial_state is None and not self.stateful
        sequences, recurrent_dropout_mask = self._drop(sequences, states[0], bool(training))
        outputs, final = recurrence.unfold(
            self.cell,
            sequences,
            states,
            mask=None if mask is None else ops.cast(mask, "bool"),
            recurrent_dropout_mask=recurrent_dropout_mask,
            reverse=self.go_backwards,
            sequences=self.return_sequences or not hasattr(self.cell, "equations"),
            training=bool(training),
            beside=beside,
        )
        if self.stateful:
            for variable, state in zip(self.states or [], final):
                variable.assign(ops.cast(state, variable.dtype))
        return self._output(outputs, final, mask, starts_at_zero), final

    def _output(self, outputs, final, mask, starts_at_zero):
        """The outputs asked for. Where no step was kept yet the output is zero, though the state may not be."""
        if self.return_sequences:
            output = outputs
            if mask is not None and (self.zero_output_for_mask or not starts_at_zero):
                output = ops.where(ops.expand_dims(self._has_output(mask), -1), output, ops.zeros_like(output))
            return output
        last = 0 if self.go_backwards else -1
        output = final[0] if outputs is None else outputs[:, last]
        if mask is not None and (self.zero_output_for_mask or not starts_at_zero):
            output = ops.where(self._has_output(mask)[:, last, None], output, ops.zeros_like(output))
        return output

    def _has_output(self, mask):
        mask = ops.cast(mask, "int32")  # (batch, time)
        if not self.zero_output_for_mask:
            mask = ops.flip(ops.cumsum(ops.flip(mask, 1), 1), 1) if self.go_backwards else ops.cumsum(mask, 1)
        return mask > 0

    def _initial_states(self, initial_state, sequences):
        sizes, batch = self.state_sizes, sequences.shape[0]
        if initial_state is None and not self.stateful:
            return self.get_initial_state(ops.shape(sequences)[0])
        states = self.states if initial_state is None else keras.tree.flatten(initial_state)
        shapes = [tuple(state.shape) for state in states]
        fits = len(shapes) == len(sizes) and all(
            (len(shape) == 2 and shape[1] in (None, size) and None in (batch, shape[0])) or shape == (batch, size)
            for shape, size in zip(shapes, sizes)
        )
        if not fits:
            wanted = ", ".join(str((batch, size)) for size in sizes)
            remedy = (
                "Pass every state the encoder returns."
                if initial_state is not None
                else "A stateful layer keeps the batch size it was built with: feed batches of that size."
            )
            raise ValueError(
                f"{self._title}: initial_state has {len(shapes)} tensor(s) of shape {', '.join(map(str, shapes))}; "
                f"expected {len(sizes)}: {wanted}. {remedy}"
            )
        return [ops.cast(ops.convert_to_tensor(state), self.compute_dtype) for state in states]

    def _check_mask(self, mask, sequences):
        if mask is None:
            return
        wanted = tuple(sequences.shape[:2])
        shape = tuple(mask.shape)
        if len(shape) != 2 or any(None not in pair and pair[0] != pair[1] for pair in zip(shape, wanted)):
            raise ValueError(
                f"{self._title}: mask has shape {shape}; expected (batch, time) = {wanted}, True where a step is kept. "
                "Pass one boolean for each step."
            )

    def _drop(self, sequences, hidden, training):
        """Apply the input dropout, one mask for all steps; return the mask for the recurrent product."""
        if not hasattr(self.cell, "dropout_masks"):
            return sequences, None
        inputs, recurrent = self.cell.dropout_masks(sequences[:, 0], hidden, training)
        return (sequences if inputs is None else sequences * ops.expand_dims(inputs, 1)), recurrent

    @property
    def _title(self) -> str:
        return f"{type(self).__name__} {self.name!r}"

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in LAYER_ARGUMENTS},
            "cell": keras.saving.serialize_keras_object(self.cell),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict | None = None) -> "RNN":
        cell = keras.saving.deserialize_keras_object(config["cell"], custom_objects=custom_objects)
        return cls(cell, **{k: v for k, v in config.items() if k != "cell"})
