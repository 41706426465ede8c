"""Whatever is wrong with the input is one line that names the file, the row and the remedy."""

import gzip

import pytest

from data_pipelines.reviews import check_classes, load_reviews
from data_pipelines.sources import DataError
from data_pipelines.tables import Column, read_table
from tests.data_pipelines.helpers import prepare_tfds

GOOD = "text\tlabel\n" + "".join(f"text {i}\t{'yes' if i % 2 else 'no'}\n" for i in range(40))


def write(folder, name, content):
    path = folder / name
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return str(path)


def fails(source, *parts, **kwargs):
    with pytest.raises(DataError) as caught:
        load_reviews(str(source), **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize("name", ["reviews.tsv", "reviews.tsv.gz"])
def test_one_file_is_split_the_same_way_in_every_run(tmp_path, name):
    reviews = load_reviews(write(tmp_path, name, GOOD))
    assert {k: len(v) for k, v in reviews.splits.items()} == {"train": 32, "validation": 4, "test": 4}
    assert reviews.labels == ["no", "yes"]
    assert load_reviews(str(tmp_path / name)) == reviews
    whole = load_reviews(str(tmp_path / name), whole=True)
    assert {k: len(v) for k, v in whole.splits.items()} == {"all": 40} and whole.labels == reviews.labels
    everything = sorted(review.text for split in reviews.splits.values() for review in split)
    assert everything == sorted(f"text {i}" for i in range(40))


def test_csv_with_quotes_line_ends_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes('\ufefflabel,id,text\r\n1,7,"a, ""b""\nc"\r\n0,8,d\r\n'.encode())
    assert list(read_table(path, [Column("--text-column", ("text",)), Column("--label-column", ("label",))])) == [
        (2, ['a, "b"\nc', "1"]),
        (3, ["d", "0"]),
    ]


def test_a_folder_with_splits_and_numbers_as_labels(tmp_path):
    write(tmp_path, "train.tsv", "text\tlabel\n" + "".join(f"a{i}\t{i}\n" for i in range(11)))
    write(tmp_path, "dev.csv.gz", "label,text\n" + "".join(f"{i},b{i}\n" for i in range(11)))
    reviews = load_reviews(str(tmp_path))
    assert set(reviews.splits) == {"train", "validation"}
    assert reviews.labels == [str(i) for i in range(11)]  # 10 comes after 9


def test_validation_rows_are_taken_out_of_the_training_part(tmp_path):
    rows = write(tmp_path, "rows.txt", "0\n3\n")
    reviews = load_reviews(write(tmp_path, "x.tsv", GOOD), validation=rows)
    assert [review.text for review in reviews.splits["validation"]] == ["text 0", "text 3"]
    assert len(reviews.splits["train"]) == 38
    fails(tmp_path / "x.tsv", "rows.txt: row 2: '40'", validation=write(tmp_path, "rows.txt", "0\n40\n"))


def test_empty_texts_are_kept_and_counted(tmp_path):
    reviews = load_reviews(write(tmp_path, "x.tsv", GOOD + " \tyes\n\tno\n"))
    assert sum(reviews.empty_texts.values()) == 2
    assert sum(part["empty_texts"] for part in reviews.describe().values()) == 2
    assert reviews.summary()["examples"] == "34 train, 4 validation, 4 test" and reviews.summary()["classes"] == "no, yes"
    assert reviews.summary()["empty texts"].endswith("kept, and predicted from no words")
    assert "empty texts" not in load_reviews(write(tmp_path, "y.tsv", GOOD)).summary()
    assert sum(len(part) for part in reviews.splits.values()) == 42


def test_bad_files(tmp_path):
    fails(tmp_path / "none.tsv", "none.tsv: no such file", "Check the path")
    fails(tmp_path, "no file train{.tsv,.csv,.jsonl,.json,.parquet}[.gz]")
    fails(write(tmp_path, "a.tsv", "text\tlabels\nx\ty\n"), "a.tsv: row 1: no column 'label'", "['text', 'labels']")
    fails(write(tmp_path, "b.tsv", b"text\tlabel\nok\t1\ncaf\xe9\t0\n"), "b.tsv: row 3: not UTF-8 (byte 0xe9)")
    fails(write(tmp_path, "c.tsv", "text\tlabel\nx\ty\tz\n"), "c.tsv: row 2: 3 columns; row 1 has 2")
    fails(write(tmp_path, "d.tsv", "text\tlabel\n"), "d.tsv: the train split has no examples to use")
    fails(write(tmp_path, "e.tsv", "text\tlabel\nx\t\n"), "e.tsv: row 2: the label is empty")
    fails(write(tmp_path, "f.csv", 'text,label\n"x,1\n'), "f.csv: row", "Mend the quotes")
    fails(write(tmp_path, "g.tsv", "text\tlabel\n" + "x\t1\n" * 20), "only label is '1'")
    broken = tmp_path / "h.tsv.gz"
    broken.write_bytes(gzip.compress(GOOD.encode())[:-20])
    fails(broken, "h.tsv.gz: not a readable gzip file")
    broken.write_bytes(b"plain text")
    fails(broken, "h.tsv.gz: not a readable gzip file")


def test_bad_splits(tmp_path):
    write(tmp_path, "train.tsv", GOOD)
    write(tmp_path, "dev.tsv", "text\tlabel\nx\tyes\ny\tmaybe\n")
    fails(tmp_path, "dev.tsv: row 3: unknown label 'maybe'", "['no', 'yes']")
    write(tmp_path, "dev.tsv", "text\tlabel\nx\tyes\n")
    fails(tmp_path, "validation split has no example of the class 'no'")
    with pytest.raises(DataError, match="the validation split has the class 'maybe', and the training split no example of it"):
        check_classes("a.tsv", {"train": {"no", "yes"}, "validation": {"maybe", "no", "yes"}}, ["no", "yes"])
    write(tmp_path, "val.tsv", GOOD)
    fails(tmp_path, "the validation split is there more than once: val.tsv, dev.tsv")


def test_tfds_prepared_offline(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    import numpy as np

    rows = [{"text": f"review {i}", "label": np.int64(i % 2)} for i in range(20)]
    features = {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(names=["neg", "pos"])}
    prepare_tfds(tmp_path, monkeypatch, features, {"train": rows, "test": rows[:6]})
    reviews = load_reviews("tfds:tiny")
    assert {k: len(v) for k, v in reviews.splits.items()} == {"train": 18, "validation": 2, "test": 6}
    assert reviews.labels == ["neg", "pos"]
    assert set(reviews.splits["test"]) == {(f"review {i}", "pos" if i % 2 else "neg") for i in range(6)}


def test_tfds_without_a_training_split_serves_evaluation_only(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    rows = [{"text": f"review {i}", "label": f"{i % 2}"} for i in range(4)]
    prepare_tfds(tmp_path, monkeypatch, {"text": tfds.features.Text(), "label": tfds.features.Text()}, {"test": rows})
    fails("tfds:tiny", "tfds:tiny: has no training split but ['test']")
    assert {name: len(part) for name, part in load_reviews("tfds:tiny", whole=True).splits.items()} == {"test": 4}


def test_tfds_without_a_network_says_so_within_seconds(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    import socket

    def refuse(*args, **kwargs):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refuse)
    builder = tfds.builder
    monkeypatch.setattr(tfds, "builder", lambda name: builder(name, data_dir=tmp_path))
    fails("tfds:imdb_reviews", "tfds:imdb_reviews", "--data embedded", "--data PATH")
    fails("tfds:no_such_set_at_all", "no_such_set_at_all")
