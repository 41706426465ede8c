"""The application from its command line to a server that knows nothing of this project."""

import csv
import json
import re
import runpy
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import apps
from apps.demo import answers
from apps.sentiment_classification.model import AttentionPooling, bag_of_words_classifier, recurrent_classifier
from apps.sentiment_classification.predict import explain, predictions
from apps.sentiment_classification.serving import serving_signatures
from data_pipelines.embedded.reviews import embedded_reviews
from data_pipelines.vocabulary import WordVocabulary
from tests.apps import helpers
from tests.apps.contract import (  # noqa: F401
    Trained,
    test_a_killed_run_ends_as_one_not_killed,
    test_a_run_in_bfloat16_learns_and_is_exported,
    test_an_export_of_another_application_is_refused,
    test_evaluate_prints_json_that_equals_training,
    test_the_config_of_a_run_gives_its_flags_again,
    test_the_run_folder_is_complete_and_the_loss_falls,
    test_wrong_use_is_one_line_and_leaves_nothing,
)
from tests.data_pipelines.helpers import service
from tests.serving.operations import check_graph

SMALL = ["--quick", "--units", "16", "--embedding-size", "16"]


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    """Own files: a part of the embedded reviews, as a user would bring them."""
    folder = tmp_path_factory.mktemp("reviews")
    for name, pairs in embedded_reviews().items():
        rows = [f"{text}\t{label}" for text, label in pairs[:400]]
        (folder / f"{name}.tsv").write_text("\n".join(["text\tlabel", *rows]) + "\n")
    return folder


@pytest.fixture(scope="module")
def trained(reviews, tmp_path_factory):
    files = "confusion.png calibration.png vocabulary.json"
    return Trained("sentiment_classification", reviews, SMALL, tmp_path_factory.mktemp("trained"), files=files)


def test_training_says_what_it_does(trained):
    assert json.loads((trained.run / "config.json").read_text())["data"]["train"]["examples"] == 400
    for part in ("device", "CPU (", "examples", "parameters", "accuracy", "macro_f1", "roc_auc", "ece"):
        assert part in trained.printed


def test_predict_reads_arguments_and_standard_input(trained):
    result = trained.command("predict", trained.export, "--json", "good food", "-", input="bad\n\n")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["text"] for row in rows] == ["good food", "bad", ""]
    assert all(row["label"] in ("negative", "positive") and 0.5 <= row["probability"] <= 1 for row in rows)
    assert [pair[0] for pair in rows[0]["weights"]] == ["good", "food"]
    assert sum(pair[1] for pair in rows[0]["weights"]) == pytest.approx(1, abs=1e-3)
    assert "[good" in trained.command("predict", trained.export, "good").stdout


