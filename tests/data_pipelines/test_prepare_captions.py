"""Pictures with captions, prepared on disk: the same batches as from the table and the pictures, in bounded memory."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from apps.common.training.sharding import count_tokens, shard
from data_pipelines.batching import bucket_boundaries
from data_pipelines.captions import caption_batches, caption_sources, load_captions
from data_pipelines.embedded.scenes import embedded_scenes
from data_pipelines.image_store import array_path, prepared_images, store_images
from data_pipelines.prepare import __main__ as command
from data_pipelines.prepare import encoding
from data_pipelines.prepared import MANIFEST, Prepared
from data_pipelines.sources import DataError
from data_pipelines.vocabulary import load_vocabulary, train_vocabulary
from tests.apps import helpers

SCENES = embedded_scenes(1, 24)["validation"]
ROWS = [(s.name, caption) for s in SCENES for caption in (*s.captions, " ".join(s.captions), "  ")]
WRONG = [
    ("gone.png", "a circle"),
    ("broken.png", "a star"),
    ("empty.png", " "),
    (f"../images/{SCENES[0].name}", "a"),
    ("images", "a"),
]
SMALL = ["--for", "image_captioning", "--workers", "1", "--min-count", "1", "--vocabulary-size", "60", "--max-length", "20"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    (folder / "images").mkdir()
    for scene in SCENES:
        (folder / "images" / scene.name).write_bytes(scene.png())
    (folder / "images" / "broken.png").write_bytes(SCENES[0].png()[:200])
    (folder / "images" / "empty.png").write_bytes(SCENES[0].png())
    write(folder / "captions.tsv", [*ROWS, *WRONG])
    return folder


@pytest.fixture(scope="module")
def folder(source, tmp_path_factory):
    return prepare(source, tmp_path_factory.mktemp("prepared") / "one")


def write(path, rows):
    path.write_text("image\tcaption\n" + "".join(f"{image}\t{caption}\n" for image, caption in rows))


def prepare(source, to, *flags):
    command.main([str(source), "--to", str(to), *SMALL, *map(str, flags)])
    return to


def fails(capsys, *arguments):
    with pytest.raises(SystemExit):
        prepare(*arguments)
    return capsys.readouterr().err.strip().splitlines()[-1]


def stored(data, place):
    store = store_images(data.images, place, "k", tf.identity, size=8, max_pixels=9_999, prepared=data.prepared)
    return data.without(store.problems), store


def batches(data, store, vocabulary, start_step=0, seed=5, **options):
    """As training makes them."""
    if data.prepared:
        counts = data.prepared.rows.counts()
    else:
        texts = [caption for example in data.splits["train"] for caption in example.captions]
        counts = np.bincount(vocabulary.encode(tf.constant(texts)).row_lengths() + 1)
    boundaries = bucket_boundaries(range(len(counts)), 20, 3, multiple=2, counts=counts.tolist())
    options = {"augment": True, "flip": True, **options, "shuffle_seed": seed, "start_step": start_step}
    examples = data.prepared or data.splits["train"]
    return caption_batches(examples, store, vocabulary, batch_size=8, boundaries=boundaries, **options)


def same(some, others):
    for one, other in zip(some, others, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, one, other)


def without_paths(splits):
    return {name: [(e.image.name, e.captions) for e in examples] for name, examples in splits.items()}


@pytest.mark.parametrize("tokenizer", ["words", "subwords"])
def test_the_batches_are_those_of_the_table_and_the_pictures_from_any_step_on(source, tmp_path, tokenizer):
    folder = prepare(source, tmp_path / "one", "--tokenizer", tokenizer)
    texts, prepared = load_captions(str(source)), load_captions(str(folder))
    captions = [caption for example in texts.splits["train"] for caption in example.captions]
    vocabulary, trained = load_vocabulary(folder), train_vocabulary(tokenizer, captions, 60, 1, has_bos_eos=True)
    assert vocabulary.encode(tf.constant(captions)).to_list() == trained.encode(tf.constant(captions)).to_list()
    (texts, memory), (prepared, disk) = stored(texts, tmp_path / "a"), stored(prepared, tmp_path / "b")
    assert prepared.splits == {name: texts.splits[name] for name in ("validation", "test")}
    assert [image.read() for image in prepared.images] == [e.image.read() for n in prepared.splits for e in texts.splits[n]]
    assert sorted(prepared.skipped) == sorted(texts.skipped) and len(texts.skipped) == 5
    described, wanted = prepared.describe(), texts.describe()
    assert described["train"].pop("sha256") != wanted["train"].pop("sha256")
    assert described == wanted and prepared.summary()["skipped"].startswith("5: ")
    assert set(prepared.training_hashes()) == set(texts.training_hashes())
    whole, others = batches(texts, memory, vocabulary), batches(prepared, disk, vocabulary)
    assert whole.steps_per_epoch == others.steps_per_epoch
    wanted = list(whole.dataset.take(20))
    assert max(targets.shape[1] for _, targets in wanted) == 20  # some captions are cut
    same(others.dataset.take(20), wanted)
    same(batches(prepared, disk, vocabulary, start_step=13).dataset.take(7), wanted[13:])
    for index in range(3):  # each process reads its own rows, and alters its pictures as all of them are
        part = batches(prepared, disk, vocabulary, start_step=11).part(index, 3).take(5)
        same(
            part,
            shard(
                tf.data.Dataset.from_generator(lambda: wanted[11:16], output_signature=whole.dataset.element_spec),
                index,
                3,
                count_tokens,
            ),
        )


def rows_of(folder):
    rows = Prepared.open(str(folder), "image_captioning").rows
    flat, bounds = rows.read_flat(0, 20, np.arange(rows.counts().sum()))
    return sorted(tuple(flat[begin:end].tolist()) for begin, end in bounds[:, [0, -1]])


def test_shards_hold_the_same_rows_and_a_killed_command_goes_on(source, folder, tmp_path, monkeypatch, capsys):
    encode_shard, encoded = encoding.encode_shard, []

    def dying(shard, *arguments):
        if len(encoded) == 2:
            raise KeyboardInterrupt
        encoded.append(shard.name)
        return encode_shard(shard, *arguments)

    monkeypatch.setattr(encoding, "encode_shard", dying)
    with pytest.raises(SystemExit):
        prepare(source, tmp_path / "new", "--shard-rows", "7")
    images = tmp_path / "new.partial" / "train-00001.images.jsonl"
    images.write_bytes(images.read_bytes()[:-9])  # a shard that is not whole is written again
    monkeypatch.setattr(encoding, "encode_shard", lambda shard, *rest: encoded.append(shard.name) or encode_shard(shard, *rest))
    prepare(source, tmp_path / "new", "--shard-rows", "7")
    assert encoded == ["train-00000", "train-00001", "train-00001", "train-00002", "train-00003"]
    assert "left out    5 skipped" in capsys.readouterr().out
    assert rows_of(tmp_path / "new") == rows_of(folder)
    assert load_captions(str(tmp_path / "new")).describe()["train"]["images"] == 19
    assert sorted(load_captions(str(tmp_path / "new")).skipped) == sorted(load_captions(str(folder)).skipped)
    (tmp_path / "new" / "train-00002.images.jsonl").unlink()
    with pytest.raises(DataError, match=r"train-00002\.images\.jsonl: is missing"):
        load_captions(str(tmp_path / "new"))


def test_several_processes_write_what_one_does(source, tmp_path):
    one, two = (prepare(source, tmp_path / str(n), "--shard-rows", "7", "--workers", n) for n in (1, 2))
    contents = [{path.name: path.read_bytes() for path in new.iterdir() if path.name != MANIFEST} for new in (one, two)]
    assert contents[0] == contents[1]


def test_pictures_of_a_zip(source, folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for path in (source / "images").iterdir():
            archive.write(path, f"images/{path.name}")
    shutil.copy(source / "captions.tsv", tmp_path)
    packed, plain = load_captions(str(prepare(tmp_path, tmp_path / "new"))), load_captions(str(folder))
    assert without_paths(packed.splits) == without_paths(plain.splits)
    assert rows_of(packed.prepared.folder) == rows_of(folder)
    images = [[image.read() for image in prepared_images(data.prepared)] for data in (packed, plain)]
    assert images[0] == images[1] and len(images[0]) == 19
    assert [image.read() for image in packed.images] == [image.read() for image in plain.images]


def test_files_of_splits_and_a_document_of_captions_in_no_order(source, tmp_path):
    (tmp_path / "images").symlink_to(source / "images")
    write(tmp_path / "train_captions.tsv", ROWS[:60])
    write(tmp_path / "val_captions.tsv", [*ROWS[60:], ("gone.png", "a")])
    texts, prepared = load_captions(str(tmp_path)), load_captions(str(prepare(tmp_path, tmp_path / "new")))
    assert without_paths(prepared.splits) == {"validation": without_paths(texts.splits)["validation"]}
    assert [(s.split, s.name) for s in prepared.skipped] == [("validation", "gone.png")]
    assert prepared.describe()["validation"]["skipped"] == 1 and prepared.describe()["train"]["images"] == 15
    (tmp_path / "coco").mkdir()
    names = [s.name for s in SCENES]
    coco = {
        "images": [{"id": n, "file_name": name} for n, name in enumerate(names)],
        "annotations": [
            {"image_id": names.index(name), "caption": caption} for name, caption in sorted(ROWS, key=lambda r: r[1])
        ],
    }
    (tmp_path / "coco" / "captions_train2017.json").write_text(json.dumps(coco))
    (tmp_path / "coco" / "train2017").symlink_to(source / "images")
    texts = load_captions(str(tmp_path / "coco"))
    found = [
        (name, tuple(captions)) for name, _, _, *captions in caption_sources(tmp_path / "coco", (None, None))["train"].read()
    ]
    assert sorted(found) == sorted(row for rows in without_paths(texts.splits).values() for row in rows)
    found = [(name, tuple(captions)) for name, _, _, *captions in caption_sources(source, (None, None))["train"].read()]
    assert [name for name, _ in found] == [*names, "broken.png"]


def test_a_picture_that_changed_or_vanished_is_one_line_unless_its_array_is_there(source, tmp_path):
    shutil.copytree(source, tmp_path / "own")
    data = load_captions(str(prepare(tmp_path / "own", tmp_path / "new")))
    first, *_, last = [Path(image.path) for image in prepared_images(data.prepared)]
    before = first.read_bytes()
    for change, message in (
        (lambda: first.write_bytes(b"x"), "changed since the data were prepared"),
        (first.unlink, "can't be read"),
    ):
        change()
        with pytest.raises(DataError, match=f"{first}: {message}.*. Put the picture back, or prepare the data anew"):
            stored(data, tmp_path / "store")
    first.write_bytes(before)
    _, store = stored(data, tmp_path / "store")
    arrays = [path for path in store.folder.glob("*/*") if path.is_file()]
    assert len(arrays) == 24 and len(list(store.folder.glob("complete-*"))) == 1
    last.unlink()  # all are there, says the mark: none is looked for
    Path(array_path(store.folder, [*prepared_images(data.prepared)][-1].digest)).unlink()
    data = load_captions(str(tmp_path / "new"))
    assert stored(data, tmp_path / "store")[1] == store
    Path(data.images[0].path).unlink()
    with pytest.raises(DataError, match=f"{data.images[0].path}: is missing, of the pictures of .*new. Put it back"):
        load_captions(str(tmp_path / "new"))


def test_training_has_the_flags_of_the_data_and_refuses_others(folder):
    config = helpers.parsed("image_captioning", "--data", folder, "--quick")
    assert (config.vocabulary_size, config.max_length, config.min_count, config.tokenizer) == (60, 20, 1, "words")
    prepared = load_captions(str(folder)).prepared
    prepared.check_flags(config)
    for flag, value in (("--max-length", 21), ("--max-pixels", 10), ("--tokenizer", "subwords"), ("--data-service", "x:1")):
        with pytest.raises(DataError, match=f"{flag} {value}: .*one "):
            prepared.check_flags(helpers.parsed("image_captioning", "--data", folder, flag, value))


def test_what_cannot_be_prepared_is_told(source, tmp_path, capsys):
    (tmp_path / "images").symlink_to(source / "images")
    table = tmp_path / "captions.tsv"
    write(table, [*ROWS, ROWS[0]])
    assert f"{table}: the rows of an image don't stand together. Sort the table by image" in fails(
        capsys, table, tmp_path / "new"
    )
    write(table, [("gone.png", "a")])
    line = fails(capsys, table, tmp_path / "new")
    assert f"{table}: the train split has no images to use (gone.png in train: a caption without its image). Check the" in line
    write(tmp_path / "train_captions.tsv", [("broken.png", "a")])
    write(tmp_path / "val_captions.tsv", ROWS)
    table.unlink()
    assert "the train split has no images to use" in fails(capsys, tmp_path, tmp_path / "new")
