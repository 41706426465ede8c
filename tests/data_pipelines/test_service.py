"""Batches that a tf.data service prepares, in processes of their own."""

import subprocess
import sys
from collections import Counter
from unittest import mock

import pytest
import tensorflow as tf

from data_pipelines import service as servers
from data_pipelines.reviews import Review, encode_reviews, review_batches
from data_pipelines.service import distribute
from data_pipelines.sources import DataError
from data_pipelines.vocabulary import WordVocabulary
from tests.apps.helpers import ENVIRONMENT, ROOT
from tests.data_pipelines.helpers import service

LABELS = [str(i) for i in range(300)]


def batches(address):
    """Of reviews of one to three words; the label tells which it is."""
    reviews = [Review(" ".join(["word"] * (i % 3 + 1)), label) for i, label in enumerate(LABELS)]
    vocabulary = WordVocabulary.train([review.text for review in reviews], 400)
    options = {"boundaries": [1, 3], "batch_size": 8, "shuffle_seed": 1, "service": address}
    return review_batches(encode_reviews(reviews, LABELS, vocabulary, 3), **options)


def seen(dataset, steps, meanwhile=None):
    counts = Counter()
    for number, (_, labels) in enumerate(dataset.take(steps)):
        counts.update(labels.numpy().tolist())
        if meanwhile and number == steps // 4:
            meanwhile()
    return counts


def test_two_workers_give_each_example_once_an_epoch_and_a_lost_one_loses_none_for_good(monkeypatch):
    tf.keras.utils.set_random_seed(0)
    with service(2) as (address, workers):
        whole = batches(None)
        wanted = seen(whole.dataset, whole.steps_per_epoch)
        assert len(wanted) == 300 and set(wanted.values()) == {1}

        with monkeypatch.context() as patch:
            patch.setattr(tf.data.Dataset, "repeat", lambda dataset: dataset)  # one epoch
            once = batches(address).dataset
        assert seen(once, -1) == wanted

        counts = seen(batches(address).dataset, 4 * whole.steps_per_epoch, meanwhile=workers[0].kill)
        assert counts.keys() == wanted.keys()  # what the lost one had in hand came in a later epoch


@pytest.mark.parametrize(
    ("address", "message"),
    [("somewhere", "Pass HOST:PORT"), ("localhost:1", "no dispatcher answers"), ("localhost:99999", "no dispatcher answers")],
)
def test_an_address_that_is_none_is_told(address, message):
    with pytest.raises(DataError, match=message):
        distribute(tf.data.Dataset.range(3), address)


@pytest.mark.parametrize("role", [["dispatcher"], ["worker", "--dispatcher", "localhost:1"]])
def test_a_server_says_at_its_start_who_may_reach_it(role, monkeypatch, capsys):
    for name in ("DispatchServer", "WorkerServer"):
        monkeypatch.setattr(tf.data.experimental.service, name, mock.MagicMock())
    monkeypatch.setattr("sys.argv", ["service", *role])
    servers.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: this {role[0]} listens on every interface") and "SECURITY.md" in line


def test_a_server_needs_its_role():
    line = [sys.executable, "-m", "data_pipelines.service", "worker"]
    result = subprocess.run(line, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 2 and "--dispatcher goes with the role worker" in result.stderr
