"""A convolutional network trained from scratch, and its batch normalisation, which several workers share."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from apps.common.training.workers import Workers

Tensor = Any


@keras.saving.register_keras_serializable(package="unfold")
class SharedBatchNormalization(keras.layers.BatchNormalization):
    """Mean and variance are those of the examples of all workers."""

    workers: Workers | None = None

    def _moments(self, inputs: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        mean, variance = super()._moments(inputs, mask)
        if self.workers is None or self.workers.count == 1:
            return mean, variance
        rows = tf.cast(tf.shape(inputs)[0], mean.dtype)
        sums = self.workers.sum_with_gradient(rows * tf.stack([mean, variance + ops.square(mean), tf.ones_like(mean)]))
        mean, square = sums[0] / sums[2], sums[1] / sums[2]
        return mean, square - ops.square(mean)


@keras.saving.register_keras_serializable(package="unfold")
class SmallCNN(keras.layers.Layer):
    """A convolutional network that halves the picture until at most grid x grid regions are left:

        x = relu(norm(conv(x), stride 2)), x = x + relu(norm(conv(x)))      for each stage

    Residual as in He et al. 2016, https://arxiv.org/abs/1512.03385; batch normalisation as in Ioffe and Szegedy 2015,
    https://arxiv.org/abs/1502.03167. Pixels (batch, size, size, 3), 0 to 255 -> (batch, rows, columns, channels).
    """

    def __init__(self, size: int, channels: int = 24, grid: int = 8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size, self.channels, self.grid = size, channels, grid
        options = {"padding": "same", "kernel_initializer": "he_normal", "use_bias": False, "dtype": self.dtype_policy}
        self.stages: list[list[keras.layers.Layer]] = []
        while size > grid:
            filters = min(channels * 2 ** len(self.stages), 96)
            halve = keras.layers.Conv2D(filters, 3 if self.stages else 5, strides=2, **options)
            again = keras.layers.Conv2D(filters, 3, **options)
            norms = [SharedBatchNormalization(momentum=0.95, dtype=self.dtype_policy) for _ in range(2)]
            self.stages.append([halve, norms[0], again, norms[1]])
            size = -(-size // 2)

    def build(self, shape: tuple) -> None:
        for layer in (layer for stage in self.stages for layer in stage):
            if not layer.built:
                layer.build(shape)
            shape = layer.compute_output_shape(shape)

    def compute_output_shape(self, shape: tuple) -> tuple:
        for layer in (layer for stage in self.stages for layer in stage):
            shape = layer.compute_output_shape(shape)
        return shape

    def call(self, pixels: Tensor, training: bool = False) -> Tensor:
        x = ops.cast(pixels, self.compute_dtype) / 127.5 - 1.0
        for halve, norm, again, second_norm in self.stages:
            x = ops.relu(norm(halve(x), training=training))
            x = x + ops.relu(second_norm(again(x), training=training))
        return x

    def set_workers(self, workers: Workers) -> None:
        for stage in self.stages:
            stage[1].workers = stage[3].workers = workers

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "size": self.size, "channels": self.channels, "grid": self.grid}