def test_predict_reads_and_writes_files(trained, tmp_path):
    rows = [{"id": i, "text": text, "label": "?"} for i, text in enumerate(["good food", "", "the food was bad"] * 3)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = ["--data", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl", "--all"]
    result = trained.command("predict", trained.export, *line)
    assert result.returncode == 0 and result.stdout == f"9 rows  {tmp_path / 'out.jsonl'}\n", result.stderr[-3000:]
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [{name: row[name] for name in ("id", "text", "label")} for row in found] == rows
    for row, wanted in zip(found, apps.load(trained.export)([row["text"] for row in rows], all_classes=True)):
        assert row["predicted"] == wanted["label"] and row["probability"] == pytest.approx(wanted["probability"], abs=1e-5)
        classes = {name: row[f"probability_{name}"] for name in ("negative", "positive")}
        assert classes == pytest.approx(wanted["probabilities"], abs=1e-5) and sum(classes.values()) == pytest.approx(1, abs=1e-5)
    for wrong, message in (
        (["reviews.csv"], "reviews.csv: is no text but the name of a file, which is not there. To predict its rows: --data"),
        (["--all", "good"], "--all: goes with --json or --data"),
        ([*line, "--json"], "--json: goes without --data"),
    ):
        result = trained.command("predict", trained.export, *wrong)
        assert result.returncode == 2 and message in result.stderr and not result.stdout


def test_evaluate_writes_the_errors_and_tells_the_classes_apart(trained, reviews, tmp_path):
    result = trained.command("evaluate", trained.export, "--data", reviews / "test.tsv", "--errors", tmp_path / "errors.csv")
    with (tmp_path / "errors.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    wrong = sum(row["label"] != row["predicted"] for row in rows)
    metrics = json.loads(result.stdout.splitlines()[-1])
    assert wrong == len(rows) == round((1 - metrics["accuracy"]) * metrics["examples"])
    certain = [float(row["probability"]) for row in rows]
    assert certain == sorted(certain, reverse=True) and min(certain) >= 0.5
    table = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if line}
    assert table["class"] == ["precision", "recall", "f1", "examples"]
    f1 = [float(table[name][2]) for name in ("negative", "positive")]
    assert np.mean(f1) == pytest.approx(metrics["macro_f1"], abs=1e-4)


def test_the_recipe_of_the_readme_labels_a_text(trained, tmp_path):
    recipe = re.search(r"```python\n(.*?)```", (helpers.ROOT / "apps/sentiment_classification/README.md").read_text(), re.S)[1]
    assert "runs/sentiment_classification/NAME" in recipe
    (tmp_path / "recipe.py").write_text(recipe.replace("runs/sentiment_classification/NAME", str(trained.run)))
    names = runpy.run_path(str(tmp_path / "recipe.py"))
    (wanted,) = apps.load(trained.export)(["a fine film"])
    assert names["label"] == wanted["label"]


def test_the_export_predicts_without_this_project(trained):
    script = (
        "import sys, tensorflow as tf\n"
        "f = tf.saved_model.load(sys.argv[1]).signatures['serving_default']\n"
        "run = lambda *t: {k: v.numpy() for k, v in f(text=tf.constant(list(t), tf.string)).items()}\n"
        "alone, both = run('good food'), run('good food', 'bad ' * 3000, '', b'\\xff\\x00')\n"
        "assert both['label'].shape == (4,) and abs(alone['probability'][0] - both['probability'][0]) < 1e-6\n"
        "assert both['attention'].shape == both['tokens'].shape == (4, 400), both['tokens'].shape\n"
        "assert run('')['attention'].sum() == 0\n"
        "assert run()['label'].shape == (0,)\n"
    )
    helpers.run_alone(script, trained.export / "1")


def test_subwords_and_last_state_export_too_and_show_no_attention(trained, tmp_path):
    flags = ["--tokenizer", "subwords", "--vocabulary-size", "300", "--pooling", "last", "--cell", "lstm"]
    trained.train(tmp_path, *flags)
    shown = trained.command("predict", tmp_path / "export", "good food").stdout
    assert shown.strip().endswith("  good food") and "[" not in shown
    assert "weights" not in json.loads(trained.command("predict", tmp_path / "export", "--json", "good food").stdout)
    assert "attention" not in (tmp_path / "export" / "1" / "model_card.md").read_text().split("## Signatures")[1]
    check_graph(tmp_path / "export" / "1", text_ops=True)


def test_the_baseline_trains_and_is_exported_too(trained, tmp_path):
    trained.train(tmp_path, "--baseline", "bag-of-words", "--learning-rate", "0.02")
    assert [layer.name for layer in keras.saving.load_model(tmp_path / "run" / "model.keras").layers] == ["ids", "logits"]
    first, last = helpers.log(tmp_path / "run")
    assert last["loss"] < first["loss"]
    result = trained.command("predict", tmp_path / "export", "--json", "good food", "food good food")
    one, other = map(json.loads, result.stdout.splitlines())
    assert one["probability"] == pytest.approx(other["probability"]) and "weights" not in one
    check_graph(tmp_path / "export" / "1", text_ops=True)


def test_evaluate_takes_a_lone_file_whole_and_tells_of_training_rows(trained, reviews, tmp_path):
    result = trained.command("evaluate", trained.export, "--data", reviews / "train.tsv")
    metrics = json.loads(result.stdout.splitlines()[-1])
    rows = (reviews / "train.tsv").read_text().splitlines()[1:]
    assert metrics["split"] == "all" and metrics["examples"] == len(rows)
    texts = {row.split("\t")[0] for row in rows}
    assert f"of the {len(texts):,} different rows of 'all' were in the training split" in result.stderr
    (tmp_path / "test.tsv").write_text("text\tlabel\nfood never read before\tnegative\n")
    result = trained.command("evaluate", trained.export, "--data", tmp_path)
    assert json.loads(result.stdout.splitlines()[-1])["examples"] == 1 and "training split" not in result.stderr


def test_unknown_words_are_named(trained):
    line = json.loads(trained.command("predict", trained.export, "--json", "the zyxwv was").stdout)
    assert line["unknown"] == ["zyxwv"] and "unknown: zyxwv" in trained.command("predict", trained.export, "the zyxwv was").stdout


def test_a_useless_model_is_not_exported(trained, tmp_path):
    table = tmp_path / "coin.tsv"
    rows = [f"{i} {j}\t{'yes' if (i + j) % 2 else 'no'}" for i in range(12) for j in range(12)]
    table.write_text("\n".join(["text\tlabel", *rows]) + "\n")
    flags = ["--data", table, "--epochs", "1", "--learning-rate", "1e-9", "--no-force-export"]
    result = trained.command("train", *trained.line(tmp_path, *flags))
    assert result.returncode == 2 and "no better than a constant guess" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "export").exists() and (tmp_path / "run" / "model.keras").is_file()


def test_a_run_whose_batches_a_service_prepares_resumes(trained, tmp_path):
    with service(1) as (address, _):
        helpers.kill_twice("sentiment_classification", tmp_path / "run", *trained.line(tmp_path, "--data-service", address))
    with service(1) as (address, _):  # it may be another
        assert "continued at step" in trained.train(tmp_path, "--data-service", address, "--resume")
    for found, wanted in zip(helpers.log(tmp_path / "run"), helpers.log(trained.run), strict=True):
        assert found["loss"] == pytest.approx(wanted["loss"], rel=0.1)  # the order isn't repeatable
    steps = [max((run / "checkpoints").glob("step-*.npz")).name for run in (tmp_path / "run", trained.run)]
    assert steps[0] == steps[1]


# -- the model


def test_padding_changes_nothing():
    model = recurrent_classifier(
        9,
        2,
        cell="gru",
        units=4,
        num_layers=2,
        embedding_size=4,
        pooling="attention",
        dropout=0,
        embedding_dropout=0,
        word_dropout=0,
    )
    short = model(np.array([[3, 4, 5]]))
    padded = model(np.array([[3, 4, 5, 0, 0]]))
    np.testing.assert_allclose(short["logits"], padded["logits"], atol=1e-6)
    assert not padded["attention"][0, 3:].numpy().any()


def last_state(vocabulary_size):
    sizes = {"cell": "gru", "units": 4, "num_layers": 1, "embedding_size": 4, "pooling": "last"}
    return recurrent_classifier(vocabulary_size, 2, **sizes, dropout=0, embedding_dropout=0, word_dropout=0)


@pytest.mark.parametrize("make", [last_state, lambda size: bag_of_words_classifier(size, 2)])
def test_a_model_without_attention_shows_none(make):
    vocabulary = WordVocabulary.train(["good food", "bad food"], 20)
    signatures = serving_signatures(make(vocabulary.size), vocabulary, ["negative", "positive"], 10)
    served = types.SimpleNamespace(signatures={name: tf.function(f, autograph=False) for name, (f, _) in signatures.items()})
    outputs = served.signatures["serving_default"](text=tf.constant(["good zyxwv", ""]))
    assert set(outputs) == {"label", "probability", "tokens", "unknown"} and outputs["label"].shape == (2,)
    assert outputs["unknown"].numpy().tolist() == [[False, True], [False, False]]
    prediction = predictions(served, ["good zyxwv"])[0]
    assert "weights" not in prediction and prediction["unknown"] == ["zyxwv"]
    assert explain(served, ["good zyxwv"])[0].endswith(f"{prediction['probability']:.3f}  unknown: zyxwv  good zyxwv")
    labels, words = answers.sentiment(served, "good zyxwv")
    assert set(labels) == {"negative", "positive"} and words == "<p>Unknown to the model: <s>zyxwv</s></p>"


def test_an_empty_row_pools_to_zeros():
    pooled, attention = AttentionPooling(3)(np.ones((2, 4, 5), "float32"), mask=np.array([[1] * 4, [0] * 4], bool))
    assert not pooled[1].numpy().any() and not attention[1].numpy().any() and pooled[0].numpy().any()


def test_a_bag_of_words_knows_neither_order_nor_repetition():
    model = bag_of_words_classifier(9, 2)
    model.get_layer("logits").embedding.set_weights([np.random.default_rng(0).normal(size=(9, 2))])
    one, other = model(np.array([[3, 4, 4, 5]])), model(np.array([[5, 4, 3, 0]]))
    np.testing.assert_allclose(one["logits"], other["logits"], atol=1e-6)
