"""Sums over the processes of a run, on which all that they share is built."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from apps.common.training.cluster import exit_as_lost_worker
from apps.common.training.pipes import LostWorkerError, Pipes

BLOCK = 4096  # an object is broadcast in whole blocks: each size is traced once


class Collectives:
    """What process `index` of `count` can do together with the others; each operation is called by all of them alike.

    Args:
        index, count: of the process, and how many there are. Of one alone every sum is its own value.
        transport: `Pipes` on one machine; between machines a `tf.distribute` strategy.
    """

    def __init__(self, index: int = 0, count: int = 1, transport: Any = None) -> None:
        self.index, self.count = index, count
        self.transport: Any = transport
        self._in_graph = self.sum if isinstance(transport, Pipes) else tf.function(self.sum, autograph=False)

    @property
    def is_chief(self) -> bool:
        return self.index == 0

    def sum(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Each tensor summed over the processes. In a graph."""
        if isinstance(self.transport, Pipes):
            found = tf.numpy_function(self._through_pipes, list(tensors), [tensor.dtype for tensor in tensors])
            return [tf.ensure_shape(total, tensor.shape) for total, tensor in zip(tf.nest.flatten(found), tensors)]

        def reduce(*values: tf.Tensor) -> Any:
            placed = [tf.identity(value) for value in values]  # a collective asks for the device of each
            return tf.distribute.get_replica_context().all_reduce("SUM", placed)

        sums: dict[int, tf.Tensor] = {}
        for kind in sorted({tensor.dtype for tensor in tensors}, key=str):  # a collective packs tensors of one type
            places = [i for i, tensor in enumerate(tensors) if tensor.dtype == kind]
            sums |= zip(places, self.transport.run(reduce, args=tuple(tensors[i] for i in places)))
        return [sums[i] for i in range(len(tensors))]

    def _through_pipes(self, *arrays: np.ndarray) -> list[np.ndarray]:
        try:
            return self.transport.sum(*arrays)
        except LostWorkerError:
            exit_as_lost_worker()

    def sum_now(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """`sum`, outside a graph."""
        return self._in_graph(tensors)

    def gather(self, rows: tf.Tensor) -> tf.Tensor:
        """The rows of all processes, in their order; each has as many. In a graph."""
        if self.count == 1:
            return rows
        size = rows.shape[0]
        padded = tf.pad(rows, [[self.index * size, (self.count - 1 - self.index) * size]] + [[0, 0]] * (len(rows.shape) - 1))
        return self.sum([padded])[0]

    def sum_with_gradient(self, value: tf.Tensor) -> tf.Tensor:
        """The sum over the processes, inside a model: what depends on it does so on every process."""

        @tf.custom_gradient
        def total(value: tf.Tensor) -> tuple[tf.Tensor, Callable]:
            return self.sum([value])[0], lambda upstream: self.sum([upstream])[0]

        return total(value)

    def broadcast_object(self, value: Any) -> Any:
        """What the chief calls this with, on every process; JSON."""
        if self.count == 1:
            return value
        text = json.dumps(value).encode() if self.is_chief else b""
        size = int(self.sum_now([tf.constant([len(text)], tf.int32)])[0][0])
        padded = np.zeros(-(-size // BLOCK) * BLOCK, np.int32)
        padded[: len(text)] = list(text)
        return json.loads(self.sum_now([tf.constant(padded)])[0].numpy()[:size].astype(np.uint8).tobytes())

    def broadcast_variables(self, variables: Sequence[Any]) -> None:
        """Give every process the chief's values."""
        values = [tf.convert_to_tensor(v) for v in variables]
        values = [value if value.dtype.is_floating else tf.cast(value, tf.int64) for value in values]
        values = self.sum_now([value if self.is_chief else tf.zeros_like(value) for value in values])
        for variable, value in zip(variables, values):
            variable.assign(tf.cast(value, variable.dtype))
