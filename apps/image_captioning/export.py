"""Write a finished run as a SavedModel, or its network alone as LiteRT or ONNX.

python -m apps.image_captioning.export runs/image_captioning/NAME [--format savedmodel|litert|onnx]
"""

from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from apps.common import cli
from apps.common.export import command
from apps.common.export.saved_model import vocabulary_files, write_saved_model
from apps.common.training.runs import read_config
from apps.image_captioning.encoders import ImageEncoder
from apps.image_captioning.serving import example_image, serving_signatures
from data_pipelines.vocabulary import load_vocabulary

DESCRIPTION = (
    "Captions an image, JPEG or PNG, in a sentence, with the attention of each word. It knows the kinds of things in its "
    "training images, and mistakes others for them. Don't use it to judge people. A `score` is a "
    "log-probability over the length penalty, in all signatures: 0 is certain."
)


def write(folder: Path, run: Path, model: keras.Model) -> None:
    """Write the SavedModel of a run."""
    config, vocabulary = read_config(run), load_vocabulary(run)
    backbone = keras.saving.load_model(run / "frozen_backbone.keras") if (run / "frozen_backbone.keras").exists() else None
    search: dict[str, Any] = {"beam_size": config.beam_size, "n_best": config.beam_size}
    search |= {"length_penalty": config.length_penalty, "no_repeat_ngram_size": config.no_repeat_ngram_size}
    limits = {"size": config.image_size, "max_pixels": config.max_pixels, "max_length": config.max_length}
    write_saved_model(
        folder,
        [vocabulary, *([backbone] if backbone else [])],
        serving_signatures(ImageEncoder(backbone, None, "", True), model, vocabulary, **limits, **search),
        warm_up={"image_bytes": [example_image()]},
        files=vocabulary_files(run),
    )


def network(model: keras.Model) -> dict[str, tf.TensorSpec]:
    """Pictures, or the features of a frozen backbone, and the decoder inputs, to the logits of the targets."""
    return {
        "image": tf.TensorSpec([None, *model.image_shape], tf.float32, "image"),
        "caption": tf.TensorSpec([None, None], tf.int32, "caption"),
    }


if __name__ == "__main__":
    cli.run(lambda: command.main("image_captioning", DESCRIPTION, write, network))
