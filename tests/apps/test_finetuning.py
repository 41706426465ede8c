"""Classifiers that start from a language model: what they take over, how their levels learn, and what the adversary does."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from apps.common.language_model import LanguageModel
from apps.sentiment_classification.export import average
from apps.sentiment_classification.finetune import VirtualAdversary, by_level
from apps.sentiment_classification.model import ConcatPooling, fine_tuned_classifier
from data_pipelines.vocabulary import EOS, WordVocabulary
from tests.apps import helpers

WORDS = "the a film was is good bad not and it".split()
IDS = np.array([[4, 5, 6, 7], [8, 9, 0, 0], [0, 0, 0, 0]])
NO_DROPOUT = {"dropout": 0.0, "embedding_dropout": 0.0, "weight_dropout": 0.0, "level_dropout": 0.0}


@pytest.fixture(scope="module")
def language_model():
    keras.utils.set_random_seed(3)
    model = LanguageModel(4 + len(WORDS), 5, direction="both", batch_size=4, units=6, num_layers=2, cell="gru")
    model.build()
    return model


@pytest.fixture(scope="module")
def run(language_model, tmp_path_factory):
    """A finished run with this language model, as `apps.language_model` would leave it."""
    folder = tmp_path_factory.mktemp("language_model")
    language_model.save(folder / "model.keras")
    WordVocabulary(WORDS, has_bos_eos=True).save(folder)
    flags = {"batch_size": 4, "bptt_steps": 5, "learning_rate": 1e-2, "clip_norm": 1.0}
    flags |= {"cell": "gru", "units": 6, "num_layers": 2, "embedding_size": 5}
    (folder / "config.json").write_text(json.dumps({"application": "language_model", "config": flags}))
    return folder


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    path = tmp_path_factory.mktemp("reviews") / "reviews.tsv"
    rows = [
        f"the film was {'not ' * (i % 3)}good and it is a film\tpositive\nit was bad {'and ' * (i % 4)}bad\tnegative"
        for i in range(30)
    ]
    path.write_text("text\tlabel\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture
def classifier(language_model):
    keras.utils.set_random_seed(4)
    return fine_tuned_classifier(language_model, 2, **NO_DROPOUT)


def test_the_features_are_the_states_of_the_language_model(language_model, classifier):
    features, is_text = classifier.get_layer("encoder")(IDS)
    assert is_text.numpy().tolist() == [[0, 1, 1, 1, 1, 0], [0, 1, 1, 0, 0, 0], [0] * 6]
    for row, length in enumerate((4, 2, 0)):
        text = IDS[row : row + 1, :length]
        for direction, tokens in enumerate((text, text[:, ::-1])):
            x = language_model.embed(np.concatenate([[[EOS]], tokens], axis=1))
            states, _ = language_model.stacks[direction].encode(x, language_model.get_initial_state(1, direction))
            wanted = states[0, 1:] if direction == 0 else states[0, 1:][::-1]
            found = features[row, 1 : 1 + length, 6 * direction : 6 * direction + 6]
            np.testing.assert_allclose(found, wanted, atol=1e-6)
    alone = classifier(IDS[1:2, :2])["logits"]
    np.testing.assert_allclose(classifier(IDS)["logits"][1:2], alone, atol=1e-6)  # padding is inert


def test_concat_pooling_is_last_mean_and_largest():
    features = np.random.default_rng(0).normal(size=(2, 4, 6)).astype("float32")
    is_text = np.array([[False, True, True, False], [False] * 4])
    pooled = ConcatPooling(2)(features, is_text).numpy()
    text = features[0, 1:3]
    last = np.concatenate([features[0, -1, :3], features[0, 0, 3:]])
    np.testing.assert_allclose(pooled[0], np.concatenate([last, text.mean(0), text.max(0)]), atol=1e-6)
    assert not pooled[1, 6:].any()


def test_each_level_learns_when_and_as_fast_as_it_should(classifier):
    model = keras.Model(classifier.input, classifier.output["logits"])
    optimizer = by_level(keras.optimizers.SGD, classifier, decay=2.0, unfreeze=2)(0.5)
    variables, rates = model.trainable_variables, []
    optimizer.build(variables)
    for _ in range(7):
        before = [np.array(v) for v in variables]
        optimizer.apply([tf.ones_like(v) for v in variables], variables)
        rates.append({v.path: float(np.max(b - np.array(v))) for v, b in zip(variables, before)})
    for path in rates[0]:
        below = 3 - int(path[path.index("level_") + 6]) if "level_" in path else 0
        wanted = [0.5 / 2**below if step >= 2 * below else 0.0 for step in range(7)]
        np.testing.assert_allclose([rate[path] for rate in rates], wanted, atol=1e-6, err_msg=path)


def test_weight_decay_of_a_level_follows_its_learning_rate(classifier):
    model = keras.Model(classifier.input, classifier.output["logits"])
    optimizer = by_level(keras.optimizers.Adam, classifier, decay=2.0, unfreeze=2)(0.5, weight_decay=0.1)
    variables = model.trainable_variables
    optimizer.build(variables)
    before = {v.path: np.array(v) for v in variables}
    optimizer.apply([tf.zeros_like(v) for v in variables], variables)
    for variable in variables:  # of the first step only the top has one
        wanted = before[variable.path] * (1 if "level_" in variable.path else 1 - 0.5 * 0.1)
        np.testing.assert_allclose(variable, wanted, rtol=1e-6, err_msg=variable.path)
        variable.assign(before[variable.path])


def test_the_adversary_finds_a_change_that_matters_more_than_another(classifier):
    labels = np.array([0, 1, 1])
    trainer = VirtualAdversary(classifier, tf.RaggedTensor.from_tensor(IDS[:2], padding=0), epsilon=0.5)
    trainer.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    logits = trainer(IDS)
    plain = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True).numpy().mean()
    inference = float(trainer.compute_loss(IDS, labels, logits, training=False))
    found = np.array([float(trainer.compute_loss(IDS, labels, logits, training=True)) - plain for _ in range(5)])
    assert inference == pytest.approx(plain, abs=1e-6)

    encoder, pooling, head = (classifier.get_layer(name) for name in ("encoder", "pooling", "logits"))
    counts = np.bincount(IDS[IDS > 0], minlength=14)[:, None] / (IDS > 0).sum()
    table = np.array(encoder.embedding.embeddings)
    deviation = np.sqrt((counts * (table - (counts * table).sum(0)) ** 2).sum(0))
    marked, lengths = encoder.mark(IDS)

    def divergence(change):
        """KL(p(e) || p(e + change)), a mean over the texts."""
        out = head(pooling(*encoder.encode(encoder.embed(marked) + deviation * change, lengths)))
        p, q = tf.nn.softmax(logits).numpy(), tf.nn.softmax(out).numpy()
        return float((p * np.log(p / q)).sum(1).mean())

    generator = np.random.default_rng(0)
    others = []
    for _ in range(200):
        change = generator.normal(size=(3, 6, 5)) * (np.arange(6)[None] <= np.array(lengths))[..., None]
        others.append(divergence(0.5 * change / np.sqrt((change**2).sum((1, 2), keepdims=True))))
    assert found.min() > np.mean(others) * 2 and found.max() > max(others)


def flags(run, reviews, folder):
    line = ["--data", reviews, "--init-from", run, "--epochs", "2", "--batch-size", "8", "--virtual-adversary", "1"]
    return [*line, "--learning-rate", "0.02", "--run-dir", folder / "run", "--export-dir", folder / "export"]


@pytest.fixture(scope="module")
def fine_tuned(run, reviews, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fine_tuned")
    result = helpers.command("sentiment_classification", "train", *flags(run, reviews, folder))
    assert result.returncode == 0, result.stderr[-3000:]
    return folder, result.stdout


def test_fine_tuning_from_its_command_line(fine_tuned):
    folder, printed = fine_tuned
    assert "adapting the language model to 48 texts" in printed and "14 words" in printed
    config = json.loads((folder / "run" / "config.json").read_text())["config"]
    assert (config["cell"], config["units"], config["num_layers"], config["embedding_size"]) == ("gru", 6, 2, 5)
    first, last = helpers.log(folder / "run")
    assert last["loss"] < first["loss"]
    result = helpers.command("sentiment_classification", "predict", folder / "export", "--json", "it was bad")
    assert json.loads(result.stdout)["label"] in ("positive", "negative")


def test_a_killed_run_ends_as_one_not_killed(fine_tuned, run, reviews, tmp_path):
    line = flags(run, reviews, tmp_path)
    helpers.kill_twice("sentiment_classification", tmp_path / "run", *line)
    result = helpers.command("sentiment_classification", "train", "--resume", "--run-dir", tmp_path / "run")
    assert result.returncode == 0 and "adapting" not in result.stdout, result.stderr[-3000:]
    helpers.assert_same_end(tmp_path / "run", fine_tuned[0] / "run")


def test_a_run_in_bfloat16_learns_and_is_exported(fine_tuned, run, reviews, tmp_path):
    line = [*flags(run, reviews, tmp_path), "--precision", "mixed_bfloat16", "--quick"]  # which has no say in the model
    result = helpers.command("sentiment_classification", "train", *line)
    assert result.returncode == 0, result.stderr[-3000:]
    (found, _), (wanted, _) = helpers.log(tmp_path / "run"), helpers.log(fine_tuned[0] / "run")
    assert found["val_loss"] == pytest.approx(wanted["val_loss"], rel=0.2)


def test_wrong_starts_are_one_line(run, reviews, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.keras").touch()
    (tmp_path / "other" / "config.json").write_text('{"application": "translation", "config": {}}')
    for arguments, message in (
        (["--init-from", run, "--cell", "sru"], "--cell sru: the weights of --init-from"),
        (["--init-from", run, "--baseline", "bag-of-words"], "--baseline: has no meaning with --init-from"),
        (["--virtual-adversary", "1"], "--virtual-adversary: is for a classifier from a language model"),
        (["--weight-dropout", "0.5"], "--weight-dropout: is for a classifier from a language model. Pass --init-from, too"),
        (["--init-from", tmp_path / "none"], f"--init-from {tmp_path / 'none'}: holds no finished run"),
        (
            ["--init-from", tmp_path / "other"],
            f"--init-from {tmp_path / 'other'}: is a run of translation, not of language_model",
        ),
    ):
        line = ["--data", reviews, *arguments, "--run-dir", tmp_path / "run"]
        result = helpers.command("sentiment_classification", "train", *line, alone=False)
        assert result.returncode == 2 and message in result.stderr, result.stderr[-2000:]


def test_an_average_has_the_mean_of_the_probabilities(run, language_model, tmp_path):
    models = []
    for name in "ab":
        (tmp_path / name).mkdir()
        WordVocabulary(WORDS, has_bos_eos=True).save(tmp_path / name)
        config = {"labels": ["no", "yes"], "config": {"max_length": 9}}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        models.append(fine_tuned_classifier(language_model, 2, **NO_DROPOUT))
    wanted = np.mean([tf.nn.softmax(model(IDS)["logits"]) for model in models], axis=0)
    joint = average([tmp_path / "a", tmp_path / "b"], models)
    np.testing.assert_allclose(tf.nn.softmax(joint(IDS)["logits"]), wanted, atol=1e-6)
    (tmp_path / "b" / "config.json").write_text(json.dumps(config | {"labels": ["yes", "no"]}))
    with pytest.raises(ValueError, match="its classes differ from those of"):
        average([tmp_path / "a", tmp_path / "b"], models)
