"""cuDNN's LSTM and GRU, on TensorFlow with a GPU: one kernel for all steps, with the results of `layers.bptt`.

What `tf.raw_ops.CudnnRNNV3` takes, the same that `keras.layers.LSTM` and `GRU` hand it:

| argument | LSTM | GRU |
|---|---|---|
| `input` | (batch, time, features), in half, single or double precision | the same |
| `input_h`, `input_c` | h and c, (batch, 1, units) each | h, and 0 |
| `params` | one vector: see `pack_params` | the same |
| gates in it | i, f, g, o, as in `LSTMCell` | r, z, h; in `GRUCell` z, r, h |
| biases in it | zeros for x, b for h: cuDNN adds both | those for x, those for h |
| `sequence_lengths` | (batch,): the steps of each row, one at least; the others come after them | the same |
| `is_training` | True: the operation has no gradient otherwise | the same |

It gives the outputs, which mean nothing after the steps of a row, and the states after the last step of each row. So it fits
where each row of a mask is padded on the right. An empty row runs for one step, whose results are replaced by the states before
it. What doesn't fit runs on the engine, and where only the graph knows, `tf.cond` decides for each batch.

None of this has run on a GPU yet. The tests compare the arguments with those of Keras, bit for bit, and the results of
an implementation of the operation, written from cuDNN's documentation, with those of the engine.

Two bugs are avoided: before 8.9.1 cuDNN may corrupt what is masked (https://github.com/tensorflow/tensorflow/issues/60192), and
it fails for batches of more than about 6,000 rows (https://github.com/tensorflow/tensorflow/issues/39453).
"""

import re
from collections.abc import Callable
from typing import Any

import keras
from keras import activations, ops

from layers.cells import GRUCell, LSTMCell
from layers.compiled import has_gpu, is_portable

Tensor = Any

MODES = {LSTMCell: ("lstm", (0, 1, 2, 3)), GRUCell: ("gru", (1, 0, 2))}  # its name and the order of the gates, ours at each place
EQUATIONS = {"equations", "project", "input_bias", "recurrent_bias", "recur", "step", "call"}
DTYPES = ("float16", "float32", "float64")  # bfloat16 has kernels in TensorFlow, which were not tried: it runs on the engine
MAX_ROWS = 6_000
MASKS_SINCE = [8, 9, 1]


def takes(layer: Any, training: bool) -> bool:
    """Whether a call of the layer runs on cuDNN, as far as it isn't a matter of the batch.

    Raises:
        ValueError: it doesn't, and the layer has `use_cudnn=True`. Inside `layers.portable` that is no error.
    """
    reason = why_not(layer, training)
    if reason and _choice(layer) is True and not is_portable():
        raise ValueError(
            f"{type(layer).__name__} {layer.name!r}: use_cudnn is True, but {reason}. cuDNN computes layers.LSTM and layers.GRU "
            "as they are by default, on TensorFlow with a GPU. Leave use_cudnn='auto': what cuDNN can't do runs on the engine."
        )
    return not reason


def why_not(layer: Any, training: bool) -> str:
    """Why no call of the layer runs on cuDNN; empty if it may."""
    cell, tanh, sigmoid = layer.cell, [activations.tanh, ops.tanh], [activations.sigmoid, ops.sigmoid]
    if _choice(layer) is False:
        return "it is False"
    if keras.backend.backend() != "tensorflow":
        return f"the backend is {keras.backend.backend()}"
    if type(cell) not in MODES or not EQUATIONS.isdisjoint(vars(cell)):
        return f"the equations of the cell, a {type(cell).__name__}, may be others"
    if layer.unroll:
        return "unroll is True"
    if cell.activation not in tanh or cell.recurrent_activation not in sigmoid:
        return "the activations are not tanh and sigmoid"
    if not cell.use_bias or not getattr(cell, "reset_after", True):
        return "use_bias or reset_after is False"
    if training and (cell.recurrent_dropout or cell.recurrent_weight_dropout):
        return "something is dropped from the recurrent product"
    if cell.compute_dtype not in DTYPES:
        return f"it computes in {cell.compute_dtype}"
    import tensorflow as tf

    if not has_gpu() or not tf.sysconfig.get_build_info()["is_cuda_build"]:
        return "TensorFlow finds no CUDA GPU"
    return "XLA compiles the function that calls the layer" if tf.__internal__.get_enclosing_xla_context() else ""


