"""The metrics, the averaged weights and the files of models."""

import dataclasses
import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from apps.common import cli
from apps.common.evaluation import training_examples, write_training_rows
from apps.common.metrics import classification_metrics, expected_calibration_error
from apps.common.training import runs
from apps.common.training.init_from import begin_with, initial_run
from apps.common.training.losses import BalancedCrossEntropy
from apps.common.training.validation import constant_class
from apps.common.training.workers import Workers
from apps.sentiment_classification.config import Config as SentimentConfig
from apps.translation.config import Config as TranslationConfig
from data_pipelines.corpus import Corpus
from data_pipelines.sources import DataError
from data_pipelines.translations import Pair, Vocabularies


def test_metrics_of_a_known_case():
    truth = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]])
    metrics = classification_metrics(truth, probabilities)
    assert metrics["accuracy"] == 0.75
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert metrics["roc_auc"] == 1.0
    assert metrics["log_loss"] == pytest.approx(-np.log([0.9, 0.4, 0.8, 0.7]).mean())
    json.dumps(metrics)


def test_calibration_error_of_an_overconfident_model():
    probabilities = np.tile([0.95, 0.05], (10, 1))
    assert expected_calibration_error(np.array([0] * 6 + [1] * 4), probabilities) == pytest.approx(0.35)


def test_training_examples_are_those_an_export_was_trained_on(tmp_path):
    corpus = Corpus({"train": [("a", 1), ("b", 2), ("c", 3)]})
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "saved_model.pb").touch()
    assert training_examples(tmp_path, corpus) is None
    write_training_rows(tmp_path / "2", tmp_path / "1", Corpus({"train": [("b", 2), ("a", 1)]}).training_hashes())
    assert training_examples(tmp_path, corpus) == [("a", 1), ("b", 2)]  # "c" was skipped
    assert training_examples(tmp_path, Corpus({"train": [("a", 1)]})) is None
    assert training_examples(tmp_path / "1", corpus) == [("a", 1), ("b", 2)]  # of the run
    assert training_examples(tmp_path, Corpus({"test": [("a", 1)]})) is None


@pytest.mark.parametrize("flag", ["run_dir", "export_dir"])
def test_a_file_is_no_folder_of_a_run_or_an_export(flag, tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "1"):
        config = SentimentConfig(**{"run_dir": str(tmp_path / "run"), flag: str(place)})
        with pytest.raises(DataError, match=rf"--{flag.replace('_', '-')} {place}: {tmp_path}/file is a file; expected a folder"):
            runs.open_run("sentiment_classification", config, {}, Workers())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_several_classes():
    rng = np.random.default_rng(0)
    truth = np.arange(60) % 3
    probabilities = rng.dirichlet(np.ones(3), 60)
    metrics = classification_metrics(truth, probabilities)
    assert 0.2 < metrics["roc_auc"] < 0.8 and metrics["examples"] == 60


def test_a_balanced_loss_weighs_a_rare_class_as_much_as_a_frequent_one():
    truth, logits = np.array([0] * 9 + [1]), np.tile([[2.0, -1.0]], (10, 1)).astype("float32")
    each = [float(-tf.nn.log_softmax([2.0, -1.0])[label]) for label in (0, 1)]
    loss = BalancedCrossEntropy([9, 1])
    assert float(loss(truth, logits)) == pytest.approx(np.mean(each))
    halved = float(loss(truth, logits, sample_weight=np.full(10, 0.5)))  # as workers share a batch
    assert halved == pytest.approx(np.mean(each) / 2)
    constant = constant_class([9, 1], [9, 1], balance=True)
    assert constant == {"val_accuracy": 0.9, "val_loss": pytest.approx(np.log(2))}


def test_weight_decay_shrinks_what_has_no_gradient_and_without_it_adam_is_as_ever():
    def trained(**flags):
        keras.utils.set_random_seed(0)
        options = runs.optimizer_options(SentimentConfig(**flags), 20)
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="ones")])
        model.compile(Workers().optimizer(keras.optimizers.Adam)(**options), "mse")
        x = np.array([[1.0, 0.0]] * 8)  # the second weight has no gradient
        model.fit(x, np.ones((8, 1)), batch_size=1, verbose=0)
        rates = [float(options["learning_rate"](step)) for step in range(8)]
        return model.get_weights()[0][:, 0], rates

    plain, rates = trained()
    decayed, _ = trained(weight_decay=0.5)
    assert plain[1] == 1.0
    assert decayed[1] == pytest.approx(np.prod([1 - 0.5 * rate for rate in rates]), rel=1e-5)
    assert decayed[1] < 1 - 1e-4


