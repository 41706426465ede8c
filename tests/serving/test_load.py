"""Exports with random weights under broken input and under many clients at once; benchmarks.fuzz and .load do more of it."""

import os
import random

import pytest

from apps.applications import APPLICATIONS
from apps.common.export.saved_model import load_export
from apps.demo.models import Models
from benchmarks.fuzz import fuzz, string_input
from benchmarks.load import Page, load, model_requests


@pytest.mark.parametrize("application", APPLICATIONS)
def test_broken_input_is_answered(application, exports):
    _, seed, check = string_input(load_export(exports[application]))
    outcomes, failures = fuzz(seed, check, 100, random.Random(1))
    assert not failures, failures[:5]
    assert sum(outcomes.values()) == 100 and (outcomes["refused"] > 0) == (application == "image_captioning")


def test_many_clients_get_the_answers_of_one(exports):
    folder = exports["translation"].parents[1]
    with Page(folder, 32) as page:
        requests = {**model_requests(Models(folder).get), **page.requests()}
        for name, several in requests.items():
            found = load(several, 64, 32, page.process.pid if name.startswith("page") else os.getpid())
            assert found["errors"] == 0 and found["different"] == 0, (name, found)
            assert found["growth"] < 0.1, (name, found)
        with pytest.raises(RuntimeError):
            page.ask("caption", [None])