def _choice(layer: Any) -> Any:
    return getattr(layer, "use_cudnn", False)  # which LSTM and GRU have, as in Keras


def unfold(
    cell: Any, inputs: Tensor, states: list, mask: Tensor | None, reverse: bool, sequences: bool, engine: Callable[[], tuple]
) -> tuple[Tensor, Tensor | None, list[Tensor]]:
    """`bptt.unfold` by cuDNN where the batch fits, else by `engine()`, that call itself."""
    import tensorflow as tf

    def on_cudnn() -> list[Tensor]:
        outputs, final = run(cell, inputs, states, mask, reverse)
        return [*final, outputs] if sequences else final

    def on_engine() -> list[Tensor]:
        _, outputs, final = engine()
        return [*final, outputs] if sequences else final

    fits = _fits(inputs, mask)
    results = tf.cond(fits, on_cudnn, on_engine) if tf.is_tensor(fits) else (on_cudnn if fits else on_engine)()
    final = results[: len(states)]
    return final[0], (results[-1] if sequences else None), final


def _fits(inputs: Tensor, mask: Tensor | None) -> Any:
    """Whether cuDNN can run this batch: a boolean, or a tensor where it isn't known yet."""
    import tensorflow as tf

    if mask is not None and [int(n) for n in re.findall(r"\d+", tf.sysconfig.get_build_info()["cudnn_version"])] < MASKS_SINCE:
        return False
    batch, time, _ = ops.shape(inputs)
    conditions = [batch > 0, batch <= MAX_ROWS, time > 0]
    if mask is not None:
        conditions.append(~tf.reduce_any(mask[:, 1:] & ~mask[:, :-1]))  # nothing is kept after what isn't
    tensors = [condition for condition in conditions if tf.is_tensor(condition)]
    known = all(condition for condition in conditions if not tf.is_tensor(condition))
    return tf.reduce_all(tensors) if known and tensors else known


def run(cell: Any, inputs: Tensor, states: list, mask: Tensor | None, reverse: bool) -> tuple[Tensor, list[Tensor]]:
    """The outputs of all steps, in the place of their inputs, and the final states, under a mask that fits."""
    import tensorflow as tf

    lengths = tf.fill(tf.shape(inputs)[:1], tf.shape(inputs)[1])
    if mask is not None:
        lengths = tf.maximum(tf.reduce_sum(tf.cast(mask, tf.int32), axis=1), 1)

    def turn(x: Tensor) -> Tensor:
        return tf.reverse_sequence(x, lengths, seq_axis=1, batch_axis=0) if reverse else x

    h, *c = (tf.expand_dims(state, 1) for state in states)
    outputs, *final, _, _ = tf.raw_ops.CudnnRNNV3(
        input=turn(inputs),
        input_h=h,
        input_c=c[0] if c else 0,
        params=pack_params(cell, inputs.dtype),
        sequence_lengths=lengths,
        rnn_mode=MODES[type(cell)][0],
        is_training=True,
        time_major=False,
    )
    outputs, final = turn(outputs), [tf.squeeze(state, 1) for state in final[: len(states)]]
    if mask is not None:
        has_steps = mask[:, :1]  # else the row is empty
        final = [tf.where(has_steps, after, before) for after, before in zip(final, states)]
        held = states[0] if reverse else final[0]
        outputs = tf.where(mask[..., None], outputs, held[:, None])
    return outputs, final


def pack_params(cell: Any, dtype: Any) -> Tensor:
    """`params`: of each gate the input kernel, transposed and flat, then the recurrent kernels, the biases for x, those for h."""
    import tensorflow as tf

    order = MODES[type(cell)][1]
    kernel, recurrent, bias = (ops.cast(w, dtype) for w in (cell.kernel, cell.recurrent_kernel, cell.bias))
    biases = tf.unstack(bias) if len(bias.shape) == 2 else [tf.zeros_like(bias), bias]
    gates = [tf.split(w, len(order), axis=-1) for w in (kernel, recurrent, *biases)]
    return tf.concat([tf.reshape(tf.transpose(parts[k]), [-1]) for parts in gates for k in order], axis=0)
