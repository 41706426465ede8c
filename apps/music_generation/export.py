"""Write a finished run as a SavedModel, or its network alone as LiteRT or ONNX.

python -m apps.music_generation.export runs/music_generation/NAME [--format savedmodel|litert|onnx]
"""

from pathlib import Path

import keras
import tensorflow as tf

from apps.common import cli
from apps.common.export import command
from apps.music_generation.rolls import export as rolls
from apps.music_generation.shared import DESCRIPTION
from apps.music_generation.tunes import export as tunes
from apps.music_generation.tunes.model import TuneModel


def write(folder: Path, run: Path, model: keras.Model) -> None:
    """Write the SavedModel of a run."""
    (tunes if isinstance(model, TuneModel) else rolls).write(folder, run, model)


def network(model: keras.Model) -> dict[str, tf.TensorSpec]:
    """The inputs of the network alone."""
    return (tunes if isinstance(model, TuneModel) else rolls).network(model)


if __name__ == "__main__":
    cli.run(lambda: command.main("music_generation", DESCRIPTION, write, network))
