"""Several processes that train one model together: data-parallel training by `tf.distribute`.

Every worker holds the whole model and runs `fit`. Of each global batch, the same as one process would see, it takes its own
rows, and the gradients are averaged over the workers before they are clipped and applied:

    g = sum_w n_w g_w / sum_w n_w        n_w: examples (tokens, frames) of worker w

so that weights, steps and learning rates are those of one process. On one machine sums go through `apps.common.pipes`, where
nothing listens; between machines through `tf.distribute.MultiWorkerMirroredStrategy`. Worker 0, the chief, validates, writes
and exports; the others take its word. A worker that loses another one ends with `LOST_WORKER`.
"""

import atexit
import contextlib
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from apps.common.checkpoints import Checkpoint, moving_average
from apps.common.cluster import STARTED, LocalWorkers, end_as_lost, place, started_worker, take_gpu, watch
from apps.common.pipes import LostWorkerError
from data_pipelines.sources import DataError

BLOCK = 4096  # what is told is padded to whole blocks: each size is traced once


class Workers:
    """The processes of a run, as one of them sees them.

    Args:
        strategy: `none`: this process alone. `multiworker`: those that the environment variable TF_CONFIG names. `mirrored`: one
            for each GPU of this machine (or `count`), which this process starts.
        count: of `mirrored`; None: the GPUs.
        data_service: where batches come from, in no fixed order; goes with a single worker only. A lost one ends the process.

    Raises:
        DataError: TF_CONFIG is missing or names no such worker; a process sees several GPUs; several workers and a
            data service, or one that does not answer.
    """

    def __init__(self, strategy: str = "none", count: int | None = None, data_service: str | None = None) -> None:
        self.index, self.count = 0, 1
        self._strategy: Any = None
        self._pipes: Any = None
        self._sums: Any = None
        if strategy != "none" and data_service:
            raise DataError(
                f"--data-service {data_service}: its batches come in no fixed order, but --strategy {strategy} shares batches "
                "that all workers see alike. Leave one of them out."
            )
        if data_service:
            watch(data_service)
        if strategy == "none":
            if count is not None:
                raise DataError(f"--workers {count}: goes with --strategy mirrored. Pass that, too, or leave it out.")
            return
        if strategy == "mirrored":
            if STARTED in os.environ:
                self.index, self.count, self._pipes = started_worker(os.environ[STARTED])
            else:
                local = LocalWorkers(count or len(tf.config.list_physical_devices("GPU")))
                self.count, self._pipes = local.count, local.pipes
            take_gpu(self.index)
        else:
            self.index, self.count, jobs = place(os.environ.get("TF_CONFIG"))
            if self.count > 1:
                take_gpu(None)
                self._strategy = self._between_machines(jobs)
        if self.count > 1:
            self._sums = self._summed if self._pipes else tf.function(self._summed, autograph=False)

    def _between_machines(self, jobs: dict[str, list[str]]) -> tf.distribute.Strategy:
        if self.is_chief:
            print(f"{'warning':<12}the ports of the workers give whoever can reach them the rights of this process: SECURITY.md")
        self._chief = [*jobs.get("chief", []), *jobs["worker"]][0]
        kind, index = ("chief", 0) if self.is_chief and "chief" in jobs else ("worker", self.index - len(jobs.get("chief", [])))
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec(jobs), task_type=kind, task_id=index, rpc_layer="grpc"
        )
        return tf.distribute.MultiWorkerMirroredStrategy(resolver)

    @property
    def is_chief(self) -> bool:
        return self.index == 0

    @property
    def jit_compile(self) -> Any:
        """Of `compile`: XLA has no collectives between processes."""
        return "auto" if self.count == 1 else False

    def facts(self, batch: int, unit: str) -> dict[str, str]:
        """What a run says of its workers."""
        if self.count == 1:
            return {}
        return {"workers": f"{self.count}; a global batch of {batch:,} {unit} is shared among them, the learning rate is for all"}

    @contextlib.contextmanager
    def chief_first(self) -> Iterator[None]:
        """The others wait until the chief has been through this block: what it wrote is there for them."""
        if not self.is_chief:
            self.tell(None)
        yield
        if self.is_chief:
            self.tell(None)

    def scratch(self) -> Path:
        """The folder of a worker that is not the chief; it goes when the process ends."""
        folder = tempfile.mkdtemp(prefix="unfold-worker-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)

    def wait_for_chief(self) -> dict:
        """The end of a worker that is not the chief: it stays until the chief, which still exports, has gone."""
        if self._pipes:
            self._pipes.wait()
            return {}
        host, _, port = self._chief.rpartition(":")
        with contextlib.suppress(OSError):
            while True:
                socket.create_connection((host, int(port)), timeout=30).close()
                time.sleep(1)
        return {}

    # -- data

    def shard(self, dataset: tf.data.Dataset, count: Callable[[tf.Tensor], tf.Tensor] = tf.size) -> tf.data.Dataset:
        """This worker's rows of each batch `(x, y)`, as `(x, y, weight)`: each row has the weight `workers * n_w / sum n_w`.

        Args:
            dataset: batches that are the same for every worker.
            count: y -> what the loss is a mean over.
        """
        if self.count == 1:
            return dataset

        def own(x: Any, y: tf.Tensor) -> tuple[Any, tf.Tensor, tf.Tensor]:
            rows = tf.shape(y)[0]
            begin, end = self.index * rows // self.count, (self.index + 1) * rows // self.count
            empty = tf.cast(begin == end, tf.int32)  # fewer rows than workers: take one, it weighs nothing
            begin = tf.minimum(begin, rows - empty)
            mine = tf.nest.map_structure(lambda part: part[begin : end + empty], (x, y))
            share = tf.cast(count(mine[1]), tf.float32) / tf.maximum(1.0, tf.cast(count(y), tf.float32))
            weight = self.count * share * tf.cast(1 - empty, tf.float32)
            return *mine, tf.fill([end + empty - begin], weight)

        return dataset.map(own, num_parallel_calls=2, deterministic=True).prefetch(2)

    # -- numbers

    def _summed(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        if self._pipes:
            found = tf.numpy_function(self._through_pipes, list(tensors), [tensor.dtype for tensor in tensors])
            return [tf.ensure_shape(total, tensor.shape) for total, tensor in zip(tf.nest.flatten(found), tensors)]

        def reduce(*values: tf.Tensor) -> Any:
            placed = [tf.identity(value) for value in values]  # a collective asks for the device of each
            return tf.distribute.get_replica_context().all_reduce("SUM", placed)

        sums: dict[int, tf.Tensor] = {}
        for kind in sorted({tensor.dtype for tensor in tensors}, key=str):  # a collective packs tensors of one type
            places = [i for i, tensor in enumerate(tensors) if tensor.dtype == kind]
            sums |= zip(places, self._strategy.run(reduce, args=tuple(tensors[i] for i in places)))
        return [sums[i] for i in range(len(tensors))]

    def _through_pipes(self, *arrays: np.ndarray) -> list[np.ndarray]:
        try:
            return self._pipes.sum(*arrays)
        except LostWorkerError:
            end_as_lost()

    def optimizer(self, kind: type[keras.Optimizer]) -> type[keras.Optimizer]:
        """The optimizer class with `moving_average`, and gradients averaged over the workers before anything is done to them."""
        kind = moving_average(kind)
        if self.count == 1:
            return kind
        if keras.config.dtype_policy().name == "mixed_float16":
            raise DataError("--precision mixed_float16: its loss scale would differ between workers. Pass mixed_bfloat16.")
        workers = self

        class Averaging(kind):  # type: ignore[misc,valid-type]
            def apply(self, grads: Sequence[Any], trainable_variables: Any = None) -> None:
                dense = [tf.convert_to_tensor(gradient) / workers.count for gradient in grads]
                super().apply(workers._summed(dense), trainable_variables)

        for name in ("__name__", "__qualname__", "__module__"):  # saved as what it is derived from
            setattr(Averaging, name, getattr(kind, name))
        return Averaging

    def gather(self, rows: tf.Tensor) -> tf.Tensor:
        """The rows of all workers, in their order; each has as many. In a graph."""
        if self.count == 1:
            return rows
        size = rows.shape[0]
        padded = tf.pad(rows, [[self.index * size, (self.count - 1 - self.index) * size]] + [[0, 0]] * (len(rows.shape) - 1))
        return self._summed([padded])[0]

    def sum_with_gradient(self, value: tf.Tensor) -> tf.Tensor:
        """The sum over the workers, inside a model: what depends on it does so on every worker."""

        @tf.custom_gradient
        def total(value: tf.Tensor) -> tuple[tf.Tensor, Callable]:
            return self._summed([value])[0], lambda upstream: self._summed([upstream])[0]

        return total(value)

    def tell(self, what: Any) -> Any:
        """What the chief calls this with, on every worker; JSON."""
        if self.count == 1:
            return what
        text = json.dumps(what).encode() if self.is_chief else b""
        size = int(self._sums([tf.constant([len(text)], tf.int32)])[0][0])
        signs = np.zeros(-(-size // BLOCK) * BLOCK, np.int32)
        signs[: len(text)] = list(text)
        return json.loads(self._sums([tf.constant(signs)])[0].numpy()[:size].astype(np.uint8).tobytes())

    def begin(self, model: keras.Model, checkpoint: Checkpoint, restored: int | None) -> int:
        """Before training: every worker gets the chief's variables, and then draws its own dropout.

        Returns:
            The step to go on from: what the chief restored, or 0.
        """
        if restored:
            print(f"continued at step {restored:,} of {checkpoint.folder}")
        checkpoint.writes = self.is_chief
        if self.count == 1:
            return restored or 0
        model.optimizer.build(model.trainable_variables)
        variables = [*model.variables, *model.optimizer.variables]
        values = [tf.convert_to_tensor(v) for v in variables]
        values = [value if value.dtype.is_floating else tf.cast(value, tf.int64) for value in values]
        values = self._sums([value if self.is_chief else tf.zeros_like(value) for value in values])
        for variable, value in zip(variables, values):
            if "seed_generator_state" in variable.path:
                value = tf.add(value, [self.index * 0x9E3779B9, 0])
            variable.assign(tf.cast(value, variable.dtype))
        told = self.tell({"step": restored, **checkpoint.state()})
        checkpoint.take_state(told)
        return told["step"] or 0

    def callbacks(self, *callbacks: keras.callbacks.Callback) -> list[keras.callbacks.Callback]:
        """Of these the chief has all; the others have `Checkpoint`, which knows when to stop, and the chief's logs."""
        if self.count == 1:
            return list(callbacks)
        own = [callback for callback in callbacks if self.is_chief or isinstance(callback, Checkpoint)]
        place = next(i for i, callback in enumerate(own) if isinstance(callback, Checkpoint))
        return [*own[:place], _OneLog(self), *own[place:]]


class _OneLog(keras.callbacks.Callback):
    """The metrics of an epoch over all workers, and the chief's validation, for all of them."""

    def __init__(self, workers: Workers) -> None:
        super().__init__()
        self.workers = workers

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        assert logs is not None  # Keras always passes them
        own = sorted(name for name in logs if not name.startswith("val_"))  # each has as many rows
        means = self.workers._sums([tf.constant([float(logs[name]) for name in own]) / self.workers.count])[0].numpy()
        logs.update(zip(own, means.tolist()))
        logs.update(self.workers.tell({name: float(value) for name, value in logs.items()}))


def count_tokens(following: tf.Tensor) -> tf.Tensor:
    """Of `Workers.shard`: padding (0) weighs nothing."""
    return tf.math.count_nonzero(following)