def test_the_averaged_weights_are_kept_and_the_last_ones_go_on(tmp_path):
    import keras

    from apps.common.training.averages import averaged_weights
    from apps.common.training.checkpoints import Checkpoint

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9), "mse")
    checkpoint = Checkpoint(tmp_path, monitor="loss")
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            last = model.get_weights()
            with averaged_weights(model):
                seen.append((last, model.get_weights()))
            np.testing.assert_array_equal(model.get_weights()[0], last[0])

    x = np.random.default_rng(0).normal(size=(32, 2))
    model.fit(x, x[:, :1], verbose=0, epochs=2, callbacks=[Watch(), checkpoint])
    last, averaged = seen[-1]
    assert np.abs(last[0] - averaged[0]).max() > 1e-4
    np.testing.assert_array_equal(model.get_weights()[0], last[0])  # not the averages, which fit leaves
    checkpoint.best_weights = averaged
    checkpoint.restore_best()
    np.testing.assert_array_equal(model.get_weights()[0], averaged[0])


def test_a_model_file_that_would_run_code_is_refused(tmp_path):
    from apps.common.training.runs import load_model

    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Lambda(lambda x: x + 1, output_shape=(2,))(inputs))
    model.save(tmp_path / "model.keras")
    with pytest.raises(DataError, match=r"model\.keras: can't be read \(.*Lambda"):
        load_model(tmp_path)


# -- a run that begins with another


def make_run(folder, **facts):
    folder.mkdir()
    config = dataclasses.asdict(TranslationConfig(units=9, tokenizer="words", epochs=77))
    (folder / "config.json").write_text(json.dumps({"application": "translation", "config": config, **facts}))
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="dense")]).save(folder / "model.keras")
    return str(folder)


def test_the_flags_that_weights_depend_on_come_from_their_run(tmp_path):
    run = make_run(tmp_path / "run")
    config = cli.parse_config(TranslationConfig, "x", arguments=["--init-from", run])
    assert config == TranslationConfig(units=9, tokenizer="words", init_from=run)
    assert initial_run("translation", config) == tmp_path / "run"
    for application, changed, message in (
        ("translation", {"units": 8}, "--units 8: the weights of --init-from .*run are for 9. Leave the flag out"),
        ("weather", {}, "is a run of translation, not of weather. Pass another"),
        ("translation", {"init_from": str(tmp_path)}, "holds no finished run. Pass the folder of one, below runs/translation/"),
    ):
        with pytest.raises(DataError, match=message):
            initial_run(application, dataclasses.replace(config, **changed))
    (tmp_path / "mine" / "checkpoints").mkdir(parents=True)
    (tmp_path / "mine" / "checkpoints" / "step-00000001.npz").touch()
    resumed = dataclasses.replace(config, resume=True, run_dir=str(tmp_path / "mine"), init_from="gone")
    assert initial_run("translation", resumed) is None and initial_run("translation", TranslationConfig()) is None


def test_a_run_is_deterministic_on_a_processor_and_stays_what_it_was(tmp_path, monkeypatch):
    gpu, enabled, grown = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU"), [], []
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: enabled.append(1))
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda *given: grown.append(given))
    for i, (typed, gpus, wanted) in enumerate([(None, [], True), (False, [], False), (True, [gpu], True), (None, [gpu], False)]):
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind, gpus=gpus: gpus)
        config = SentimentConfig(run_dir=str(tmp_path / str(i)), deterministic=typed)
        runs.prepare_device(config)
        assert len(enabled) == wanted and grown == [(device, True) for device in gpus]
        runs.open_run("sentiment_classification", config, {}, Workers())
        enabled.clear(), grown.clear()
    resumed = cli.parse_config(SentimentConfig, "x", arguments=["--resume", "--run-dir", str(tmp_path / "0")])
    assert resumed.deterministic is True  # also where there is a GPU by now
    with pytest.raises(DataError, match="was started with deterministic = True, now False"):
        runs.open_run("sentiment_classification", dataclasses.replace(resumed, deterministic=False), {}, Workers())


def test_weights_are_copied_if_their_shapes_are_equal(tmp_path):
    run = Path(make_run(tmp_path / "run"))
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    begin_with(model, run)
    for one, other in zip(model.get_weights(), runs.load_model(run).get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4, name="dense")])
    with pytest.raises(DataError, match=r"its model is another \(2 weights, there 2; .*/kernel \(2, 4\), there \(2, 3\)\)"):
        begin_with(other, run)


def test_a_vocabulary_is_kept_and_learns_the_words_of_new_pairs():
    old = Vocabularies.train([Pair("a small dog", "ein kleiner Hund")] * 3, "bpe", 60, joint=True)
    new = old.with_words_of([Pair("a small god", "ein kleiner Gott")])
    assert new.joint and new.source is old.source and {"dog", "god"} <= set(new.words.words)
