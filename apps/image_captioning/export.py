"""Write a finished run as a SavedModel, or its network alone as LiteRT or ONNX.

python -m apps.image_captioning.export runs/image_captioning/NAME [--format savedmodel|litert|onnx]
python -m apps.image_captioning.export RUN RUN …        several as one: each step averages their probabilities
python -m apps.image_captioning.export RUN --beam-size 3 …        with another search
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from apps.common import cli
from apps.common.export import command
from apps.common.export.saved_model import vocabulary_files, write_saved_model
from apps.common.training.runs import read_config
from apps.image_captioning.config import CaptionSearchFlags
from apps.image_captioning.encoders import ImageEncoders, run_encoder
from apps.image_captioning.model import Captioner, CaptionerEnsemble
from apps.image_captioning.serving import example_image, serving_signatures
from data_pipelines.sources import DataError
from data_pipelines.vocabulary import load_vocabulary

DESCRIPTION = (
    "Captions an image, JPEG or PNG, in a sentence, with the attention of each word. It knows the kinds of things in its "
    "training images, and mistakes others for them. Don't use it to judge people. A `score` is a "
    "log-probability over the length penalty, in all signatures: 0 is certain."
)


def write(folder: Path, run: Path, model: Captioner | CaptionerEnsemble, **search_flags: Any) -> None:
    """Write the SavedModel of a run; of several, with the search of the first."""
    config, vocabulary = read_config(run, **search_flags), load_vocabulary(run)
    encoder = model.encoders if isinstance(model, CaptionerEnsemble) else run_encoder(run)
    search: dict[str, Any] = {"beam_size": config.beam_size, "n_best": config.beam_size}
    search |= {"length_penalty": config.length_penalty, "no_repeat_ngram_size": config.no_repeat_ngram_size}
    limits = {"size": config.image_size, "max_pixels": config.max_pixels, "max_length": config.max_length}
    write_saved_model(
        folder,
        [vocabulary, *encoder.frozen_backbones],
        serving_signatures(encoder, model, vocabulary, **limits, **search),
        warm_up={"image_bytes": [example_image()]},
        files=vocabulary_files(run),
    )


def average(runs: Sequence[Path], models: Sequence[Captioner]) -> CaptionerEnsemble:
    """The models of several runs as one; equal backbones, and their features, are shared.

    Raises:
        DataError: the runs have other vocabularies, pictures of another size, another grid of regions or another length.
    """
    configs = [read_config(run) for run in runs]
    command.refuse_different(
        runs,
        vocabulary=[vocabulary_files(run) for run in runs],
        image_size=[config.image_size for config in configs],
        regions=[model.grid for model in models],
        max_length=[config.max_length for config in configs],
    )
    return CaptionerEnsemble(models, ImageEncoders(tuple(map(run_encoder, runs))))


def network(model: Captioner | CaptionerEnsemble) -> dict[str, tf.TensorSpec]:
    """Pictures, or the features of a frozen backbone, and the decoder inputs, to the logits of the targets."""
    one = model
    if isinstance(model, CaptionerEnsemble):
        one = model.models[0]
        if len(model.encoders.different) > 1:
            raise DataError(
                "--format: the runs have different backbones, and a network takes the features of one. Take savedmodel."
            )
    return {
        "image": tf.TensorSpec([None, *one.image_shape], tf.float32, "image"),
        "caption": tf.TensorSpec([None, None], tf.int32, "caption"),
    }


if __name__ == "__main__":
    cli.run(lambda: command.main("image_captioning", DESCRIPTION, write, network, average, CaptionSearchFlags))
