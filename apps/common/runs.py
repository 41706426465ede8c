"""A run: its device, its folder, its log and its plots."""

import contextlib
import dataclasses
import json
import math
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from apps.common.checkpoints import Checkpoint
from apps.common.cli import check_ranges
from apps.common.files import lock_run
from apps.common.metrics import calibration_bins
from apps.common.workers import Workers
from data_pipelines.files import replacing, write_whole
from data_pipelines.sources import DataError, visible


def prepare_device(seed: int, precision: str) -> str:
    """Fix seed, determinism and precision; let a GPU's memory grow; say which device is used."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    keras.mixed_precision.set_dtype_policy(precision)
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        with contextlib.suppress(RuntimeError):  # the device is in use already
            tf.config.experimental.set_memory_growth(gpu, True)
    if gpus:
        return f"GPU ({tf.config.experimental.get_device_details(gpus[0]).get('device_name', 'unknown')})"
    return f"CPU ({os.cpu_count()} cores)"


def announce(facts: dict[str, str]) -> None:
    """Say what a run is about to do, a line each."""
    for name, fact in {**facts, "started": time.strftime("%H:%M:%S")}.items():
        print(f"{name:<12}{visible(str(fact))}", flush=True)


def verbosity() -> int:
    """A progress bar for a person; a line an epoch for a file."""
    return 1 if sys.stdout.isatty() else 2


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), "tensorflow": tf.__version__, "keras": keras.__version__}


def open_run(application: str, config: Any, facts: dict[str, Any], workers: Workers) -> Path:
    """Make or find the folder of a run and write `config.json`: the command, the flags, what was loaded, the versions. A
    worker that is not the chief gets a folder of its own, which nobody reads.

    Raises:
        DataError: the folder holds a run and `resume` is not asked for; there is no run to resume; the run to be resumed
            had other flags or other data.
    """
    check_ranges(config)
    if not workers.is_chief:
        return workers.scratch()
    folder = Path(config.run_dir) if config.run_dir else _default_folder(application, config.resume)
    path = folder / "config.json"
    command = shlex.join(["python", "-m", f"apps.{application}.train", *sys.argv[1:]])
    new = {"command": command, "config": dataclasses.asdict(config), **facts, "versions": versions()}
    new = json.loads(json.dumps(new))
    if config.resume:
        if not path.is_file():
            raise DataError(f"{folder}: no run to resume. Leave out --resume, or name its folder with --run-dir.")
        lock_run(folder)
        try:
            old = json.loads(path.read_text())
        except ValueError:
            raise DataError(f"{path}: can't be read. Start a new run, or put back the file.") from None
        _check_same(folder, old, new)
        return folder
    if path.exists():
        raise DataError(f"{folder}: holds a run already. Continue it with --resume, or name another with --run-dir.")
    folder.mkdir(parents=True, exist_ok=True)
    lock_run(folder)
    if path.exists():  # written by another start meanwhile
        raise DataError(f"{folder}: holds a run already. Continue it with --resume, or name another with --run-dir.")
    write_whole(path, json.dumps(new, indent=2))
    return folder


def _default_folder(application: str, resume: bool) -> Path:
    root = Path("runs") / application
    if not resume:
        return root / time.strftime("%Y%m%d-%H%M%S")
    runs = sorted(path.parent for path in root.glob("*/config.json"))
    return runs[-1] if runs else root


def _check_same(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    free = set("resume run epochs patience monitor bleu_tokenize export_dir export force_export".split())
    free |= {"strategy", "workers", "data_service"}
    for name, value in old["config"].items():
        if name not in free and new["config"].get(name) != value:
            raise DataError(
                f"{folder}: was started with {name} = {value!r}, now {new['config'].get(name)!r}. Resume with the same flags."
            )
    if old.get("data") != new.get("data"):
        raise DataError(f"{folder}: the data changed since the run was started. Start a new run.")


def write_metrics(folder: Path, history: Sequence[dict[str, float]]) -> None:
    """`metrics.jsonl`, one epoch a line."""
    write_whole(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in history))


def save_model(model: keras.Model, path: Path) -> None:
    """A `.keras` file, whole or absent."""
    with replacing(path) as temporary:
        model.save(temporary)


def warm_up_and_decay(peak: float, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Rise to `peak` over the first tenth of the steps, then fall along a cosine to a fiftieth of it."""
    warm_up = steps // 10
    return keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warm_up), alpha=0.02, warmup_target=peak, warmup_steps=warm_up
    )


