"""Attention: a weighted mean of values, with weights from the similarity of queries and keys."""

from typing import Any

import keras
import numpy as np
from keras import ops

from layers.attention_blocks import Masks, attend, masked_softmax

Tensor = Any


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    seed: keras.random.SeedGenerator | int | None = None,
) -> tuple[Tensor, Tensor]:
    """Softmax of scaled products (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, equation 1).

        weights = softmax(Q K^T / sqrt(d_k))
        output  = weights V

    Args:
        query: (…, query_time, d_k).
        key: (…, key_time, d_k).
        value: (…, key_time, d_v).
        mask: booleans that broadcast to (…, query_time, key_time), True = attend. Where all keys of a query are masked
            out, its weights and its output are zeros.
        dropout: rate at which weights are dropped.
        seed: for the dropout.

    Returns:
        `(output, weights)`: (…, query_time, d_v) and (…, query_time, key_time). The weights sum to 1, or to 0 where
        all is masked (before dropout).

    Raises:
        ValueError: the last sizes of query and key, or the times of key and value, differ.

    >>> import numpy as np
    >>> output, weights = scaled_dot_product_attention(np.eye(2) * 9, np.eye(2) * 9, np.array([[1.0], [2.0]]))
    >>> print(np.round(output, 3).tolist())
    [[1.0], [2.0]]
    """
    query, key, value = (ops.convert_to_tensor(t) for t in (query, key, value))
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(
            f"scaled_dot_product_attention: query has size {query.shape[-1]} and key {key.shape[-1]}; expected the same. "
            "Project one of them with keras.layers.Dense."
        )
    if None not in (key.shape[-2], value.shape[-2]) and key.shape[-2] != value.shape[-2]:
        raise ValueError(
            f"scaled_dot_product_attention: key has {key.shape[-2]} steps and value {value.shape[-2]}; expected the same. "
            "Pass one value for each key."
        )
    scores = ops.matmul(query * query.shape[-1] ** -0.5, ops.swapaxes(key, -1, -2))  # (…, query_time, key_time)
    return _weigh(scores, value, mask, dropout, seed)


def additive_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    seed: keras.random.SeedGenerator | int | None = None,
) -> tuple[Tensor, Tensor]:
    """Softmax of the scores of a small network (Bahdanau et al. 2015, https://arxiv.org/abs/1409.0473, appendix A.1.2).

        weights_ij = softmax_j(v . tanh(q_i + k_j))
        output     = weights V

    Args:
        query: (…, query_time, units), projected.
        key: (…, key_time, units), projected.
        value: (…, key_time, d_v).
        scale: v, (units,).
        mask, dropout, seed: as in `scaled_dot_product_attention`.

    Returns:
        `(output, weights)`: (…, query_time, d_v) and (…, query_time, key_time). Memory is query_time x key_time x units.

    Raises:
        ValueError: the last sizes of query and key differ.

    >>> import numpy as np
    >>> q, k = np.array([[9.0]]), np.array([[0.0], [-18.0]])
    >>> output, weights = additive_attention(q, k, np.array([[1.0], [2.0]]), scale=np.array([9.0]))
    >>> print(np.round(output, 3).tolist())
    [[1.0]]
    """
    query, key, value, scale = (ops.convert_to_tensor(t) for t in (query, key, value, scale))
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(
            f"additive_attention: query has size {query.shape[-1]} and key {key.shape[-1]}; expected the same. "
            "Project both to as many units as scale has."
        )
    hidden = ops.tanh(ops.expand_dims(query, -2) + ops.expand_dims(key, -3))  # (…, query_time, key_time, units)
    flat = ops.matmul(ops.reshape(hidden, (-1, scale.shape[-1])), ops.expand_dims(scale, -1))  # one product of two matrices
    return _weigh(ops.reshape(flat, ops.shape(hidden)[:-1]), value, mask, dropout, seed)


def _weigh(scores, value, mask, dropout, seed):
    """The softmax of the scores under a mask, and the mean of the values with these weights."""
    weights = masked_softmax(scores, None if mask is None else ops.cast(mask, "bool"))
    dropped = keras.random.dropout(weights, dropout, seed=seed) if dropout else weights
    return ops.matmul(dropped, value), weights


