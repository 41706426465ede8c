"""Captions as Flickr8k, Kaggle, COCO and Hugging Face have them."""

import json
import zipfile

import pytest

from data_pipelines.captions import caption_sources, load_captions
from data_pipelines.sources import DataError
from tests.data_pipelines.test_captions import write_images

NAMES = [f"{n}.jpg" for n in range(20)]


def names(data):
    return {split: sorted(example.image.name for example in examples) for split, examples in data.splits.items()}


def coco(path, images, captions):
    path.parent.mkdir(exist_ok=True)
    items = [{"id": i, "file_name": name} for i, name in enumerate(images)]
    path.write_text(json.dumps({"images": items, "annotations": captions}))


def test_flickr8k_as_it_comes(tmp_path):
    write_images(tmp_path / "Flicker8k_Dataset", *NAMES[:11])
    text = "".join(f"{name}#{n}\tA dog , number {n} .\n" for name in NAMES[:10] for n in range(2))
    for name in ("Flickr8k.token.txt", "Flickr8k.lemma.token.txt", "readme.txt"):
        (tmp_path / name).write_text(text)
    data = load_captions(str(tmp_path))
    assert sum(map(len, data.splits.values())) == 10
    assert data.splits["train"][0].captions == ("A dog , number 0 .", "A dog , number 1 .")
    assert [skipped[1:] for skipped in data.skipped] == [("10.jpg", "an image without caption")]
    for split, name in (("train", "0.jpg"), ("dev", "1.jpg"), ("test", "2.jpg")):
        (tmp_path / f"Flickr_8k.{split}Images.txt").write_text(f"{name}\n")
    data = load_captions(str(tmp_path))
    assert names(data) == {"train": ["0.jpg"], "validation": ["1.jpg"], "test": ["2.jpg"]}
    assert names(load_captions(str(tmp_path / "Flickr8k.token.txt"))) == names(data)
    (tmp_path / "Flickr8k.token.txt").write_text(text + "no tab here\n")
    with pytest.raises(DataError, match="row 21: 'no tab here'; expected name"):
        load_captions(str(tmp_path))


@pytest.mark.parametrize(
    "table, content",
    [
        ("captions.txt", "image,caption\n" + "".join(f'{name},"A dog, running"\n' for name in NAMES)),
        ("captions.csv", "Image;Caption\n" + "".join(f"{name};A dog, running\n" for name in NAMES)),
        ("metadata.jsonl", "".join(json.dumps({"file_name": name, "text": "A dog, running"}) + "\n" for name in NAMES)),
    ],
)
def test_tables_of_other_names(tmp_path, table, content):
    write_images(tmp_path / "Images", *NAMES)
    (tmp_path / table).write_text(content)
    data = load_captions(str(tmp_path))
    assert sum(map(len, data.splits.values())) == 20 and not data.skipped
    assert data.splits["test"][0].captions == ("A dog, running",)


@pytest.mark.parametrize("prefix", ["", "images/"])
def test_image_folder_with_its_pictures_below(tmp_path, prefix):
    write_images(tmp_path / "images", *NAMES)
    rows = [f"{prefix}{name},A dog" for name in [*NAMES, "gone.jpg"]]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,text", *rows]))
    data = load_captions(str(tmp_path))
    assert sorted(example.image.name for split in data.splits.values() for example in split) == sorted(NAMES)
    assert [skipped[1:] for skipped in data.skipped] == [(f"{prefix}gone.jpg", "a caption without its image")]
    prepared = [row[0] for row in caption_sources(tmp_path, (None, None))["train"].read()]
    assert sorted(prepared) == sorted(NAMES)


def test_image_folder_of_several_splits(tmp_path):
    for n, split in enumerate(("train", "validation", "test")):
        write_images(tmp_path / split, NAMES[n])
        (tmp_path / split / "metadata.csv").write_text(f"file_name,text\n{NAMES[n]},A dog\n")
    data = load_captions(str(tmp_path))
    assert names(data) == {"train": ["0.jpg"], "validation": ["1.jpg"], "test": ["2.jpg"]} and not data.skipped
    (tmp_path / "test" / "metadata.jsonl").write_text("")
    with pytest.raises(DataError, match=r"the test split has several tables: .*metadata\.csv, .*metadata\.jsonl\. Keep one"):
        load_captions(str(tmp_path))


def test_two_files_of_captions_are_not_chosen_between(tmp_path):
    for name in ("captions.tsv", "captions.csv"):
        (tmp_path / name).write_text("image\tcaption\n")
    with pytest.raises(DataError, match=r"several files of captions: captions.csv, captions.tsv\. Pass one"):
        load_captions(str(tmp_path))


@pytest.mark.parametrize("packed", [False, True])
def test_coco_as_it_comes(tmp_path, packed):
    for split, some in (("train", NAMES[:4]), ("val", NAMES[4:6])):
        write_images(tmp_path / f"{split}2017", *some)
        captions = [{"id": 9, "image_id": i, "caption": f"{name} {n}"} for i, name in enumerate(some) for n in range(2)]
        coco(tmp_path / "annotations" / f"captions_{split}2017.json", some, captions)
        if packed:
            with zipfile.ZipFile(tmp_path / f"{split}2017.zip", "w") as archive:
                for name in some:
                    archive.write(tmp_path / f"{split}2017" / name, f"{split}2017/{name}")
    (tmp_path / "annotations" / "instances_train2017.json").write_text("{}")
    data = load_captions(str(tmp_path))
    assert names(data) == {"train": NAMES[:4], "validation": NAMES[4:6]} and not data.skipped
    assert data.splits["validation"][0].captions == ("4.jpg 0", "4.jpg 1")
    assert bool(data.splits["train"][0].image.member) is packed
    alone = load_captions(str(tmp_path / "annotations" / "captions_val2017.json"), whole=True)
    assert names(alone) == {"all": NAMES[4:6]}


@pytest.mark.parametrize(
    "content, reason",
    [
        ({"images": [{"id": 1, "file_name": "a.jpg"}]}, "no list 'annotations'"),
        ({"images": [], "annotations": [{"image_id": 1, "caption": "a"}]}, r"annotations\[0\]: no image has the id 1"),
        ({"images": [], "annotations": [{"image_id": 1, "bbox": [1]}]}, r"annotations\[0\] has no image_id or no caption"),
        ({"images": ["a.jpg"] * 9_000, "annotations": []}, r"images\[0\] has no id or no file_name"),
        ({"licenses": "x" * 9_000}, "no list 'images'"),
    ],
)
def test_json_that_is_not_cocos_is_one_short_line(tmp_path, content, reason):
    path = tmp_path / "captions_train2017.json"
    path.write_text(json.dumps(content))
    for source in (tmp_path, path):
        with pytest.raises(DataError, match=reason) as caught:
            load_captions(str(source))
        assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_a_picture_of_another_format_is_not_said_to_be_missing(tmp_path):
    write_images(tmp_path / "images", *NAMES[:10])
    (tmp_path / "images" / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "captions.tsv").write_text("image\tcaption\n" + "".join(f"{name}\ta\n" for name in [*NAMES[:10], "a.heic"]))
    assert not load_captions(str(tmp_path)).skipped  # it is decoded, and refused as not a JPEG, PNG, …
