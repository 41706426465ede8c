"""Measure an export on labelled texts. The last line printed is one JSON object.

python -m apps.sentiment_classification.evaluate saved_models/sentiment_classification --data reviews.csv --split test
"""

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from apps.common import cli
from apps.common.evaluation import SPLIT_HELP, choose_split, warn_of_training_rows
from apps.common.export.saved_model import load_export
from apps.common.metrics import classification_metrics, per_class_metrics
from apps.common.prediction import batches_by_length, check_output, write_rows
from apps.common.training import plots
from data_pipelines.files import write_whole
from data_pipelines.reviews import Review, Reviews, load_reviews
from data_pipelines.sources import DataError

BATCH_SIZE, BATCH_BYTES = 64, 2**19  # a token has a byte or more, and an export takes so many tokens
ERROR_COLUMNS = ("text", "label", "predicted", "probability")


def predict_batches(served: Any, texts: Sequence[str], signature: str) -> Iterator[tuple[list[int], dict[str, np.ndarray]]]:
    """The places of the texts of a batch and the outputs of a signature for them; the shortest come first."""
    for places in batches_by_length(texts, BATCH_SIZE, BATCH_BYTES):
        outputs = served.signatures[signature](text=tf.constant([texts[i] for i in places]))
        yield places, {name: value.numpy() for name, value in outputs.items()}


def probabilities(served: Any, texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The names of the classes, and their probabilities (n, classes) for each text."""
    names: list[str] = []
    blocks: list[tuple[list[int], np.ndarray]] = []
    for places, outputs in predict_batches(served, texts, "probabilities"):
        names = [name.decode() for name in outputs["labels"][0]]
        blocks.append((places, outputs["probabilities"]))
    values = np.zeros((len(texts), len(names)), np.float32)
    for places, block in blocks:
        values[places] = block
    return names, values


def evaluate_export(served: Any, reviews: Sequence[Review]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The names of the classes, true class ids (n,) and probabilities (n, classes), through the export's own signature."""
    names, values = probabilities(served, [review.text for review in reviews])
    unknown = {review.label for review in reviews} - set(names)
    if unknown:
        raise DataError(f"unknown label {sorted(unknown)[0]!r}; the export knows {names}. Rename the labels of the data.")
    return names, np.array([names.index(review.label) for review in reviews]), values


def errors(reviews: Sequence[Review], names: Sequence[str], values: np.ndarray) -> list[dict[str, Any]]:
    """The texts that were taken for another class, the most certain mistakes first."""
    found = [
        {"text": review.text, "label": review.label, "predicted": names[row.argmax()], "probability": round(float(row.max()), 6)}
        for review, row in zip(reviews, values)
        if names[row.argmax()] != review.label
    ]
    return sorted(found, key=lambda row: -row["probability"])


def report(served: Any, reviews: Reviews, folder: Path) -> dict[str, dict[str, float]]:
    """Measure an export on all splits but the training split; print and write the metrics; plot confusion and calibration."""
    metrics = {}
    for split in reviews.splits:
        if split != "train":
            _, truth, values = evaluate_export(served, reviews.splits[split])
            metrics[split] = classification_metrics(truth, values)
            if split == "validation":
                plots.plot_confusion(folder, truth, values.argmax(axis=1), reviews.labels)
                plots.plot_calibration(folder, truth, values)
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
    parser.add_argument("--errors", type=Path, help="write the texts that were taken for another class to this .csv or .jsonl")
    parser.add_argument("--text-column", default=None, help="as in training")
    parser.add_argument("--label-column", default=None, help="as in training")
    arguments = parser.parse_args()
    if arguments.errors:
        check_output("--errors", arguments.errors, overwrite=True)
    rows = arguments.validation_rows
    load = partial(load_reviews, arguments.data, rows, columns=(arguments.text_column, arguments.label_column))
    reviews, split = choose_split(lambda whole: load(whole and rows is None), arguments.data, arguments.split)
    served = load_export(arguments.export, "sentiment_classification")
    warn_of_training_rows(arguments.export, reviews.rows(split), split)
    names, truth, values = evaluate_export(served, reviews.splits[split])
    metrics = classification_metrics(truth, values)
    print(cli.table([[name, value] for name, value in metrics.items()], ["metric", split]))
    classes = per_class_metrics(truth, values.argmax(axis=1), names)
    print("\n" + cli.table([[name, *of.values()] for name, of in classes.items()], ["class", *next(iter(classes.values()))]))
    if arguments.errors:
        found = errors(reviews.splits[split], names, values)
        write_rows(arguments.errors, found, ERROR_COLUMNS)
        print(f"\n{len(found):,} errors  {arguments.errors}")
    print(cli.as_json({"split": split, **metrics}))


if __name__ == "__main__":
    cli.run(main)
