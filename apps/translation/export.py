"""Write a finished run as a SavedModel, or its network alone as LiteRT or ONNX.

python -m apps.translation.export runs/translation/NAME [--format savedmodel|litert|onnx]
python -m apps.translation.export RUN RUN …        several as one: each step averages their probabilities
python -m apps.translation.export RUN --beam-size 10 --length-penalty 0.6 …        with another search
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from apps.common import cli
from apps.common.decoding.ensemble import Ensemble
from apps.common.export import command
from apps.common.export.saved_model import vocabulary_files, write_saved_model
from apps.common.training.runs import read_config
from apps.translation.config import TranslationSearchFlags
from apps.translation.model import Translator
from apps.translation.serving import serving_signatures
from data_pipelines.sources import DataError
from data_pipelines.translations import Vocabularies

VOCABULARIES = ("joint", "source", "target", "words")
DESCRIPTION = (
    "Translates a text sentence by sentence. Sentences unlike its training data are translated fluently but wrongly. `unknown` "
    "marks words that are not in the training data. A `score` is a log-probability over the length penalty, in all signatures: "
    "0 is certain."
)


def write(folder: Path, run: Path, model: Translator | Ensemble, **search_flags: Any) -> None:
    """Write the SavedModel of a run; of several, with the search of the first."""
    config, vocabularies = read_config(run, **search_flags), Vocabularies.load(run)
    if config.coverage_penalty and not model.has_attention:
        raise DataError(f"{run}: --coverage-penalty needs attention, and a model has none. Train without the flag.")
    assert vocabularies is not None, run  # training saved it
    search = {name: getattr(config, name) for name in ("length_penalty", "coverage_penalty", "no_repeat_ngram_size")}
    languages = config.source_lang, config.target_lang
    search |= {"beam_size": config.beam_size, "n_best": config.beam_size}
    write_saved_model(
        folder,
        [vocabularies.source, vocabularies.target, vocabularies.words],
        serving_signatures(model, vocabularies, config.max_length, languages, config.split_sentences, **search),
        warm_up={"text": [b"a warm-up request", b""]},
        files={
            "languages.txt": f"{config.source_lang}\n{config.target_lang}\n",
            **vocabulary_files(run, *VOCABULARIES),
        },
    )


def average(runs: Sequence[Path], models: Sequence[Translator]) -> Ensemble:
    """The models of several runs as one.

    Raises:
        DataError: the runs have other vocabularies, languages or another length.
    """
    configs = [read_config(run) for run in runs]
    command.refuse_different(
        runs,
        vocabulary=[vocabulary_files(run, *VOCABULARIES) for run in runs],
        languages=[(config.source_lang, config.target_lang) for config in configs],
        max_length=[config.max_length for config in configs],
    )
    return Ensemble(models)


def network(model: keras.Model) -> dict[str, tf.TensorSpec]:
    """Ids of the source and the decoder inputs, to the logits of the targets."""
    return {name: tf.TensorSpec([None, None], tf.int32, name) for name in ("source", "target")}


if __name__ == "__main__":
    cli.run(lambda: command.main("translation", DESCRIPTION, write, network, average, TranslationSearchFlags))
