"""An order-n model of tokens: the simple comparison for a language model of text or of tunes.

    p_n(w | context) = (count(context w) + T p_{n-1}(w | shorter context)) / (count(context) + T)

with T the number of different tokens that followed the context, down to the uniform distribution: interpolated Witten-Bell
smoothing (Witten and Bell 1991, https://doi.org/10.1109/18.87000; Chen and Goodman 1999,
https://doi.org/10.1006/csla.1999.0128). A context that was never seen changes nothing.
"""

from collections.abc import Sequence

import numpy as np

MOST_TOKENS = 5_000_000  # that are counted


class NgramModel:
    """Tokens given up to `order - 1` before them in their sequence.

    Contexts and what follows them are sorted arrays of int64: a context of n tokens is the number of that of n - 1 tokens, times
    the vocabulary, plus the token before.

    Args:
        sequences: of ids in [0, size), each with its end, in which to count: the first of them, up to `MOST_TOKENS` tokens.
        order: the longest run that is counted.
        size: how many different tokens there may be.

    >>> model = NgramModel([np.array([1, 2, 1, 2, 0])] * 2, order=3, size=4)
    >>> model.bits([np.array([1, 2, 1, 2, 0])]) < model.bits([np.array([2, 2, 1, 1, 0])])
    array([False,  True,  True])
    """

    def __init__(self, sequences: Sequence[np.ndarray], order: int, size: int) -> None:
        self.order, self.size = order, size
        counted = int(np.searchsorted(np.cumsum([len(sequence) for sequence in sequences]), MOST_TOKENS, side="right"))
        tokens, before = self._columns(sequences[:counted] or [sequences[0][:MOST_TOKENS]])
        self.tokens = len(tokens)
        self.contexts: list[np.ndarray] = []  # of n tokens: the keys of those that were seen
        self.tables: list[tuple[np.ndarray, ...]] = []  # (keys of context and token, their counts, of each context: T, count)
        context = np.zeros(len(tokens), np.int64)
        for n in range(order):
            if n:
                known, context = np.unique(context * (size + 1) + before[n - 1], return_inverse=True)
                self.contexts.append(known)
            keys, counts = np.unique(context * size + tokens, return_counts=True)
            self.tables.append((keys, counts, np.bincount(keys // size), np.bincount(context)))

    def probabilities(self, sequences: Sequence[np.ndarray]) -> np.ndarray:
        """(order, tokens): what the models of order 1, 2, … up to this one say of each token; each stands on the one before."""
        tokens, before = self._columns(sequences)
        p, context, found = np.full(len(tokens), 1 / self.size), np.zeros(len(tokens), np.int64), []
        for n, (keys, counts, different, total) in enumerate(self.tables):
            if n:
                wanted = np.where(context < 0, -1, context * (self.size + 1) + before[n - 1])
                context = _places(self.contexts[n - 1], wanted)
            place = _places(keys, np.where(context < 0, -1, context * self.size + tokens))
            count = np.where(place < 0, 0, counts[place])
            t, of_context = different[context], total[context]
            p = np.where(context < 0, p, (count + t * p) / (of_context + t))
            found.append(p)
        return np.array(found)

    def bits(self, sequences: Sequence[np.ndarray]) -> np.ndarray:
        """(order,): the information of a token, on average, by each order."""
        return -np.log2(self.probabilities(sequences)).mean(axis=1)

    def _columns(self, sequences: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """All tokens, and (order - 1, tokens) those 1, 2, … places before; before a sequence begins they are `size`."""
        flat = np.concatenate(sequences).astype(np.int64)
        lengths = np.array([len(sequence) for sequence in sequences])
        place = np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        back = np.arange(1, self.order)[:, None]
        return flat, np.where(place >= back, flat[np.arange(len(flat)) - back], self.size)


def _places(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each wanted key stands among the sorted keys; -1 where it is not there."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, place, -1)


def best_order(model: NgramModel, held_out: Sequence[np.ndarray]) -> tuple[int, float]:
    """The order, from 2 to that of the model, that does best on held-out sequences, and its bits per token."""
    bits = model.bits(held_out)
    order = 2 + int(bits[1:].argmin())
    return order, float(bits[order - 1])
