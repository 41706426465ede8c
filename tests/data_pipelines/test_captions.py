"""Captions: scenes and their truth, tables and folders and zips, what is skipped, and the batches."""

import csv
import dataclasses
import zipfile

import numpy as np
import pytest
import tensorflow as tf

from data_pipelines.captions import caption_batches, load_captions
from data_pipelines.embedded.scenes import NUMBERS, UNSEEN, Scene, Thing, embedded_scenes, is_true
from data_pipelines.image_store import store_images
from data_pipelines.sources import DataError
from data_pipelines.vocabulary import BOS, EOS, PADDING, WordVocabulary
from tests.data_pipelines.helpers import prepare_tfds
from tests.data_pipelines.test_images import decoded, encoded, picture


def write_table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("image\tcaption\n" + "".join(f"{image}\t{caption}\n" for image, caption in rows))


def write_images(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for n, name in enumerate(names):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(encoded(picture(seed=n), "PNG" if name.endswith("png") else "JPEG"))


# -- drawn scenes


def test_all_references_are_true_and_training_never_shows_the_held_out_pairs():
    splits = embedded_scenes()
    for name, scenes in splits.items():
        assert all(is_true(caption, scene) for scene in scenes for caption in scene.captions)
        assert sum(scene.is_unseen for scene in scenes) == (0 if name == "train" else len(scenes) // 2)
    words = " ".join(caption for scene in splits["train"] for caption in scene.captions)
    assert not any(f"{colour} {shape}" in words for colour, shape in UNSEEN)


@pytest.mark.parametrize("change", ["colour", "shape", "size", "more", "less", "swap"])
def test_a_caption_of_another_scene_is_not_true(change):
    """Change one thing of each scene: no reference may stay true."""
    for scene in embedded_scenes()["test"]:
        first, *rest = scene.things
        if change == "colour":
            things = (dataclasses.replace(first, colour="black" if first.colour != "black" else "red"), *rest)
        elif change == "shape":
            things = (dataclasses.replace(first, shape="star" if first.shape != "star" else "cross"), *rest)
        elif change == "size":
            things = (dataclasses.replace(first, size="small" if first.size == "large" else "large"), *rest)
        elif change == "more":
            things = (*scene.things, dataclasses.replace(first, x=first.x + 1))
        elif change == "less":
            things = tuple(rest)
        else:  # what is above is below, what is left is right
            things = tuple(dataclasses.replace(thing, x=64 - thing.x, y=64 - thing.y) for thing in scene.things)
            if not any(word in scene.captions[0] for word in (" of ", "above", "below", "left", "right", "top", "bottom")):
                continue
        for caption in scene.captions:
            assert not is_true(caption, dataclasses.replace(scene, things=things)), (caption, things)


@pytest.mark.parametrize(
    "caption", ["", "a", "red circle", "a red circle", "a small red circle a small red circle", "three small red circle of"]
)
def test_what_is_not_in_the_grammar_is_not_true(caption):
    assert not is_true(caption, Scene("", (Thing("red", "circle", "small", 10, 10, 5),), ()))
    assert set(NUMBERS.values()) == {"a", "two", "three", "four"}


# -- own files


def test_a_folder_of_photographs_and_a_table(tmp_path):
    names = [f"{n}.jpg" for n in range(20)]
    write_images(tmp_path / "images", *names)
    write_table(tmp_path / "captions.tsv", [(name, f"caption {i} of {name}") for name in names for i in range(3)])
    data = load_captions(str(tmp_path))
    assert {name: len(examples) for name, examples in data.splits.items()} == {"train": 16, "validation": 2, "test": 2}
    example = data.splits["test"][0]
    assert example.captions == tuple(f"caption {i} of {example.image.name}" for i in range(3))
    assert example.image.read() == (tmp_path / "images" / example.image.name).read_bytes()
    assert load_captions(str(tmp_path / "captions.tsv")).splits == data.splits
    assert not data.skipped


@pytest.mark.parametrize("kind", ["zip", "zip with a folder", "folders", "beside"])
def test_splits_in_zips_and_folders(tmp_path, kind):
    for split, names in (("train", ["a.jpg", "b.jpg"]), ("dev", ["a.jpg"])):  # two pictures of one name
        if kind == "beside":
            names = [f"{split}/{name}" for name in names]
        folder = tmp_path if kind == "beside" else tmp_path / f"{split}_images"
        write_images(folder, *names)
        if kind.startswith("zip"):
            with zipfile.ZipFile(tmp_path / f"{split}_images.zip", "w") as archive:
                for name in names:
                    archive.write(folder / name, f"{'pictures/' if 'with' in kind else ''}{name}")
            for path in [*folder.rglob("*.jpg")]:
                path.unlink()
        write_table(tmp_path / f"{split}_captions.tsv", [(name, f"{split} {name}") for name in names])
    data = load_captions(str(tmp_path))
    assert [len(data.splits[name]) for name in ("train", "validation")] == [2, 1]
    assert not data.skipped
    store = store_images([e.image for e in data.splits["train"]], tmp_path / "s", "k", tf.identity, size=8, max_pixels=9999)
    assert len(store.paths) == 2 and not store.problems


def test_what_is_skipped_is_named(tmp_path):
    write_images(tmp_path / "images", "a.jpg", "b.jpg", "c.jpg", "d.jpg", "spare.jpg", "shared.jpg")
    (tmp_path / "images" / "d.jpg").write_bytes(b"no image")
    rows = [("a.jpg", "one"), ("missing.jpg", "two"), ("b.jpg", ""), ("c.jpg", "three"), ("c.jpg", ""), ("d.jpg", "four")]
    write_table(tmp_path / "train_captions.tsv", rows)
    write_table(tmp_path / "val_captions.tsv", [("shared.jpg", "five")])
    data = load_captions(str(tmp_path))
    images = [e.image for examples in data.splits.values() for e in examples]
    data = data.without(store_images(images, tmp_path / "s", "k", tf.identity, size=8, max_pixels=9999).problems)
    assert [(e.image.name, e.captions) for e in data.splits["train"]] == [("a.jpg", ("one",)), ("c.jpg", ("three",))]
    assert data.skipped == [
        ("train", "missing.jpg", "a caption without its image"),
        ("train", "b.jpg", "an empty caption"),
        ("train", "spare.jpg", "an image without caption"),
        ("train", "d.jpg", "not a JPEG, PNG, GIF or still WebP image"),
    ]
    assert data.summary()["images"] == "2 train (2 captions), 1 validation (1 captions)"
    assert data.summary()["skipped"].startswith("4: missing.jpg in train: a caption without its image; b.jpg")
    assert {name: facts["skipped"] for name, facts in data.describe().items()} == {"train": 4, "validation": 0}
    data.write_skipped(tmp_path / "skipped.tsv")
    with (tmp_path / "skipped.tsv").open() as file:
        assert list(csv.reader(file, delimiter="\t")) == [["split", "name", "reason"], *map(list, data.skipped)]


def test_what_cannot_be_used_is_one_line(tmp_path):
    write_table(tmp_path / "captions.tsv", [("a.jpg", "one")])
    with pytest.raises(DataError, match=r"the train split has no images to use \(a.jpg in train: a caption without its image\)"):
        load_captions(str(tmp_path))
    (tmp_path / "images.zip").write_bytes(b"no zip")
    with pytest.raises(DataError, match="not a readable zip file"):
        load_captions(str(tmp_path))
    (tmp_path / "captions.tsv").write_text("picture\twords\n")
    with pytest.raises(DataError, match="no column 'image' and 'caption' in the header"):
        load_captions(str(tmp_path))
    with pytest.raises(DataError, match="no such file"):
        load_captions(str(tmp_path / "none.tsv"))


def test_tfds_sets_with_captions_are_read(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    features = {
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
        "image/filename": tfds.features.Text(),
        "captions": tfds.features.Sequence({"id": np.int64, "text": tfds.features.Text()}),
    }
    captions = [{"id": 0, "text": "one"}, {"id": 1, "text": "two"}]
    rows = [{"image": np.asarray(picture(seed=n)), "image/filename": f"{n}.png", "captions": captions} for n in range(4)]
    prepare_tfds(tmp_path, monkeypatch, features, {"train": rows, "val": rows[:2]})
    data = load_captions("tfds:tiny", download_folder=tmp_path / "files")
    assert {name: len(e) for name, e in data.splits.items()} == {"train": 4, "validation": 2}
    images = sorted(e.image for e in data.splits["train"])
    assert images[3].name == "3.png" and data.splits["train"][0].captions == ("one", "two")
    store = store_images(images, tmp_path / "s", "k", tf.identity, size=8, max_pixels=9999)
    np.testing.assert_array_equal(store.load(store.paths[images[3]]), decoded(encoded(picture(seed=3), "PNG"), size=8)[0][0])


# -- batches


@pytest.fixture
def batches(tmp_path):
    names = [f"{n}.jpg" for n in range(12)]
    write_images(tmp_path / "images", *names)
    rows = [(name, "a " * (i + 1) + name[:-4]) for name in names for i in range(3)]
    write_table(tmp_path / "captions.tsv", rows)
    examples = [e for part in load_captions(str(tmp_path)).splits.values() for e in part]
    store = store_images([e.image for e in examples], tmp_path / "s", "k", tf.identity, size=8, max_pixels=9999)
    vocabulary = WordVocabulary.train([c for e in examples for c in e.captions], size=100, has_bos_eos=True)
    return (
        lambda **options: caption_batches(examples, store, vocabulary, batch_size=4, boundaries=[4, 6], **options),
        examples,
        store,
    )


def as_rows(dataset, vocabulary_offset=4):
    for inputs, targets in dataset:
        yield from zip(inputs["image"].numpy(), inputs["caption"].numpy(), targets.numpy())


def test_batches_pair_each_caption_with_its_image_and_shift_it(batches):
    make, examples, store = batches
    batch = make()
    assert batch.steps_per_epoch == len(list(batch.dataset)) == 6 + 3  # 24 captions of up to four tokens, 12 of five
    rows = list(as_rows(batch.dataset))
    assert len(rows) == 36
    for _, caption, targets in rows:
        length = int((targets != PADDING).sum())
        assert caption[0] == BOS and targets[length - 1] == EOS
        np.testing.assert_array_equal(caption[1:length], targets[: length - 1])
        assert not targets[length:].any()
    arrays = [store.load(store.paths[e.image]).numpy() for e in examples]
    seen = np.array([next(i for i, a in enumerate(arrays) if np.array_equal(a, image)) for image, _, _ in rows])
    assert (np.bincount(seen) == 3).all()


def test_batches_go_on_where_a_run_stopped(batches):
    make, _, _ = batches
    options = {"shuffle_seed": 3, "augment": True, "flip": True}
    whole = list(make(**options).dataset.take(30))
    rest = list(make(**options, start_step=17).dataset.take(13))
    for (inputs, targets), (wanted, wanted_following) in zip(rest, whole[17:], strict=True):
        np.testing.assert_array_equal(targets, wanted_following)
        np.testing.assert_array_equal(inputs["image"], wanted["image"])
    assert any((a[1].shape != b[1].shape) or (a[1] != b[1]).numpy().any() for a, b in zip(whole[:9], whole[9:18]))


def test_numbered_batches_tell_which_example_each_row_is(batches):
    make, examples, store = batches
    arrays = [store.load(store.paths[example.image]).numpy() for example in examples]
    counted = np.zeros(len(examples), int)
    for inputs, _ in make(numbered=True).dataset:
        for number, image in zip(inputs["example"].numpy(), inputs["image"].numpy()):
            np.testing.assert_array_equal(image, arrays[number])
            counted[number] += 1
    assert (counted == 3).all()
    for inputs, _ in make(numbered=True, shuffle_seed=1).dataset.take(9):
        for number, image in zip(inputs["example"].numpy(), inputs["image"].numpy()):
            np.testing.assert_array_equal(image, arrays[number])
