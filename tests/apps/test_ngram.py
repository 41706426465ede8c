"""The n-gram model against its equation in plain Python."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from apps.common import ngram
from apps.common.ngram import NgramModel, best_order

SIZE, START = 7, 7


def sequences(count, seed, size=SIZE - 1):
    """Random walks, one number of which never comes."""
    generator = np.random.default_rng(seed)
    return [np.cumsum(generator.integers(0, 3, generator.integers(1, 12))) % size for _ in range(count)]


def plain(train, order):
    """(context, token) -> the probability by each order."""
    counts = defaultdict(Counter)
    for sequence in train:
        marked = [START] * (order - 1) + list(sequence)
        for i in range(order - 1, len(marked)):
            for n in range(order):
                counts[tuple(marked[i - n : i])][marked[i]] += 1

    def probabilities(context, token):
        p, found = 1 / SIZE, []
        for n in range(order):
            followed = counts.get(tuple(context[len(context) - n :]))
            if followed:
                p = (followed[token] + len(followed) * p) / (followed.total() + len(followed))
            found.append(p)
        return found

    return probabilities


@pytest.mark.parametrize("order", [1, 2, 4])
def test_probabilities_are_those_of_the_equation(order):
    train, held_out = sequences(30, 0), sequences(9, 1, SIZE)
    wanted, of = [], plain(train, order)
    for sequence in held_out:
        marked = [START] * (order - 1) + list(sequence)
        wanted += [of(marked[i - order + 1 : i], marked[i]) for i in range(order - 1, len(marked))]
    model = NgramModel(train, order, SIZE)
    np.testing.assert_allclose(model.probabilities(held_out), np.transpose(wanted), rtol=1e-12)
    np.testing.assert_allclose(model.bits(held_out), -np.log2(wanted).mean(axis=0), rtol=1e-12)


def test_they_are_a_distribution_after_every_context():
    model = NgramModel(sequences(30, 0), 4, SIZE)
    for context in ([], [1], [2, 3], [0, 0, 0], [6, 6, 6], [1, 2, 3, 4, 5]):
        ends = model.probabilities([np.array([*context, token]) for token in range(SIZE)])[:, len(context) :: len(context) + 1]
        np.testing.assert_allclose(ends.sum(axis=1), 1, rtol=1e-12)


def test_the_best_order_is_told_with_its_bits():
    walk = [np.array([1, 1, 2, 1, 1, 2, 1, 1, 2, 0])] * 3
    model = NgramModel(walk, 4, SIZE)
    order, bits = best_order(model, walk)
    assert order == 4 and bits == model.bits(walk).min()  # two tokens before don't tell the beginning apart
    noise = [np.random.default_rng(0).integers(0, SIZE, 500)]
    assert best_order(NgramModel(noise, 4, SIZE), [np.random.default_rng(1).integers(0, SIZE, 500)])[0] == 2


def test_what_is_counted_is_bounded(monkeypatch):
    monkeypatch.setattr(ngram, "MOST_TOKENS", 10)
    train = [np.full(4, n) for n in range(5)]
    model = NgramModel(train, 2, SIZE)
    assert model.tokens == 8 and NgramModel([np.zeros(50, int)], 2, SIZE).tokens == 10
    np.testing.assert_array_equal(model.probabilities(train), NgramModel(train[:2], 2, SIZE).probabilities(train))
