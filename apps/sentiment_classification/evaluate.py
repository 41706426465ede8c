"""Measure an export on labelled texts. The last line printed is one JSON object.

python -m apps.sentiment_classification.evaluate saved_models/sentiment_classification --data reviews.csv --split test
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from apps.common import cli
from apps.common.evaluation import SPLIT_HELP, choose_split, warn_of_training_rows
from apps.common.export.saved_model import load_export
from apps.common.metrics import classification_metrics
from apps.common.training import plots
from data_pipelines.files import write_whole
from data_pipelines.reviews import Review, Reviews, load_reviews
from data_pipelines.sources import DataError

BATCH_SIZE = 64


def evaluate_export(served: Any, reviews: Sequence[Review]) -> tuple[np.ndarray, np.ndarray]:
    """True class ids (n,) and probabilities (n, classes), through the export's own signature."""
    signature = served.signatures["probabilities"]
    order = sorted(range(len(reviews)), key=lambda i: len(reviews[i].text))  # texts of one length pad least
    names: list[str] = []
    blocks: list[np.ndarray] = []
    for start in range(0, len(order), BATCH_SIZE):
        outputs = signature(text=tf.constant([reviews[i].text for i in order[start : start + BATCH_SIZE]]))
        names = [name.decode() for name in outputs["labels"][0].numpy()]
        blocks.append(outputs["probabilities"].numpy())
    unknown = {review.label for review in reviews} - set(names)
    if unknown:
        raise DataError(f"unknown label {sorted(unknown)[0]!r}; the export knows {names}. Rename the labels of the data.")
    truth = np.array([names.index(reviews[i].label) for i in order])
    return truth, np.concatenate(blocks)


def report(served: Any, reviews: Reviews, folder: Path) -> dict[str, dict[str, float]]:
    """Measure an export on all splits but the training split; print and write the metrics; plot confusion and calibration."""
    metrics = {}
    for split in reviews.splits:
        if split != "train":
            truth, probabilities = evaluate_export(served, reviews.splits[split])
            metrics[split] = classification_metrics(truth, probabilities)
            if split == "validation":
                plots.plot_confusion(folder, truth, probabilities.argmax(axis=1), reviews.labels)
                plots.plot_calibration(folder, truth, probabilities)
    write_whole(folder / "metrics.json", cli.as_json(metrics))
    rows = [[name, *(metrics[split][name] for split in metrics)] for name in metrics["validation"]]
    print("\n" + cli.table(rows, ["metric", *metrics]))
    return metrics


def main() -> None:
    parser = argparse.ArgumentParser("python -m apps.sentiment_classification.evaluate", allow_abbrev=False)
    parser.add_argument("export", help="a version folder, or the folder above it for the newest version")
    parser.add_argument("--data", required=True, help="as in training")
    parser.add_argument("--split", default=None, help=SPLIT_HELP)
    parser.add_argument("--validation-rows", default=None, help="as in training")
    parser.add_argument("--text-column", default=None, help="as in training")
    parser.add_argument("--label-column", default=None, help="as in training")
    arguments = parser.parse_args()
    rows = arguments.validation_rows
    load = partial(load_reviews, arguments.data, rows, columns=(arguments.text_column, arguments.label_column))
    reviews, split = choose_split(lambda whole: load(whole and rows is None), arguments.data, arguments.split)
    served = load_export(arguments.export, "sentiment_classification")
    warn_of_training_rows(arguments.export, reviews.rows(split), split)
    metrics = classification_metrics(*evaluate_export(served, reviews.splits[split]))
    print(cli.table([[name, value] for name, value in metrics.items()], ["metric", split]))
    print(cli.as_json({"split": split, **metrics}))


if __name__ == "__main__":
    cli.run(main)
