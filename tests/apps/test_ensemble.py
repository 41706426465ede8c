"""Several decoders as one in the searches, against each alone and against plain loops over their logits."""

import dataclasses
import functools
import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from apps.common.decoding.ensemble import Ensemble, logits_of_mean
from apps.common.decoding.search import sample
from apps.common.evaluation import join_training_rows
from apps.common.export import command
from apps.image_captioning import export as captioning_export
from apps.image_captioning.config import Config
from apps.image_captioning.encoders import ImageEncoder, ImageEncoders
from apps.image_captioning.model import Captioner
from apps.image_captioning.serving import search as search_captions
from apps.translation import export as translation_export
from apps.translation.model import Translator
from apps.translation.serving import search, serving_signatures
from data_pipelines.sources import DataError
from data_pipelines.translations import Pair, Vocabularies
from data_pipelines.vocabulary import BOS, EOS, UNKNOWN, WordVocabulary

SOURCE = np.array([[4, 7, 5, 9], [6, 8, 0, 0], [0, 0, 0, 0]], "int32")  # one row is empty
IMAGES = np.random.default_rng(0).uniform(size=(3, 3, 4, 6)).astype("float32")


def with_weights(model, seed):
    model.build()
    for i, weight in enumerate(model.trainable_variables):
        weight.assign(np.random.default_rng([seed, i]).normal(size=weight.shape) * 0.5)
    return model


def translator(seed, size=12, **options):
    return with_weights(Translator(size, size, **{"embedding_size": 6, "units": 6, **options}), seed)


def captioner(seed, **options):
    sizes = {"embedding_size": 6, "units": 6, "memory_size": 6, "num_layers": 1}
    return with_weights(Captioner(12, (3, 4, 6), **{**sizes, **options}), seed)


@functools.cache
def pair(application):
    """Two models that differ in all that may differ."""
    if application == "translation":
        return [translator(0), translator(1, cell="lstm", units=8, decoder_layers=1, attention="dot", reverse_source=True)]
    return [captioner(0), captioner(1, cell="gru", units=8, num_layers=2, attention="dot")]


def searched(application, model, rows=slice(None), **settings):
    if application == "translation":
        return search(model, SOURCE[rows], **settings)
    return search_captions(model, IMAGES[rows], max_length=8, **settings)


def test_logits_of_a_mean_are_those_of_float64_also_where_one_model_is_certain():
    logits = np.random.default_rng(0).normal(size=(3, 50, 7)) * 30
    logits[:, :, 1] = -1e9
    logits[0, 0] = [0, -1e9, 300, 0, 0, 0, 0]
    logits[1, 0] = [0, -1e9, -300, 0, 0, 0, 0]
    probabilities = np.exp(logits - logits.max(-1, keepdims=True))
    wanted = np.mean(probabilities / probabilities.sum(-1, keepdims=True), axis=0)
    found = tf.nn.softmax(logits_of_mean([x.astype("float32") for x in logits]))
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-7)
    one = logits[0].astype("float32")
    for count in (2, 3, 5, 7):
        np.testing.assert_array_equal(logits_of_mean([one] * count), one)


@pytest.mark.parametrize("application", ["translation", "image_captioning"])
def test_a_model_with_itself_is_the_model(application):
    model = pair(application)[0]
    several = Ensemble([model, model])
    beam = {"beam_size": 3, "n_best": 3, "no_repeat_ngram_size": 2, "length_penalty": 1.0}
    beam |= {"coverage_penalty": 0.2} if application == "translation" else {}
    for rows, settings in ((slice(None), {"beam_size": 1}), (slice(None), beam), (slice(1), beam)):
        for one, other in zip(*(searched(application, m, rows, **settings) for m in (model, several))):
            np.testing.assert_array_equal(one, other)


def test_sampling_from_a_model_with_itself_gives_its_tokens():
    model = pair("translation")[0]

    def sampled(decoder):
        memory, state = decoder.prepare_decoder(SOURCE)
        settings = {"batch_size": 3, "start": BOS, "end": EOS, "max_length": 9, "seed": 5, "top_p": 0.9}
        return sample(lambda tokens, state: decoder.step(tokens, state, memory), state, **settings)

    for one, other in zip(sampled(model), sampled(Ensemble([model, model]))):
        np.testing.assert_array_equal(one, other)


