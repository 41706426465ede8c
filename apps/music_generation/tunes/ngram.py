"""An order-n character model: the simple comparison for a language model of tunes.

    p_n(c | context) = (count(context c) + T p_{n-1}(c | shorter context)) / (count(context) + T)

with T the number of different characters that followed the context, down to the uniform distribution: interpolated Witten-Bell
smoothing (Witten and Bell 1991, https://doi.org/10.1109/18.87000; Chen and Goodman 1999,
https://doi.org/10.1006/csla.1999.0128).
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

START, END = "\x02", "\x03"


class NgramModel:
    """Characters given up to `order - 1` before them.

    Args:
        texts: to count in.
        order: the longest run that is counted.

    >>> model = NgramModel(["abab", "abab"], order=3)
    >>> model.bits("abab") < model.bits("bbaa")
    True
    """

    def __init__(self, texts: Sequence[str], order: int) -> None:
        self.order = order
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        for text in texts:
            marked = START * (order - 1) + text + END
            for i in range(order - 1, len(marked)):
                for n in range(order):
                    self.counts[marked[i - n : i]][marked[i]] += 1
        self.size = len(self.counts[""]) + 1  # one for what was never seen

        self.totals = {context: (len(counts), counts.total()) for context, counts in self.counts.items()}

    def probabilities(self, context: str, character: str) -> list[float]:
        """What the models of order 1, 2, … up to this one say: each stands on the one before."""
        p, found = 1 / self.size, []
        for n in range(self.order):
            place = context[len(context) - n :] if n else ""
            if place in self.totals:
                different, total = self.totals[place]
                p = (self.counts[place][character] + different * p) / (total + different)
            found.append(p)
        return found

    def bits(self, text: str, order: int | None = None) -> float:
        """The information of a text and its end."""
        return self.bits_by_order(text)[(order or self.order) - 1]

    def bits_by_order(self, text: str) -> list[float]:
        """The same for the order 1, 2, …"""
        marked = START * (self.order - 1) + text + END
        places = range(self.order - 1, len(marked))
        rows = [self.probabilities(marked[i - self.order + 1 : i], marked[i]) for i in places]
        return [-sum(map(math.log2, column)) for column in zip(*rows)]


def best_order(model: NgramModel, held_out: Sequence[str]) -> tuple[int, float]:
    """The order, from 2 to that of the model, that does best on the held-out texts, and its bits per character, the end of
    each text counted as one."""
    characters = sum(len(text) + 1 for text in held_out)
    bits = [sum(column) / characters for column in zip(*map(model.bits_by_order, held_out))]
    order = min(range(2, model.order + 1), key=lambda n: bits[n - 1])
    return order, bits[order - 1]
