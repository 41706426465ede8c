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

    def probability(self, context: str, character: str) -> float:
        p = 1 / self.size
        for n in range(len(context) + 1):
            counts = self.counts.get(context[len(context) - n :])
            if not counts:
                break
            different, total = len(counts), counts.total()
            p = (counts[character] + different * p) / (total + different)
        return p

    def bits(self, text: str) -> float:
        """The information of a text and its end."""
        marked = START * (self.order - 1) + text + END
        places = range(self.order - 1, len(marked))
        return -sum(math.log2(self.probability(marked[i - self.order + 1 : i], marked[i])) for i in places)


def bits_per_character(model: NgramModel, texts: Sequence[str]) -> float:
    """Mean over the characters, the end of each text counted as one."""
    return sum(map(model.bits, texts)) / sum(len(text) + 1 for text in texts)


def best_order(train: Sequence[str], held_out: Sequence[str], orders: Sequence[int] = range(2, 11)) -> tuple[int, float]:
    """The order that does best on the held-out texts, and its bits per character."""
    scores = {order: bits_per_character(NgramModel(train, order), held_out) for order in orders}
    order = min(scores, key=lambda n: scores[n])
    return order, scores[order]
