"""Checkpoints from which a killed run goes on as if nothing had happened.

A checkpoint holds all that the next step depends on: the variables of the model (dropout seeds among them), of the
optimizer and of the running metrics, the step, and the state of early stopping. The order of the data follows from the
seed and the step. Files are written whole or not at all.
"""

import hashlib
import io
import json
import signal
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np

from apps.common.files import write_whole
from data_pipelines.sources import DataError

SMALLER_IS_BETTER = ("loss", "error", "perplexity", "bits", "nll")
NOISE = {"val_bleu": 1.0, "val_bleu_4": 1.0, "val_cider": 0.05}  # below these a metric says nothing: the loss decides


def moving_average(kind: type[keras.Optimizer]) -> type[keras.Optimizer]:
    """The optimizer class with a moving average (`use_ema`) whose momentum rises to `ema_momentum`.

    After t steps it is min(ema_momentum, t / (9 + t)). With the full momentum from the start, the average of a short run
    would be little but its initial weights.
    """

    class MovingAverage(kind):  # type: ignore[misc,valid-type]
        def _update_model_variables_moving_average(self, trainable_variables: Any) -> None:
            if not self.use_ema:
                return
            step = keras.ops.cast(self.iterations, "float32")
            momentum = keras.ops.minimum(self.ema_momentum, step / (9.0 + step))
            for variable, average in zip(trainable_variables, self._model_variables_moving_average):
                if average is not None:
                    average.assign(variable + keras.ops.cast(momentum, variable.dtype) * (average - variable))

    for name in ("__name__", "__qualname__", "__module__"):  # saved as what it is derived from
        setattr(MovingAverage, name, getattr(kind, name))
    return MovingAverage