class AttentionLayer(keras.layers.Layer):
    """What the attention layers share: dropout, checks, and one mask made of all masks."""

    def __init__(self, dropout: float = 0.0, seed: int | None = None, **kwargs: Any) -> None:
        if not 0 <= dropout < 1:
            raise ValueError(
                f"{type(self).__name__}: dropout is {dropout!r}; expected a rate in [0, 1). Pass the fraction of weights to drop."
            )
        super().__init__(**kwargs)
        self.dropout = dropout
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.supports_masking = True

    def build(self, query_shape: tuple, value_shape: tuple, key_shape: tuple | None = None) -> None:
        for name, shape in (("query", query_shape), ("value", value_shape), ("key", key_shape or value_shape)):
            if len(shape) < 3 or len(shape) != len(query_shape):
                raise ValueError(
                    f"{type(self).__name__} {self.name!r}: {name} has shape {tuple(shape)}; expected (batch, …, time, size), "
                    "and as many axes as the query. Add the missing axis."
                )

    def attend(self, query: Tensor, value: Tensor, key: Tensor, masks: Masks, dropout: float, scores: bool) -> tuple:
        """The output, and the weights if `scores`."""
        raise NotImplementedError

    def call(
        self,
        query: Tensor,
        value: Tensor,
        key: Tensor | None = None,
        query_mask: Tensor | None = None,
        value_mask: Tensor | None = None,
        key_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        use_causal_mask: bool = False,
        return_attention_scores: bool = False,
        training: bool = False,
    ) -> Any:
        key = value if key is None else key
        self._check(query, key, value, query_mask=query_mask, key_mask=key_mask, value_mask=value_mask)
        masks = masks_from(query_mask, [value_mask, key_mask], attention_mask, use_causal_mask)
        output, weights = self.attend(query, value, key, masks, self.dropout if training else 0.0, return_attention_scores)
        return (output, weights) if return_attention_scores else output

    def _check(self, query, key, value, **masks):
        times = {"query_mask": query.shape[-2], "key_mask": key.shape[-2], "value_mask": key.shape[-2]}
        if None not in (key.shape[-2], value.shape[-2]) and key.shape[-2] != value.shape[-2]:
            raise ValueError(
                f"{type(self).__name__} {self.name!r}: key has {key.shape[-2]} steps and value {value.shape[-2]}; "
                "expected the same. Pass one value for each key."
            )
        for name, mask in masks.items():
            if mask is not None and None not in (mask.shape[-1], times[name]) and mask.shape[-1] != times[name]:
                raise ValueError(
                    f"{type(self).__name__} {self.name!r}: {name} has {mask.shape[-1]} steps; expected {times[name]}. "
                    "Pass one boolean for each step."
                )

    def compute_mask(self, query: Any, query_mask: Any = None) -> Any:
        return query_mask

    def compute_output_shape(self, query_shape: tuple, value_shape: tuple, key_shape: tuple | None = None) -> tuple:
        return (*query_shape[:-1], value_shape[-1])

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        return keras.Operation.compute_output_spec(self, *args, **kwargs)  # of the call, with the weights where it returns them

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "dropout": self.dropout, "seed": self.seed}


@keras.saving.register_keras_serializable(package="unfold")
class ScaledDotProductAttention(AttentionLayer):
    """`scaled_dot_product_attention` as a layer that supports Keras masks. It has no weights.

    Args:
        dropout: rate at which attention weights are dropped in training.
        seed: for the dropout.

    Call arguments, the same for all attention layers:
        query: (batch, …, query_time, d_k).
        value: (batch, …, key_time, d_v).
        key: (batch, …, key_time, d_k); default `value`.
        query_mask: booleans (batch, …, query_time); a masked query gets zeros. Set by Keras.
        value_mask, key_mask: booleans (batch, …, key_time), True = attend. Set by Keras.
        attention_mask: booleans (batch, …, query_time, key_time) or (query_time, key_time).
        use_causal_mask: let each query attend to its own step and those before.
        return_attention_scores: also return the weights.

    Returns:
        (batch, query_time, d_v), and with `return_attention_scores` the weights (batch, query_time, key_time).

    Raises:
        ValueError: ranks that differ or are below 3, sizes that do not fit, or a dropout outside [0, 1).

    >>> import numpy as np
    >>> x = np.ones((2, 3, 4), "float32")
    >>> output, weights = ScaledDotProductAttention()(x, x, use_causal_mask=True, return_attention_scores=True)
    >>> print(np.round(np.asarray(weights[0]) * 6).tolist())
    [[6.0, 0.0, 0.0], [3.0, 3.0, 0.0], [2.0, 2.0, 2.0]]
    """

    def attend(self, query: Tensor, value: Tensor, key: Tensor, masks: Masks, dropout: float, scores: bool) -> tuple:
        if query.shape[-1] != key.shape[-1]:
            raise ValueError(
                f"ScaledDotProductAttention {self.name!r}: query has size {query.shape[-1]} and key {key.shape[-1]}; "
                "expected the same. Project one of them with keras.layers.Dense, or use MultiHeadAttention."
            )
        if not (scores or dropout) and len(query.shape) == 3:
            q, k, v = (ops.expand_dims(x, 1) for x in (query, key, value))  # one head
            return ops.squeeze(attend(q, k, v, masks), 1), None
        mask = masks.whole(ops.shape(query)[-2], ops.shape(key)[-2])
        return scaled_dot_product_attention(query, key, value, mask, dropout, self.seed_generator)


