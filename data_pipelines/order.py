"""The order of training: the rows of step n follow from the seed and n alone, so that a run begins anywhere at once.

Rows of similar length form a bucket. Each pass over a bucket has a permutation of its own; batch k of a bucket holds the places
k·size, …, (k + 1)·size - 1 of all passes, one after another. How many batches of each bucket an epoch has follows from their
sizes, and in which order they come is drawn for each epoch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np

STORED_ROWS = 10_000_000  # up to so many a permutation is stored, 40 MB; a larger one is computed
ROUNDS = 6
_MULTIPLIERS = np.array([0xBF58476D1CE4E5B9, 0x94D049BB133111EB], np.uint64)  # of splitmix64


class Permutation(Protocol):
    """Place -> row, for arrays of places."""

    def __getitem__(self, places: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class ComputedPermutation:
    """A permutation of `range(size)` that takes no memory.

    A Feistel network (Luby & Rackoff 1988, https://doi.org/10.1137/0217022) permutes 2^2h numbers: from halves (l, r) of h bits
    each, a round makes (r, l xor f(r)). It is repeated while the result is no row: cycle walking (Black & Rogaway 2002,
    https://doi.org/10.1007/3-540-45760-7_9). 2^2h is less than 4·size, so most places need a few rounds more.

    >>> sorted(ComputedPermutation(5, seed=(1, 2))[np.arange(5)].tolist())
    [0, 1, 2, 3, 4]
    """

    size: int
    seed: Sequence[int]

    @cached_property
    def _keys(self) -> np.ndarray:
        return np.random.default_rng(self.seed).integers(0, 2**64, ROUNDS, np.uint64)

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        found = self._network(places.astype(np.uint64))
        while len(outside := np.flatnonzero(found >= self.size)):
            found[outside] = self._network(found[outside])
        return found.astype(np.int64)

    def _network(self, numbers: np.ndarray) -> np.ndarray:
        bits = np.uint64(max(1, (self.size - 1).bit_length() + 1 >> 1))
        mask = np.uint64((1 << int(bits)) - 1)
        left, right = numbers >> bits, numbers & mask
        for key in self._keys:
            mixed = (right ^ key) * _MULTIPLIERS[0]
            mixed = (mixed ^ (mixed >> np.uint64(29))) * _MULTIPLIERS[1]
            left, right = right, left ^ ((mixed >> np.uint64(32)) & mask)
        return (left << bits) | right


def permutation(size: int, seed: Sequence[int]) -> Permutation:
    """A permutation of `range(size)` that the seed decides."""
    if size > STORED_ROWS:
        return ComputedPermutation(size, seed)
    return np.random.default_rng(seed).permutation(np.arange(size, dtype=np.uint32))


class Step(NamedTuple):
    """The rows of one batch: places inside a bucket."""

    bucket: int
    places: np.ndarray


@dataclass(frozen=True)
class BatchOrder:
    """All batches of a run, in their order.

    Args:
        rows: of each bucket.
        batch_sizes: of each bucket.
        seed: decides the order.
        full: all batches are full, and one may join two passes over a bucket; else each epoch has every row once, and the last
            batch of each bucket is smaller.

    >>> order = BatchOrder([4, 2], [2, 1], seed=0, full=False)
    >>> [(step.bucket, sorted(step.places.tolist())) for step, _ in zip(order.steps(2), range(2))]
    [(0, [1, 3]), (1, [0])]
    """

    rows: Sequence[int]
    batch_sizes: Sequence[int]
    seed: int
    full: bool = True
    _passes: dict[int, tuple[int, Permutation]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def _batches(self) -> list[Fraction]:
        """Of each bucket in an epoch, parts of one counted."""
        batches = [Fraction(rows, size) for rows, size in zip(self.rows, self.batch_sizes)]
        return batches if self.full else [Fraction(-(-number // 1)) for number in batches]

    @cached_property
    def steps_per_epoch(self) -> int:
        return max(1, round(sum(self._batches)))

    def steps(self, start: int = 0) -> Iterator[Step]:
        """The batches from step `start` on, without end."""
        epoch, done = divmod(start, self.steps_per_epoch)
        while True:
            schedule = self._schedule(epoch)
            taken = self._before(epoch) + np.bincount(schedule[:done], minlength=len(self.rows))
            for bucket in schedule[done:].tolist():
                yield Step(bucket, self._places(bucket, int(taken[bucket])))
                taken[bucket] += 1
            epoch, done = epoch + 1, 0

    def _before(self, epoch: int) -> np.ndarray:
        """How many batches of each bucket the epochs before this one have.

        They are rounded by Webster's method, in which a number never falls from one epoch to the next: each batch goes to the
        bucket with the largest share / (batches + 1/2).
        """
        total, steps = sum(self._batches), epoch * self.steps_per_epoch
        shares = [number / total for number in self._batches]
        found = [max(0, int(steps * share) - len(shares)) for share in shares]
        for _ in range(steps - sum(found)):
            first = max(range(len(shares)), key=lambda i: shares[i] / (found[i] + Fraction(1, 2)))
            found[first] += 1
        return np.array(found)

    def _schedule(self, epoch: int) -> np.ndarray:
        """The bucket of each step of an epoch."""
        numbers = self._before(epoch + 1) - self._before(epoch)
        schedule = np.repeat(np.arange(len(numbers), dtype=np.min_scalar_type(len(numbers))), numbers)
        return np.random.default_rng([self.seed, epoch]).permutation(schedule)

    def _places(self, bucket: int, number: int) -> np.ndarray:
        """The rows of a batch of a bucket."""
        rows, size = self.rows[bucket], self.batch_sizes[bucket]
        if self.full:
            places = np.arange(number * size, (number + 1) * size)
        else:
            epoch, batch = divmod(number, int(self._batches[bucket]))
            places = epoch * rows + np.arange(batch * size, min((batch + 1) * size, rows))
        passes, places = np.divmod(places, rows)
        return np.concatenate([self._pass(bucket, int(one))[places[passes == one]] for one in np.unique(passes)])

    def _pass(self, bucket: int, number: int) -> Permutation:
        """The permutation of one pass over a bucket; the last one is kept."""
        kept = self._passes.get(bucket)
        if kept is None or kept[0] != number:  # `kept` is read once: another iterator may be in another pass
            kept = self._passes[bucket] = number, permutation(self.rows[bucket], (self.seed, number, bucket))
        return kept[1]
