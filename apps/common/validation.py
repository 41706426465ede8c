"""Validation of a decoder by what it is for: its search, beside its loss."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from apps.common.checkpoints import averaged_weights
from apps.common.losses import token_cross_entropy


def constant_loss(batches: tf.data.Dataset) -> float:
    """The cross entropy of targets (0: padding) by a guess that is always the same: how often each token comes."""
    ids = np.concatenate([np.asarray(targets).ravel() for _, targets in batches])
    counts = np.bincount(ids[ids > 0])
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


class SearchValidation(keras.callbacks.Callback):
    """At each epoch's end, with the averaged weights, log `val_loss`, `val_perplexity` and what the search is worth.

    Put it before `Checkpoint`, which reads these logs.

    Args:
        batches: `(inputs, targets)`; padding (0) is masked out.
        measure: search with the model as it is and return metrics by name; `val_` is put before the names.
    """

    def __init__(self, batches: tf.data.Dataset, measure: Callable[[], dict[str, float]]) -> None:
        super().__init__()
        self.batches, self.measure = batches, measure
        self._graph: Any = None

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if self._graph is None:
            self._graph = tf.function(
                lambda x, y: token_cross_entropy(y, self.model(x, training=False)), reduce_retracing=True, autograph=False
            )
        with averaged_weights(self.model):
            sums = [self._graph(inputs, targets) for inputs, targets in self.batches]
            loss = float(sum(s for s, _ in sums)) / float(sum(n for _, n in sums))
            values = {"loss": loss, "perplexity": math.exp(min(loss, 50)), **self.measure()}
        if logs is not None:
            logs.update({f"val_{name}": value for name, value in values.items()})
