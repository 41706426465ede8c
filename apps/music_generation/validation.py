"""Validation of models of music by the likelihood of whole tunes or pieces."""

from typing import Any

import keras
import tensorflow as tf

from apps.common.checkpoints import averaged_weights


class LikelihoodValidation(keras.callbacks.Callback):
    """At each epoch's end, with the averaged weights, log `val_loss` in nats a step, and `val_<name>`, that times `scale`.

    Put it before `Checkpoint`, which reads these logs.

    Args:
        batches: `(inputs, following)`: whole tunes or pieces.
        nats: `token_cross_entropy` or `frame_nats`.
        name, scale: `bits_per_character` and how many of them a nat per token is, say.
    """

    def __init__(self, batches: tf.data.Dataset, nats: Any, name: str, scale: float = 1.0) -> None:
        super().__init__()
        self.batches, self.nats, self.name, self.scale = batches, nats, name, scale
        self._graph: Any = None

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if self._graph is None:
            self._graph = tf.function(
                lambda x, y: self.nats(y, self.model(x, training=False)), reduce_retracing=True, autograph=False
            )
        with averaged_weights(self.model):
            sums = [self._graph(inputs, following) for inputs, following in self.batches]
        loss = float(sum(s for s, _ in sums)) / float(sum(n for _, n in sums))
        if logs is not None:
            logs.update({"val_loss": loss, f"val_{self.name}": loss * self.scale})
