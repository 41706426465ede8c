"""Write a finished run as a SavedModel, or its network alone as LiteRT or ONNX.

python -m apps.music_generation.export runs/music_generation/NAME [--format savedmodel|litert|onnx]
"""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from apps.common import cli, formats
from apps.common.export import vocabulary_files, write_saved_model
from apps.music_generation.model import TuneModel
from apps.music_generation.roll_serving import RollWriter, roll_signatures
from apps.music_generation.tune_serving import TuneWriter, tune_signatures
from data_pipelines.piano_rolls import KEYS
from data_pipelines.tunes import TuneVocabulary

DESCRIPTION = (
    "Writes music like that it was trained on, from nothing or on from a beginning. It has heard nothing else, and may repeat "
    "passages of its training tunes: look before you publish what it writes."
)


def write(folder: Path, run: Path, model: keras.Model) -> None:
    """Write the SavedModel of a run."""
    config = formats.read_config(run)
    writer: Any
    warm_up: dict[str, Any] = {"length": np.int32(8), "temperature": np.float32(1), "seed": np.int32(0)}
    if isinstance(model, TuneModel):
        headers = json.loads((run / "headers.json").read_text())
        writer = TuneWriter(model, TuneVocabulary.load(run), headers, config.top_k, config.max_length)
        signatures = tune_signatures(writer)
        warm_up |= {"prompt": [b""], "top_p": np.float32(1)}
    else:
        writer = RollWriter(model, config.max_length)
        signatures = roll_signatures(writer)
        warm_up |= {"frames": np.zeros((1, 0, KEYS), np.uint8)}
    write_saved_model(folder, [writer], signatures, warm_up, vocabulary_files(run))


def network(model: keras.Model) -> dict[str, tf.TensorSpec]:
    """The tokens so far to the logits of what follows each; or frames, and the keys below each key of the following frames."""
    if isinstance(model, TuneModel):
        return {"tokens": tf.TensorSpec([None, None], tf.int32, "tokens")}
    return {name: tf.TensorSpec([None, None, KEYS], tf.float32, name) for name in ("frames", "targets")}


if __name__ == "__main__":
    cli.run(lambda: formats.main("music_generation", DESCRIPTION, write, network))
