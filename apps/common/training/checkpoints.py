"""Checkpoints from which a killed run resumes as if nothing had happened.

A checkpoint holds all that the next step depends on: the variables of the model (dropout seeds among them), of the
optimizer and of the running metrics, the step, and the state of early stopping. The order of the data follows from the
seed and the step. Files are written whole or not at all.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from apps.common.training.averages import averaged_weights
from apps.common.training.checkpoint_files import checkpoint_path, newest_first, read_checkpoint, write_checkpoint
from apps.common.training.selection import Selection
from apps.common.training.signals import Stopped, StopSignals
from data_pipelines import remote
from data_pipelines.sources import DataError


class Checkpoint(keras.callbacks.Callback):
    """Save the run every `every_seconds` and at each epoch's end; keep the best (averaged) weights; stop early.

    Ctrl-C and SIGTERM save, too, and raise `Stopped` after the step that is under way; a second one ends at once. A NaN or
    infinite loss or weight ends the run by a `DataError`; it is never saved.

    Args:
        folder: where `step-N.npz` files go; the last `keep` are kept.
        monitor, patience: of the `Selection`.
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
        self.folder, self.every_seconds, self.keep = folder, every_seconds, keep
        self.selection = Selection(monitor, patience)
        self.signals = StopSignals()
        self.writes = True  # of several workers only one
        self.epochs = 0  # of the run; set by `parts`
        self.step = 0  # batches so far; mixed_float16 leaves out updates, which the optimizer doesn't count
        self.resume_command = "the same command, with --resume"  # what `runs.fit` knows better
        self.seconds = 0.0  # of training and validation, up to what was saved
        self.best_weights: list[np.ndarray] = []
        self._last_weights: list[np.ndarray] = []
        self._restored_metrics: list[np.ndarray] | None = None
        self._saved_at = self._counted_at = time.monotonic()

    # -- during training

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.signals.listen()
        self._counted_at = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        if self._restored_metrics is not None:  # the epoch was under way when it was saved
            for variable, value in zip(self.model.metrics_variables, self._restored_metrics, strict=True):
                variable.assign(value)
            self._restored_metrics = None

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.step += 1
        loss = float((logs or {}).get("loss", 0.0))
        if not np.isfinite(loss):
            raise self._not_finite(f"the loss is {loss}", batch)
        if batch + 1 == self.params["steps"]:
            return  # the epoch's end saves, with the validation done
        if self.signals.number:
            self.save()
            self._stop()
        if time.monotonic() - self._saved_at >= self.every_seconds:
            self.save()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if self.selection.add({name: float(value) for name, value in (logs or {}).items()}):
            with averaged_weights(self.model):
                self.best_weights = [np.array(w) for w in self.model.get_weights()]
        if self.selection.finished:
            self.model.stop_training = True
        self._last_weights = [np.array(v) for v in self.model.trainable_variables]
        self.save()
        if self.signals.number:
            self._stop()

    def on_train_end(self, logs: dict | None = None) -> None:
        """`fit` leaves the averaged weights in the model; the next part of a run continues from the last ones."""
        self.signals.restore()
        for variable, value in zip(self.model.trainable_variables, self._last_weights):
            variable.assign(value)

    def _stop(self) -> None:
        if not self.writes:
            what = "the first worker may not have saved"
        else:
            what = "is saved" if checkpoint_path(self.folder, self.step).exists() else "could not be saved, the one before it is"
        raise Stopped(self.signals.number, self.step, what, self.resume_command)

    def _not_finite(self, what: str, batch: int | None = None) -> DataError:
        self.signals.restore()
        where = "" if batch is None else f", batch {batch + 1:,} of the epoch"
        files = newest_first(self.folder)
        last = f"the last good weights are in {files[0]}" if files else "no weights were saved yet"
        return DataError(
            f"training: {what} at step {self.step:,}{where}; {last}. "
            "Lower --learning-rate or --clip-norm, or take --precision float32."
        )

    # -- the parts of a run

    def parts(self, start_step: int, steps_per_epoch: int, epochs: int) -> Iterator[tuple[int, dict[str, int]]]:
        """The calls of `fit` that a run from `start_step` takes: `(first step, arguments of fit)`.

        A run that is resumed inside an epoch first completes it, unless fewer epochs are asked for by now.

        >>> for part in Checkpoint(Path("x")).parts(25, 10, 5):
        ...     print(part)
        (25, {'initial_epoch': 2, 'epochs': 3, 'steps_per_epoch': 5})
        (30, {'initial_epoch': 3, 'epochs': 5, 'steps_per_epoch': 10})
        >>> list(Checkpoint(Path("x")).parts(25, 10, 2))
        []
        """
        self.epochs, self.step = epochs, start_step
        epoch, done = divmod(start_step, steps_per_epoch)
        if not done:  # what was saved are the metrics of the epoch before
            self._restored_metrics = None
        if done and epoch < epochs and not self.selection.finished:
            yield start_step, {"initial_epoch": epoch, "epochs": epoch + 1, "steps_per_epoch": steps_per_epoch - done}
            epoch += 1
        if epoch < epochs and not self.selection.finished:
            start = epoch * steps_per_epoch
            yield start, {"initial_epoch": epoch, "epochs": epochs, "steps_per_epoch": steps_per_epoch}

    def save_before_training(self, model: keras.Model) -> None:
        """Save a compiled model before its first step, so that what was done to it so far is not done again."""
        self.set_model(model)
        model.optimizer.build(model.trainable_variables)
        self.save()

    def continue_phase(self, before: "Checkpoint | None") -> None:
        """Begin a second phase of a run: its log continues, and the best weights stay until others are better."""
        if before is not None:
            self.selection.load_state_dict({**before.selection.state_dict(), "waited": 0})
            self.selection.earlier = len(self.selection.history)
            self.best_weights = list(before.best_weights)

    def keep_unless_better(self, model: keras.Model, metrics: dict[str, float]) -> None:
        """Keep the weights that a run begins with, of these validation metrics, until those of an epoch are better."""
        self.selection.baseline, self.best_weights = metrics, [np.array(w) for w in model.get_weights()]

    def restore_best(self) -> None:
        """Give the model the weights of its best epoch, and print which it is."""
        if self.best_weights:
            self.model.set_weights(self.best_weights)
            self.selection.report(self.epochs)

    # -- on disk

    def _groups(self) -> dict[str, list[Any]]:
        return {
            "model": list(self.model.variables),
            "optimizer": list(self.model.optimizer.variables),
            "metrics": list(self.model.metrics_variables),
        }

    def save(self) -> None:
        """Write `step-N.npz`, first under another name, so that a kill leaves the file before it intact."""
        arrays = {name: [np.asarray(variable) for variable in group] for name, group in self._groups().items()}
        if not all(np.isfinite(array).all() for name in ("model", "optimizer") for array in arrays[name]):
            raise self._not_finite("a weight is NaN or infinite")
        self._saved_at = time.monotonic()
        if not self.writes:
            return
        now = time.monotonic()
        self.seconds, self._counted_at = self.seconds + now - self._counted_at, now
        state = {"step": self.step, "seconds": round(self.seconds, 1), **self.selection.state_dict()}
        try:
            write_checkpoint(self.folder, {**arrays, "best": self.best_weights}, state, self.keep)
            remote.push_or_warn(self.folder.parent)
        except OSError as error:  # the disk is full
            path = checkpoint_path(self.folder, state["step"])
            print(f"{path}: not written ({error.strerror}); the run continues, and the checkpoints before it are as they were")
        self._saved_at = time.monotonic()

    def restore(self, model: keras.Model, examples: Any) -> int | None:
        """Load the newest usable checkpoint into a compiled model; return its step, or None if there is none.

        Running metrics create their variables at their first batch: one of `examples` is for that.
        """
        self.set_model(model)
        model.optimizer.build(model.trainable_variables)
        model.evaluate(examples, steps=1, verbose=0)
        for path in newest_first(self.folder):
            try:
                arrays, state = read_checkpoint(path)
                self._check(arrays)
                self.seconds = float(state.get("seconds", 0.0))
                self.selection.load_state_dict(state)
            except Exception as error:  # whatever is wrong with it, there may be one before
                reason = " ".join(str(error).split())[:100] or type(error).__name__
                print(f"{path}: not usable ({reason}); trying the checkpoint before it")
                continue
            for name in ("model", "optimizer"):
                for variable, value in zip(self._groups()[name], arrays[name]):
                    variable.assign(value)
            self._restored_metrics, self.best_weights = arrays.get("metrics", []), arrays["best"]
            return state["step"]
        return None

    def _check(self, arrays: dict[str, list[np.ndarray]]) -> None:
        expected = {name: [tuple(v.shape) for v in group] for name, group in self._groups().items()}
        found = {name: [array.shape for array in group] for name, group in arrays.items()}
        weights = [tuple(w.shape) for w in self.model.weights]
        if any(found.get(name) != expected[name] for name in ("model", "optimizer")) or found["best"] not in ([], weights):
            raise ValueError("it is of another model")
