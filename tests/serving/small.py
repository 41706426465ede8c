"""A small run and export of each application, with random weights: what is tested here doesn't depend on what was learned."""

import json
from pathlib import Path

import keras
import numpy as np

from apps.common.language_model import LanguageModel
from apps.common.training.losses import TokenLoss
from apps.image_captioning import export as captioning_export
from apps.image_captioning.config import Config as CaptioningConfig
from apps.image_captioning.encoders import image_encoder
from apps.image_captioning.model import Captioner
from apps.language_model import export as language_export
from apps.language_model.config import Config as LanguageConfig
from apps.music_generation import export as music_export
from apps.music_generation.config import RollConfig, TuneConfig
from apps.music_generation.rolls.model import RollModel
from apps.music_generation.tunes.model import TuneModel
from apps.music_generation.tunes.serving import tune_headers
from apps.sentiment_classification import export as sentiment_export
from apps.sentiment_classification.config import Config as SentimentConfig
from apps.sentiment_classification.model import recurrent_classifier
from apps.translation import export as translation_export
from apps.translation.config import Config as TranslationConfig
from apps.translation.model import Translator
from benchmarks.untrained import export_run, write_run
from data_pipelines.abc import Tune
from data_pipelines.translations import Pair, Vocabularies
from data_pipelines.tunes import TuneVocabulary
from data_pipelines.vocabulary import WordVocabulary

WRITERS = {
    "sentiment_classification": sentiment_export,
    "translation": translation_export,
    "image_captioning": captioning_export,
    "music_generation": music_export,
    "piano_rolls": music_export,
    "language_model": language_export,
}
SENTENCES = ["a small dog runs over the green grass", "two men sit on a wall , and eat", "the food wasn't good at all !"]


def make_run(application: str, run: Path) -> None:
    """What training leaves in the folder of a run, as far as an export needs it."""
    run.mkdir(parents=True)
    keras.utils.set_random_seed(3)
    model, config, facts = MAKERS[application](run)
    for variable in model.trainable_variables:  # clear preferences, so that nothing hangs on rounding
        if len(variable.shape) == 2:
            variable.assign(3 * np.asarray(variable))
    write_run(application, run, model, config, facts)


def make_export(application: str, folder: Path) -> Path:
    """A run and its export: the folder of the version."""
    make_run(application, folder / "runs" / application)
    return export_run(application, folder / "runs" / application, folder / "saved_models" / application, WRITERS[application])


def _sentiment_classification(run):
    vocabulary = WordVocabulary.train(SENTENCES, 30)
    vocabulary.save(run)
    sizes = {"cell": "gru", "units": 8, "num_layers": 1, "embedding_size": 8, "pooling": "attention"}
    model = recurrent_classifier(vocabulary.size, 2, **sizes, dropout=0.0, embedding_dropout=0.0, word_dropout=0.0)
    return model, SentimentConfig(max_length=40), {"labels": ["negative", "positive"]}


def _translation(run):
    vocabularies = Vocabularies.train([Pair(a, a.upper()) for a in SENTENCES], "bpe", 80, joint=True)
    vocabularies.save(run)
    model = Translator(vocabularies.source.size, vocabularies.target.size, embedding_size=8, units=8)
    model.build()
    model.compile("adam", TokenLoss())  # stands in the file, too
    return model, TranslationConfig(max_length=20, beam_size=3), {}


def _image_captioning(run):
    vocabulary = WordVocabulary.train(SENTENCES, 40, has_bos_eos=True)
    vocabulary.save(run)
    size = 32
    model = Captioner(
        vocabulary.size, (size, size, 3), image_encoder("small-cnn", size, "none").trainable_top, False,
        embedding_size=8, units=8, memory_size=8, num_layers=1, attention="additive",
    )  # fmt: skip
    model.build()
    return model, CaptioningConfig(image_size=size, beam_size=3, max_length=12), {}


def _music_generation(run):
    tunes = [Tune("6/8", "1/8", "Dmaj", "d2e fdA|B3 A3|\n"), Tune("C", "1/8", "Gmaj", "G2B2 d4|g>f e/d/c B2 z2|]\n")]
    vocabulary = TuneVocabulary.train_from_iterator([tune.text for tune in tunes], "characters")
    vocabulary.save(run)
    (run / "headers.json").write_text(json.dumps(tune_headers(tunes)))
    settings = {"attention_length": 12, "words": vocabulary.words}
    model = TuneModel(vocabulary.size, 8, batch_size=2, units=8, num_layers=1, **settings)
    model.build()
    return model, TuneConfig(music="tunes", max_length=60), {}


def _piano_rolls(run):
    model = RollModel(frame="nade", hidden=8, batch_size=2, units=8, num_layers=1)
    model.build()
    model.bias.bias.assign(np.zeros(88))  # with the -3 that it begins with a greedy search is silent
    return model, RollConfig(music="rolls", max_length=40), {}


def _language_model(run):
    vocabulary = WordVocabulary.train(SENTENCES, 40, has_bos_eos=True)
    vocabulary.save(run)
    model = LanguageModel(vocabulary.size, 8, batch_size=2, units=8, num_layers=2)
    model.build()
    return model, LanguageConfig(max_length=40), {}


MAKERS = {
    "sentiment_classification": _sentiment_classification,
    "translation": _translation,
    "image_captioning": _image_captioning,
    "music_generation": _music_generation,
    "piano_rolls": _piano_rolls,
    "language_model": _language_model,
}
