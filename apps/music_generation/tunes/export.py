"""A finished run as a SavedModel, and the inputs of its network alone."""

import json
from pathlib import Path

import numpy as np
import tensorflow as tf

from apps.common.export.saved_model import vocabulary_files, write_saved_model
from apps.common.training.runs import read_config
from apps.music_generation.tunes.model import TuneModel
from apps.music_generation.tunes.serving import TuneGenerator, tune_signatures
from data_pipelines.tunes import TuneVocabulary


def write(folder: Path, run: Path, model: TuneModel) -> None:
    """Write the SavedModel of a run."""
    config = read_config(run)
    headers = json.loads((run / "headers.json").read_text())
    generator = TuneGenerator(model, TuneVocabulary.load(run), headers, config.top_k, config.max_length)
    warm_up = {
        "prompt": [b""],
        "max_new_tokens": np.int32(8),
        "temperature": np.float32(1),
        "top_p": np.float32(1),
        "seed": np.int32(0),
    }
    write_saved_model(folder, [generator], tune_signatures(generator), warm_up, vocabulary_files(run))


def network(model: TuneModel) -> dict[str, tf.TensorSpec]:
    """The tokens so far to the logits of what follows each."""
    return {"tokens": tf.TensorSpec([None, None], tf.int32, "tokens")}
