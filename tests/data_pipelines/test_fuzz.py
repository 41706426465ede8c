"""Damaged and hostile files are taken or refused by a named error; benchmarks.fuzz gives them in thousands."""

import base64
import gzip
import io
import random
import zipfile

import numpy as np
import pytest

from benchmarks.fuzz import FORMATS, fuzz
from data_pipelines import image_store
from data_pipelines.captions import load_captions
from data_pipelines.image_store import ImageFile
from data_pipelines.piano_rolls import load_rolls
from data_pipelines.reviews import load_reviews
from data_pipelines.sources import DataError


@pytest.mark.parametrize("name", FORMATS)
def test_broken_files_are_taken_or_refused(name, tmp_path):
    seed, check = FORMATS[name](tmp_path)
    assert check(seed) == "taken"
    outcomes, failures = fuzz(seed, check, 300, random.Random(0))
    assert not failures, failures[:5]
    assert outcomes["taken"] + outcomes["refused"] == 300 and outcomes["refused"]


def test_the_fuzzer_finds_what_it_is_for(tmp_path):
    def crash(data):
        if b"\xff" in data:
            raise ValueError("a crash")
        return "taken"

    outcomes, failures = fuzz(b"a" * 50, crash, 200, random.Random(0))
    assert outcomes["failed"] == len(failures) > 0


@pytest.mark.parametrize("honest_megabytes", [0, 12])
def test_a_gzip_bomb_is_refused(honest_megabytes, tmp_path):
    path = tmp_path / "reviews.tsv.gz"
    with gzip.open(path, "wb") as file:
        file.write(base64.b64encode(random.Random(0).randbytes(honest_megabytes * 1_000_000)))
        for _ in range(300):
            file.write(b"a" * 1_000_000)
    with pytest.raises(DataError, match=r"unpacks to more than 2\d\d,\d\d\d,\d\d\d bytes"):
        load_reviews(str(path))


@pytest.mark.parametrize("name", ["rolls.npz", "images.zip"])
def test_a_zip_bomb_is_refused(name, tmp_path):
    with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(3):
            archive.writestr(f"images/{i}.png", b"\0" * 100_000_000)
    (tmp_path / "captions.tsv").write_text("image\tcaption\n0.png\ta picture\n")
    with pytest.raises(DataError, match="its members take 300,000,000 bytes"):
        load_rolls(str(tmp_path / name)) if name == "rolls.npz" else load_captions(str(tmp_path))


def test_a_member_with_a_path_out_of_the_zip_writes_nothing(tmp_path):
    inside = tmp_path / "set"
    inside.mkdir()
    with zipfile.ZipFile(inside / "images.zip", "w") as archive:
        archive.writestr("../../evil.png", b"x")
        archive.writestr("/etc/evil.png", b"x")
        for i in range(10):
            archive.writestr(f"{i}.png", b"x")
    (inside / "captions.tsv").write_text("image\tcaption\n../../evil.png\ta picture\n/etc/evil.png\tb\n../captions.png\tc\n")
    with (inside / "captions.tsv").open("a") as file:
        file.writelines(f"{i}.png\td\n" for i in range(10))
    captions = load_captions(str(inside))
    for example in [example for part in captions.splits.values() for example in part]:
        assert example.image.read() == b"x"  # from the zip
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["captions.tsv", "images.zip", "set"]


def test_links_that_lead_nowhere_or_in_circles_are_skipped(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    (images / "loop").symlink_to(images)
    (images / "none.png").symlink_to(tmp_path / "missing.png")
    (images / "self.png").symlink_to(images / "self.png")
    (tmp_path / "captions.tsv").write_text("image\tcaption\nnone.png\ta\nself.png\tb\n")
    with pytest.raises(DataError, match="a caption without its image"):
        load_captions(str(tmp_path))


def test_an_image_file_beyond_the_limit_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(image_store, "MAX_BYTES", 10)
    (tmp_path / "a.png").write_bytes(b"x" * 11)
    with pytest.raises(OSError, match="more than 10 bytes"):
        ImageFile("a.png", str(tmp_path / "a.png")).read()


def test_an_encrypted_member_is_told(tmp_path):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a.png", b"x")
    data = bytearray(content.getvalue())
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(OSError, match="password"):
        ImageFile("a.png", str(tmp_path / "a.zip"), "a.png").read()


def test_a_piece_of_years_is_skipped(tmp_path):
    import mido

    for name in ("train", "valid"):
        track = mido.MidiTrack([mido.Message("note_on", note=60, time=0), mido.Message("note_off", note=60, time=480)])
        if name == "train":
            track.append(mido.Message("note_on", note=62, time=0x0FFFFFFF))
            track.append(mido.Message("note_off", note=62, time=480))
        (tmp_path / name).mkdir()
        mido.MidiFile(ticks_per_beat=1 if name == "train" else 480, tracks=[track]).save(tmp_path / name / "a.mid")
    with pytest.raises(DataError, match="more than the limit of 1,000,000"):
        load_rolls(str(tmp_path))


def test_notes_upon_notes_are_skipped(tmp_path):
    import mido

    notes = [mido.Message("note_on", note=60, time=0), mido.Message("note_off", note=60, time=900_000)]
    for name in ("train", "valid"):
        (tmp_path / name).mkdir()
        tracks = [mido.MidiTrack(notes)] * (100 if name == "train" else 1)
        mido.MidiFile(ticks_per_beat=4, tracks=tracks).save(tmp_path / name / "a.mid")
    with pytest.raises(DataError, match="notes of 90,000,000 frames in all, more than the limit of 88,000,000"):
        load_rolls(str(tmp_path))


@pytest.mark.parametrize("lengths", [[-1, 4], [1.5, 1.5], ["a", "b"]])
def test_lengths_that_are_no_counts_are_refused(lengths, tmp_path):
    np.savez(tmp_path / "train.npz", frames=np.ones((3, 88), np.uint8), lengths=np.array(lengths))
    with pytest.raises(DataError, match="counts that sum up"):
        load_rolls(str(tmp_path / "train.npz"))


def test_ten_thousand_classes_are_refused_and_control_characters_kept(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text("text\tlabel\n" + "".join(f"a text\tclass {i}\n" for i in range(10_000)))
    with pytest.raises(DataError, match="10,000 different labels in 10,000 rows; the limit is 1,000 classes"):
        load_reviews(str(path))
    path.write_text("text\tlabel\n" + "".join(f"\x1b[2J\x00 {{0}} %s \u202e{i}\t{'ab'[i % 2]}\n" for i in range(20)))
    reviews = load_reviews(str(path))
    assert sum(map(len, reviews.splits.values())) == 20
    assert all(review.text.startswith("\x1b[2J\x00 {0} %s") for part in reviews.splits.values() for review in part)
