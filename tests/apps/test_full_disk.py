"""On a full disk a command ends with one line and its remedy, and what it leaves behind is whole or absent."""

import os
import subprocess

import keras
import numpy as np
import pytest
import tensorflow as tf

from apps.common import cli
from apps.common.export import new_version, write_saved_model
from apps.common.training import runs
from data_pipelines.image_store import ImageFile, store_images
from data_pipelines.vocabulary import SubwordVocabulary, WordVocabulary, load_vocabulary
from tests.apps import helpers


@pytest.fixture
def disk(tmp_path):
    """The folder of a file system of 256 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"mounting a small file system isn't permitted: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk):
    with pytest.raises(OSError, match="No space left"), (disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def last_words(main, capfd):
    """What a command says before it ends with 2; "" if it ends well."""
    capfd.readouterr()
    try:
        cli.run(main)
    except SystemExit as end:
        assert end.code == 2
    else:
        return ""
    error = capfd.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert error.endswith("the disk is full. Free some space; a run goes on with --resume.\n")
    return error


def test_a_vocabulary_is_whole_or_absent(disk, capfd):
    texts = ["the film was good", "the book was bad"] * 50
    words = WordVocabulary.train(texts, 100)
    words.save(disk, "words")
    subwords = SubwordVocabulary.train(texts, 40)
    subwords.model += bytes(500_000)
    large = WordVocabulary([*words.words, *map(str, range(60_000))])
    for vocabulary, name in ((large, "words"), (large, "new"), (subwords, "subwords")):
        assert name in last_words(lambda vocabulary=vocabulary, name=name: vocabulary.save(disk, name), capfd)
    assert [path.name for path in disk.iterdir()] == ["words.json"]
    assert load_vocabulary(disk, "words").words == words.words


def test_a_store_of_images_holds_whole_arrays_only_and_goes_on(disk, capfd):
    images = []
    for n in range(40):
        images.append(ImageFile(f"{n}.png", data=tf.io.encode_png(np.full([32, 32, 3], n, np.uint8)).numpy()))

    def store():
        return store_images(images, disk, "key", lambda pixels: tf.repeat(pixels, 3, axis=1), size=32, max_pixels=10_000)

    assert "key-32" in last_words(store, capfd)
    files = [path for path in disk.rglob("*") if path.is_file()]
    assert 10 < len(files) < 40 and {path.stat().st_size for path in files} == {3 * 32 * 32 * 3}
    subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
    assert len(set(store().paths.values())) == 40


def test_an_export_leaves_no_version_wherever_the_disk_fills(disk, capfd):
    network = keras.Sequential([keras.Input([16]), keras.layers.Dense(100)])
    spec = tf.TensorSpec([None, 16], tf.float32, name="x")

    def export():
        with new_version(disk / "model") as version:
            signatures = {"serving_default": (lambda x: {"y": network(x)}, [spec])}
            write_saved_model(version.folder, [network], signatures, {"x": np.zeros([1, 16], np.float32)}, {"card": "x" * 20_000})

    fill(disk)
    filled = set()
    while line := last_words(export, capfd):
        assert not list((disk / "model").iterdir())
        filled.add(line)
        os.truncate(disk / "filler", os.path.getsize(disk / "filler") - 4096)
    for part in ("variables", "saved_model.pb", "tf_serving_warmup_requests", "card", "models.config"):
        assert any(part in line for line in filled), "\n".join(filled)
    assert not list(disk.rglob(".*"))


def test_the_model_of_a_run_is_whole_or_absent(disk, capfd):
    network = keras.Sequential([keras.Input([256]), keras.layers.Dense(1_000)])
    assert "model.keras" in last_words(lambda: runs.save_model(network, disk / "model.keras"), capfd)
    assert list(disk.iterdir()) == []


def test_training_ends_with_the_line_when_the_folder_of_tensorboard_fills(disk, tmp_path):
    table, run, export = tmp_path / "reviews.tsv", tmp_path / "run", tmp_path / "export"
    rows = [f"{'good' if i % 2 else 'bad'} film number {i % 7}\t{i % 2}" for i in range(60)]
    table.write_text("\n".join(["text\tlabel", *rows]) + "\n")
    run.mkdir()
    (run / "tensorboard").symlink_to(disk)
    fill(disk)
    flags = ["--data", table, "--run-dir", run, "--export-dir", export, "--quick", "--epochs", "1", "--units", "4"]
    flags += ["--embedding-size", "4", "--min-count", "1", "--baseline", "bag-of-words"]
    result = helpers.command("sentiment_classification", "train", *flags)
    assert result.returncode == 2 and result.stderr.count("\n") == 1, result.stderr
    assert "run/tensorboard/train/events" in result.stderr and "the disk is full" in result.stderr
    assert not export.exists() and "film" in load_vocabulary(run).words
