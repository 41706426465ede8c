"""The translator from its command line to a server that knows nothing of this project."""

import csv
import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import apps
from apps.common import cli
from apps.common.metrics import translation_metrics
from apps.translation import serving
from apps.translation.config import SUTSKEVER, Config, ModelFlags
from apps.translation.evaluate import languages_of
from apps.translation.model import Translator
from apps.translation.serving import search, serving_signatures
from data_pipelines.embedded.translations import embedded_translations
from data_pipelines.prepare import __main__ as prepare
from data_pipelines.sources import DataError
from data_pipelines.translations import Pair, Vocabularies
from data_pipelines.vocabulary import BOS, EOS
from tests.apps import helpers
from tests.apps.contract import (  # noqa: F401
    Trained,
    test_a_killed_run_ends_as_one_not_killed,
    test_a_run_begins_with_the_weights_of_another,
    test_a_run_in_bfloat16_learns_and_is_exported,
    test_an_export_of_another_application_is_refused,
    test_evaluate_prints_json_that_equals_training,
    test_the_config_of_a_run_gives_its_flags_again,
    test_the_run_folder_is_complete_and_the_loss_falls,
    test_wrong_use_is_one_line_and_leaves_nothing,
)
from tests.serving.operations import check_graph

SMALL = ["--quick", "--units", "16", "--embedding-size", "16", "--vocabulary-size", "200", "--beam-size", "3"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Own files: a part of the embedded pairs, as a user would bring them."""
    folder = tmp_path_factory.mktemp("files")
    for name, pairs in embedded_translations("en", "de").items():
        for language, sentences in zip(("en", "de"), zip(*pairs[:300])):
            (folder / f"{name.replace('validation', 'val')}.{language}").write_text("\n".join(sentences) + "\n")
    return folder


@pytest.fixture(scope="module")
def trained(files, tmp_path_factory):
    wrong = [
        (
            ["--sequence-epochs", "1", "--scheduled-sampling", "0.1"],
            "needs the exact probabilities of whole sentences. Leave out",
        ),
        (["--attention", "none", "--coverage-penalty", "0.2"], "--coverage-penalty 0.2: is about attention, and --attention is"),
        (["--units", "15"], "--units 15: the encoder has half of them for each direction. Pass an even number."),
        (["--encoder", "self-attention", "--units", "2"], "--units 2: self-attention has 4 heads. Pass 4 or more."),
        (["--data", files, "--target-lang", "fr"], "no file train{.fr}"),
        (["--source-lang", "xx"], "the language is 'xx'; expected one of"),
        (["--source-lang", "de"], "--source-lang and --target-lang are both 'de'"),
    ]
    kept = {"files": "attention_1.png joint.model", "wrong": wrong}
    return Trained("translation", files, SMALL, tmp_path_factory.mktemp("trained"), **kept)


def test_a_run_killed_while_it_learns_by_reward_ends_as_one_not_killed(trained, tmp_path):
    flags = ["--init-from", trained.run, "--epochs", "0", "--sequence-epochs", "2", "--sequence-samples", "2"]
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    trained.train(tmp_path / "one", *flags)
    rows = helpers.log(tmp_path / "one" / "run")
    assert len(rows) == 2 and all(0 <= row["reward"] <= 1 and 0.5 <= row["distinct"] <= 1 for row in rows)
    assert (tmp_path / "one" / "run" / "tensorboard" / "sequence" / "train").is_dir()  # apart, as its steps begin anew
    for flag, value, message in (
        ("--epochs", "1", "has sequence epochs after 0 others; with --epochs 1 they would begin"),
        ("--bleu-tokenize", "char", "was started with bleu_tokenize = 'auto', now 'char'"),  # it is of the reward, too
    ):
        more = trained.command("train", "--resume", "--run-dir", tmp_path / "one" / "run", flag, value)
        assert more.returncode == 2 and message in more.stderr
    helpers.kill_twice("translation", tmp_path / "other" / "run", *trained.line(tmp_path / "other", *flags), phase="sequence")
    printed = trained.train(tmp_path / "other", *flags, "--resume")
    assert re.search(r"continued at step [\d,]+ of \S*/sequence", printed)
    helpers.assert_same_end(tmp_path / "other" / "run", tmp_path / "one" / "run", "sequence")


def test_a_run_that_only_gets_worse_keeps_what_it_began_with(trained, tmp_path):
    flags = ["--init-from", trained.run, "--epochs", "0", "--sequence-epochs", "1", "--sequence-samples", "2"]
    printed = trained.train(tmp_path, *flags, "--sequence-learning-rate", "3")
    assert "kept        what it began with, no epoch is better: val_bleu" in printed
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == trained.metrics()


def test_training_says_how_it_measures(trained):
    assert json.loads((trained.run / "config.json").read_text())["data"]["train"]["examples"] == 300
    for row in helpers.log(trained.run):
        assert row["val_perplexity"] == pytest.approx(np.exp(row["val_loss"]))
    assert "BLEU signature nrefs:1|case:mixed|eff:no|tok:13a" in trained.printed
    assert (trained.export / "1" / "languages.txt").read_text() == "en\nde\n"


def test_predict_reads_any_number_of_lines_in_order(trained, tmp_path):
    sentences = [f"The town has {n} inhabitants." for n in range(70)]
    result = trained.command("predict", trained.export, "-", "--json", input="\n".join(sentences) + "\n")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["text"] for row in rows] == sentences
    alone = trained.command("predict", trained.export, sentences[3], "--n-best", "3", "--attention", tmp_path / "a.png")
    lines = alone.stdout.strip().splitlines()
    assert len(lines) == 3 and lines[0].endswith(rows[3]["translation"])
    scores = [float(line.split()[0]) for line in lines]
    assert scores == sorted(scores, reverse=True)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    nothing = trained.command("predict", trained.export, "-", "--attention", tmp_path / "b.png")
    assert nothing.returncode == 0 and nothing.stdout == "" and not (tmp_path / "b.png").exists()
    for name, message in (("x.xyz", "the format '.xyz' is unknown"), ("none/x.png", "nothing can be written into the folder")):
        result = trained.command("predict", trained.export, "a", "--attention", tmp_path / name, alone=False)
        assert result.returncode == 2 and message in result.stderr and not result.stdout


def test_predict_translates_a_column_of_a_file(trained, tmp_path):
    texts = ["July 22, 2014", 'a, "b"', "", "It is 3:05 PM."]
    with (tmp_path / "in.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "english"], *enumerate(texts)])
    line = ["--data", tmp_path / "in.csv", "--column", "english", "--output", tmp_path / "out.csv"]
    assert trained.command("predict", trained.export, *line).returncode == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = apps.load(trained.export)(texts)
    assert [row["id"] for row in rows] == ["0", "1", "2", "3"] and [row["english"] for row in rows] == texts
    assert [row["translation"] for row in rows] == [row["translation"] for row in wanted]
    assert type(wanted[0]["translation"]) is str and type(wanted[0]["score"]) is float
    result = trained.command("predict", trained.export, *line)
    assert result.returncode == 2 and "out.csv: is there already. Pass --overwrite" in result.stderr


def test_a_run_is_exported_with_another_search(trained, tmp_path):
    result = trained.command("export", trained.run, "--beam-size", "2", "--no-split-sentences", "--export-dir", tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    card = (tmp_path / "1" / "model_card.md").read_text()
    assert "| search | --beam-size 2 --no-split-sentences |" in card and "None were measured." in card
    found = trained.command("predict", tmp_path, "It is 3:05 PM.", "--n-best", "9")
    assert len(found.stdout.strip().splitlines()) == 2
    for flags, message in (
        (["--beam-size", "0"], "--beam-size 0: expected a number in [1, inf)"),
        (["--format", "onnx", "--length-penalty", "2"], "--length-penalty: a network has no search. Leave the flag out"),
    ):
        result = trained.command("export", trained.run, *flags, alone=False)
        assert result.returncode == 2 and message in result.stderr


def test_an_export_is_measured_in_its_languages(tmp_path, capsys):
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(DataError, match="is missing; it says what the export translates"):
        languages_of(str(tmp_path), None, None)
    (tmp_path / "languages.txt").write_text("en\nfr\n")
    assert languages_of(str(tmp_path), None, None) == languages_of(str(tmp_path), "en", None) == ("en", "fr")
    assert not capsys.readouterr().err
    assert languages_of(str(tmp_path), None, "de") == ("en", "de")
    assert "translates en to fr, and is measured as en to de" in capsys.readouterr().err


def test_evaluate_writes_what_is_not_translated_exactly(trained, files, tmp_path):
    line = ["--data", files, "--split", "test", "--errors", tmp_path / "errors.jsonl"]
    result = trained.command("evaluate", trained.export, *line)
    assert result.returncode == 0, result.stderr[-3000:]
    rows = [json.loads(line) for line in (tmp_path / "errors.jsonl").read_text().splitlines()]
    metrics = json.loads(result.stdout.splitlines()[-1])
    assert len(rows) == round((1 - metrics["exact_match"]) * metrics["examples"])
    assert all(row["translation"] != row["reference"] and 0 <= row["bleu"] <= 100 for row in rows)
    assert [row["chrf"] for row in rows] == sorted(row["chrf"] for row in rows)


def test_the_export_translates_without_this_project(trained):
    script = (
        "import sys, numpy as np, tensorflow as tf, tensorflow_text\n"
        "f = tf.saved_model.load(sys.argv[1]).signatures['serving_default']\n"
        "run = lambda *t: {k: v.numpy() for k, v in f(text=tf.constant(list(t), tf.string)).items()}\n"
        "one = run('July 22, 2014')\n"
        "four = run('July 22, 2014', '', '\\u6f22\\u5b57 \\u0395', b'\\xff\\x00 x')\n"
        "assert four['translation'][0] == one['translation'][0] and four['translation'][1] == b''\n"
        "assert abs(four['score'][0] - one['score'][0]) < 1e-4\n"
        "assert four['alternatives'].shape == (4, 3) == four['alternative_scores'].shape\n"
        "rows, columns = (one[k] != b'' for k in ('target_tokens', 'source_tokens'))\n"
        "assert one['attention'].shape == (1, rows.size, columns.size)\n"
        "assert np.allclose(one['attention'].sum(-1), rows, atol=1e-5)\n"
        "assert run('word ' * 500)['translation'].shape == (1,)\n"
        "assert run()['translation'].shape == (0,)\n"
    )
    helpers.run_alone(script, trained.export / "1")


def test_the_other_parts_train_and_export_too(trained, tmp_path):
    other = ["--encoder", "self-attention", "--attention", "dot", "--vocabulary", "separate", "--tokenizer", "unigram"]
    other += ["--scheduled-sampling", "0.2", "--ema-momentum", "0", "--coverage-penalty", "0.1", "--no-repeat-ngram-size", "3"]
    printed = trained.train(tmp_path, *other, "--max-length", "25", "--epochs", "1")
    assert re.search(r"too long +\d+ training pair\(s\) and \d+ validation pair\(s\) beyond 25 tokens, skipped", printed)
    assert trained.command("predict", tmp_path / "export", "July 22, 2014").returncode == 0
    check_graph(tmp_path / "export" / "1", text_ops=True)


def test_a_validation_split_of_long_pairs_alone_is_refused(trained, files, tmp_path):
    result = trained.command("train", *trained.line(tmp_path, "--max-length", "3"))
    message = "error: validation: no pair has at most 3 tokens. Pass a larger --max-length, or other data.\n"
    assert result.returncode == 2 and result.stderr.endswith(message)


def test_prepared_data_train_to_the_weights_of_the_texts(trained, files, tmp_path):
    prepare.main([str(files), "--to", str(tmp_path / "prepared"), "--vocabulary-size", "200", "--workers", "1"])
    line = ["--run-dir", tmp_path / "run", "--export-dir", tmp_path / "export", "--epochs", "2", *SMALL]
    result = trained.command("train", "--data", tmp_path / "prepared", *line)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "300 train, 300 validation, 300 test; prepared" in result.stdout
    helpers.assert_same_end(tmp_path / "run", trained.run)
    rows = [np.load(export / "1" / "training_rows.npy") for export in (tmp_path / "export", trained.export)]
    assert rows[0].size and set(rows[0]) <= set(rows[1])  # without those that are too long
    result = trained.command("evaluate", tmp_path / "export", "--data", tmp_path / "prepared", "--split", "test")
    assert json.loads(result.stdout.splitlines()[-1])["bleu"] == trained.metrics()["test"]["bleu"]


# -- the model

VARIANTS = [
    {},
    {"encoder": "forward", "attention": "none", "reverse_source": True, "decoder_layers": 2, "encoder_layers": 2, "cell": "lstm"},
    {"encoder": "self-attention", "joint": False, "attention": "dot"},
    {"input_feeding": True, "encoder_layers": 2},
]


def translator(**options):
    model = Translator(20, 20, embedding_size=8, units=8, **options)
    model.build()
    for weight in model.trainable_variables:
        weight.assign(np.random.default_rng(len(weight.path)).normal(size=weight.shape) * 0.5)
    return model


def batch(seed=0):
    ids = np.random.default_rng(seed).integers(4, 20, (3, 6)).astype("int32")
    ids[1, 3:] = ids[2, 5:] = 0
    return {"source": ids, "target": np.concatenate([np.full((3, 1), BOS, "int32"), ids[:, :4]], axis=1)}


SAMPLED = [{}, {"encoder": "forward"}, {"encoder": "self-attention", "attention": "none"}, {"input_feeding": True}]


@pytest.mark.parametrize("options", SAMPLED)
def test_logits_of_samples_are_those_of_each_on_its_source(options):
    model, inputs = translator(**options), batch()
    samples = np.random.default_rng(1).integers(4, 20, (6, 5)).astype("int32")
    found = model.sample_logits(model.encode(inputs["source"], training=True), samples, 2)
    for row in range(6):
        one = {"source": inputs["source"][row // 2 : row // 2 + 1], "target": samples[row : row + 1]}
        np.testing.assert_allclose(found[row], model(one)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", VARIANTS)
def test_the_search_scores_as_the_training_model_does(options):
    model, source = translator(**options), batch()["source"]
    found = search(model, source, beam_size=3, n_best=3, length_penalty=0.0)
    for row in range(3):
        for n in range(3):
            tokens = found.tokens[row, n, : int(found.lengths[row, n])].numpy().tolist()
            logits = model({"source": source[row : row + 1], "target": np.array([[BOS, *tokens]])})
            wanted = tf.gather(tf.nn.log_softmax(logits[0]), [*tokens, EOS], axis=1, batch_dims=1)
            np.testing.assert_allclose(found.log_probabilities[row, n], tf.reduce_sum(wanted), rtol=1e-4)


@pytest.mark.parametrize("options", [*VARIANTS, {"encoder": "forward", "attention": "dot", "reverse_source": True}])
def test_an_export_attends_as_the_training_model_does(options, monkeypatch):
    model, inputs = translator(**options), batch()
    wanted = model.decode(inputs["target"], model.encode(inputs["source"]))[1]
    for block in (1, serving.BLOCK):  # a row after the other, and all at once
        monkeypatch.setattr(serving, "BLOCK", block)
        prepared, time = model.prepare_decoder(inputs["source"]), inputs["source"].shape[1]
        found = serving._attention_in_blocks(model, tf.constant(inputs["target"]), time, prepared)
        assert (found is None) == (not model.has_attention)
        if model.has_attention:
            np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_a_decoder_deeper_than_its_encoder_uses_all_its_layers():
    options = {"encoder": "forward", "encoder_layers": 1, "decoder_layers": 3}
    test_the_search_scores_as_the_training_model_does(options)
    model = translator(**options)
    kernels = [layer.trainable_variables[0] for layer in model.decoder.rnn_layers]
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(model(batch()) ** 2)
    assert all(gradient is not None and np.abs(gradient).max() > 0 for gradient in tape.gradient(total, kernels))


@pytest.mark.parametrize("options", [*VARIANTS, {"encoder": "self-attention", "reverse_source": True}])
def test_padding_of_the_source_changes_nothing(options):
    model, inputs = translator(**options), batch()
    padded = {**inputs, "source": np.pad(inputs["source"], [(0, 0), (0, 4)])}
    np.testing.assert_allclose(model(inputs), model(padded), atol=1e-5)
    nothing = [model({**inputs, "source": np.zeros((3, length), "int32")}) for length in (1, 4)]
    np.testing.assert_allclose(*nothing, atol=1e-5)
    assert np.abs(nothing[0] - model(inputs)).max() > 1e-3


@pytest.mark.parametrize("options", [*VARIANTS, {"scheduled_sampling": 0.5}])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_fit_moves_every_weight_and_the_model_reloads(options, jit_compile, tmp_path):
    from apps.common.training.losses import TokenLoss

    model, inputs = translator(dropout=0.1, **options), batch()
    before = model.get_weights()
    model.compile(keras.optimizers.Adam(0.02), TokenLoss(0.1), jit_compile=jit_compile)
    targets = np.concatenate([inputs["target"][:, 1:], np.full((3, 1), EOS)], axis=1)
    data = tf.data.Dataset.from_tensors((inputs, targets))  # static lengths: XLA needs them for input feeding's loop
    losses = model.fit(data, epochs=12, shuffle=False, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    for old, new, variable in zip(before, model.get_weights(), model.weights):
        if "seed" not in variable.path and "key_bias" not in variable.path:
            assert np.abs(old - new).max() > 0, variable.path
    model.save(tmp_path / "model.keras")
    np.testing.assert_allclose(keras.saving.load_model(tmp_path / "model.keras")(inputs), model(inputs), atol=1e-6)


def test_the_sutskever_preset_builds_and_takes_a_step():
    from apps.common.training.losses import TokenLoss

    values = {**cli.flags_of(Config(), ModelFlags), **{n: v for n, v in SUTSKEVER.items() if hasattr(ModelFlags, n)}}
    model = Translator(50, 60, joint=False, **values)
    model.compile(keras.optimizers.SGD(0.7, global_clipnorm=5.0), TokenLoss())
    inputs = batch()
    model.build()
    before = model.get_weights()
    (loss,) = model.fit(inputs, inputs["target"], verbose=0).history["loss"]
    assert loss == pytest.approx(np.log(60), rel=0.02)  # it knows nothing yet
    for old, new, variable in zip(before, model.get_weights(), model.weights):
        assert np.abs(old - new).max() > 0, variable.path
    kernels = [w for w in model.weights if w.path.endswith("recurrent_kernel")]
    assert len(kernels) == 8 and {tuple(k.shape) for k in kernels} == {(1000, 4000)}


def test_metrics_of_sentences():
    exact = translation_metrics(["a b c d e", "f"], ["a b c d e", "g"])
    assert exact["exact_match"] == 0.5 and 0 < exact["bleu"] < 100
    cased = translation_metrics(["The dog runs home now"], ["the dog runs home now"])
    assert cased["bleu"] < cased["bleu_lowercase"] == 100.0


@pytest.mark.parametrize("options", [{"attention": "none", "encoder": "forward"}, {"attention": "dot"}])
def test_texts_are_translated_with_and_without_attention(options):
    vocabularies = Vocabularies.train([Pair("A dog runs.", "Ein Hund."), Pair("It sat.", "Es saß.")], "characters", 40, True)
    model = Translator(vocabularies.source.size, vocabularies.target.size, embedding_size=8, units=8, **options)
    model.build()
    signatures = serving_signatures(model, vocabularies, 20, ("en", "ja"), beam_size=2, n_best=2, length_penalty=1.0)
    translate = tf.function(signatures["serving_default"][0], autograph=False)
    found = translate(tf.constant(["A dog runs. It sat.", "", "It sat."]))
    assert found["attention"].shape[2] == (0 if options["attention"] == "none" else len("▁A▁dog▁runs.▁It▁sat."))
    alone = translate(tf.constant(["It sat."]))
    assert found["translation"][2] == alone["translation"][0] and found["translation"][0].numpy().endswith(
        alone["translation"][0].numpy()
    )


def test_one_text_is_never_too_large_for_an_export():
    vocabularies = Vocabularies.train([Pair("A dog runs.", "Ein Hund."), Pair("It sat.", "Es saß.")], "characters", 40, True)
    model = Translator(vocabularies.source.size, vocabularies.target.size, embedding_size=8, units=8)
    model.build()
    model.bias.assign(9.0 * tf.one_hot(EOS, vocabularies.target.size))  # translations are short
    signatures = serving_signatures(model, vocabularies, 200, ("en", "de"), beam_size=2, n_best=2, length_penalty=1.0)
    translate = tf.function(signatures["serving_default"][0], autograph=False)
    text = "A dog runs " * 20 + ". It sat." * 254
    assert translate(tf.constant([text]))["translation"].shape == (1,)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"510 rows of up to 200 tokens; expected at most 51,200 tokens"):
        translate(tf.constant([text, text]))


def test_both_signatures_score_on_one_scale():
    vocabularies = Vocabularies.train([Pair("A dog runs.", "Ein Hund."), Pair("It sat.", "Es saß.")], "characters", 40, True)
    model = Translator(vocabularies.source.size, vocabularies.target.size, embedding_size=8, units=8)
    model.build()
    model.bias.assign(4.0 * np.eye(vocabularies.target.size)[-1])  # no translation is empty
    settings = {"length_penalty": 1.0, "no_repeat_ngram_size": 2}
    texts = tf.constant(["It sat.", "A dog"])

    def served(beam_size, name):
        signatures = serving_signatures(model, vocabularies, 20, ("en", "de"), beam_size=beam_size, n_best=beam_size, **settings)
        return tf.function(signatures[name][0], autograph=False)(texts)

    greedy, default = served(3, "serving_greedy"), served(1, "serving_default")
    np.testing.assert_array_equal(greedy["translation"], default["translation"])
    np.testing.assert_allclose(greedy["score"], default["score"], rtol=1e-5)
    source = vocabularies.source.encode(texts).to_tensor(0)
    found = search(model, source, beam_size=1, **settings)
    assert found.lengths.numpy().all()
    scores = found.log_probabilities / ((6.0 + tf.cast(found.lengths, tf.float32)) / 6.0)
    np.testing.assert_allclose(greedy["score"], scores[:, 0], rtol=1e-5)
