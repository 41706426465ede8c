"""Write a finished run as a SavedModel, or its network alone as LiteRT or ONNX.

python -m apps.sentiment_classification.export runs/sentiment_classification/NAME [--format savedmodel|litert|onnx]
"""

from pathlib import Path

import keras
import tensorflow as tf

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


def network(model: keras.Model) -> tf.TensorSpec:
    """Ids to logits, and attention if the model has it."""
    return tf.TensorSpec([None, None], tf.int32, "ids")


if __name__ == "__main__":
    cli.run(lambda: command.main("sentiment_classification", DESCRIPTION, write, network))
