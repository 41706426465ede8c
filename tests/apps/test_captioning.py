"""The captioner from its command line to a server that knows nothing of this project."""

import csv
import json
import re
import types
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import apps
from apps.common.metrics import caption_metrics, cider_scores, diversity_metrics
from apps.common.training.losses import TokenLoss
from apps.image_captioning.encoders import SmallCNN, image_encoder
from apps.image_captioning.evaluate import without_unreadable
from apps.image_captioning.model import Captioner
from apps.image_captioning.pictures import draw_attention
from apps.image_captioning.serving import search, serving_signatures
from data_pipelines.captions import Example
from data_pipelines.embedded.scenes import embedded_scenes
from data_pipelines.image_store import ImageFile
from data_pipelines.prepare import __main__ as prepare
from data_pipelines.sources import DataError
from data_pipelines.vocabulary import BOS, EOS, UNKNOWN, WordVocabulary
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
from tests.data_pipelines.test_images import encoded, picture
from tests.serving.operations import check_graph

SMALL = ["--quick", "--backbone", "small-cnn", "--image-size", "32", "--units", "16", "--embedding-size", "16"]
SMALL += ["--memory-size", "16", "--batch-size", "16", "--learning-rate", "0.01"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Own photographs and a table: a part of the drawn scenes, one of them broken."""
    folder = tmp_path_factory.mktemp("files")
    rows = []
    for name, scenes in embedded_scenes().items():
        for scene in scenes[: 120 if name == "train" else 20]:
            path = folder / "images" / scene.name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(scene.png())
            rows += [f"images/{scene.name}\t{caption}" for caption in scene.captions]
    (folder / "images" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    rows.append("images/broken.png\ta broken picture")
    (folder / "table.tsv").write_text("\n".join(["image\tcaption", *(row.replace("images/", "") for row in rows)]) + "\n")
    return folder


@pytest.fixture(scope="module")
def trained(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    flags = [*SMALL, "--cache-dir", folder / "store"]
    table = tmp_path_factory.mktemp("table") / "captions.tsv"
    table.write_text("image\tcaption\nnone.jpg\ta picture\n")
    one = tmp_path_factory.mktemp("one")
    for part in ("train", "val"):
        (one / f"{part}_images").mkdir()
        (one / f"{part}_images" / "a.png").write_bytes(embedded_scenes()["test"][0].png())
        (one / f"{part}_captions.tsv").write_text("image\tcaption\na.png\ta picture\n")
    mobilenet = ["--data", files / "table.tsv", "--backbone", "mobilenet", "--backbone-weights"]
    wrong = [
        (["--data", table], "no images to use (none.jpg in train: a caption without its image)"),
        (["--data", files / "table.tsv", *flags, "--strict"], "--strict: 1: broken.png in train: broken"),
        (["--data", one, *flags, "--sequence-epochs", "1"], "1 training picture(s): CIDEr compares what is rare"),
        ([*mobilenet, "none.h5"], "there is no such file"),
        ([*mobilenet, "none", "--backbone-layer", "x"], "Name one of them"),
    ]
    kept = {"files": "attention_1.png contact_sheet_validation.png skipped.tsv vocabulary.json", "wrong": wrong}
    return Trained("image_captioning", files / "table.tsv", flags, folder, **kept)


def test_training_names_what_it_skips_and_measures_captions(trained):
    assert "broken.png in train: broken: its pixels can't be decoded" in trained.printed
    metrics = trained.metrics()["validation"]
    assert {"bleu_1", "bleu_4", "cider", "rouge_l", "meteor", "distinct_1", "novel_captions", "examples"} <= set(metrics)


def test_prepared_data_train_to_the_weights_of_the_texts(trained, files, tmp_path):
    source = [str(files / "table.tsv"), "--to", str(tmp_path / "prepared"), "--for", "image_captioning", "--workers", "1"]
    prepare.main([*source, "--vocabulary-from", str(trained.run)])  # one that doesn't know the caption of the broken picture
    flags = [*SMALL, "--cache-dir", tmp_path / "store", "--run-dir", tmp_path / "run", "--export-dir", tmp_path / "export"]
    result = trained.command("train", "--data", tmp_path / "prepared", "--epochs", "2", *flags)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "broken.png in train: broken: its pixels can't be decoded" in result.stdout and "; prepared" in result.stdout
    helpers.assert_same_end(tmp_path / "run", trained.run)
    rows = [np.load(export / "1" / "training_rows.npy") for export in (tmp_path / "export", trained.export)]
    np.testing.assert_array_equal(*rows)
    result = trained.command("evaluate", tmp_path / "export", "--data", tmp_path / "prepared", "--split", "test")
    assert json.loads(result.stdout.splitlines()[-1])["cider"] == trained.metrics()["test"]["cider"]


def test_predict_takes_files_and_folders(trained, files, tmp_path):
    result = trained.command("predict", trained.export, files / "images", "--json", "--attention", tmp_path / "a.png")
    rows = {row["image"]: row for row in map(json.loads, result.stdout.splitlines())}
    assert len(rows) == 161
    broken = rows.pop(str(files / "images" / "broken.png"))
    assert broken["error"] == "broken: its pixels can't be decoded" and "caption" not in broken
    assert all("caption" in row for row in rows.values())
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    one = sorted(rows)[3]
    alone = trained.command("predict", trained.export, one, "--n-best", "2")
    lines = alone.stdout.strip().splitlines()
    assert len(lines) == 2 and lines[0].startswith(f"{one}  {rows[one]['caption']}  (")


def test_predict_writes_a_table_of_the_pictures_that_a_pattern_matches(trained, files, tmp_path):
    pattern = files / "images" / "[bt]*.png"
    result = trained.command("predict", trained.export, pattern, "--output", tmp_path / "out.csv")
    assert result.returncode == 0, result.stderr[-3000:]
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    broken = str(files / "images" / "broken.png")
    assert len(rows) > 1 and rows[broken] == {"image": broken, "caption": "", "score": "", "error": rows[broken]["error"]}
    one = max(rows)
    by_name, by_bytes = apps.load(trained.export)([one, Path(one).read_bytes()])
    assert rows[one]["caption"] == by_name["caption"] == by_bytes["caption"] and rows[one]["error"] == ""
    result = trained.command("predict", trained.export, files / "images" / "x*.png")
    assert result.returncode == 2 and "x*.png: no image there; expected .jpg, .jpeg, .png, .gif" in result.stderr


def test_evaluate_writes_the_captions_the_worst_first(trained, files, tmp_path):
    line = ["--data", files / "table.tsv", "--split", "test", "--errors", tmp_path / "errors.csv"]
    assert trained.command("evaluate", trained.export, *line).returncode == 0
    with (tmp_path / "errors.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    scores = [float(row["cider"]) for row in rows]
    assert rows and scores == sorted(scores) and all(row["caption"] not in json.loads(row["references"]) for row in rows)


def test_the_export_describes_without_this_project(trained, tmp_path):
    names = {
        "a.png": encoded(picture(64, 64), "PNG"),
        "b.jpg": encoded(picture(40, 88), "JPEG"),
        "c.gif": b"GIF89a\x01\x00\x01\x00broken",
    }
    for name, data in names.items():
        (tmp_path / name).write_bytes(data)
    script = (
        "import sys, numpy as np, tensorflow as tf\n"
        "f = tf.saved_model.load(sys.argv[1]).signatures['serving_default']\n"
        "run = lambda *b: {k: v.numpy() for k, v in f(image_bytes=tf.constant(list(b), tf.string)).items()}\n"
        "a, b, c = (open(f'{sys.argv[2]}/{n}', 'rb').read() for n in ('a.png', 'b.jpg', 'c.gif'))\n"
        "five = run(a, c, b, b'', b'text')\n"
        "assert list(five['caption'][[1, 3, 4]]) == [b''] * 3\n"
        "for row, data in ((0, a), (2, b)):\n"
        "    one = run(data)\n"
        "    assert one['error'][0] == five['error'][row] == b''\n"
        "    assert one['caption'][0] == five['caption'][row] != b''\n"
        "    assert abs(one['score'][0] - five['score'][row]) < 1e-4\n"
        "    words = one['words'][0] != b''\n"
        "    assert one['attention'].shape == (1, words.size, 8, 8)\n"
        "    assert np.allclose(one['attention'].sum((2, 3)), words, atol=1e-5)\n"
        "assert five['error'][1] == b\"image_bytes[1]: broken: its pixels can't be decoded\", five['error'][1]\n"
        "assert five['error'][4] == b'image_bytes[4]: not a JPEG, PNG, GIF or still WebP image'\n"
        "assert five['alternatives'].shape == five['alternative_scores'].shape == (5, 3)\n"
        "assert run()['caption'].shape == (0,)\n"
    )
    helpers.run_alone(script, trained.export / "1", tmp_path)


@pytest.fixture(scope="module")
def backbone_weights(tmp_path_factory):
    """Weights of a narrow MobileNet, as a user may have them in a file."""
    keras.utils.set_random_seed(1)
    base = keras.applications.MobileNet(input_shape=(64, 64, 3), alpha=0.25, include_top=False, weights=None)
    for layer in base.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.gamma.assign(layer.gamma * 4.0)  # else all fades to nothing on the way up
    path = tmp_path_factory.mktemp("weights") / "mobilenet.weights.h5"
    base.save_weights(path)
    return path


@pytest.fixture(scope="module")
def fine_tuning(trained, backbone_weights):
    options = ["--backbone", "mobilenet", "--alpha", "0.25", "--backbone-weights", backbone_weights, "--image-size", "64"]
    options += ["--fine-tune-epochs", "1", "--epochs", "1", "--tokenizer", "subwords", "--vocabulary-size", "60", "--flip"]
    return [*options, "--word-dropout", "0.1", "--attention-penalty", "0.5", "--attention", "dot", "--ema-momentum", "0"]


@pytest.fixture(scope="module")
def fine_tuned(trained, fine_tuning, tmp_path_factory):
    """A folder with a run whose second epoch trains the backbone, too, and its export."""
    folder = tmp_path_factory.mktemp("fine_tuned")
    trained.train(folder, *fine_tuning)
    return folder


def test_a_frozen_backbone_and_then_its_last_blocks_train(trained, files, backbone_weights, fine_tuned):
    assert [row["epoch"] for row in helpers.log(fine_tuned / "run")] == [1, 2]
    arrays = {name: helpers.checkpoint_arrays(fine_tuned / "run", name) for name in ("checkpoints", "fine_tuning")}
    frozen, tuned = (
        next(a for n, a in arrays[name].items() if n.startswith("model/") and a.shape == (1, 1, 128, 256)) for name in arrays
    )
    base = keras.applications.MobileNet(input_shape=(64, 64, 3), alpha=0.25, include_top=False, weights=None)
    base.load_weights(backbone_weights)
    np.testing.assert_array_equal(frozen, base.get_layer("conv_pw_12").kernel)
    assert np.abs(tuned - frozen).max() > 0
    check_graph(fine_tuned / "export" / "1", text_ops=True)
    assert trained.command("predict", fine_tuned / "export", files / "images" / "test-0000.png").returncode == 0


def test_a_run_killed_while_it_fine_tunes_ends_as_one_not_killed(trained, fine_tuning, fine_tuned, tmp_path):
    helpers.kill_twice("image_captioning", tmp_path / "run", *trained.line(tmp_path, *fine_tuning), phase="fine_tuning")
    printed = trained.train(tmp_path, *fine_tuning, "--resume")
    assert re.search(r"continued at step [\d,]+ of \S*/fine_tuning", printed)  # not begun again, which ends so, too
    for phase in ("checkpoints", "fine_tuning"):
        helpers.assert_same_end(tmp_path / "run", fine_tuned / "run", phase)


def test_the_phases_begin_with_runs_that_had_those_before(trained, fine_tuning, fine_tuned, tmp_path):
    """A frozen encoder is fine-tuned; one that was fine-tuned stays as it is while the decoder learns by reward."""
    for name, flags in (
        ("frozen", ["--fine-tune-epochs", "0"]),
        ("tuned", ["--init-from", tmp_path / "frozen" / "run", "--epochs", "0", "--fine-tune-learning-rate", "1e-9"]),
        ("by_reward", ["--init-from", fine_tuned / "run", "--epochs", "0", "--fine-tune-epochs", "0", "--sequence-epochs", "1"]),
    ):
        (tmp_path / name).mkdir()
        trained.train(tmp_path / name, *fine_tuning, *flags, "--sequence-samples", "2")
    models = {
        folder.name: keras.saving.load_model(folder / "run" / "model.keras", compile=False)
        for folder in (*tmp_path.iterdir(), fine_tuned)
    }
    assert models["frozen"].encoder is None
    blocks = {id(weight) for weight in models["tuned"].encoder.weights}
    decoder = [weight for weight in models["tuned"].weights if id(weight) not in blocks]
    for mine, its in zip(decoder, models["frozen"].weights, strict=True):
        np.testing.assert_allclose(mine, its, atol=1e-6, err_msg=its.path)
    for mine, its in zip(models["by_reward"].encoder.weights, models[fine_tuned.name].encoder.weights, strict=True):
        np.testing.assert_array_equal(mine, its)
    assert trained.command("train", "--resume", "--run-dir", tmp_path / "by_reward" / "run").returncode == 0  # it knows its parts


def test_predict_names_a_picture_that_is_missing(trained, tmp_path):
    result = trained.command("predict", trained.export, "none.jpg", cwd=tmp_path)
    assert result.returncode == 2 and result.stderr == "error: none.jpg: no such file. Check the path.\n"
    nothing = trained.command("predict", trained.export, "--attention", tmp_path / "a.png", "-")
    assert nothing.returncode == 0 and nothing.stdout == "" and not (tmp_path / "a.png").exists()
    result = trained.command("predict", trained.export, "a.jpg", "--attention", tmp_path / "none" / "a.png", alone=False)
    assert result.returncode == 2 and "--attention" in result.stderr and "nothing can be written into" in result.stderr


# -- the model

VARIANTS = [
    {},
    {"encoder": SmallCNN(16, grid=4), "image_shape": (16, 16, 3), "cell": "gru", "attention": "dot"},
    {"attention": "none", "num_layers": 1},
]


def captioner(**options):
    model = Captioner(20, **{"image_shape": (3, 4, 6), "embedding_size": 8, "units": 8, "memory_size": 8, **options})
    model.build()
    for weight in model.trainable_variables:
        weight.assign(np.random.default_rng(len(weight.path)).normal(size=weight.shape) * 0.5)
    return model


@pytest.mark.parametrize("options", VARIANTS)
def test_logits_of_samples_are_those_of_each_on_its_picture(options):
    model, rng = captioner(**options), np.random.default_rng(0)
    images = rng.normal(size=(2, *model.image_shape)).astype("float32")
    samples = rng.integers(4, 20, (6, 5)).astype("int32")
    model.freeze_batch_norm = True
    found = model.sample_logits(model.encode(images, training=True), samples, 3)
    for row in range(6):
        one = {"image": images[row // 3 : row // 3 + 1], "caption": samples[row : row + 1]}
        wanted = np.delete(model(one)[0], UNKNOWN, axis=1)  # which is never sampled
        np.testing.assert_allclose(np.delete(found[row], UNKNOWN, axis=1), wanted, rtol=1e-4, atol=1e-5)
        assert np.max(found[row, :, UNKNOWN]) < -1e8


def batch(model, seed=0):
    generator = np.random.default_rng(seed)
    ids = generator.integers(4, 20, (3, 6)).astype("int32")
    ids[1, 3:] = 0
    images = generator.uniform(0, 255 if model.encoder else 1, (3, *model.image_shape)).astype("float32")
    return {"image": images, "caption": np.concatenate([np.full((3, 1), BOS, "int32"), ids[:, :5]], axis=1)}, ids


@pytest.mark.parametrize("options", VARIANTS)
def test_the_search_scores_as_the_training_model_does(options):
    model = captioner(**options)
    images = batch(model)[0]["image"]
    found = search(model, images, max_length=6, beam_size=3, n_best=3)
    assert not (found.tokens == UNKNOWN).numpy().any()
    for row in range(3):
        for n in range(3):
            tokens = found.tokens[row, n, : int(found.lengths[row, n])].numpy().tolist()
            logits = model({"image": images[row : row + 1], "caption": np.array([[BOS, *tokens]])})[0].numpy()
            logits[:, UNKNOWN] = -1e9
            wanted = tf.gather(tf.nn.log_softmax(logits), [*tokens, EOS], axis=1, batch_dims=1)
            np.testing.assert_allclose(found.log_probabilities[row, n], tf.reduce_sum(wanted), rtol=1e-4)


@pytest.mark.parametrize("options", [*VARIANTS, {"word_dropout": 0.3, "attention_penalty": 1.0}])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_fit_moves_every_weight_and_the_model_reloads(options, jit_compile, tmp_path):
    model = captioner(dropout=0.1, **options)
    inputs, targets = batch(model)
    before = model.get_weights()
    model.compile(keras.optimizers.Adam(0.02), TokenLoss(0.1), jit_compile=jit_compile)
    data = tf.data.Dataset.from_tensors((inputs, targets))
    losses = model.fit(data, epochs=12, shuffle=False, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    for old, new, variable in zip(before, model.get_weights(), model.weights):
        used = not (options.get("attention") == "none" and "position" in variable.path)
        if "seed" not in variable.path and used:
            assert np.abs(old - new).max() > 0, variable.path
    model.save(tmp_path / "model.keras")
    np.testing.assert_allclose(keras.saving.load_model(tmp_path / "model.keras")(inputs), model(inputs), atol=1e-6)


@pytest.mark.parametrize("attention", ["additive", "none"])
def test_a_model_without_attention_shows_none(attention, tmp_path):
    vocabulary = WordVocabulary.train(["a dog runs", "two cats"], 20, has_bos_eos=True)
    model = Captioner(
        vocabulary.size, (16, 16, 3), SmallCNN(16, grid=4), embedding_size=8, units=8, memory_size=8, attention=attention
    )
    model.build()
    model.bias.assign(9.0 * np.eye(vocabulary.size)[-1])  # no caption is empty
    encoder, limits = image_encoder("small-cnn", 16, "none"), {"size": 16, "max_pixels": 10**6, "max_length": 5}
    signatures = serving_signatures(encoder, model, vocabulary, **limits, beam_size=2, n_best=2, length_penalty=3.0)
    served = types.SimpleNamespace(signatures={name: tf.function(f, autograph=False) for name, (f, _) in signatures.items()})
    image = encoded(picture(16, 16), "PNG")
    outputs = served.signatures["serving_default"](image_bytes=tf.constant([image]))
    assert ("attention" in outputs) == (attention != "none") and outputs["alternatives"].shape == (1, 2)
    greedy = served.signatures["serving_greedy"](image_bytes=tf.constant([image]))
    assert greedy["score"].shape == (1,)
    if attention != "none":
        draw_attention(served, image, tmp_path / "a.png")
        return
    with pytest.raises(DataError, match="attention: the model has none"):
        draw_attention(served, image, tmp_path / "a.png")


def test_the_attention_penalty_is_that_of_the_paper():
    model = captioner(attention_penalty=2.0)
    inputs, _ = batch(model)
    model(inputs, training=True)
    _, weights = model.decode(inputs["caption"], model.encode(inputs["image"]))
    attention = weights.numpy() * (inputs["caption"] != 0)[..., None]
    wanted = 2.0 * np.mean((1 - attention.sum(axis=1)) ** 2)
    np.testing.assert_allclose(model.losses[0], wanted, rtol=1e-5)


def test_the_parts_of_an_encoder_make_the_whole(backbone_weights):
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")
    weights = str(backbone_weights)
    whole = image_encoder("mobilenet", 64, weights, alpha=0.25)
    assert whole.trainable_top is None and whole.is_pretrained
    parts = image_encoder("mobilenet", 64, weights, alpha=0.25, trainable_blocks=2)
    assert (
        parts.key != whole.key
        and len(parts.trainable_top.trainable_variables) == 12
        and not parts.frozen_backbone.trainable_variables
    )
    np.testing.assert_allclose(parts.trainable_top(parts.frozen_backbone(pixels)), whole.frozen_backbone(pixels), atol=1e-4)
    cut = image_encoder("mobilenet", 64, weights, alpha=0.25, layer="conv_pw_11_relu")
    np.testing.assert_allclose(cut.frozen_backbone(pixels), parts.frozen_backbone(pixels), atol=1e-4)
    nothing = image_encoder("mobilenet", 64, "none", alpha=0.25)
    assert nothing.frozen_backbone is None and nothing.trainable_top.trainable_variables and not nothing.is_pretrained
    with pytest.raises(DataError, match="doesn't fit"):
        image_encoder("mobilenet", 64, weights, alpha=0.5)
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    try:  # its features are others, and are kept apart
        assert image_encoder("mobilenet", 64, weights, alpha=0.25).key != whole.key
    finally:
        keras.mixed_precision.set_dtype_policy("float32")


def test_missing_weights_say_where_to_put_them(monkeypatch):
    def fail(**_):
        raise Exception("URL fetch failure")  # as keras.utils.get_file does without a network

    monkeypatch.setattr(keras.applications, "MobileNet", fail)
    monkeypatch.setenv("KERAS_HOME", "/somewhere")
    with pytest.raises(DataError, match=r"URL fetch failure.*/somewhere/models"):
        image_encoder("mobilenet", 64, "imagenet")


@pytest.mark.parametrize("name, channels", [("mobilenet_v2", 1280), ("efficientnet_b0", 1280)])
def test_the_other_backbones_build(name, channels):
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 64, 64, 3)).astype("float32")
    encoder = image_encoder(name, 64, "none")
    assert encoder.trainable_top(pixels).shape == (1, 2, 2, channels)


def test_metrics_of_captions(monkeypatch):
    references = [["a dog runs home", "the dog runs"], ["two cats sleep"]]
    perfect = caption_metrics(["A dog runs home.", "Two cats sleep !"], references, meteor=False)
    assert perfect["bleu_4"] > 99 and perfect["rouge_l"] == pytest.approx(100)
    scores = cider_scores(["a dog runs home", "a horse"], references)
    assert scores[0] > 1 and scores[1] == 0
    assert caption_metrics(["", ""], references, meteor=False)["cider"] == 0
    assert caption_metrics(["a dog", "?"], [["!"], [""]], meteor=False)["cider"] == 0  # nothing but punctuation
    monkeypatch.setattr("apps.common.meteor._paraphrases", lambda phrases: {})  # reading the table takes seconds
    assert caption_metrics(["a dog runs home.", "Two cats sleep"], references)["meteor"] == pytest.approx(100)


def test_diversity_of_captions():
    captions = ["A dog runs.", "a dog runs", "a dog sits", ""]
    found = diversity_metrics(captions, training=["A dog , runs !", "no dog"])
    assert found == {
        "distinct_1": 4 / 9,
        "distinct_2": 3 / 6,
        "unique_captions": 3,
        "words_per_caption": 9 / 4,
        "novel_captions": 2 / 4,
    }
    assert "novel_captions" not in diversity_metrics(captions)
    assert diversity_metrics([""])["distinct_1"] == 0


def test_evaluation_skips_pictures_that_cannot_be_read():
    def describe(image_bytes):
        bad = image_bytes == b"broken"
        return {"caption": tf.where(bad, "", "a dog"), "error": tf.where(bad, "image_bytes[0]: not a picture", "")}

    served = types.SimpleNamespace(signatures={"serving_default": describe})
    examples = [Example(ImageFile(name, data=data), ("a dog",)) for name, data in (("1", b"x"), ("2", b"broken"), ("3", b"y"))]
    kept, captions, skipped = without_unreadable(examples, served, "test")
    assert [example.image.name for example in kept] == ["1", "3"] and captions == ["a dog"] * 2
    assert skipped == [("test", "2", "not a picture")]