class Progress(keras.callbacks.Callback):
    """A line an epoch, on a terminal a bar before it, and early on how long the run takes; writes the log and the curves.

    Put it last, with `verbose=0`: it prints what the callbacks before it measured.
    """

    STEPS = 40  # after so many the median step of their later half is known: the first of each length compile

    def __init__(self, folder: Path, checkpoint: Checkpoint, names: Sequence[str]) -> None:
        super().__init__()
        self.folder, self.checkpoint, self.names = folder, checkpoint, names
        self._durations: list[float] = []
        self._told = False
        self._begun = self._ended = self._shown = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._epoch, self._steps = epoch + 1, self.params["steps"]
        self._begun = self._ended = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        now = time.monotonic()
        if not self._told:
            self._durations.append(now - self._ended)
        self._ended = now
        if not self._told and len(self._durations) >= self.STEPS:
            self._tell(self.checkpoint.epochs - self._epoch + 1 - batch / self._steps)
        if sys.stdout.isatty() and now - self._shown > 0.3:
            self._shown = now
            done = 20 * (batch + 1) // self._steps
            text = f"epoch {self._epoch} [{'#' * done}{'.' * (20 - done)}] {batch + 1:,} of {self._steps:,} steps"
            _say(f"{text}  loss {float((logs or {}).get('loss', math.nan)):.4g}", end="")

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        values = "  ".join(f"{name} {float(value):.4g}" for name, value in (logs or {}).items())
        seconds = time.monotonic() - self._begun
        _say(f"epoch {self._epoch} of {self.checkpoint.epochs}  {values}  ({seconds:.0f} s)")
        self._tell(self.checkpoint.epochs - self._epoch)
        write_metrics(self.folder, self.checkpoint.history)
        plot_history(self.folder, self.checkpoint.history, self.names, self.checkpoint.best_epoch)

    def _tell(self, epochs: float) -> None:
        """Say once how long so many epochs will take, unless little is left."""
        if self._told or len(self._durations) < self.STEPS:
            return
        seconds = statistics.median(self._durations[self.STEPS // 2 :]) * epochs * self._steps
        if self._epoch < self.checkpoint.epochs and seconds > 20:
            _say(f"{'about':<12}{duration(seconds)} for {math.ceil(epochs)} epochs, validation apart")
        self._told = True


def _say(text: str, end: str = "\n") -> None:
    """Print; on a terminal in the place of the bar."""
    print(("\r\x1b[K" if sys.stdout.isatty() else "") + text, end=end, flush=True)


def duration(seconds: float) -> str:
    """
    >>> duration(95), duration(40), duration(8000)
    ('2 minutes', '40 seconds', '2.2 hours')
    """
    if seconds < 90:
        return f"{round(seconds / 10) * 10} seconds"
    return f"{round(seconds / 60)} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def new_figure(rows: int, columns: int, width: float = 4.5, height: float = 3.6) -> Any:
    """A figure and its axes; width and height of a panel in inches."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(rows, columns, figsize=(width * columns, height * rows), layout="constrained")


def save_figure(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)


def plot_history(folder: Path, history: Sequence[dict[str, float]], names: Sequence[str], best_epoch: int) -> None:
    """`history.png`: a panel for each metric, training and validation over the epochs; the epoch that is kept is marked."""
    figure, axes = new_figure(1, len(names))
    epochs = [row["epoch"] for row in history]
    for axis, name in zip(np.atleast_1d(axes), names):
        for prefix, label in (("", "training"), ("val_", "validation")):
            if prefix + name in history[0]:
                axis.plot(epochs, [row[prefix + name] for row in history], marker="o", markersize=3, label=label)
        axis.axvline(best_epoch, color="grey", linestyle="--", linewidth=1, label=f"kept: epoch {best_epoch}")
        axis.set(xlabel="epoch", ylabel=name, title=name)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend()
    save_figure(figure, folder / "history.png")


def plot_confusion(folder: Path, truth: np.ndarray, predicted: np.ndarray, labels: Sequence[str]) -> None:
    """`confusion.png`: how many of each class were taken for which."""
    from sklearn.metrics import ConfusionMatrixDisplay

    figure, axis = new_figure(1, 1)
    ids = np.arange(len(labels))
    ConfusionMatrixDisplay.from_predictions(
        truth, predicted, labels=ids, display_labels=labels, cmap="Blues", ax=axis, colorbar=False
    )
    axis.set_title("validation")
    save_figure(figure, folder / "confusion.png")


def plot_calibration(folder: Path, truth: np.ndarray, probabilities: np.ndarray) -> None:
    """`calibration.png`: accuracy over confidence; on the diagonal, the model knows what it knows."""
    figure, axis = new_figure(1, 1)
    confidence, accuracy, counts = zip(*calibration_bins(truth, probabilities))
    axis.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1, label="perfect")
    axis.scatter(confidence, accuracy, s=[10 + 150 * c / max(counts) for c in counts], label="validation (area: examples)")
    low = max(0.0, min(*confidence, *accuracy) - 0.05)
    axis.set(xlabel="confidence", ylabel="accuracy", title="calibration", xlim=(low, 1.02), ylim=(low, 1.02))
    axis.grid(alpha=0.3)
    axis.legend(loc="upper left")
    save_figure(figure, folder / "calibration.png")
