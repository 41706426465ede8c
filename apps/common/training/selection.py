"""Which epoch of a run is kept, and when to stop early."""

from typing import Any

import numpy as np

from data_pipelines.sources import DataError

LOWER_IS_BETTER = ("loss", "perplexity", "bits", "nll")
NOISE = {"val_bleu": 1.0, "val_bleu_4": 1.0, "val_cider": 0.05}  # values below these are noise: the loss decides


class Selection:
    """The metrics of each epoch, and which epoch is the best.

    Args:
        monitor: the validation metric that chooses the epoch to keep: the highest, or the lowest if its name says so (a loss,
            perplexity, bits or a negative log-likelihood). Among ties the lower `val_loss` is better, so a metric that
            never moves (BLEU stays 0 in the first epochs) neither chooses nor stops. Values below `NOISE` count as 0, NaN as
            the worst.
        patience: stop after so many epochs in which neither the metric nor `val_loss` improved; None: never.

    >>> selection = Selection("val_bleu", patience=2)
    >>> for bleu, loss in ((0.0, 3.0), (0.0, 2.0), (12.0, 2.5), (12.0, 2.6), (11.0, 2.7)):
    ...     is_best = selection.add({"val_bleu": bleu, "val_loss": loss})
    >>> selection.best_epoch, selection.finished
    (3, True)
    """

    def __init__(self, monitor: str, patience: int | None = None) -> None:
        self.monitor, self.patience = monitor, patience
        self.best_epoch, self.waited, self.finished = 0, 0, False
        self.history: list[dict[str, float]] = []
        self.earlier = 0  # epochs of the history that are of phases before
        self.baseline: dict[str, float] = {}  # metrics of the weights that a run begins with, if they are to be kept, too

    @property
    def best(self) -> dict[str, float]:
        """The metrics of the best epoch; before it, of what the run began with."""
        return self.history[self.best_epoch - 1] if self.best_epoch else self.baseline

    def add(self, logs: dict[str, float]) -> bool:
        """Add the metrics of an epoch; return whether it is the best so far."""
        epoch = len(self.history) + 1
        row = {"epoch": epoch, **logs}
        rank = self._rank(row)
        is_best = not self.best or rank > self._rank(self.best)
        self.waited += 1
        if is_best:
            self.best_epoch = epoch
        losses = [r["val_loss"] for r in self.history if np.isfinite(r.get("val_loss", np.inf))]
        if is_best or row.get("val_loss", np.inf) < min(losses, default=np.inf):
            self.waited = 0
        self.history.append(row)
        self._finish()
        return is_best

    def _finish(self) -> None:
        self.finished = self.patience is not None and self.waited >= self.patience

    def _rank(self, row: dict[str, float]) -> tuple[float, float]:
        if self.monitor not in row:
            names = ", ".join(name.removeprefix("val_") for name in row if name.startswith("val_"))
            raise DataError(f"--monitor {self.monitor.removeprefix('val_')}: no such validation metric; there are {names}.")
        value, loss = row[self.monitor], row.get("val_loss", 0.0)
        if not (np.isfinite(value) and np.isfinite(loss)):
            return (-np.inf, -np.inf)
        value = 0.0 if value < NOISE.get(self.monitor, -np.inf) else value
        return (-value if is_lower_better(self.monitor) else value, -loss)

    def report(self, epochs: int) -> None:
        """Print which of `epochs` is kept, and why there were no more."""
        if self.finished and len(self.history) - self.earlier < epochs:
            name = self.monitor.removeprefix("val_")
            print(f"{'stopped':<12}neither {name} nor loss improved for {self.patience} epochs (--patience)")
        names = [name for name in dict.fromkeys((self.monitor, "val_loss")) if name in self.best]
        values = "  ".join(f"{name} {self.best[name]:.4g}" for name in names)
        kept = f"epoch {self.best_epoch} of {len(self.history)}" if self.best_epoch else "what it began with, no epoch is better"
        print(f"kept        {kept}: {values}", flush=True)

    def refuse_worse_than(self, constant: dict[str, float]) -> None:
        """Raise if the best epoch is no better than a constant guess in any of these validation metrics.

        Raises:
            DataError: with the numbers.
        """
        worse = [
            f"{name.removeprefix('val_')} {self.best[name]:.3g} against {value:.3g}"
            for name, value in constant.items()
            if not (value - self.best[name] if is_lower_better(name) else self.best[name] - value) > 1e-6
        ]
        if len(worse) == len(constant):
            raise DataError(
                f"not exported: the model is no better than a constant guess ({', '.join(worse)}). Train it longer "
                "(--epochs, --patience, --monitor loss), or on more examples; --resume --force-export exports it all the same."
            )

    def state_dict(self) -> dict[str, Any]:
        names = ("best_epoch", "waited", "baseline")
        return {**{name: getattr(self, name) for name in names}, "history": list(self.history)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Raises:
            ValueError: it is no such state.
        """
        if any(type(state[name]) is not int or state[name] < 0 for name in ("best_epoch", "waited")):
            raise ValueError("its state has a number that is none")
        rows, baseline = state["history"], state.get("baseline", {})
        if state["best_epoch"] > len(rows):
            raise ValueError("its state can't be")
        if any(type(value) not in (int, float) for row in [*rows, baseline] for value in row.values()):
            raise ValueError("its history has a value that is not a number")
        self.best_epoch, self.waited, self.history, self.baseline = state["best_epoch"], state["waited"], rows, baseline
        self._finish()


def is_lower_better(name: str) -> bool:
    """Whether a metric of this name improves when it falls.

    >>> is_lower_better("val_perplexity"), is_lower_better("val_bleu")
    (True, False)
    """
    return any(word in name for word in LOWER_IS_BETTER)