@keras.saving.register_keras_serializable(package="unfold")
class BahdanauAttention(AttentionLayer):
    """Additive attention with its projections (Bahdanau et al. 2015, https://arxiv.org/abs/1409.0473).

        e_ij    = v . tanh(W_q q_i + W_k k_j + b)
        weights = softmax_j(e)
        output  = weights V

    Weights: query_kernel (d_q, units), key_kernel (d_k, units), bias (units,), scale (units,). `keras.layers.AdditiveAttention`
    has the scale only; it wants projected queries and keys.

    Args:
        units: size of the hidden layer.
        dropout, seed: as in `ScaledDotProductAttention`, and so are the call arguments, but query and key may differ in size.

    Returns:
        (batch, query_time, d_v), and with `return_attention_scores` the weights (batch, query_time, key_time).

    Raises:
        ValueError: ranks that differ or are below 3, or a dropout outside [0, 1).

    >>> import numpy as np
    >>> query, memory = np.ones((2, 3, 4), "float32"), np.ones((2, 5, 6), "float32")
    >>> output, weights = BahdanauAttention(8)(query, memory, return_attention_scores=True)
    >>> print(output.shape, weights.shape)
    (2, 3, 6) (2, 3, 5)
    """

    def __init__(self, units: int, dropout: float = 0.0, seed: int | None = None, **kwargs: Any) -> None:
        if isinstance(units, bool) or not isinstance(units, (int, np.integer)) or units <= 0:
            raise ValueError(
                f"BahdanauAttention: units is {units!r}; expected a positive integer. Pass the size of the hidden layer."
            )
        super().__init__(dropout, seed, **kwargs)
        self.units = int(units)

    def build(self, query_shape: tuple, value_shape: tuple, key_shape: tuple | None = None) -> None:
        super().build(query_shape, value_shape, key_shape)
        size = (key_shape or value_shape)[-1]
        self.query_kernel = self.add_weight(shape=(query_shape[-1], self.units), name="query_kernel")
        self.key_kernel = self.add_weight(shape=(size, self.units), name="key_kernel")
        self.bias = self.add_weight(shape=(self.units,), initializer="zeros", name="bias")
        self.scale = self.add_weight(shape=(self.units,), initializer="glorot_uniform", name="scale")

    def attend(self, query: Tensor, value: Tensor, key: Tensor, masks: Masks, dropout: float, scores: bool) -> tuple:
        mask = masks.whole(ops.shape(query)[-2], ops.shape(key)[-2])
        dtype = query.dtype
        query = ops.matmul(query, ops.cast(self.query_kernel, dtype)) + ops.cast(self.bias, dtype)
        key = ops.matmul(key, ops.cast(self.key_kernel, dtype))
        return additive_attention(query, key, value, ops.cast(self.scale, dtype), mask, dropout, self.seed_generator)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


def masks_from(query_mask: Any, key_masks: list, pairs: Any, causal: bool, window: int | None = None) -> Masks:
    """All masks of a call, as booleans."""
    query_mask, pairs, *keys = (None if m is None else ops.cast(m, "bool") for m in (query_mask, pairs, *key_masks))
    keys = [mask for mask in keys if mask is not None]
    key = keys[0] if len(keys) == 1 else ops.logical_and(*keys) if keys else None
    return Masks(query_mask, key, pairs, bool(causal), window)
