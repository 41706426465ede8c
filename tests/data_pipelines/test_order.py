"""The order of training: permutations, and batches that begin anywhere."""

import numpy as np
import pytest

from data_pipelines import order
from data_pipelines.order import BatchOrder, ComputedPermutation

ROWS, SIZES = [300, 7, 23, 0, 45], [64, 32, 16, 8, 8]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 255, 1_000, 65_537])
def test_a_computed_permutation_is_one_and_the_seed_decides_it(size):
    found = ComputedPermutation(size, (1, 2))[np.arange(size)]
    np.testing.assert_array_equal(np.sort(found), np.arange(size))
    if size > 16:
        assert (ComputedPermutation(size, (1, 3))[np.arange(size)] != found).any()
        assert (np.diff(found) == 1).mean() < 0.2  # neighbours are torn apart


def test_a_computed_permutation_puts_rows_anywhere():
    places = np.stack([ComputedPermutation(50, (seed, 0))[np.arange(50)] for seed in range(2_000)])
    for row in (0, 17, 49):  # each place is as likely: chi-squared with 49 degrees of freedom
        counts = np.bincount(places[:, row], minlength=50)
        assert ((counts - 40) ** 2 / 40).sum() < 100


def taken(batches, start, count):
    return [(step.bucket, step.places.tolist()) for step, _ in zip(batches.steps(start), range(count))]


@pytest.mark.parametrize("stored", [10_000, 10])
@pytest.mark.parametrize("full", [True, False])
def test_any_step_is_what_a_run_gets_that_goes_through_all_before(full, stored, monkeypatch):
    monkeypatch.setattr(order, "STORED_ROWS", stored)
    whole = taken(BatchOrder(ROWS, SIZES, 3, full), 0, 150)
    for start in (1, 12, 13, 14, 100):
        assert taken(BatchOrder(ROWS, SIZES, 3, full), start, 30) == whole[start : start + 30]
    assert taken(BatchOrder(ROWS, SIZES, 4, full), 0, 150) != whole


def test_full_batches_have_every_row_equally_often():
    batches = BatchOrder(ROWS, SIZES, 0)
    seen = [np.zeros(rows, int) for rows in ROWS]
    for bucket, places in taken(batches, 0, 40 * batches.steps_per_epoch):
        assert len(places) == SIZES[bucket]
        np.add.at(seen[bucket], places, 1)
    passes = 40 * batches.steps_per_epoch / sum(rows / size for rows, size in zip(ROWS, SIZES))
    for counts, size, rows in zip(seen, SIZES, ROWS):
        if rows:
            assert counts.max() - counts.min() <= 1 + size // rows and abs(counts.mean() - passes) <= 0.5 + 2 * size / rows


def test_batches_of_one_epoch_have_every_row_once():
    batches = BatchOrder(ROWS, SIZES, 0, full=False)
    epochs = [taken(batches, epoch * batches.steps_per_epoch, batches.steps_per_epoch) for epoch in (0, 1)]
    for epoch in epochs:
        rows = sorted((bucket, place) for bucket, places in epoch for place in places)
        assert rows == [(bucket, place) for bucket, count in enumerate(ROWS) for place in range(count)]
    first, second = ([place for bucket, places in epoch if bucket == 0 for place in places] for epoch in epochs)
    assert first != second  # each pass has another permutation


def test_two_iterators_in_different_passes_do_not_disturb_each_other():
    class Shared(dict):  # another thread puts its own pass there at once
        def __setitem__(self, bucket, kept):
            super().__setitem__(bucket, (2, order.permutation(8, (0, 2, 0))))

    batches = BatchOrder([8], [8], 0)
    wanted = taken(batches, 5, 1)
    object.__setattr__(batches, "_passes", Shared())
    assert taken(batches, 5, 1) == wanted


def test_more_buckets_than_a_byte_counts_lose_no_rows():
    assert sorted(bucket for bucket, _ in taken(BatchOrder([1] * 300, [1] * 300, 0), 0, 300)) == list(range(300))
