"""BPE dropout: the same texts in other pieces, at the rate asked for, by seed and step alone."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from data_pipelines.embedded.translations import embedded_translations
from data_pipelines.subword_dropout import MULTIPLE, VARIANTS, SubwordDropout, merge
from data_pipelines.translations import Pair, Vocabularies, encode, translation_batches
from data_pipelines.vocabulary import EOS, PADDING

PAIRS = [Pair(*pair) for pair in embedded_translations("en", "de")["train"][:300]] + [Pair("☃ \u200b ok", "selt\xadsam ☃☃")]


@pytest.fixture(params=[True, False], ids=["joint", "separate"])
def vocabularies(request):
    return Vocabularies.train(PAIRS, "bpe", 300, request.param)


@pytest.fixture()
def encoded(vocabularies):
    return encode(PAIRS, vocabularies, 60)


def texts(vocabulary, ids):
    ragged = tf.RaggedTensor.from_tensor(ids, padding=PADDING)
    return vocabulary.detokenize(tf.ragged.boolean_mask(ragged, ragged != EOS)).numpy().tolist()


def test_at_rate_0_the_tokens_are_those_of_sentencepiece(vocabularies, encoded):
    sides = encoded.source.to_tensor(), encoded.target.to_tensor()
    for found, ids in zip(SubwordDropout(vocabularies.source, vocabularies.target, 0.0, 0)(0, *sides), sides):
        assert found.shape[1] % MULTIPLE == 0
        width = max(found.shape[1], ids.shape[1])
        np.testing.assert_array_equal(*(tf.pad(x, [[0, 0], [0, width - x.shape[1]]]) for x in (found, ids)))


@pytest.mark.parametrize("rate", [0.1, 0.6])
def test_the_text_stays_and_the_pieces_change(vocabularies, encoded, rate):
    dropout = SubwordDropout(vocabularies.source, vocabularies.target, rate, 3)
    call, seen = tf.function(dropout), []
    for step in range(4):
        sides = encoded.source.to_tensor(), encoded.target.to_tensor()
        found = call(tf.constant(step, tf.int64), *sides)
        for split, ids, vocabulary in zip(found, sides, (vocabularies.source, vocabularies.target)):
            assert texts(vocabulary, split) == texts(vocabulary, ids)
            assert tf.math.count_nonzero(split) > tf.math.count_nonzero(ids)
            assert 1 not in set(split.numpy().ravel()) - set(ids.numpy().ravel())  # no piece is unknown that was known
        np.testing.assert_array_equal([row[row > 0][-1] for row in found[1].numpy()], EOS)
        np.testing.assert_array_equal(*(dropout(step, *sides)[0], found[0]))
        seen.append(found[0].numpy().tobytes())
    assert len(set(seen)) == 4


def test_a_merge_is_left_out_at_the_rate_asked_for():
    scores, random = {"ab": -0.0, "abc": -1.0, "bc": -2.0}, np.random.default_rng(0)
    for rate in (0.0, 0.1, 0.5):
        found = ["|".join(merge("abc", scores, rate, random)) for _ in range(20_000)]
        # ab and bc are tried at once, and ab is first; then a|bc or ab|c may become abc
        first = 1 - rate**2
        wanted = {"abc": first * (1 - rate), "ab|c": (1 - rate) * rate, "a|bc": rate**2 * (1 - rate), "a|b|c": rate**2}
        for pieces, share in wanted.items():
            assert found.count(pieces) / 20_000 == pytest.approx(share, abs=0.01)


def test_variants_have_the_rate_of_the_algorithm_on_whole_words(vocabularies):
    dropout = SubwordDropout(vocabularies.source, vocabularies.target, 0.1, 0)
    for variants in dropout.variants:
        rows = variants.row_lengths().numpy().reshape(-1, VARIANTS)
        assert (rows[PADDING] == 0).all() and (rows[1:4] == 1).all()  # unknown, BOS and EOS are whole
        pairs = [n for n in range(4, len(rows)) if rows[n].max() == 2]  # pieces of two characters among them
        assert 0.05 < np.mean(rows[pairs] == 2) < 0.2


def test_batches_follow_from_seed_and_step(vocabularies, encoded):
    def batches(seed=0, start=0, rate=0.1, dropout_seed=0):
        dropout = SubwordDropout(vocabularies.source, vocabularies.target, rate, dropout_seed)
        options = {"max_tokens": 240, "boundaries": [20, 40, 60], "shuffle_seed": seed, "start_step": start, "dropout": dropout}
        made = translation_batches(encoded, **options)
        return [(inputs["source"].numpy(), targets.numpy()) for inputs, targets in made.dataset.take(12 - start)]

    first = batches()
    for (a, b), (c, d) in zip(first[7:], batches(start=7), strict=True):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, d)
    plain = batches(rate=0.0)
    for (a, _), (b, _) in zip(first, plain, strict=True):  # the same rows, by what they say
        assert texts(vocabularies.source, a) == texts(vocabularies.source, b)
    others = itertools.chain(batches(dropout_seed=1), batches(seed=1))
    assert all(a.shape != b.shape or (a != b).any() for (a, _), (b, _) in zip(first, others))
