"""From texts to batches: the vocabulary, the buckets, the order."""

from itertools import combinations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines import batching
from data_pipelines.embedded.reviews import embedded_reviews, make_reviews
from data_pipelines.reviews import Review, encode, encode_reviews, load_reviews, review_batches
from data_pipelines.sources import DataError
from data_pipelines.vocabulary import WordVocabulary, load_or_train, load_vocabulary, split_words, train_vocabulary


def test_words():
    texts = tf.constant(["It's good,<br />isn't it?", "Ça va 3.5\u00a0€", "", b"caf\xe9 \x00ok"])
    assert [[t.decode() for t in row] for row in split_words(texts).to_list()] == [
        ["it's", "good", ",", "isn't", "it", "?"],
        ["ça", "va", "3", ".", "5", "€"],
        [],
        ["caf", "\ufffd", "ok"],
    ]


def test_the_vocabulary_ranks_by_count_then_spelling_and_keeps_its_size():
    vocabulary = WordVocabulary.train(["b a a", "c b a"], size=4)
    assert vocabulary.words == ["a", "b"] and vocabulary.size == 4
    assert vocabulary.encode(tf.constant(["a c b"])).to_list() == [[2, 1, 3]]
    assert WordVocabulary.train(["b a a", "c b a"], size=9, min_count=3).words == ["a"]


@pytest.mark.parametrize("kind", ["words", "subwords"])
def test_a_saved_vocabulary_gives_the_same_ids(kind, tmp_path):
    texts = [text for text, _ in make_reviews(200, seed=1)]
    vocabulary = load_or_train(tmp_path, load_vocabulary, lambda: train_vocabulary(kind, texts, 1_000))
    again = load_vocabulary(tmp_path)
    assert again.size == vocabulary.size == load_or_train(tmp_path, load_vocabulary, pytest.fail).size
    ids = vocabulary.encode(tf.constant(texts[:5]))
    assert again.encode(tf.constant(texts[:5])).to_list() == ids.to_list()
    assert int(tf.reduce_min(ids)) >= 2 and int(tf.reduce_max(ids)) < vocabulary.size


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.integers(2, 12))
def test_truncate_middle_keeps_both_ends(lengths, limit):
    rows = [list(range(n)) for n in lengths]
    short = batching.truncate_middle(tf.ragged.constant(rows, dtype=tf.int32, ragged_rank=1), limit).to_list()
    for row, got in zip(rows, short):
        assert got == (row if len(row) <= limit else row[: limit // 2] + row[len(row) - (limit - limit // 2) :])


@given(st.lists(st.integers(0, 90), min_size=1, max_size=50))
def test_boundaries_are_few_sorted_hold_all_and_waste_the_least(lengths):
    boundaries = batching.bucket_boundaries([*lengths, 64], max_length=64)
    assert boundaries == sorted(set(boundaries)) and len(boundaries) <= 4 and boundaries[-1] == 64

    def padded(boundaries):
        return sum(np.array(boundaries)[np.searchsorted(boundaries, np.minimum([*lengths, 64], 64))])

    choices = [[*some, 64] for count in range(4) for some in combinations(range(8, 64, 8), count)]
    assert padded(boundaries) == min(map(padded, choices))


def batches(shuffle_seed=None, start_step=0, count=50):
    reviews = [Review(" ".join(["word"] * (i % 20)), "no" if i % 2 else "yes") for i in range(count)]
    vocabulary = WordVocabulary(["word"])
    return review_batches(
        encode_reviews(reviews, ["no", "yes"], vocabulary, 16),
        boundaries=[8, 16],
        batch_size=4,
        shuffle_seed=shuffle_seed,
        start_step=start_step,
    )


def test_batches_have_the_fixed_lengths_and_every_example_once():
    made = batches()
    rows = list(made.dataset)
    assert len(rows) == made.steps_per_epoch
    assert {ids.shape[1] for ids, _ in rows} == {8, 16}
    lengths = sorted(int(n) for ids, _ in rows for n in (ids.numpy() != 0).sum(axis=1))
    assert lengths == sorted(min(i % 20, 16) for i in range(50))
    assert sum(int(tf.reduce_sum(label)) for _, label in rows) == 25


def test_the_seed_decides_the_order_and_each_epoch_has_its_own():
    def order(seed, epoch):
        made = batches(seed)
        steps_ = made.steps_per_epoch
        return [label.numpy().tolist() for _, label in made.dataset.skip(epoch * steps_).take(steps_)]

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(2, 0)
    assert order(1, 0) != order(1, 1)


def test_a_later_start_gives_what_the_run_would_have_seen():
    whole = [ids.numpy() for ids, _ in batches(1).dataset.take(30)]
    later = [ids.numpy() for ids, _ in batches(1, start_step=17).dataset.take(13)]
    for a, b in zip(whole[17:], later, strict=True):
        np.testing.assert_array_equal(a, b)


def test_encode_in_blocks_equals_encode_at_once():
    texts = ["word " * (i % 7) for i in range(1500)]
    vocabulary = WordVocabulary(["word"])
    assert encode(texts, vocabulary, 9).to_list() == [[2] * (i % 7) for i in range(1500)]


def test_embedded_reviews_do_not_overlap_and_many_differ_from_their_opposite_in_order_only():
    splits = embedded_reviews()
    texts = {name: {text for text, _ in pairs} for name, pairs in splits.items()}
    assert not texts["train"] & (texts["validation"] | texts["test"])
    assert {name: len(pairs) for name, pairs in splits.items()} == {"train": 24_000, "validation": 500, "test": 500}
    assert 0.45 < sum(label == "positive" for _, label in splits["train"]) / 24_000 < 0.55
    bags = {(label, *sorted(text.split())) for text, label in splits["train"]}
    twins = sum(("negative", *bag) in bags for label, *bag in bags if label == "positive")
    assert twins > 1_500


def test_labels_that_a_terminal_would_obey_are_refused(tmp_path):
    table = tmp_path / "rows.csv"
    for label in ("good\x1b[2J", '"good\nbad"', "doog\u202e"):
        table.write_text(f"text,label\nfine,{label}\ndull,bad\n" * 20)
        with pytest.raises(DataError, match=r"row 2: the label .* has a control character"):
            load_reviews(str(table))
