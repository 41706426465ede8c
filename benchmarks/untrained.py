"""Runs and exports of models that nobody trained: of the default sizes, with random weights."""

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from apps.common import cli
from apps.common.export.model_card import write_card
from apps.common.export.saved_model import new_version
from apps.common.language_model import LanguageModel
from apps.common.training.runs import load_model, versions
from apps.image_captioning import config as captioning_config
from apps.image_captioning import export as captioning_export
from apps.image_captioning.encoders import image_encoder
from apps.image_captioning.model import Captioner
from apps.language_model import config as language_config
from apps.language_model import export as language_export
from apps.music_generation import export as music_export
from apps.music_generation.config import RollConfig, StackFlags, TuneConfig
from apps.music_generation.rolls.model import RollModel
from apps.music_generation.tunes.model import TuneModel
from apps.music_generation.tunes.serving import tune_headers
from apps.sentiment_classification import config as sentiment_config
from apps.sentiment_classification import export as sentiment_export
from apps.sentiment_classification.model import recurrent_classifier
from apps.translation import config as translation_config
from apps.translation import export as translation_export
from apps.translation.model import Translator
from data_pipelines.abc import read_tunes
from data_pipelines.translations import Pair, Vocabularies
from data_pipelines.tunes import TuneVocabulary
from data_pipelines.vocabulary import EOS, WordVocabulary


def words(count: int) -> list[str]:
    """So many words, all of lower-case letters."""
    return ["".join(letters) for letters in itertools.islice(itertools.product("etaoinshrd", repeat=5), count)]


def lines(count: int, seed: int = 0) -> list[str]:
    chosen = np.random.default_rng(seed).permutation(words(count)).tolist()
    return [" ".join(chosen[i : i + 8]) for i in range(0, count, 8)]


def make_sentiment(run: Path) -> tuple[keras.Model, Any, dict]:
    config = sentiment_config.Config(min_count=1)
    vocabulary = WordVocabulary.train(lines(40_000), config.vocabulary_size)
    vocabulary.save(run)
    flags = cli.flags_of(config, sentiment_config.ModelFlags)
    return recurrent_classifier(vocabulary.size, 2, **flags), config, {"labels": ["negative", "positive"]}


def make_translation(run: Path) -> tuple[keras.Model, Any, dict]:
    config = translation_config.Config()
    pairs = [Pair(a, b) for a, b in zip(lines(20_000), lines(20_000, 1))]
    vocabularies = Vocabularies.train(pairs, config.tokenizer, config.vocabulary_size, joint=True)
    vocabularies.save(run)
    flags = cli.flags_of(config, translation_config.ModelFlags)
    model = Translator(vocabularies.source.size, vocabularies.target.size, joint=True, **flags)
    model.build()
    return model, config, {}


def make_captioning(run: Path) -> tuple[keras.Model, Any, dict]:
    config = captioning_config.Config(backbone="mobilenet", backbone_weights="none")
    vocabulary = WordVocabulary.train(lines(12_000), config.vocabulary_size, has_bos_eos=True)
    vocabulary.save(run)
    backbone = image_encoder(config.backbone, config.image_size, "none").trainable_top
    assert isinstance(backbone, keras.Model)
    backbone.save(run / "frozen_backbone.keras")
    flags = cli.flags_of(config, captioning_config.ModelFlags)
    model = Captioner(vocabulary.size, backbone.output_shape[1:], None, True, **flags)
    model.build()
    return model, config, {}


def make_tunes(run: Path) -> tuple[keras.Model, Any, dict]:
    config = TuneConfig(music="tunes")
    found, _ = read_tunes("X:1\nT:a\nM:6/8\nL:1/8\nK:D\n" + "d2e fdA|B3 A3|G>A ^c/d/e z2|\n" * 4)
    vocabulary = TuneVocabulary.train_from_iterator([tune.text for tune in found], config.tokenizer)
    vocabulary.save(run)
    (run / "headers.json").write_text(json.dumps(tune_headers(found)))
    look_back: dict[str, Any] = {"attention_length": config.attention_length, "words": vocabulary.words}
    model = TuneModel(vocabulary.size, config.embedding_size, **look_back, **cli.flags_of(config, StackFlags))
    model.build()
    model.dense.bias.assign(np.where(np.arange(vocabulary.size) == EOS, -1e9, 0.0))  # no tune ends before its limit
    return model, config, {}


def make_rolls(run: Path) -> tuple[keras.Model, Any, dict]:
    config = RollConfig(music="rolls")
    flags = cli.flags_of(config, StackFlags)
    model = RollModel(frame=config.frame, hidden=config.hidden, **flags)
    model.build()
    return model, config, {}


def make_language(run: Path) -> tuple[keras.Model, Any, dict]:
    config = language_config.Config()
    vocabulary = WordVocabulary.train(lines(40_000), config.vocabulary_size, has_bos_eos=True)
    vocabulary.save(run)
    model = LanguageModel(vocabulary.size, batch_size=1, **cli.flags_of(config, language_config.ModelFlags))
    model.build()
    model.bias.assign(np.where(np.arange(vocabulary.size) == EOS, -1e9, 0.0))  # no text ends before its limit
    return model, config, {}


MAKERS: dict[str, tuple[Callable[[Path], tuple[keras.Model, Any, dict]], Any]] = {
    "sentiment_classification": (make_sentiment, sentiment_export),
    "translation": (make_translation, translation_export),
    "image_captioning": (make_captioning, captioning_export),
    "music_generation": (make_tunes, music_export),
    "piano_rolls": (make_rolls, music_export),
    "language_model": (make_language, language_export),
}


def write_run(application: str, run: Path, model: keras.Model, config: Any, facts: dict[str, Any]) -> None:
    """What training leaves in the folder of a run, as far as an export needs it; the vocabulary lies there already."""
    model.save(run / "model.keras")
    new = {"command": f"python -m apps.{application}.train", "config": dataclasses.asdict(config)}
    new |= {"data": {"train": {"examples": 3}}, "versions": versions(), **facts}
    (run / "config.json").write_text(json.dumps(new))


def export_run(application: str, run: Path, folder: Path, writer: Any) -> Path:
    """Export a run into `folder`; the folder of the version."""
    with new_version(folder) as version:
        writer.write(version.folder, run, load_model(run))
        write_card(version.folder, run, application, writer.DESCRIPTION)
    return version.folder


def make_export(application: str, folder: Path) -> None:
    make, writer = MAKERS[application]
    run = folder / "runs" / application
    run.mkdir(parents=True)
    keras.utils.set_random_seed(0)
    write_run(application, run, *make(run))
    export_run(application, run, folder / application, writer)
