"""Rewards of generated texts, fast enough for training: CIDEr-D and sentence BLEU against the references of each example."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from apps.common.metrics import as_words
from data_pipelines.sources import DataError

Ngram = tuple[str, ...]
ORDER = 4
Groups = Sequence[Sequence[str]]
Words = list[list[list[str]]]
SIGMA = 6.0  # of the penalty for another length


def ngrams(words: Sequence[str], order: int) -> Counter[Ngram]:
    """How often each run of `order` words occurs.

    >>> ngrams(["a", "b", "a", "b"], 2)[("a", "b")]
    2
    """
    return Counter(tuple(words[i : i + order]) for i in range(len(words) - order + 1))


class CiderReward:
    """CIDEr-D (Vedantam et al. 2015, https://arxiv.org/abs/1411.5726), as pycocoevalcap computes it:

        g_n(x) = tf of each n-gram times log(N / df)          df: examples with the n-gram in a reference; N: examples
        score  = 10/4 sum_n mean_r exp(-(|c| - |r|)^2 / 2 sigma^2) min(g_n(c), g_n(r)) . g_n(r) / (|g_n(c)| |g_n(r)|)

    The references' vectors are made once, at their first use, and found by n-gram: of a candidate each n-gram is looked up once
    for all references.

    Args:
        references: of each example.

    >>> reward = CiderReward([["a dog runs home", "the dog runs"], ["two cats sleep"]])
    >>> reward(np.array([0, 1]), [["a dog runs home", "a cat"], ["two cats sleep", ""]]).astype(float).round(2).tolist()
    [[6.22, 0.42], [7.5, 0.0]]
    """

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        if len(references) < 2:
            raise DataError(f"{len(references)} training picture(s): CIDEr compares what is rare with what is not. Give it more.")
        self.words = as_words(references)
        self.frequency = Counter(
            ngram for texts in self.words for ngram in {g for text in texts for n in range(ORDER) for g in ngrams(text, n + 1)}
        )
        self.most = math.log(len(references))
        self._reference = lru_cache(maxsize=None)(self._index)

    def __call__(self, examples: np.ndarray, candidates: Sequence[Sequence[str]]) -> np.ndarray:
        """(n,) numbers of examples, n times k texts -> (n, k)."""
        return np.array(
            [[self._score(int(i), words) for words in texts] for i, texts in zip(examples, as_words(candidates))], np.float32
        )

    def _vector(self, words: Sequence[str], n: int) -> tuple[dict[Ngram, float], float]:
        """g_n and its norm."""
        vector = {
            ngram: count * (self.most - math.log(max(1, self.frequency.get(ngram, 0))))
            for ngram, count in ngrams(words, n + 1).items()
        }
        return vector, math.sqrt(sum(value * value for value in vector.values()))

    def _index(self, example: int) -> tuple[list[int], list[dict[Ngram, list[tuple[int, float]]]], list[list[float]]]:
        """The lengths of the references; for each n, n-gram -> (reference, its weight there); the norms."""
        texts = self.words[example]
        places: list[dict[Ngram, list[tuple[int, float]]]] = [{} for _ in range(ORDER)]
        norms: list[list[float]] = [[] for _ in range(ORDER)]
        for r, text in enumerate(texts):
            for n in range(ORDER):
                vector, norm = self._vector(text, n)
                norms[n].append(norm)
                for ngram, value in vector.items():
                    places[n].setdefault(ngram, []).append((r, value))
        return [_length(text) for text in texts], places, norms

    def _score(self, example: int, words: Sequence[str]) -> float:
        lengths, places, norms = self._reference(example)
        total, length = 0.0, _length(words)
        penalty = [math.exp(-((length - other) ** 2) / (2 * SIGMA**2)) for other in lengths]
        for n in range(ORDER):
            vector, norm = self._vector(words, n)
            products = [0.0] * len(lengths)
            for ngram, value in vector.items():
                for r, other in places[n].get(ngram, ()):
                    products[r] += min(value, other) * other
            for r, product in enumerate(products):
                if product:
                    total += penalty[r] * product / (norm * norms[n][r])
        return 10 * total / (ORDER * len(lengths))


def _length(words: Sequence[str]) -> int:
    """That of pycocoevalcap: the number of pairs of words."""
    return max(0, len(words) - 1)


class BleuReward:
    """Sentence BLEU, of the n-grams that a sentence is long enough for, as sacreBLEU computes it (`effective_order`, smoothing
    `exp`), from 0 to 1.

    Args:
        references: of each example.
        split: groups of texts -> the words of each.

    >>> reward = BleuReward([["a dog runs home now"], ["Two cats."]])
    >>> reward(np.array([0, 1]), [["a dog runs home"], ["two cats"]]).astype(float).round(3).tolist()
    [[0.779], [1.0]]
    """

    def __init__(self, references: Sequence[Sequence[str]], split: Callable[[Groups], Words] = as_words) -> None:
        self.words, self.split = split(references), split
        self._reference = lru_cache(maxsize=None)(self._counts)

    def __call__(self, examples: np.ndarray, candidates: Sequence[Sequence[str]]) -> np.ndarray:
        """(n,) numbers of examples, n times k texts -> (n, k)."""
        return np.array(
            [[self._score(int(i), words) for words in texts] for i, texts in zip(examples, self.split(candidates))], np.float32
        )

    def _counts(self, example: int) -> tuple[list[int], list[Counter[Ngram]]]:
        """The lengths of the references, and how often each n-gram occurs in one of them at most."""
        texts = self.words[example]
        most: list[Counter[Ngram]] = [Counter() for _ in range(ORDER)]
        for text in texts:
            for n in range(ORDER):
                most[n] |= ngrams(text, n + 1)
        return [len(text) for text in texts], most

    def _score(self, example: int, words: Sequence[str]) -> float:
        lengths, most = self._reference(example)
        if not words:
            return 0.0
        smooth, logs = 1.0, []
        for n in range(min(ORDER, len(words))):
            correct = sum((ngrams(words, n + 1) & most[n]).values())
            if n == 0 and not correct:
                return 0.0
            total = len(words) - n
            if not correct:
                smooth *= 2
                logs.append(-math.log(smooth * total))
            else:
                logs.append(math.log(correct / total))
        nearest = min(lengths, key=lambda length: (abs(length - len(words)), length))
        brevity = min(0.0, 1 - nearest / len(words))
        return math.exp(brevity + sum(logs) / len(logs))
