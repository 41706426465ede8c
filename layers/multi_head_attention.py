"""Several attentions side by side, each in its own subspace."""

from typing import Any

import keras
from keras import ops

from layers.attention import AttentionLayer, Tensor, scaled_dot_product_attention
from layers.attention_blocks import Masks, attend


@keras.saving.register_keras_serializable(package="unfold")
class MultiHeadAttention(AttentionLayer):
    """Heads of scaled dot-product attention (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.2.2).

        head_i = attention(Q W_i^Q + b_i^Q, K W_i^K + b_i^K, V W_i^V + b_i^V)
        output = [head_1; …; head_h] W^O + b^O

    Weights, their order and their shapes are those of `keras.layers.MultiHeadAttention`.

    Args:
        num_heads: h.
        key_dim: size of a head's query and key.
        value_dim: size of a head's value; default `key_dim`.
        dropout, seed: as in `ScaledDotProductAttention`, and so are the call arguments, but sizes may differ.
        use_bias: whether the four projections add a bias.
        output_dim: size of the output; default that of the query.

    Returns:
        (batch, query_time, output_dim), and with `return_attention_scores` the weights (batch, heads, query_time, key_time).

    Raises:
        ValueError: a rank other than 3, a size below 1, or a dropout outside [0, 1).

    >>> import numpy as np
    >>> query, memory = np.ones((2, 3, 4), "float32"), np.ones((2, 5, 6), "float32")
    >>> output, weights = MultiHeadAttention(num_heads=2, key_dim=8)(query, memory, return_attention_scores=True)
    >>> print(output.shape, weights.shape)
    (2, 3, 4) (2, 2, 3, 5)
    """

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        value_dim: int | None = None,
        dropout: float = 0.0,
        use_bias: bool = True,
        output_dim: int | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(dropout, seed, **kwargs)
        self.num_heads, self.key_dim, self.value_dim = num_heads, key_dim, value_dim or key_dim
        self.use_bias, self.output_dim = use_bias, output_dim
        for name in ("num_heads", "key_dim", "value_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"MultiHeadAttention: {name} is {getattr(self, name)}; expected 1 or more. Pass a size.")

    def build(self, query_shape: tuple, value_shape: tuple, key_shape: tuple | None = None) -> None:
        super().build(query_shape, value_shape, key_shape)
        parts = {
            "query": (query_shape[-1], self.key_dim),
            "key": ((key_shape or value_shape)[-1], self.key_dim),
            "value": (value_shape[-1], self.value_dim),
        }
        self.kernels: dict[str, Any] = {}
        self.biases: dict[str, Any] = {}
        for name, (features, size) in parts.items():
            self._add(name, (features, self.num_heads, size), (self.num_heads, size))
        output_dim = self.output_dim or query_shape[-1]
        self._add("output", (self.num_heads, self.value_dim, output_dim), (output_dim,))

    def _add(self, name, kernel_shape, bias_shape):
        self.kernels[name] = self.add_weight(shape=kernel_shape, name=f"{name}_kernel", initializer=_glorot(name, kernel_shape))
        if self.use_bias:
            self.biases[name] = self.add_weight(shape=bias_shape, initializer="zeros", name=f"{name}_bias")

    def attend(self, query: Tensor, value: Tensor, key: Tensor, masks: Masks, dropout: float, scores: bool) -> tuple:
        q, k, v = (self._heads(name, x) for name, x in (("query", query), ("key", key), ("value", value)))
        if scores or dropout:
            mask = masks.whole(ops.shape(query)[1], ops.shape(key)[1])
            mask = None if mask is None else ops.expand_dims(mask, -3)  # (…, 1, query_time, key_time)
            heads, weights = scaled_dot_product_attention(q, k, v, mask, dropout, self.seed_generator)
        else:
            heads, weights = attend(q, k, v, masks), None
        joined = ops.transpose(heads, (0, 2, 1, 3))  # (batch, query_time, heads, value_dim)
        joined = ops.reshape(joined, (-1, ops.shape(joined)[1], self.num_heads * self.value_dim))
        kernel = ops.cast(self.kernels["output"], joined.dtype)
        output = ops.matmul(joined, ops.reshape(kernel, (-1, kernel.shape[-1])))
        return (output + ops.cast(self.biases["output"], output.dtype) if self.use_bias else output), weights

    def _heads(self, name, x):
        """(batch, time, features) -> (batch, heads, time, size)."""
        kernel = ops.cast(self.kernels[name], x.dtype)
        size = kernel.shape[-1]
        x = ops.matmul(x, ops.reshape(kernel, (kernel.shape[0], -1)))
        x = ops.reshape(x, (-1, ops.shape(x)[1], self.num_heads, size))
        if self.use_bias:
            x = x + ops.cast(self.biases[name], x.dtype)
        return ops.transpose(x, (0, 2, 1, 3))

    def get_config(self) -> dict[str, Any]:
        names = ("num_heads", "key_dim", "value_dim", "use_bias", "output_dim")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def _glorot(name, shape):
    """Glorot's bound for the matrix that a kernel of three axes stands for."""
    fan_in = shape[0] * shape[1] if name == "output" else shape[0]
    fan_out = shape[2] if name == "output" else shape[1] * shape[2]
    bound = (6 / (fan_in + fan_out)) ** 0.5
    return keras.initializers.RandomUniform(-bound, bound)
