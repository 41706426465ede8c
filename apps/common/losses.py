"""The loss of a decoder: cross entropy of the tokens that are there."""

from typing import Any

import keras
from keras import ops

Tensor = Any


def token_cross_entropy(following: Tensor, logits: Tensor, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Summed cross entropy and how many tokens there were; padding (0) weighs nothing.

    With `smoothing` e the true token has probability 1 - e and e is spread evenly over the vocabulary (Szegedy et al.
    2016, https://arxiv.org/abs/1512.00567, section 7):

        loss = logsumexp(z) - (1 - e) z_true - e mean(z)

    Args:
        following: ids (batch, time).
        logits: (batch, time, vocabulary).

    >>> import numpy as np
    >>> loss, count = token_cross_entropy(np.array([[1, 0]]), np.zeros((1, 2, 8), "float32"))
    >>> print(round(float(loss / np.log(8)), 4), float(count))
    1.0 1.0
    """
    kept = ops.cast(ops.not_equal(following, 0), logits.dtype)
    true = ops.squeeze(ops.take_along_axis(logits, ops.expand_dims(ops.cast(following, "int32"), -1), axis=-1), -1)
    loss = ops.logsumexp(logits, axis=-1) - (1 - smoothing) * true
    if smoothing:
        loss = loss - smoothing * ops.mean(logits, axis=-1)
    return ops.sum(loss * kept), ops.sum(kept)


@keras.saving.register_keras_serializable(package="unfold")
class TokenLoss(keras.losses.Loss):
    """Mean `token_cross_entropy` over the tokens of a batch."""

    def __init__(self, smoothing: float = 0.0, name: str = "token_loss", **kwargs: Any) -> None:
        super().__init__(name=name, **{**kwargs, "reduction": None})
        self.smoothing = smoothing

    def call(self, following: Tensor, logits: Tensor) -> Tensor:
        loss, count = token_cross_entropy(following, logits, self.smoothing)
        return loss / ops.maximum(count, 1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "smoothing": self.smoothing}
