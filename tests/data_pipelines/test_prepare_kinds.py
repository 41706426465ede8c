"""Texts for a language model and for a classifier, prepared on disk: the same tokens, classes and batches as from the texts."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from apps.common.training.sharding import shard
from apps.sentiment_classification.finetune import check_prepared
from data_pipelines.embedded.reviews import embedded_reviews
from data_pipelines.passages import encode_passages, load_passages
from data_pipelines.prepare import __main__ as command
from data_pipelines.prepared import Prepared
from data_pipelines.reviews import load_reviews, review_batches, training_reviews
from data_pipelines.sources import DataError
from data_pipelines.token_streams import MemoryText, token_streams
from data_pipelines.vocabulary import load_vocabulary, train_vocabulary
from tests.apps import helpers

REVIEWS = [(text.replace("\t", " "), label) for text, label in embedded_reviews()["train"][:300]]
REVIEWS = [*REVIEWS, ("", "negative"), ("word " * 40 + "end", "positive")]
ORDER = {"batch_size": 3, "steps": 8, "epochs": 2, "seed": 1}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "reviews.tsv"
    path.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in REVIEWS))
    return path


def prepare(application, table, to, *flags):
    command.main([str(table), "--to", str(to), "--for", application, "--workers", "1", *map(str, flags)])
    return to


def batches(dataset):
    return [tf.nest.map_structure(lambda part: part.numpy(), batch) for batch in dataset]


def same(some, others):
    for one, other in zip(some, others, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("tokenizer", ["words", "bpe"])
def test_the_streams_are_those_of_the_passages(table, tmp_path, tokenizer):
    flags = ["--tokenizer", tokenizer, "--vocabulary-size", "250"]
    folder = prepare("language_model", table, tmp_path / "one", *flags)
    texts, prepared = load_passages(str(table)), load_passages(str(folder))
    assert {name: prepared.splits[name] for name in ("validation", "test")} == {
        name: texts.splits[name] for name in ("validation", "test")
    }
    train = texts.splits["train"]
    vocabulary = train_vocabulary(tokenizer, train, 250, has_bos_eos=True)
    assert load_vocabulary(folder).encode(tf.constant(train[:9])).to_list() == vocabulary.encode(tf.constant(train[:9])).to_list()
    memory, disk = MemoryText(encode_passages(train, vocabulary)), prepared.prepared.text
    assert disk.unknown == pytest.approx(memory.unknown)
    described = prepared.describe()
    assert {**described["train"], "sha256": 0} == {**texts.describe()["train"], "sha256": 0}
    assert described["validation"] == texts.describe()["validation"]
    assert prepared.summary()["passages"].startswith(texts.summary()["passages"].split(" (")[0])
    assert sorted(prepared.training_hashes()) == sorted(texts.training_hashes())
    first, wanted = [ids.tolist() for ids in disk.first_passages(100)], encode_passages(train, vocabulary).to_list()
    assert first == wanted[: len(first)] and sum(map(len, first)) <= 100 < sum(map(len, wanted[: len(first) + 1]))
    assert disk.first_passages(1)[0].tolist() == wanted[0][:1]
    for start in (0, 11):
        some, other = (token_streams(text, **ORDER, start_step=start, reverse=True) for text in (memory, disk))
        assert some.steps_per_epoch == other.steps_per_epoch
        same(batches(some.dataset), batches(other.dataset))


def test_passages_of_several_shards_and_processes_are_the_same_text(table, tmp_path):
    whole, parts = (
        prepare("language_model", table, tmp_path / str(rows), "--shard-rows", rows, "--workers", workers)
        for rows, workers in ((1_000, 1), (70, 2))
    )
    one, several = (load_passages(str(folder)).prepared.text for folder in (whole, parts))
    assert len(one.tokens) == 1 and len(several.tokens) == 5
    ordered = [token_streams(text, **ORDER, shuffle=False) for text in (one, several)]
    same(*(batches(made.dataset) for made in ordered))
    shuffled = [batches(token_streams(text, **ORDER).dataset) for text in (one, several)]
    tokens = [np.sort(np.concatenate([targets.ravel() for _, targets in made])) for made in shuffled]
    np.testing.assert_array_equal(*tokens)
    assert not all(np.array_equal(a, b) for (_, a), (_, b) in zip(*shuffled))
    later = token_streams(several, **ORDER, start_step=len(shuffled[1]) - 2)
    same(batches(later.dataset), shuffled[1][-2:])
    assert len(one.first_passages(3_000)) > 80
    same(one.first_passages(3_000), several.first_passages(3_000))


@pytest.mark.parametrize("tokenizer", ["words", "subwords"])
def test_the_batches_are_those_of_the_reviews(table, tmp_path, tokenizer):
    flags = ["--tokenizer", tokenizer, "--vocabulary-size", "250", "--min-count", "1", "--max-length", "30"]
    folder = prepare("sentiment_classification", table, tmp_path / "one", *flags)
    texts, prepared = load_reviews(str(table)), load_reviews(str(folder))
    assert prepared.labels == texts.labels and prepared.label_counts("train") == texts.label_counts("train")
    assert prepared.splits == {name: texts.splits[name] for name in ("validation", "test")}
    assert {**prepared.describe()["train"], "sha256": 0} == {**texts.describe()["train"], "sha256": 0}
    train = [review.text for review in texts.splits["train"]]
    vocabulary = train_vocabulary(tokenizer, train, 250)
    memory, disk = (training_reviews(reviews, vocabulary, 30) for reviews in (texts, prepared))
    assert memory.counts == disk.counts
    options = {"boundaries": [8, 16, 30], "batch_size": 16, "shuffle_seed": 4}
    for start in (0, 25):
        some, other = (review_batches(training.rows, **options, start_step=start) for training in (memory, disk))
        assert some.steps_per_epoch == other.steps_per_epoch
        same(batches(some.dataset.take(30)), batches(other.dataset.take(30)))
    for index in range(3):
        same(batches(other.part(index, 3).take(25)), batches(shard(other.dataset.take(25), index, 3)))


def test_rows_for_validation_that_a_file_names(table, tmp_path):
    rows = tmp_path / "rows.txt"
    rows.write_text("3\n0\n17\n299\n")
    texts = load_reviews(str(table), str(rows))
    folder = prepare("sentiment_classification", table, tmp_path / "new", "--validation-rows", rows)
    prepared = load_reviews(str(folder))
    assert prepared.splits == {"validation": texts.splits["validation"]}
    assert prepared.label_counts("train") == texts.label_counts("train")
    rows.write_text("5\n")
    with pytest.raises(DataError, match=r"rows\.txt: changed since"):
        load_reviews(str(folder))


def test_rows_that_a_file_names_win_over_a_file_of_validation(tmp_path):
    for name in ("train", "dev"):
        (tmp_path / f"{name}.tsv").write_text("text\tlabel\n" + "".join(f"{name} {i}\t{'ab'[i % 2]}\n" for i in range(10)))
    (tmp_path / "rows.txt").write_text("1\n2\n")
    texts = load_reviews(str(tmp_path), str(tmp_path / "rows.txt"))
    prepared = load_reviews(
        str(prepare("sentiment_classification", tmp_path, tmp_path / "new", "--validation-rows", tmp_path / "rows.txt"))
    )
    assert prepared.splits == {"validation": texts.splits["validation"]}
    assert prepared.splits["validation"] == [("train 1", "b"), ("train 2", "a")]


def test_a_guess_is_said_once(tmp_path, capsys):
    (tmp_path / "x.csv").write_text("Review,label\n" + "".join(f"text {i},{i % 2}\n" for i in range(40)))
    prepare("sentiment_classification", tmp_path / "x.csv", tmp_path / "new")
    assert capsys.readouterr().err.count("'Review' is read as text") == 1


def test_what_is_wrong_with_labels_is_told(tmp_path, capsys):
    def line(content, *flags):
        (tmp_path / "x.tsv").write_text("text\tlabel\n" + content)
        with pytest.raises(SystemExit):
            prepare("sentiment_classification", tmp_path / "x.tsv", tmp_path / "new", *flags)
        return capsys.readouterr().err.strip().splitlines()[-1]

    assert "the only label is 'a'" in line("x\ta\n" * 30)
    assert "x.tsv: row 3: the label is empty" in line("x\ta\ny\t\n" * 30)
    assert "1,200 different labels in 1,200 rows" in line("".join(f"x\t{n}\n" for n in range(1_200)))
    assert "the validation split has no example of the class 'c'" in line("x\ta\ny\tb\n" * 30 + "z\tc\n")
    (tmp_path / "rows.txt").write_text("0\n1\n2\n")
    flags = ["--validation-rows", tmp_path / "rows.txt"]
    assert "the train split has no example of the class 'a'" in line("x\ta\ny\tb\nz\tc\n" + "y\tb\nz\tc\n" * 9, *flags)


def test_data_of_another_application_and_what_reads_texts_is_refused(table, tmp_path, capsys):
    folder = prepare("sentiment_classification", table, tmp_path / "new", "--max-length", "20")
    assert helpers.parsed("sentiment_classification", "--data", folder).max_length == 20
    for application in ("translation", "language_model", "image_captioning", "music_generation"):
        with pytest.raises(DataError, match=f"new: was prepared for sentiment_classification, not for {application}"):
            helpers.parsed(application, "--data", folder)
    prepared, config = (
        Prepared.open(str(folder), "sentiment_classification"),
        helpers.parsed("sentiment_classification", "--data", folder),
    )
    check_prepared(config, prepared)
    for change, message in (
        ({"virtual_adversary": 5.0}, "--virtual-adversary 5.0: reads the training texts"),
        (
            {"init_from": str(folder)},
            "--adapt-epochs 1: reads the training texts, and .*new holds token ids. Pass --adapt-epochs 0",
        ),
        ({"init_from": str(tmp_path)}, "was prepared with another vocabulary. Prepare the data with --vocabulary-from"),
        ({"max_length": 30}, "--max-length 30: .*new was prepared with 20. Leave the flag out"),
    ):
        with pytest.raises(DataError, match=message):
            check_prepared(dataclasses.replace(config, **change), prepared)
