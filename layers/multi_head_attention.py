"""Multi-head attention: several attentions concurrently, each in its own subspace."""

from typing import Any

import keras
from keras import ops
from keras.src import backend

from layers.attention import Tensor, masks_from, scaled_dot_product_attention
from layers.attention_blocks import Masks, attend


@keras.saving.register_keras_serializable(package="unfold")
class MultiHeadAttention(keras.layers.MultiHeadAttention):
    """Heads of scaled dot-product attention (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.2.2).

        head_i = attention(Q W_i^Q + b_i^Q, K W_i^K + b_i^K, V W_i^V + b_i^V)
        output = [head_1; …; head_h] W^O + b^O

    A `keras.layers.MultiHeadAttention` with its arguments and weights. What differs, on purpose: memory grows linearly with
    time, under any mask, unless there is dropout in training or the scores are returned; where all keys of a query are masked
    out, its weights are zeros, not uniform; an explicit `query_mask` counts. With `flash_attention` or more than one attention
    axis it is Keras' computation.

    Args: those of `keras.layers.MultiHeadAttention`.

    Call arguments: those of `layers.ScaledDotProductAttention`; sizes of query and value may differ. `attention_mask` may
        have an axis for the heads: (batch, heads, query_time, key_time).

    Returns:
        (batch, query_time, output size), and with `return_attention_scores` the weights (batch, heads, query_time, key_time).

    Raises:
        ValueError: as Keras does.

    >>> import numpy as np
    >>> query, memory = np.ones((2, 3, 4), "float32"), np.ones((2, 5, 6), "float32")
    >>> output, weights = MultiHeadAttention(num_heads=2, key_dim=8)(query, memory, return_attention_scores=True)
    >>> print(output.shape, weights.shape)
    (2, 3, 4) (2, 2, 3, 5)
    """

    def build(self, query_shape: tuple, value_shape: tuple, key_shape: tuple | None = None) -> None:
        super().build(query_shape, value_shape, key_shape)
        for projection in self._flatten_layers(include_self=False):
            projection.trainable = self.trainable

    def call(
        self,
        query: Tensor,
        value: Tensor,
        key: Tensor | None = None,
        query_mask: Tensor | None = None,
        value_mask: Tensor | None = None,
        key_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
        use_causal_mask: bool = False,
    ) -> Any:
        key = value if key is None else key
        inputs = (query, value, key)
        input_masks = [backend.get_keras_mask(x) for x in inputs]
        for x in inputs:
            backend.set_keras_mask(x, None)  # else the projections would warn that they lose the masks
        try:
            masks = (query_mask, value_mask, key_mask, attention_mask)
            mask = self._compute_attention_mask(query, value, *masks, use_causal_mask=use_causal_mask)
            q, k, v = self._query_dense(query), self._key_dense(key), self._value_dense(value)  # (batch, time, heads, size)
            heads, weights = self._compute_attention(q, k, v, mask, training, return_attention_scores)
            output = self._output_dense(heads * self._gate_dense(query) if self._use_gate else heads)
        finally:
            for x, input_mask in zip(inputs, input_masks):
                backend.set_keras_mask(x, input_mask)
        if query_mask is not None:
            backend.set_keras_mask(output, query_mask)
        return (output, weights) if return_attention_scores else output

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        return keras.Operation.compute_output_spec(self, *args, **kwargs)  # of the call; Keras' own takes all times as equal

    def _compute_attention_mask(
        self, query, value, query_mask=None, value_mask=None, key_mask=None, attention_mask=None, use_causal_mask=False
    ):
        """All masks: the parts, if it is ours that computes with them, else in one tensor, as in Keras."""
        masks = masks_from(query_mask, [value_mask, key_mask], attention_mask, use_causal_mask, self._sliding_window)
        if self._computes_itself(len(query.shape) + 1) and type(self)._compute_attention is MultiHeadAttention._compute_attention:
            return masks
        return masks.whole(ops.shape(query)[1], ops.shape(value)[1])

    def _computes_itself(self, rank):
        return rank == 4 and not self._flash_attention

    def _compute_attention(
        self,
        query,
        key,
        value,
        attention_mask=None,
        training=None,
        return_attention_scores=False,
        use_causal_mask=False,
    ):
        masks = attention_mask
        if not isinstance(masks, Masks):
            masks = masks_from(None, [], attention_mask, use_causal_mask)
        if not self._computes_itself(len(query.shape)):
            mask = masks.whole(ops.shape(query)[1], ops.shape(key)[1])
            return super()._compute_attention(query, key, value, mask, training, return_attention_scores)
        q, k, v = (ops.transpose(x, (0, 2, 1, 3)) for x in (query, key, value))  # (batch, heads, time, size)
        dropout = self._dropout if training else 0.0
        by_heads = masks.pairs is not None and len(masks.pairs.shape) == 4
        if return_attention_scores or dropout or by_heads:
            mask = masks.whole(ops.shape(q)[2], ops.shape(k)[2])
            mask = mask if mask is None or by_heads else ops.expand_dims(mask, -3)  # (…, 1, query_time, key_time)
            seed = self._dropout_layer.seed_generator if dropout else None
            heads, weights = scaled_dot_product_attention(q, k, v, mask, dropout, seed)
        else:
            heads, weights = attend(q, k, v, masks), None
        return ops.transpose(heads, (0, 2, 1, 3)), weights

    def _masked_softmax(self, attention_scores, attention_mask=None):
        """Keras' own, but zeros, not uniform weights, where all is masked."""
        weights = super()._masked_softmax(attention_scores, attention_mask)
        if attention_mask is None:
            return weights
        for _ in range(len(weights.shape) - len(attention_mask.shape)):
            attention_mask = ops.expand_dims(attention_mask, -2 * len(self._attention_axes) - 1)
        return ops.where(ops.cast(attention_mask, "bool"), weights, ops.zeros_like(weights))
