"""The loss of a decoder: cross entropy of the target tokens, without padding."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from layers.compiled import has_gpu

Tensor = Any


def token_cross_entropy(targets: Tensor, logits: Tensor, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Summed cross entropy and the number of tokens; padding (0) is masked out.

    With `smoothing` e the target has probability 1 - e and e is spread evenly over the vocabulary of V (Szegedy et al.
    2016, https://arxiv.org/abs/1512.00567, section 7):

        loss     = logsumexp(z) - (1 - e) z_target - e mean(z)
        dloss/dz = softmax(z) - (1 - e) onehot(target) - e / V

    The gradient is written by hand: three passes over the logits instead of ten.

    Args:
        targets: ids (batch, time).
        logits: (batch, time, vocabulary).

    >>> loss, count = token_cross_entropy([[1, 0]], tf.zeros((1, 2, 8)))
    >>> print(round(float(loss) / float(tf.math.log(8.0)), 4), float(count))
    1.0 1.0
    """
    targets = tf.cast(targets, tf.int32)
    logits = tf.convert_to_tensor(logits)
    mask = tf.cast(targets != 0, logits.dtype)

    @tf.custom_gradient
    def summed(logits: tf.Tensor) -> tuple[tf.Tensor, Any]:
        largest = tf.reduce_max(logits, axis=-1, keepdims=True)
        exponentials = tf.exp(logits - largest)
        total = tf.reduce_sum(exponentials, axis=-1, keepdims=True)
        target_logits = tf.gather(logits, targets, axis=2, batch_dims=2)
        loss = tf.squeeze(tf.math.log(total) + largest, -1) - (1 - smoothing) * target_logits
        if smoothing:
            loss -= smoothing * tf.reduce_mean(logits, axis=-1)

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            weight = (upstream * mask)[..., None]  # (batch, time, 1)
            even = smoothing / tf.cast(tf.shape(logits)[-1], logits.dtype)
            spread = exponentials * (weight / total) - weight * even
            if has_gpu():  # there one pass more costs less than a scatter, which a deterministic one computes on the processor
                of_target = tf.range(tf.shape(logits)[-1]) == targets[..., None]
                return tf.where(of_target, spread - (1 - smoothing) * weight, spread)
            places = tf.concat([tf.cast(tf.where(tf.ones_like(targets, tf.bool)), tf.int32), tf.reshape(targets, [-1, 1])], 1)
            return tf.tensor_scatter_nd_sub(spread, places, tf.reshape((1 - smoothing) * weight, [-1]))

        return tf.reduce_sum(loss * mask), gradient

    return summed(logits), tf.reduce_sum(mask)


def sampled_cross_entropy(
    targets: Tensor, outputs: Tensor, embeddings: Tensor, bias: Tensor, uniform: Tensor
) -> tuple[Tensor, Tensor]:
    """An estimate of `token_cross_entropy` from a few sampled tokens (sampled softmax, Jean et al. 2015,
    https://aclanthology.org/P15-1001; sampled log-uniformly, as ids are in the order of frequency):

        z_k  = e_k . o + b_k
        loss = log(exp(z_target) + sum_k exp(z_k) / (n q_k)) - z_target     k: the n sampled tokens but the target
        q_k  = log((k + 2) / (k + 1)) / log(V + 1)

    The sum's expectation is that over the whole vocabulary.

    Args:
        targets: ids (batch, time); padding (0) is masked out.
        outputs: (batch, time, size).
        embeddings, bias: (V, size) and (V,).
        uniform: n random numbers from 0 to 1.
    """
    size = embeddings.shape[0]
    labels = tf.reshape(tf.cast(targets, tf.int32), [-1])
    outputs = tf.cast(tf.reshape(outputs, [-1, outputs.shape[-1]]), embeddings.dtype)
    sampled = tf.cast(tf.exp(uniform * tf.math.log(size + 1.0)) - 1.0, tf.int32)
    sampled = tf.clip_by_value(sampled, 0, size - 1)
    place = tf.cast(sampled, tf.float32)
    times = tf.size(sampled, tf.float32) * tf.math.log((place + 2.0) / (place + 1.0)) / tf.math.log(size + 1.0)  # n q_k
    of_target = tf.reduce_sum(outputs * tf.gather(embeddings, labels), axis=-1) + tf.gather(bias, labels)
    others = tf.matmul(outputs, tf.gather(embeddings, sampled), transpose_b=True) + tf.gather(bias, sampled) - tf.math.log(times)
    others = tf.where(sampled == labels[:, None], others.dtype.min, others)
    losses = tf.reduce_logsumexp(tf.concat([of_target[:, None], others], axis=1), axis=1) - of_target
    mask = tf.cast(labels != 0, losses.dtype)
    return tf.reduce_sum(losses * mask), tf.reduce_sum(mask)


def scaled(loss: Tensor, sample_weight: Tensor | None) -> Tensor:
    """A batch's mean loss times the weight that all its examples have, as in `Workers.shard`."""
    return loss if sample_weight is None else loss * tf.reduce_mean(tf.cast(sample_weight, loss.dtype))


class BalancedCrossEntropy(keras.losses.Loss):
    """Cross entropy in which all classes weigh as much, however many examples they have:

        -w_c log p_c        w_c = n / (k n_c)        n_c: examples of class c; of n in all, of k classes

    Args:
        counts: n_c of each class.

    >>> loss = BalancedCrossEntropy([1, 3])
    >>> print(loss(np.array([0, 1, 1, 1]), np.zeros((4, 2), "float32")).numpy().round(4))  # log 2
    0.6931
    """

    def __init__(self, counts: Sequence[int], name: str = "balanced_cross_entropy", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.weights = (sum(counts) / (len(counts) * np.array(counts, "float32"))).astype("float32")

    def call(self, targets: Tensor, logits: Tensor) -> Tensor:
        targets = tf.cast(targets, tf.int32)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, tf.cast(logits, tf.float32))
        return losses * tf.gather(self.weights, targets)


@keras.saving.register_keras_serializable(package="unfold")
class TokenLoss(keras.losses.Loss):
    """Mean `token_cross_entropy` over the tokens of a batch. A weight is for the whole batch: see `scaled`."""

    def __init__(self, smoothing: float = 0.0, name: str = "token_loss", **kwargs: Any) -> None:
        super().__init__(name=name, **{**kwargs, "reduction": None})
        self.smoothing = smoothing

    def __call__(self, targets: Tensor, logits: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        return scaled(super().__call__(targets, logits), sample_weight)

    def call(self, targets: Tensor, logits: Tensor) -> Tensor:
        loss, count = token_cross_entropy(targets, logits, self.smoothing)
        return loss / tf.maximum(count, 1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "smoothing": self.smoothing}
