"""The exact negative log-likelihood of frames, in nats."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from apps.common.training.losses import scaled

Tensor = Any


def frame_nats(targets: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Summed negative log-likelihood of frames, and how many there were; frames of -1 are padding.

    Args:
        targets: keys of each frame (batch, steps, keys), 0 or 1.
        logits: of the keys.

    >>> nats, frames = frame_nats([[[0, 1], [-1, -1]]], tf.zeros((1, 2, 2)))
    >>> print(round(float(nats / tf.math.log(2.0)), 4), float(frames))
    2.0 1.0
    """
    targets = tf.cast(targets, tf.float32)
    there = tf.cast(targets[..., 0] >= 0, tf.float32)
    crossed = tf.nn.sigmoid_cross_entropy_with_logits(tf.maximum(targets, 0.0), tf.cast(logits, tf.float32))
    return tf.reduce_sum(tf.reduce_sum(crossed, axis=-1) * there), tf.reduce_sum(there)


def constant_frame_loss(batches: tf.data.Dataset) -> float:
    """Nats per frame of a constant prediction: how often each key sounds, independently."""
    frames = np.concatenate([np.asarray(targets).reshape(-1, targets.shape[-1]) for _, targets in batches])
    shares = np.clip(frames[frames[:, 0] >= 0].mean(axis=0), 1e-12, 1 - 1e-12)
    return float(-(shares * np.log(shares) + (1 - shares) * np.log1p(-shares)).sum())


def count_frames(targets: Tensor) -> Tensor:
    """Of `Workers.shard`: frames of -1 are padding."""
    return tf.math.count_nonzero(targets[..., 0] >= 0)


@keras.saving.register_keras_serializable(package="unfold")
class FrameLoss(keras.losses.Loss):
    """Mean `frame_nats` over the frames of a batch."""

    def __init__(self, name: str = "frame_loss", **kwargs: Any) -> None:
        super().__init__(name=name, **{**kwargs, "reduction": None})

    def __call__(self, targets: Tensor, logits: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        return scaled(super().__call__(targets, logits), sample_weight)

    def call(self, targets: Tensor, logits: Tensor) -> Tensor:
        nats, frames = frame_nats(targets, logits)
        return nats / tf.maximum(frames, 1.0)
