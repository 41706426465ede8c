"""What the server of `tests.forked` imports."""
# ruff: noqa: F401

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import matplotlib.pyplot
import sacrebleu
import tensorflow_text

import apps.image_captioning.train
import apps.language_model.train
import apps.music_generation.train
import apps.sentiment_classification.train
import apps.translation.train