@contextmanager
def averaged_weights(model: keras.Model) -> Iterator[None]:
    """In this block the model has the moving averages of its weights, if its optimizer keeps them (`use_ema`)."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)  # mixed_float16 wraps it in one that scales the loss
    if not optimizer.use_ema:
        yield
        return
    kept = [np.array(v) for v in model.trainable_variables]
    optimizer.finalize_variable_values(model.trainable_variables)
    try:
        yield
    finally:
        for variable, value in zip(model.trainable_variables, kept):
            variable.assign(value)


class Stopped(KeyboardInterrupt):
    """Somebody ended the run, by Ctrl-C or SIGTERM."""

    def __init__(self, number: int, step: int, what: str) -> None:
        super().__init__(f"stopped at step {step:,}, which {what}; continue with --resume")
        self.exit_code = 128 + number


class Checkpoint(keras.callbacks.Callback):
    """Save the run every `every_seconds` and at each epoch's end; keep the best (averaged) weights; stop early.

    Ctrl-C and SIGTERM save, too, and raise `Stopped` after the step that is under way; a second one ends at once. A loss or a
    weight that is no number any more ends the run by a `DataError`; it is never saved.

    Args:
        folder: where `step-N.npz` files go; the last `keep` are kept.
        monitor: the validation metric that chooses the epoch to keep, made large, or small if its name says so (a loss, an
            error, perplexity, bits or nll). Among equal values the smaller `val_loss` is better, so a metric that never moves
            (BLEU stays 0 on the first epochs) neither chooses nor stops. Values below `NOISE` count as 0.
        patience: stop after so many epochs in which neither the metric nor `val_loss` got better; None: never.
        every_seconds: how much work a kill may cost.
        keep: how many files are kept.
    """

    def __init__(
        self,
        folder: Path,
        monitor: str = "val_accuracy",
        patience: int | None = None,
        every_seconds: float = 30.0,
        keep: int = 3,
    ) -> None:
        super().__init__()
        self.folder, self.monitor, self.patience = folder, monitor, patience
        self.every_seconds, self.keep = every_seconds, keep
        self.writes = True  # of several workers only one
        self.best_epoch, self.waited, self.finished = 0, 0, False
        self.epochs = 0  # of the run; `parts` is told
        self.best_weights: list[np.ndarray] = []
        self.history: list[dict[str, float]] = []
        self._last_weights: list[np.ndarray] = []
        self._restored_metrics: list[np.ndarray] | None = None
        self._saved_at = time.monotonic()
        self._asked_to_stop = 0  # the number of the signal
        self._handlers: dict[int, Any] = {}

    # -- during training

    def on_train_begin(self, logs: dict | None = None) -> None:
        if threading.current_thread() is threading.main_thread():  # only there signals arrive
            self._handlers = {number: signal.signal(number, self._ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)}

    def _ask_to_stop(self, number: int, frame: Any) -> None:
        self._asked_to_stop = number
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        if self._restored_metrics is not None:  # the epoch was under way when it was saved
            for variable, value in zip(self.model.metrics_variables, self._restored_metrics, strict=True):
                variable.assign(value)
            self._restored_metrics = None

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        loss = float((logs or {}).get("loss", 0.0))
        if not np.isfinite(loss):
            raise self._no_number(f"the loss is {loss}", batch)
        if batch + 1 == self.params["steps"]:
            return  # the epoch's end saves, with the validation done
        if self._asked_to_stop:
            self.save()
            self._stop()
        if time.monotonic() - self._saved_at >= self.every_seconds:
            self.save()

    def _stop(self) -> None:
        step = int(self.model.optimizer.iterations)
        if not self.writes:
            what = "the first worker may not have saved"
        else:
            what = "is saved" if self._path(step).exists() else "could not be saved, the one before it is"
        raise Stopped(self._asked_to_stop, step, what)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.npz"

    def _no_number(self, what: str, batch: int | None = None) -> DataError:
        self._restore_handlers()
        where = "" if batch is None else f", batch {batch + 1:,} of the epoch"
        kept = max(self.folder.glob("step-*.npz"), default=None)
        last = f"the last good weights are in {kept}" if kept else "no weights were saved yet"
        return DataError(
            f"training: {what} at step {int(self.model.optimizer.iterations):,}{where}; {last}. "
            "Lower --learning-rate or --clip-norm, or take --precision float32."
        )

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        logs = {name: float(value) for name, value in (logs or {}).items()}
        self.history.append({"epoch": len(self.history) + 1, **logs})
        self.waited += 1
        rank = self._rank(self.history[-1])
        if not self.best_epoch or rank > self._rank(self.history[self.best_epoch - 1]):
            self.best_epoch, self.waited = len(self.history), 0
            with averaged_weights(self.model):
                self.best_weights = [np.array(w) for w in self.model.get_weights()]
        losses = [row.get("val_loss", np.inf) for row in self.history]
        if losses[-1] < min(losses[:-1], default=np.inf):
            self.waited = 0
        if self.patience is not None and self.waited >= self.patience:
            self.finished = self.model.stop_training = True
        self._last_weights = [np.array(v) for v in self.model.trainable_variables]
        self.save()
        if self._asked_to_stop:
            self._stop()

    def _rank(self, row: dict[str, float]) -> tuple[float, float]:
        """What makes an epoch better than another: the monitored metric, then the loss. NaN is worse than anything."""
        if self.monitor not in row:
            names = ", ".join(name.removeprefix("val_") for name in row if name.startswith("val_"))
            raise DataError(f"--monitor {self.monitor.removeprefix('val_')}: no such validation metric; there are {names}.")
        smaller = any(word in self.monitor for word in SMALLER_IS_BETTER)
        value = row[self.monitor] if row[self.monitor] >= NOISE.get(self.monitor, -np.inf) else 0.0
        rank = (-value if smaller else value, -row.get("val_loss", 0.0))
        return rank if np.isfinite(rank[0]) else (-np.inf, -np.inf)

    def on_train_end(self, logs: dict | None = None) -> None:
        """`fit` leaves the averaged weights in the model; the next part of a run goes on from the last ones."""
        self._restore_handlers()
        for variable, value in zip(self.model.trainable_variables, self._last_weights):
            variable.assign(value)

    def begin(self, model: keras.Model) -> None:
        """Save a compiled model before its first step, so that what was done to it so far is not done again."""
        self.set_model(model)
        model.optimizer.build(model.trainable_variables)
        self.save()

    def go_on_from(self, before: "Checkpoint | None") -> None:
        """Begin a second phase of a run: its log goes on, and what was best remains so until something is better."""
        if before is not None:
            self.history, self.best_epoch = list(before.history), before.best_epoch
            self.best_weights = list(before.best_weights)

    def restore_best(self) -> None:
        """Give the model the weights of its best epoch, and say which it is."""
        if self.best_weights:
            self.model.set_weights(self.best_weights)
            row = self.history[self.best_epoch - 1]
            if self.finished and len(self.history) < self.epochs:
                name = self.monitor.removeprefix("val_")
                print(f"{'stopped':<12}neither {name} nor loss got better for {self.patience} epochs (--patience)")
            values = "  ".join(f"{name} {row[name]:.4g}" for name in dict.fromkeys((self.monitor, "val_loss")) if name in row)
            print(f"kept        epoch {self.best_epoch} of {len(self.history)}: {values}", flush=True)

    def refuse_worse_than(self, constant: dict[str, float]) -> None:
        """Raise if the kept epoch is no better than a constant guess in any of these validation metrics.

        Raises:
            DataError: with the numbers.
        """
        row = self.history[self.best_epoch - 1]
        worse = [
            f"{name.removeprefix('val_')} {row[name]:.3g} against {value:.3g}"
            for name, value in constant.items()
            if not (value - row[name] if any(word in name for word in SMALLER_IS_BETTER) else row[name] - value) > 1e-6
        ]
        if len(worse) == len(constant):
            raise DataError(
                f"not exported: the model is no better than a constant guess ({', '.join(worse)}). Train it longer "
                "(--epochs, --patience, --monitor loss), or on more examples; --resume --force-export exports it all the same."
            )

    def parts(self, start_step: int, steps_per_epoch: int, epochs: int) -> Iterator[tuple[int, dict[str, int]]]:
        """The calls of `fit` that a run from `start_step` takes: `(first step, arguments of fit)`.

        A run that goes on inside an epoch first completes it.

        >>> for part in Checkpoint(Path("x")).parts(25, 10, 5):
        ...     print(part)
        (25, {'initial_epoch': 2, 'epochs': 3, 'steps_per_epoch': 5})
        (30, {'initial_epoch': 3, 'epochs': 5, 'steps_per_epoch': 10})
        """
        self.epochs = epochs
        epoch, done = divmod(start_step, steps_per_epoch)
        if not done:  # what was saved are the metrics of the epoch before
            self._restored_metrics = None
        if done and not self.finished:
            rest = steps_per_epoch - done
            yield start_step, {"initial_epoch": epoch, "epochs": epoch + 1, "steps_per_epoch": rest}
            epoch += 1
        if epoch < epochs and not self.finished:
            start = epoch * steps_per_epoch
            yield start, {"initial_epoch": epoch, "epochs": epochs, "steps_per_epoch": steps_per_epoch}

    # -- on disk

    def _groups(self) -> dict[str, list[Any]]:
        return {
            "model": list(self.model.variables),
            "optimizer": list(self.model.optimizer.variables),
            "metrics": list(self.model.metrics_variables),
        }

    def state(self) -> dict[str, Any]:
        """What early stopping and the log go on from."""
        return {"best_epoch": self.best_epoch, "waited": self.waited, "finished": self.finished, "history": self.history}

    def take_state(self, state: dict[str, Any]) -> None:
        self.best_epoch, self.waited = state["best_epoch"], state["waited"]
        self.finished, self.history = state["finished"], state["history"]

    def save(self) -> None:
        """Write `step-N.npz`, first under another name, so that a kill leaves the file before it intact."""
        step = int(self.model.optimizer.iterations)
        arrays = {f"{g}/{i}": np.asarray(v) for g, group in self._groups().items() for i, v in enumerate(group)}
        if not all(np.isfinite(array).all() for name, array in arrays.items() if not name.startswith("metrics/")):
            raise self._no_number("a weight is no number")
        if not self.writes:
            self._saved_at = time.monotonic()
            return
        arrays |= {f"best/{i}": w for i, w in enumerate(self.best_weights)}
        state = {"step": step, **self.state()}
        self.folder.mkdir(parents=True, exist_ok=True)
        path, buffer = self._path(step), io.BytesIO()
        try:
            np.savez(buffer, **{"state": np.array(json.dumps(state)), **arrays})  # type: ignore[arg-type]
            write_whole(path, buffer.getvalue() + hashlib.sha256(buffer.getbuffer()).digest())
        except OSError as error:  # the disk is full
            self._saved_at = time.monotonic()
            print(f"{path}: not written ({error.strerror}); the run goes on, and the checkpoints before it are as they were")
            return
        for old in sorted(self.folder.glob("step-*.npz"))[: -self.keep]:
            old.unlink()
        self._saved_at = time.monotonic()

    def restore(self, model: keras.Model, examples: Any) -> int | None:
        """Load the newest readable checkpoint into a compiled model; return its step, or None if there is none.

        Running metrics get their variables when they first see a batch: one of `examples` is for that.
        """
        self.set_model(model)
        model.optimizer.build(model.trainable_variables)
        model.evaluate(examples, steps=1, verbose=0)
        for path in sorted(self.folder.glob("step-*.npz"), reverse=True):
            try:
                arrays, state = read_checkpoint(path)
            except Exception as error:  # whatever is wrong with it, there may be one before
                reason = " ".join(str(error).split())[:100] or type(error).__name__
                print(f"{path}: not readable ({reason}); trying the checkpoint before it")
                continue
            if self._fits(arrays):
                return self._load(arrays, state)
            print(f"{path}: not of this model; trying the checkpoint before it")
        return None

    def _fits(self, arrays: dict[str, np.ndarray]) -> bool:
        groups = self._groups()
        wanted = {f"{name}/{i}": tuple(v.shape) for name in ("model", "optimizer") for i, v in enumerate(groups[name])}
        found = {name: array.shape for name, array in arrays.items() if name.startswith(("model/", "optimizer/"))}
        best = [array.shape for array in _numbered(arrays, "best")]
        return found == wanted and best in ([], [tuple(w.shape) for w in self.model.weights])

    def _load(self, arrays: dict[str, np.ndarray], state: dict[str, Any]) -> int:
        groups = self._groups()
        for name in ("model", "optimizer"):
            for i, variable in enumerate(groups[name]):
                variable.assign(arrays[f"{name}/{i}"])
        self._restored_metrics = _numbered(arrays, "metrics")
        self.best_weights = _numbered(arrays, "best")
        self.take_state(state)
        return state["step"]


def read_checkpoint(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the state of a checkpoint.

    Raises:
        ValueError, or what else a file can cause that is not as `save` wrote it.
    """
    data = path.read_bytes()
    content, digest = data[:-32], data[-32:]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError("its checksum is wrong: it was changed or cut off")
    with zipfile.ZipFile(io.BytesIO(content)) as members:  # nothing larger than the file, before anything is allocated
        if any(m.compress_type != zipfile.ZIP_STORED or m.file_size > len(content) for m in members.infolist()):
            raise ValueError("it is compressed")
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    state = json.loads(str(arrays.pop("state")))
    numbers = [state[name] for name in ("step", "best_epoch", "waited")]
    rows = state["history"]
    if any(type(number) is not int or number < 0 for number in numbers) or type(state["finished"]) is not bool:
        raise ValueError("its state is none")
    if not 0 <= state["best_epoch"] <= len(rows) or any(
        type(value) not in (int, float) for row in rows for value in row.values()
    ):
        raise ValueError("its history is none")
    return arrays, state


def _numbered(arrays: dict[str, np.ndarray], group: str) -> list[np.ndarray]:
    names = sorted((n for n in arrays if n.startswith(group + "/")), key=lambda n: int(n.split("/")[1]))
    return [arrays[name] for name in names]