def plain_search(distributions, beam_size, longest):
    """Beam search of one row in float64, from a function of hypotheses to the models' probabilities of the next token."""
    beam, finished = [(0.0, [BOS])], []
    for length in range(1, longest + 1):
        logs = np.log(np.maximum(1e-300, np.mean(distributions([tokens for _, tokens in beam]), axis=0)))
        candidates = [
            (total + logs[i, token], [*tokens, token])
            for i, (total, tokens) in enumerate(beam)
            for token in ([EOS] if length == longest else range(1, logs.shape[-1]))
        ]
        candidates.sort(key=lambda candidate: -candidate[0])
        finished += [(total, tokens[1:-1]) for total, tokens in candidates[:beam_size] if tokens[-1] == EOS]
        beam = [candidate for candidate in candidates if candidate[1][-1] != EOS][:beam_size]
        if len(finished) >= beam_size:
            break
    return sorted(finished, key=lambda item: -item[0])[:beam_size]


@pytest.mark.parametrize("application", ["translation", "image_captioning"])
def test_two_models_are_searched_as_a_plain_loop_over_their_logits_does(application):
    models, places = pair(application), 20
    first, second = ("source", "target") if application == "translation" else ("image", "caption")
    inputs = SOURCE if application == "translation" else IMAGES
    calls = [tf.function(model.call, autograph=False) for model in models]

    def distributions(row, hypotheses):
        padded = np.array(
            [tokens + [0] * (places - len(tokens)) for tokens in hypotheses + [[BOS]] * (3 - len(hypotheses))], "int32"
        )
        found = []
        for call in calls:
            logits = call({first: np.repeat(inputs[row : row + 1], 3, axis=0), second: padded}).numpy().astype("float64")
            logits = np.stack([logits[i, len(tokens) - 1] for i, tokens in enumerate(hypotheses)])
            if application == "image_captioning":
                logits[:, UNKNOWN] = -np.inf
            likely = np.exp(logits - logits.max(-1, keepdims=True))
            found.append(likely / likely.sum(-1, keepdims=True))
        return found

    for beam_size in (1, 3):
        found = searched(application, Ensemble(models), beam_size=beam_size, n_best=beam_size)
        for row in range(3):
            longest = 2 * int((SOURCE[row] != 0).sum()) + 10 if application == "translation" else 8
            wanted = plain_search(functools.partial(distributions, row), beam_size, longest)
            for n, (score, tokens) in enumerate(wanted):
                assert found.tokens[row, n, : int(found.lengths[row, n])].numpy().tolist() == tokens
                np.testing.assert_allclose(found.log_probabilities[row, n], score, rtol=1e-5)


@pytest.mark.parametrize("application", ["translation", "image_captioning"])
def test_the_attention_is_the_mean_where_all_models_have_one(application):
    models, inputs = pair(application), SOURCE if application == "translation" else IMAGES
    tokens = np.array([[BOS, 5, 6]] * 3, "int32")
    both = Ensemble(models)
    each = [model.attention_weights(tokens, *model.prepare_decoder(inputs)) for model in models]
    memory, state = both.prepare_decoder(inputs)
    np.testing.assert_allclose(both.attention_weights(tokens, memory, state), np.mean(each, axis=0), atol=1e-6)
    for t in range(3):  # step by step the same
        _, state, weights = both.step(
            tokens[:, t : t + 1], tf.nest.map_structure(lambda s: s[:, None], state) if t == 0 else state, memory
        )
        np.testing.assert_allclose(weights[:, 0], np.mean(each, axis=0)[:, t], atol=1e-5)
    without = Ensemble([models[0], (translator if application == "translation" else captioner)(2, attention="none")])
    assert without.attention_weights(tokens, memory, state) is None
    assert searched(application, without, beam_size=2).scores.shape == (3, 1)


def test_a_translator_that_reads_backwards_attends_to_the_source_as_it_was():
    model = pair("translation")[1]
    weights = model.attention_weights(np.array([[BOS, 5]] * 2, "int32"), *model.prepare_decoder(SOURCE[:2])).numpy()
    assert (weights[1, :, 2:] < 1e-6).all() and (weights[1, :, :2] > 1e-3).all()


def test_texts_are_translated_as_by_the_model_alone():
    vocabularies = Vocabularies.train([Pair("A dog runs.", "Ein Hund."), Pair("It sat.", "Es saß.")], "characters", 40, True)
    model = translator(0, vocabularies.source.size)
    texts, found = tf.constant(["A dog runs. It sat.", "", "It sat."]), []
    for one in (model, Ensemble([model, model])):
        signatures = serving_signatures(one, vocabularies, 20, ("en", "de"), beam_size=2, n_best=2, length_penalty=1.0)
        found.append(tf.function(signatures["serving_default"][0], autograph=False)(texts))
    assert found[0].keys() == found[1].keys() and found[0]["attention"].shape[2] > 10
    for name in found[0]:
        np.testing.assert_array_equal(found[0][name], found[1][name])


