"""Positional encoding: attention itself is invariant to the order of its inputs."""

from typing import Any

import keras
import numpy as np
from keras import ops

Tensor = Any


@keras.saving.register_keras_serializable(package="unfold")
class PositionalEncoding(keras.layers.Layer):
    """Add sines of the position (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.5).

        P[t, 2i]     = sin(t / max_wavelength^(2i / size))
        P[t, 2i + 1] = cos(t / max_wavelength^(2i / size))
        output_t     = x_t + P[t]

    It has no weights and knows sequences of any length.

    Args:
        max_wavelength: 10,000 in the paper; larger for longer sequences.

    Call arguments:
        inputs: (…, time, size).

    Raises:
        ValueError: the rank is below 2 or the size unknown.

    >>> encoded = PositionalEncoding()(np.zeros((1, 2, 4), "float32"))
    >>> print(np.round(np.asarray(encoded, "float64"), 2).tolist())
    [[[0.0, 1.0, 0.0, 1.0], [0.84, 0.54, 0.01, 1.0]]]
    """

    def __init__(self, max_wavelength: float = 10_000.0, **kwargs: Any) -> None:
        if not max_wavelength > 0:
            raise ValueError(
                f"PositionalEncoding: max_wavelength is {max_wavelength!r}; expected a number above 0. Leave it out."
            )
        super().__init__(**kwargs)
        self.max_wavelength = max_wavelength
        self.supports_masking = True

    def build(self, input_shape: tuple) -> None:
        if len(input_shape) < 2 or input_shape[-1] is None:
            raise ValueError(
                f"PositionalEncoding {self.name!r}: inputs have shape {tuple(input_shape)}; expected (…, time, size) with a "
                "known size. Embed the tokens first."
            )

    def call(self, inputs: Tensor) -> Tensor:
        size = inputs.shape[-1]
        rates = self.max_wavelength ** (-2.0 * (np.arange(size) // 2) / size)
        phases = np.where(np.arange(size) % 2, np.pi / 2, 0.0)  # cos(x) = sin(x + pi / 2)
        steps = ops.cast(ops.arange(ops.shape(inputs)[-2]), "float32")[:, None]
        encoding = ops.sin(steps * rates.astype("float32") + phases.astype("float32"))  # (time, size)
        return inputs + ops.cast(encoding, inputs.dtype)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "max_wavelength": self.max_wavelength}
