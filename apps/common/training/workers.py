"""Several processes that train one model together: data-parallel training.

Every worker holds the whole model and runs `fit`. Of each global batch, the same as one process would get, it takes its own
examples (`sharding`), and the gradients are averaged over the workers before they are clipped and applied:

    g = sum_w n_w g_w / sum_w n_w        n_w: examples (tokens, frames) of worker w

so that weights, steps and learning rates are those of one process. On one machine sums go through `pipes`, where nothing
listens; between machines through `tf.distribute.MultiWorkerMirroredStrategy`. Worker 0, the chief, validates, writes and exports;
the others get what it found. A worker that loses another one ends with `LOST_WORKER`.
"""

import atexit
import contextlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from apps.common.training.averages import moving_average, named_as
from apps.common.training.checkpoints import Checkpoint
from apps.common.training.cluster import STARTED, LocalWorkers, exit_when_unreachable, read_tf_config, started_worker, use_one_gpu
from apps.common.training.collectives import Collectives
from apps.common.training.pipes import Pipes
from apps.common.training.sharding import shard
from data_pipelines.batching import Batches
from data_pipelines.sources import DataError


class Workers(Collectives):
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
        super().__init__()
        if strategy != "none" and data_service:
            raise DataError(
                f"--data-service {data_service}: its batches come in no fixed order, but --strategy {strategy} shares batches "
                "that are the same for all workers. Leave one of them out."
            )
        if data_service:
            exit_when_unreachable(data_service)
        if strategy == "none" and count is not None:
            raise DataError(f"--workers {count}: goes with --strategy mirrored. Pass that, too, or leave it out.")
        if strategy == "mirrored":
            if STARTED in os.environ:
                index, total, pipes = started_worker(os.environ[STARTED])
            else:
                local = LocalWorkers(count or len(tf.config.list_physical_devices("GPU")))
                index, total, pipes = 0, local.count, local.pipes
            use_one_gpu(index)
            super().__init__(index, total, pipes)
        elif strategy == "multiworker":
            index, total, jobs = read_tf_config(os.environ.get("TF_CONFIG"))
            if total > 1:
                use_one_gpu(None)
                self._chief = [*jobs.get("chief", []), *jobs["worker"]][0]
                super().__init__(index, total, _strategy(index, jobs))

    @property
    def jit_compile(self) -> Any:
        """Of `compile`: XLA has no collectives between processes."""
        return "auto" if self.count == 1 else False

    def summary(self, batch: int, unit: str) -> dict[str, str]:
        """For the summary of a run."""
        if self.count == 1:
            return {}
        return {"workers": f"{self.count}; a global batch of {batch:,} {unit} is shared among them, the learning rate is for all"}

    @contextlib.contextmanager
    def chief_first(self) -> Iterator[None]:
        """The others wait until the chief has been through this block: what it wrote is there for them."""
        if not self.is_chief:
            self.broadcast_object(None)
        yield
        if self.is_chief:
            self.broadcast_object(None)

    def scratch(self) -> Path:
        """The folder of a worker that is not the chief; it goes when the process ends."""
        folder = tempfile.mkdtemp(prefix="unfold-worker-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)

    def wait_for_chief(self) -> dict:
        """The end of a worker that is not the chief: it stays until the chief, which still exports, has gone."""
        if isinstance(self.transport, Pipes):
            self.transport.wait()
            return {}
        host, _, port = self._chief.rpartition(":")
        with contextlib.suppress(OSError):
            while True:
                socket.create_connection((host, int(port)), timeout=30).close()
                time.sleep(1)
        return {}

    def shard(self, dataset: tf.data.Dataset, size: Callable[[tf.Tensor], tf.Tensor] = tf.size) -> tf.data.Dataset:
        """This worker's part of each batch."""
        return shard(dataset, self.index, self.count, size)

    def part(self, batches: Batches, size: Callable[[tf.Tensor], tf.Tensor] = tf.size) -> tf.data.Dataset:
        """This worker's part of each batch; where the data can be read in parts, it reads nothing else."""
        if self.count > 1 and batches.part:
            return batches.part(self.index, self.count)
        return self.shard(batches.dataset, size)

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
                super().apply(workers.sum(dense), trainable_variables)

        return named_as(Averaging, kind)

    def broadcast_state(self, model: keras.Model, checkpoint: Checkpoint, restored: int | None) -> int:
        """Before training: every worker gets the chief's variables, and dropout of its own.

        Returns:
            The step to continue from: what the chief restored, or 0.
        """
        if restored:
            print(f"continued at step {restored:,} of {checkpoint.folder}")
        checkpoint.writes = self.is_chief
        if self.count == 1:
            return restored or 0
        model.optimizer.build(model.trainable_variables)
        self.broadcast_variables([*model.variables, *model.optimizer.variables])
        for variable in model.variables:
            if "seed_generator_state" in variable.path:
                own = tf.cast(variable, tf.int64) + tf.constant([self.index * 0x9E3779B9, 0], tf.int64)
                variable.assign(tf.cast(own, variable.dtype))
        state = self.broadcast_object({"step": restored, **checkpoint.selection.state_dict()})
        checkpoint.selection.load_state_dict(state)
        return state["step"] or 0

    def callbacks(self, *callbacks: keras.callbacks.Callback) -> list[keras.callbacks.Callback]:
        """Of these the chief has all; the others have `Checkpoint`, which knows when to stop, and the chief's logs."""
        if self.count == 1:
            return list(callbacks)
        own = [callback for callback in callbacks if self.is_chief or isinstance(callback, Checkpoint)]
        place = next(i for i, callback in enumerate(own) if isinstance(callback, Checkpoint))
        return [*own[:place], _SharedLogs(self), *own[place:]]


def _strategy(index: int, jobs: dict[str, list[str]]) -> tf.distribute.Strategy:
    if index == 0:
        print(f"{'warning':<12}the ports of the workers give whoever can reach them the rights of this process: SECURITY.md")
    chiefs = len(jobs.get("chief", []))
    kind, task = ("chief", 0) if index < chiefs else ("worker", index - chiefs)
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec(jobs), task_type=kind, task_id=task, rpc_layer="grpc"
    )
    return tf.distribute.MultiWorkerMirroredStrategy(resolver)


class _SharedLogs(keras.callbacks.Callback):
    """The metrics of an epoch over all workers, and the chief's validation, for all of them."""

    def __init__(self, workers: Workers) -> None:
        super().__init__()
        self.workers = workers

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        assert logs is not None  # Keras always passes them
        own = sorted(name for name in logs if not name.startswith("val_"))  # each has as many examples
        means = self.workers.sum_now([tf.constant([float(logs[name]) for name in own]) / self.workers.count])[0].numpy()
        logs.update(zip(own, means.tolist()))
        logs.update(self.workers.broadcast_object({name: float(value) for name, value in logs.items()}))
