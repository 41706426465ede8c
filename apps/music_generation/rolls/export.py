"""A finished run as a SavedModel, and the inputs of its network alone."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from apps.common.export.saved_model import write_saved_model
from apps.common.training.runs import read_config
from apps.music_generation.rolls.model import RollModel
from apps.music_generation.rolls.serving import RollGenerator, roll_signatures
from data_pipelines.piano_rolls import KEYS


def write(folder: Path, run: Path, model: RollModel) -> None:
    """Write the SavedModel of a run."""
    generator = RollGenerator(model, read_config(run).max_length)
    warm_up = {
        "frames": np.zeros((1, 0, KEYS), np.uint8),
        "new_frames": np.int32(8),
        "temperature": np.float32(1),
        "seed": np.int32(0),
    }
    write_saved_model(folder, [generator], roll_signatures(generator), warm_up, {})


def network(model: RollModel) -> dict[str, tf.TensorSpec]:
    """Frames, and the keys below each key of the targets frames, to the logits of the keys."""
    return {name: tf.TensorSpec([None, None, KEYS], tf.float32, name) for name in ("frames", "targets")}