def test_equal_backbones_are_run_once_and_each_captioner_gets_its_own():
    ran = []

    def encoder(key, factor):
        def backbone(pixels, training):
            ran.append(key)
            return pixels * factor

        return ImageEncoder(backbone, None, key, True)

    encoders = ImageEncoders((encoder("a", 1), encoder("b", 0.5), encoder("a", 1)))
    features = encoders.encode_image(IMAGES)
    assert sorted(ran) == ["a", "b"] and len(encoders.frozen_backbones) == 2
    model, other = pair("image_captioning")
    both = searched("image_captioning", model, beam_size=2)
    several = search_captions(Ensemble([model, model]), (features[2], features[0]), max_length=8, beam_size=2)
    np.testing.assert_allclose(several.scores, both.scores, rtol=1e-2)  # features are of float16
    half = search_captions(Ensemble([model, other]), features[:2], max_length=8, beam_size=2)
    assert np.abs(half.scores - searched("image_captioning", Ensemble([model, other]), beam_size=2).scores).max() > 0.01


def test_runs_that_differ_are_refused_in_one_line(tmp_path):
    runs = [tmp_path / "a", tmp_path / "b"]
    config = {"source_lang": "en", "target_lang": "de", "max_length": 9, "image_size": 32}
    for run in runs:
        run.mkdir()
        for name in ("joint", "vocabulary"):
            WordVocabulary(["a", "b"], has_bos_eos=True).save(run, name)
        (run / "config.json").write_text(json.dumps({"config": config}))
    grids = [SimpleNamespace(grid=grid) for grid in ((2, 2), (3, 3))]
    assert len(translation_export.average(runs, pair("translation")).models) == 2
    assert captioning_export.average(runs, pair("image_captioning")).grid == (3, 4)
    with pytest.raises(DataError, match=f"{runs[1]}: its regions differ from those of {runs[0]}"):
        captioning_export.average(runs, grids)
    (runs[1] / "config.json").write_text(json.dumps({"config": {**config, "target_lang": "fr", "image_size": 64}}))
    WordVocabulary(["b", "a"], has_bos_eos=True).save(runs[1], "joint")
    with pytest.raises(DataError, match="its vocabulary, languages differ from"):
        translation_export.average(runs, pair("translation"))
    with pytest.raises(DataError, match="its image_size differ from"):
        captioning_export.average(runs, pair("image_captioning"))


def test_a_run_is_named_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["export", "runs/a", f"{tmp_path}/runs/b", f"{tmp_path}/runs/a"])
    with pytest.raises(DataError, match="a run is named twice"):
        command.main("translation", "", translation_export.write, translation_export.network, translation_export.average)


def test_the_training_rows_are_those_of_all_runs(tmp_path, capsys):
    runs = [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    for run, rows in zip(runs, ([3, 5], [4, 5], None)):
        run.mkdir()
        if rows:
            np.save(run / "training_rows.npy", np.array(rows, "uint64"))
    join_training_rows(tmp_path, runs)
    assert np.load(tmp_path / "training_rows.npy").tolist() == [3, 4, 5]
    assert capsys.readouterr().out == f"{runs[2]}: has no training_rows.npy, so evaluate can't tell rows that it was trained on\n"


def test_the_encoders_of_runs_are_one_where_their_frozen_backbones_are_equal(tmp_path):
    backbone = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(6, 4, 4)])
    runs = [tmp_path / name for name in "abc"]
    for run in runs:
        run.mkdir()
        WordVocabulary(["a", "b"], has_bos_eos=True).save(run)
        (run / "config.json").write_text(json.dumps({"config": dataclasses.asdict(Config(image_size=16))}))
        if run.name == "c":
            backbone.set_weights([weight + 1 for weight in backbone.get_weights()])
        backbone.save(run / "frozen_backbone.keras")
    models = [with_weights(Captioner(12, (4, 4, 6), embedding_size=6, units=6, memory_size=6, num_layers=1), 0) for _ in runs]
    assert len(captioning_export.average(runs[:2], models[:2]).encoders.frozen_backbones) == 1
    ensemble = captioning_export.average(runs, models)
    a, b, c = ensemble.encoders.encode_image(np.full((2, 16, 16, 3), 100, "uint8"))
    assert a is b and len(ensemble.encoders.frozen_backbones) == 2 and np.abs(np.asarray(a) - c).max() > 1
    with pytest.raises(DataError, match="the runs have different backbones, and a network takes the features of one"):
        captioning_export.network(ensemble)
