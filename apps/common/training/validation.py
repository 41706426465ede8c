"""Validation by exact likelihood and by task metrics."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from apps.common.training.averages import averaged_weights


def constant_loss(batches: tf.data.Dataset) -> float:
    """The cross entropy of targets (0: padding) of a constant prediction: the token frequencies."""
    ids = np.concatenate([np.asarray(targets).ravel() for _, targets in batches])
    counts = np.bincount(ids[ids > 0])
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def constant_class(train: Sequence[int], validation: Sequence[int], balance: bool = False) -> dict[str, float]:
    """Validation metrics of a constant prediction: the class frequencies of the training labels.

    With `balance` the loss is `BalancedCrossEntropy`, of which equal probabilities are the best constant.

    Args:
        train, validation: how many examples of each class there are.
        balance: see above.

    >>> constant_class([2, 3], [1, 3])["val_accuracy"]
    0.75
    """
    there = [(count, held_out) for count, held_out in zip(train, validation) if count]
    loss = -sum(held_out * math.log(count / sum(train)) for count, held_out in there) / sum(validation)
    if balance:
        weight = sum(held_out * sum(train) / (len(there) * count) for count, held_out in there) / sum(validation)
        loss = weight * math.log(len(there))
    return {"val_accuracy": validation[train.index(max(train))] / sum(validation), "val_loss": loss}


def perplexity(loss: float) -> float:
    """e to the mean cross entropy of a token, in nats.

    >>> round(perplexity(1.0), 3)
    2.718
    """
    return math.exp(min(loss, 50))


class Validation(keras.callbacks.Callback):
    """At each epoch's end, with the averaged weights, log `val_loss`, the mean negative log-likelihood, and other metrics.

    Put it before `Checkpoint`, which reads these logs.

    Args:
        batches: `(inputs, targets)`.
        nll: (targets, logits) -> the sum of negative log-likelihoods, and of how many; `token_cross_entropy`, say.
        measure: mean loss -> metrics by name, of the model as it is; `val_` is put before the names.
    """

    def __init__(
        self, batches: tf.data.Dataset, nll: Callable[[Any, Any], Any], measure: Callable[[float], dict[str, float]]
    ) -> None:
        super().__init__()
        self.batches, self.nll, self.measure = batches, nll, measure
        self._graph: Any = None

    def sums(self) -> list[tuple[Any, Any]]:
        """Of each batch the negative log-likelihood, and of how many."""
        if self._graph is None:
            self._graph = tf.function(
                lambda x, y: self.nll(y, self.model(x, training=False)), reduce_retracing=True, autograph=False
            )
        return [self._graph(inputs, targets) for inputs, targets in self.batches]

    def values(self) -> dict[str, float]:
        """The metrics of the model as it is."""
        sums = self.sums()
        loss = float(sum(s for s, _ in sums)) / float(sum(n for _, n in sums))
        return {f"val_{name}": value for name, value in {"loss": loss, **self.measure(loss)}.items()}

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        with averaged_weights(self.model):
            values = self.values()
        if logs is not None:
            logs.update(values)
