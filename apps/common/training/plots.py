"""Plots of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from apps.common.metrics import calibration_bins
from data_pipelines.files import replacing


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
    for axis, name in zip(np.atleast_1d(axes), names):
        for prefix, label in (("", "training"), ("val_", "validation")):
            points = [(row["epoch"], row[prefix + name]) for row in history if prefix + name in row]
            if points:
                axis.plot(*zip(*points), marker="o", markersize=3, label=label)
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
