"""A recurrent decoder that attends to an encoder's outputs: words of a sentence, or regions of an image.

    h_t = cell(x_t, h_{t-1})                       the first layer gets the last token
    c_t = sum_j a_tj m_j,  a_t = attention(h_t)    what it attends to
    g_t = cell([h_t ; c_t], g_{t-1})               each further layer gets the output of the one below and the context
    o_t = tanh(W [g_t ; c_t ; x_t])                from which the next token is predicted

No layer needs c_{t-1}, so in training each runs over the whole sequence at once, and so does the attention (after Luong et
al. 2015, https://aclanthology.org/D15-1166; layers as in Wu et al. 2016, https://arxiv.org/abs/1609.08144). With input
feeding the input of the first layer is [x_t ; o_{t-1}], step by step.
"""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

import layers
from apps.common.cells import CELLS
from layers.loops import scan

Tensor = Any


class Memory(NamedTuple):
    """The outputs of an encoder: values (batch, positions, size), their keys, and a mask (batch, positions), True = keep."""

    values: Tensor
    keys: Tensor | None
    mask: Tensor | None


@keras.saving.register_keras_serializable(package="unfold")
class AttentionDecoder(keras.layers.Layer):
    """Map embedded tokens and a memory to vectors from which the next tokens are predicted.

    Args:
        units: of each layer.
        output_size: of o_t.
        cell: a key of `apps.common.cells.CELLS`.
        num_layers: recurrent layers.
        attention: `additive` (converges faster), `dot` (scaled, on projected keys), or `none`.
        input_feeding: feed o_{t-1} to the first layer.
        init_state_from_memory: make the initial states from the mean of the memory; else the caller passes them.
        dropout: between layers and on o_t.
    """

    def __init__(
        self,
        units: int,
        output_size: int,
        cell: str = "gru",
        num_layers: int = 2,
        attention: str = "additive",
        input_feeding: bool = False,
        init_state_from_memory: bool = True,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.units, self.output_size, self.cell, self.num_layers = units, output_size, cell, num_layers
        self.attention, self.input_feeding, self.dropout = attention, input_feeding, dropout
        self.init_state_from_memory = init_state_from_memory
        self.supports_masking = True
        dtype = {"dtype": self.dtype_policy}
        self.rnn_layers = [
            CELLS[cell](units, return_sequences=True, return_state=True, name=f"rnn_{n + 1}", **dtype) for n in range(num_layers)
        ]
        sizes = self.rnn_layers[0].state_sizes
        self.bridges = [
            [keras.layers.Dense(size, "tanh", name=f"bridge_{n + 1}_{i + 1}", **dtype) for i, size in enumerate(sizes)]
            for n in range(num_layers if init_state_from_memory else 0)
        ]
        self.key = keras.layers.Dense(units, use_bias=False, name="key", **dtype)
        self.query = keras.layers.Dense(units, name="query", **dtype)
        self.readout = keras.layers.Dense(output_size, "tanh", name="readout", **dtype)
        self.drop = keras.layers.Dropout(dropout, **dtype)

    def build(self, tokens_shape: tuple, memory_shape: tuple) -> None:
        size, memory_size = tokens_shape[-1], memory_shape[-1]
        context = 0 if self.attention == "none" else memory_size
        feed = self.output_size if self.input_feeding else 0
        for n, layer in enumerate(self.rnn_layers):
            _build(layer, (None, None, size + feed if n == 0 else self.units + context))
        for bridges in self.bridges:
            for bridge in bridges:
                _build(bridge, (None, memory_size))
        if self.attention != "none":
            _build(self.key, memory_shape)
            _build(self.query, (None, None, self.units))
        if self.attention == "additive":
            self.scale = self.add_weight(shape=(self.units,), initializer="glorot_uniform", name="scale")
        _build(self.readout, (None, None, self.units + context + size))

    # -- the memory

    def setup_memory(self, values: Tensor, mask: Tensor | None = None) -> Memory:
        """Prepare the encoder's values once for all steps."""
        return Memory(values, None if self.attention == "none" else self.key(values), mask)

    def get_initial_state(self, memory: Memory, states: list[list[Tensor]] | None = None) -> Tensor:
        """The state before the first token (batch, size): of each layer the given `states`, or those made from the mean of the
        memory; zeros of layers without, and for o_0 with input feeding. One tensor, as a search moves it from hypothesis to
        hypothesis."""
        if states is None:
            if memory.mask is None:
                mean = ops.mean(memory.values, axis=1)
            else:
                mask = ops.cast(memory.mask, memory.values.dtype)[..., None]
                mean = ops.sum(memory.values * mask, axis=1) / ops.maximum(ops.sum(mask, axis=1), 1)
            states = [[bridge(mean) for bridge in bridges] for bridges in self.bridges]
        parts = keras.tree.flatten(states[: self.num_layers])
        rest = [size for layer in self.rnn_layers[len(states) :] for size in layer.state_sizes]
        rest += [self.output_size] if self.input_feeding else []
        zero = ops.zeros_like(parts[0][:, :1])
        return ops.concatenate(parts + [ops.repeat(zero, size, axis=-1) for size in rest], axis=-1)

    def _split(self, state: Tensor) -> tuple[list[list[Tensor]], Tensor]:
        """The states of each layer; and o_{t-1}, with input feeding."""
        sizes = [layer.state_sizes for layer in self.rnn_layers]
        widths = keras.tree.flatten(sizes) + ([self.output_size] if self.input_feeding else [])
        parts = ops.split(state, np.cumsum(widths, dtype="int32")[:-1], axis=-1) if len(widths) > 1 else [state]
        return keras.tree.pack_sequence_as(sizes, parts[: sum(map(len, sizes))]), parts[-1]

    def attend(self, hidden: Tensor, memory: Memory, samples: int = 1) -> tuple[Tensor, Tensor | None]:
        """Hidden (batch samples, queries, units) -> the context (batch samples, queries, size), and attention weights (batch,
        samples queries, positions)."""
        if self.attention == "none":
            return hidden[..., :0], None
        query = self.query(hidden)
        if samples == 1:
            return self._attend(query, memory)
        context, weights = self._attend(ops.reshape(query, (-1, samples * ops.shape(query)[1], self.units)), memory)
        return ops.reshape(context, (*ops.shape(query)[:2], context.shape[-1])), weights

    def _attend(self, query: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        mask = None if memory.mask is None else ops.expand_dims(memory.mask, 1)
        if self.attention == "dot":
            return layers.scaled_dot_product_attention(query, memory.keys, memory.values, mask)
        return layers.additive_attention(query, memory.keys, memory.values, ops.cast(self.scale, query.dtype), mask)

    # -- all steps at once

    def call(
        self,
        tokens: Tensor,
        values: Tensor,
        values_mask: Tensor | None = None,
        states: Any = None,
        training: bool = False,
        samples: int = 1,
    ) -> tuple[Tensor, Tensor | None]:
        """Embedded tokens (batch, time, size) and the encoder's values (batch, positions, size) -> outputs (batch, time,
        output_size) and attention weights (batch, time, positions). With `samples` k there are k sequences, one after another,
        for each of the values: tokens and outputs are (batch k, time, …), the weights (batch, k time, positions)."""
        memory = self.setup_memory(values, values_mask)
        return self.unfold(tokens, memory, self.get_initial_state(memory, states), training, samples)

    def unfold(
        self, tokens: Tensor, memory: Memory, state: Tensor, training: bool = False, samples: int = 1
    ) -> tuple[Tensor, Tensor | None]:
        """What the call gives, from a memory and an initial state that are there."""
        state = ops.repeat(state, samples, axis=0) if samples > 1 else state
        if self.input_feeding:
            return self._call_with_input_feeding(tokens, memory, state, training, samples)
        first, *further = self._split(state)[0]
        hidden = self.rnn_layers[0](tokens, initial_state=first, training=training)[0]
        context, weights = self.attend(hidden, memory, samples)
        for layer, initial in zip(self.rnn_layers[1:], further):
            below = self.drop(ops.concatenate([hidden, context], axis=-1), training=training)
            hidden = layer(below, initial_state=initial, training=training)[0]
        outputs = self.readout(ops.concatenate([hidden, context, tokens], axis=-1))
        return self.drop(outputs, training=training), weights

    def compute_mask(self, tokens: Any, *args: Any, **kwargs: Any) -> Any:
        return None

    def _call_with_input_feeding(self, tokens, memory, state, training, samples):
        def step(carry, elements):
            output, weights, state = self._step(elements[0], carry[0], samples, memory, training)
            return [state], [output] if weights is None else [output, _flat(weights)]

        widths = [self.output_size] if self.attention == "none" else [self.output_size, memory.values.shape[1]]
        _, (outputs, *weights) = scan(step, [state], [ops.transpose(tokens, (1, 0, 2))], widths, differentiable=True)
        outputs = self.drop(ops.transpose(outputs, (1, 0, 2)), training=training)
        return outputs, (ops.transpose(weights[0], (1, 0, 2)) if weights else None)

    # -- one step

    def step(self, token: Tensor, state: Tensor, memory: Memory) -> tuple[Tensor, Tensor | None, Tensor]:
        """One embedded token of each hypothesis (batch, beam, size), their states (batch, beam, size), and one memory for all
        hypotheses -> output (batch, beam, output_size), weights (batch, beam, positions), states."""
        beam = token.shape[1]
        output, weights, after = self._step(_flat(token), _flat(state), beam, memory, False)
        return _wide(output, beam), weights, _wide(after, beam)

    def _step(self, x, state, beam, memory, training):
        """(batch x beam, …), but the weights (batch, beam, positions): dense layers of rank 2 are one operation each."""
        states, output = self._split(state)
        hidden, new = self.rnn_layers[0].cell(ops.concatenate([x, output], axis=-1) if self.input_feeding else x, states[0])
        if self.attention == "none":
            context, weights = hidden[:, :0], None
        else:
            context, weights = self._attend(_wide(self.query(hidden), beam), memory)
            context = _flat(context)
        after = [new]
        for layer, before in zip(self.rnn_layers[1:], states[1:]):
            below = ops.concatenate([hidden, context], axis=-1)
            hidden, new = layer.cell(self.drop(below, training=training), before)
            after.append(new)
        output = self.readout(ops.concatenate([hidden, context, x], axis=-1))
        parts = keras.tree.flatten(after) + ([output] if self.input_feeding else [])
        return output, weights, ops.concatenate(parts, axis=-1)

    def get_config(self) -> dict[str, Any]:
        names = ("units", "output_size", "cell", "num_layers", "attention", "input_feeding", "init_state_from_memory", "dropout")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def _build(layer: keras.layers.Layer, shape: tuple) -> None:
    if not layer.built:
        layer.build(shape)


def _flat(x: Tensor) -> Tensor:
    """(batch, beam, size) -> (batch x beam, size)."""
    return ops.reshape(x, (-1, x.shape[-1]))


def _wide(x: Tensor, beam: int) -> Tensor:
    """(batch x beam, size) -> (batch, beam, size)."""
    return ops.reshape(x, (-1, beam, x.shape[-1]))
