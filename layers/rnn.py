"""RNN: `keras.layers.RNN` on the engine of `layers.bptt`."""

import contextlib
import contextvars
import functools
from typing import Any

import keras
from keras import ops

from layers import bptt, cudnn
from layers.base_cell import RecurrentCell

Tensor = Any

# Of the call that runs: whether outputs stay in the order of the inputs, and whether the states are zeros before the first step.
_call = contextvars.ContextVar("of the call", default=(False, False))


@keras.saving.register_keras_serializable(package="unfold")
class RNN(keras.layers.RNN):
    """Unfold a cell over a sequence: `s_t = cell(x_t, s_{t-1})`, `outputs_t` = the first state.

    A `keras.layers.RNN` whose loop is that of `layers.bptt` where the cells are `layers.RecurrentCell`s; other cells
    run in Keras' own loop.

    Args:
        cell: a `layers.RecurrentCell`, a Keras cell, or a list of such cells, each of which takes the outputs of the one before.
        return_sequences: return the outputs of all steps instead of the last one.
        return_state: also return the final states.
        go_backwards: run from the last step to the first; outputs are in that order, as in Keras.
        stateful: start each batch from the final states of the batch before; `reset_state()` returns to zeros. Needs a
            fixed batch size. The states are not weights, so `set_weights` leaves them alone.
        unroll: let Keras unroll the loop. Useful only for very short sequences.
        zero_output_for_mask: give zeros at masked steps instead of repeating the last output.
        jit_compile: False keeps the training loop out of XLA; by default it is compiled whatever `compile` of the model says.
            (Keras does not tell a layer.)

    Call arguments:
        sequences: (batch, time, features).
        initial_state: one tensor (batch, size) for each state of the cell, in a list; default `cell.get_initial_state`.
        mask: booleans (batch, time), True = keep. Arbitrary masks are supported: padding on either side, holes, empty
            rows. At a masked step the state is held.
        training: whether dropout is active.
        sequences_mask: the mask of the sequences where there is an `initial_state`. Set by Keras; do not pass it.
        in_order: outputs keep the place of their inputs, whatever the direction.

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

    concurrency = 1  # how many such layers run at the same time

    def __init__(self, cell: Any, *args: Any, jit_compile: bool = True, **kwargs: Any) -> None:
        cells = cell if isinstance(cell, (list, tuple)) else [cell]
        are_cells = [
            hasattr(one, "state_size") and callable(one) and not isinstance(one, (type, keras.layers.RNN)) for one in cells
        ]
        if not cells or not all(are_cells):
            raise ValueError(
                f"RNN: cell is {cell!r}; expected a cell with state_size and call(inputs, states), or a list of them. "
                "Pass a layers.RecurrentCell such as LSTMCell(64), or a Keras cell."
            )
        cell = cells[0] if len(cells) == 1 else cell  # a stack of one confuses Keras' loop on JAX
        keras.layers.RNN.__init__(self, cell, *args, **kwargs)  # not that of keras.layers.LSTM, which makes a cell of its own
        self.supports_masking = True  # keras 3.16 says False
        if not isinstance(jit_compile, bool):
            raise ValueError(f"{type(self).__name__}: jit_compile is {jit_compile!r}; expected True or False. Leave it out.")
        self.jit_compile = jit_compile

    @property
    def state_sizes(self) -> list[int]:
        """The size of each state of the cell, flat."""
        return keras.tree.flatten(self.state_size)

    @property
    def _cells(self) -> list[Any]:
        return self.cell.cells if type(self.cell) is keras.layers.StackedRNNCells else [self.cell]

    @property
    def _on_engine(self) -> bool:
        """Whether the engine runs the cells: it knows the protocol of `RecurrentCell`; all others run in Keras' loop."""
        return not self.unroll and all(isinstance(cell, RecurrentCell) and cell.call_is_step for cell in self._cells)

    @property
    def supports_jit(self) -> bool:
        """Whether XLA may compile the training step that calls the layer: not where it runs on cuDNN. `compile` asks."""
        return self._supports_jit and bool(cudnn.why_not(self, training=True))

    @supports_jit.setter
    def supports_jit(self, value: bool) -> None:
        self._supports_jit = value

    def build(self, sequences_shape: tuple, initial_state_shape: Any = None) -> None:
        self._check_shape(sequences_shape)
        if self.stateful and sequences_shape[0] is None and self.states is None:
            raise ValueError(
                f"{self._title}: stateful=True with an unknown batch size; expected a fixed one. "
                "Build the model with keras.Input(batch_shape=(batch, time, features))."
            )
        super().build(sequences_shape)
        if not self.trainable:
            self.cell.trainable = False

    def compute_mask(self, sequences: Any, mask: Any = None) -> Any:
        return super().compute_mask(sequences, mask)

    def get_initial_state(self, batch_size: int | None) -> list[Any]:
        return self._pack(keras.tree.flatten(super().get_initial_state(batch_size)))

    def _pack(self, states: list[Tensor]) -> list[Any]:
        """Flat states in the structure of `state_size`, of plain lists."""
        return [states.pop(0) if isinstance(n, int) else [states.pop(0) for _ in keras.tree.flatten(n)] for n in self.state_size]

    # -- the call

    def call(
        self,
        sequences: Tensor,
        initial_state: Any = None,
        mask: Tensor | None = None,
        training: bool = False,
        sequences_mask: Tensor | None = None,
        in_order: bool = False,
    ) -> Any:
        (mask,) = keras.tree.flatten(sequences_mask if mask is None else mask)[:1]
        mask = ops.squeeze(mask, -1) if mask is not None and len(mask.shape) == 3 and mask.shape[-1] == 1 else mask
        self._check_shape(sequences.shape)
        self._check_mask(mask, sequences)
        if initial_state is not None:
            initial_state = keras.tree.flatten(initial_state)
        self._check_states(self.states if initial_state is None else initial_state, sequences, initial_state is None)
        if initial_state is not None:
            initial_state = self._pack(initial_state)
        in_order = in_order and self.go_backwards and self.return_sequences
        by_engine = self._on_engine and type(self).inner_loop is RNN.inner_loop
        token = _call.set((in_order and by_engine, initial_state is None and self._has_zero_start))
        mask = None if mask is None else ops.cast(mask, "bool")
        try:
            result = super().call(sequences, initial_state=initial_state, mask=mask, training=bool(training))
        finally:
            _call.reset(token)
        if not in_order or by_engine:
            return result
        outputs, *states = result if self.return_state else (result,)
        outputs = ops.flip(outputs, axis=1)
        return (outputs, *states) if self.return_state else outputs

    def inner_loop(self, sequences: Tensor, initial_state: Any, mask: Tensor | None, training: bool = False) -> tuple:
        """The hook of `keras.layers.RNN`: `(last output, outputs, final states)`."""
        on_cudnn = cudnn.takes(self, training)
        if not self._on_engine:
            if isinstance(self.cell, keras.layers.StackedRNNCells):  # else Keras' loop on JAX takes no notice of the mask
                initial_state = [keras.tree.flatten(state) for state in initial_state]
            with contextlib.ExitStack() as blocks:
                for cell in self._cells:
                    if isinstance(cell, RecurrentCell):
                        blocks.enter_context(cell.weight_dropout(training))
                last, outputs, states = keras.layers.RNN.inner_loop(self, sequences, initial_state, mask, training)
            return last, outputs, self._pack(keras.tree.flatten(states))
        in_order, starts_at_zero = _call.get()
        outputs, flat, final = sequences, keras.tree.flatten(initial_state), []
        for i, cell in enumerate(self._cells):
            states = [flat.pop(0) for _ in range(cell.state_count)]
            all_steps = self.return_sequences or i + 1 < len(self._cells)
            last, outputs, states = self._unfold(cell, outputs, states, mask, all_steps, training, on_cudnn)
            final += states
        if mask is not None and (self.zero_output_for_mask or not starts_at_zero):
            has_output = self._has_output(mask)
            last = ops.where(has_output[:, 0 if self.go_backwards else -1, None], last, ops.zeros_like(last))
            if self.return_sequences:
                outputs = ops.where(has_output[..., None], outputs, ops.zeros_like(outputs))
        if not self.return_sequences:
            outputs = ops.expand_dims(last, 1)
        elif self.go_backwards and not in_order:
            outputs = ops.flip(outputs, axis=1)
        return last, outputs, self._pack(final)

    def _unfold(self, cell, inputs, states, mask, all_steps, training, on_cudnn):
        """One cell over the steps: `(last output, outputs, final states)`, outputs in the order of the inputs."""
        inputs = ops.cast(inputs, cell.compute_dtype)
        dropped, recurrent_dropout_mask = cell.dropout_masks(inputs[:, 0], states[0], training)
        inputs = inputs if dropped is None else inputs * ops.expand_dims(dropped, 1)
        states = [ops.cast(state, cell.compute_dtype) for state in states]
        engine = functools.partial(
            bptt.unfold,
            cell,
            inputs,
            states,
            mask=mask,
            recurrent_dropout_mask=recurrent_dropout_mask,
            reverse=self.go_backwards,
            sequences=all_steps,
            training=training,
            jit_compile=self.jit_compile,
            concurrency=self.concurrency,
        )
        if on_cudnn:
            return cudnn.unfold(cell, inputs, states, mask, self.go_backwards, all_steps, engine)
        with cell.weight_dropout(training):
            return engine()

    @property
    def _has_zero_start(self):
        """Whether the states are zeros before the first step, so that the output is before the first unmasked step."""
        makers = [(self, RNN), *((cell, RecurrentCell) for cell in self._cells)]
        functions = [(getattr(getattr(maker, "get_initial_state", None), "__func__", None), kind) for maker, kind in makers]
        return not self.stateful and all(function is kind.get_initial_state for function, kind in functions)

    def _has_output(self, mask):
        mask = ops.cast(mask, "int32")  # (batch, time)
        if not self.zero_output_for_mask:
            mask = ops.flip(ops.cumsum(ops.flip(mask, 1), 1), 1) if self.go_backwards else ops.cumsum(mask, 1)
        return mask > 0

    def _maybe_config_dropout_masks(self, cell, input_sequence, input_state):
        if not self._on_engine:  # the engine draws them itself
            super()._maybe_config_dropout_masks(cell, input_sequence, input_state)

    # -- wrong use

    def _check_shape(self, shape):
        if len(shape) < 3:
            remedy = "Give the layer before return_sequences=True, or add the missing axis."
        elif self._on_engine and len(shape) > 3:
            remedy = "Reshape them to three axes, or wrap the layer in keras.layers.TimeDistributed."
        elif self._on_engine and shape[-1] is None:
            remedy = "State the number of features in keras.Input."
        else:
            return
        raise ValueError(f"{self._title}: inputs have shape {tuple(shape)}; expected (batch, time, features). {remedy}")

    def _check_states(self, states, sequences, stateful):
        if states is None or not self._on_engine:
            return
        sizes, batch = self.state_sizes, sequences.shape[0]
        shapes = [tuple(state.shape) for state in keras.tree.flatten(states)]
        fits = len(shapes) == len(sizes) and all(
            (len(shape) == 2 and shape[1] in (None, size) and None in (batch, shape[0])) or shape == (batch, size)
            for shape, size in zip(shapes, sizes)
        )
        if not fits:
            expected = ", ".join(str((batch, size)) for size in sizes)
            remedy = (
                "A stateful layer keeps the batch size it was built with: feed batches of that size."
                if stateful
                else "Pass a tensor (batch, units) for each state; an encoder must have as many units."
            )
            raise ValueError(
                f"{self._title}: initial_state has {len(shapes)} tensor(s) of shape {', '.join(map(str, shapes))}; "
                f"expected {len(sizes)}: {expected}. {remedy}"
            )

    def _check_mask(self, mask, sequences):
        if mask is None:
            return
        expected = tuple(sequences.shape[:2])
        shape = tuple(mask.shape)
        if len(shape) != 2 or any(None not in pair and pair[0] != pair[1] for pair in zip(shape, expected)):
            raise ValueError(
                f"{self._title}: mask has shape {shape}; expected (batch, time) = {expected}, True = keep. "
                "Pass one boolean for each step."
            )

    @property
    def _title(self) -> str:
        return f"{type(self).__name__} {self.name!r}"

    def get_config(self) -> dict[str, Any]:
        config = keras.layers.RNN.get_config(self)
        return config if self.jit_compile else {**config, "jit_compile": False}
