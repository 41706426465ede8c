"""The loss of a decoder: cross entropy of the tokens that are there."""

from typing import Any

import keras
import tensorflow as tf

Tensor = Any


def token_cross_entropy(following: Tensor, logits: Tensor, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Summed cross entropy and how many tokens there were; padding (0) weighs nothing.

    With `smoothing` e the true token has probability 1 - e and e is spread evenly over the vocabulary of V (Szegedy et al.
    2016, https://arxiv.org/abs/1512.00567, section 7):

        loss     = logsumexp(z) - (1 - e) z_true - e mean(z)
        dloss/dz = softmax(z) - (1 - e) onehot(true) - e / V

    The gradient is written by hand: three passes over the logits instead of ten.

    Args:
        following: ids (batch, time).
        logits: (batch, time, vocabulary).

    >>> loss, count = token_cross_entropy([[1, 0]], tf.zeros((1, 2, 8)))
    >>> print(round(float(loss) / float(tf.math.log(8.0)), 4), float(count))
    1.0 1.0
    """
    following = tf.cast(following, tf.int32)
    logits = tf.convert_to_tensor(logits)
    kept = tf.cast(following != 0, logits.dtype)

    @tf.custom_gradient
    def summed(logits: tf.Tensor) -> tuple[tf.Tensor, Any]:
        largest = tf.reduce_max(logits, axis=-1, keepdims=True)
        exponentials = tf.exp(logits - largest)
        total = tf.reduce_sum(exponentials, axis=-1, keepdims=True)
        true = tf.gather(logits, following, axis=2, batch_dims=2)
        loss = tf.squeeze(tf.math.log(total) + largest, -1) - (1 - smoothing) * true
        if smoothing:
            loss -= smoothing * tf.reduce_mean(logits, axis=-1)

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            weight = (upstream * kept)[..., None]  # (batch, time, 1)
            even = smoothing / tf.cast(tf.shape(logits)[-1], logits.dtype)
            spread = exponentials * (weight / total) - weight * even
            places = tf.concat([tf.cast(tf.where(tf.ones_like(following, tf.bool)), tf.int32), tf.reshape(following, [-1, 1])], 1)
            return tf.tensor_scatter_nd_sub(spread, places, tf.reshape((1 - smoothing) * weight, [-1]))

        return tf.reduce_sum(loss * kept), gradient

    return summed(logits), tf.reduce_sum(kept)


@keras.saving.register_keras_serializable(package="unfold")
class TokenLoss(keras.losses.Loss):
    """Mean `token_cross_entropy` over the tokens of a batch."""

    def __init__(self, smoothing: float = 0.0, name: str = "token_loss", **kwargs: Any) -> None:
        super().__init__(name=name, **{**kwargs, "reduction": None})
        self.smoothing = smoothing

    def call(self, following: Tensor, logits: Tensor) -> Tensor:
        loss, count = token_cross_entropy(following, logits, self.smoothing)
        return loss / tf.maximum(count, 1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "smoothing": self.smoothing}
