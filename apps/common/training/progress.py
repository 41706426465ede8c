"""What a run prints and logs while it trains."""

import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import keras

from apps.common.training.checkpoints import Checkpoint
from apps.common.training.plots import plot_history
from data_pipelines.files import write_whole


def verbosity() -> int:
    """A progress bar for a person; a line an epoch for a file."""
    return 1 if sys.stdout.isatty() else 2


class Progress(keras.callbacks.Callback):
    """A line an epoch, on a terminal a bar before it, and early on how long the run takes; writes the log and the curves.

    Put it last, with `verbose=0`: it prints what the callbacks before it measured.
    """

    STEPS = 40  # after so many the median step of their later half is known: the first of each length compile

    def __init__(self, folder: Path, checkpoint: Checkpoint, names: Sequence[str]) -> None:
        super().__init__()
        self.folder, self.checkpoint, self.names = folder, checkpoint, names
        self._durations: list[float] = []
        self._duration_printed = False
        self._begun = self._ended = self._shown = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._epoch, self._steps = epoch + 1, self.params["steps"]
        self._begun = self._ended = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        now = time.monotonic()
        if not self._duration_printed:
            self._durations.append(now - self._ended)
        self._ended = now
        if not self._duration_printed and len(self._durations) >= self.STEPS:
            self._print_duration(self.checkpoint.epochs - self._epoch + 1 - batch / self._steps)
        if sys.stdout.isatty() and now - self._shown > 0.3:
            self._shown = now
            done = 20 * (batch + 1) // self._steps
            text = f"epoch {self._epoch} [{'#' * done}{'.' * (20 - done)}] {batch + 1:,} of {self._steps:,} steps"
            _print_line(f"{text}  loss {float((logs or {}).get('loss', math.nan)):.4g}", end="")

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        values = "  ".join(f"{name} {float(value):.4g}" for name, value in (logs or {}).items())
        seconds = time.monotonic() - self._begun
        _print_line(f"epoch {self._epoch} of {self.checkpoint.epochs}  {values}  ({seconds:.0f} s)")
        self._print_duration(self.checkpoint.epochs - self._epoch)
        write_metrics(self.folder, self.checkpoint.selection.history)
        plot_history(self.folder, self.checkpoint.selection.history, self.names, self.checkpoint.selection.best_epoch)

    def _print_duration(self, epochs: float) -> None:
        """Print once how long so many epochs will take, unless little is left."""
        if self._duration_printed or len(self._durations) < self.STEPS:
            return
        seconds = statistics.median(self._durations[self.STEPS // 2 :]) * epochs * self._steps
        if seconds > 20:
            _print_line(f"{'about':<12}{duration(seconds)} for {math.ceil(epochs)} epochs, validation apart")
        self._duration_printed = True


def _print_line(text: str, end: str = "\n") -> None:
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


def write_metrics(folder: Path, history: Sequence[dict[str, float]]) -> None:
    """`metrics.jsonl`, one epoch a line."""
    write_whole(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in history))
