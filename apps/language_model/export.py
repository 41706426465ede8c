"""Write a finished run as a SavedModel, or its network alone as LiteRT or ONNX.

python -m apps.language_model.export runs/language_model/NAME [--format savedmodel|litert|onnx]
"""

from pathlib import Path

import numpy as np
import tensorflow as tf

from apps.common import cli
from apps.common.export import command
from apps.common.export.saved_model import vocabulary_files, write_saved_model
from apps.common.language_model import LanguageModel
from apps.common.training.runs import read_config
from apps.language_model.serving import TextGenerator, language_signatures
from data_pipelines.vocabulary import load_vocabulary

DESCRIPTION = (
    "Completes a text, and tells how probable each of its words is. It knows the text that it was trained on and nothing else: "
    "what it writes may be false, unkind, or a passage of its training data."
)


def write(folder: Path, run: Path, model: LanguageModel) -> None:
    """Write the SavedModel of a run."""
    generator = TextGenerator(model, load_vocabulary(run), read_config(run).max_length)
    warm_up = {
        "prompt": [b"", b"a word"],
        "max_new_tokens": np.int32(8),
        "temperature": np.float32(1),
        "top_p": np.float32(1),
        "top_k": np.int32(0),
        "seed": np.int32(0),
    }
    write_saved_model(folder, [generator], language_signatures(generator), warm_up, vocabulary_files(run))


def network(model: LanguageModel) -> dict[str, tf.TensorSpec]:
    """The tokens so far to the logits of what follows each."""
    names = ["tokens", "reversed"][: len(model.stacks)]
    return {name: tf.TensorSpec([None, None], tf.int32, name) for name in names}


if __name__ == "__main__":
    cli.run(lambda: command.main("language_model", DESCRIPTION, write, network))
