"""Test set-up: quiet, seeded, and compiled in less time."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("XLA_FLAGS", "--xla_llvm_disable_expensive_passes=true")  # what is small is compiled sooner

import keras
import pytest
from hypothesis import settings

EXAMPLES = 8 if keras.backend.backend() == "tensorflow" else 4  # each shape is compiled anew, on JAX slowly
settings.register_profile("unfold", deadline=None, max_examples=EXAMPLES, derandomize=True)
settings.load_profile("unfold")


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(1)
