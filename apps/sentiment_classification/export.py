"""Write a finished run as a SavedModel, or its network alone as LiteRT or ONNX.

python -m apps.sentiment_classification.export runs/sentiment_classification/NAME [--format savedmodel|litert|onnx]
python -m apps.sentiment_classification.export RUN RUN …        several as one: the mean of their probabilities
"""

from collections.abc import Sequence
from pathlib import Path

import keras
import tensorflow as tf
from keras import ops

from apps.common import cli
from apps.common.export import command
from apps.common.export.saved_model import vocabulary_files, write_saved_model
from apps.common.training.runs import read_config, read_run
from apps.sentiment_classification import model as _model  # noqa: F401  registers the classes that a `.keras` file names
from apps.sentiment_classification.serving import serving_signatures
from data_pipelines.vocabulary import load_vocabulary

DESCRIPTION = (
    "Classifies a text. On texts unlike its training data, in another language or about other things, its probabilities mean "
    "little."
)


def write(folder: Path, run: Path, model: keras.Model) -> None:
    """Write the SavedModel of a run."""
    config, labels = read_config(run), read_run(run)["labels"]
    vocabulary = load_vocabulary(run)
    write_saved_model(
        folder,
        [vocabulary],
        serving_signatures(model, vocabulary, labels, config.max_length),
        warm_up={"text": [b"a fine film", b""]},
        files={"labels.txt": "\n".join(labels) + "\n", **vocabulary_files(run)},
    )


def average(runs: Sequence[Path], models: Sequence[keras.Model]) -> keras.Model:
    """The models of several runs as one, whose probabilities are the mean of theirs; and so is its attention, if all have it.

    Raises:
        DataError: the runs have other classes, another vocabulary or another length.
    """
    command.refuse_different(
        runs,
        vocabulary=[vocabulary_files(run) for run in runs],
        classes=[read_run(run)["labels"] for run in runs],
        max_length=[read_config(run).max_length for run in runs],
    )
    ids = keras.Input((None,), dtype="int32", name="ids")
    for i, model in enumerate(models):
        model.name = f"model_{i + 1}"
    outputs = [model(ids) for model in models]
    probabilities = [ops.softmax(output["logits"]) for output in outputs]
    joint = {"logits": ops.log(ops.mean(ops.stack(probabilities), axis=0) + 1e-9)}
    if all("attention" in output for output in outputs):
        joint["attention"] = ops.mean(ops.stack([output["attention"] for output in outputs]), axis=0)
    return keras.Model(ids, joint)


def network(model: keras.Model) -> tf.TensorSpec:
    """Ids to logits, and attention if the model has it."""
    return tf.TensorSpec([None, None], tf.int32, "ids")


if __name__ == "__main__":
    cli.run(lambda: command.main("sentiment_classification", DESCRIPTION, write, network, average))
