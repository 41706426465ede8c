"""Scaled dot-product attention without the matrix of all weights: memory is linear in time.

The queries are taken in blocks; of each only the output is kept, and the gradient computes the weights again (Rabe and Staats
2021, https://arxiv.org/abs/2112.05682; Dao et al. 2022, https://arxiv.org/abs/2205.14135, here without blocks of keys).

    P  = softmax(Q K^T / sqrt(d))               O  = P V
    dS = P * (dO V^T - rowsum(dO * O))          dQ = dS K / sqrt(d)     dK = dS^T Q / sqrt(d)     dV = P^T dO
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops

from layers.gradients import with_gradient
from layers.loops import for_loop

Tensor = Any

LARGEST = 2**20  # scores of a head that are computed at once
BLOCK = 2**21  # scores of a block: 8 MB of float32, measured; smaller ones cost more in their loop than they save in caches


class Masks(NamedTuple):
    """What is attended to, True = attend: queries (rows, query_time), keys (rows, key_time), pairs ((rows, (heads,))
    query_time, key_time), only what is not later than the query, and only what is less than `window` steps away. A part is
    None where it masks nothing."""

    query: Tensor | None = None
    key: Tensor | None = None
    pairs: Tensor | None = None
    causal: bool = False
    window: int | None = None

    def whole(self, query_time: Any, key_time: Any) -> Tensor | None:
        """All in one, (rows, query_time, key_time) or a shape that broadcasts to it; with heads where the pairs have them."""
        parts = [None if self.query is None else self.query[..., None], None if self.key is None else self.key[..., None, :]]
        rank = 0 if self.pairs is None else len(self.pairs.shape)
        parts = [ops.expand_dims(x, 1) if x is not None and len(x.shape) < rank else x for x in parts]
        return _all([*parts, self.pairs, self._by_time(ops.arange(query_time), key_time)])

    def block(self, row: Tensor, times: Tensor, key_time: Any) -> Tensor | None:
        """For some queries of a row, (queries, key_time) or a shape that broadcasts to it."""

        def of_row(mask):  # one row may stand for all
            return mask[ops.minimum(row, ops.shape(mask)[0] - 1)]

        parts = [None if self.query is None else ops.take(of_row(self.query), times)[:, None]]
        parts += [None if self.key is None else of_row(self.key)[None]]
        if self.pairs is not None:
            pairs = self.pairs if len(self.pairs.shape) == 2 else of_row(self.pairs)
            parts.append(ops.take(pairs, ops.minimum(times, ops.shape(pairs)[0] - 1), axis=0))
        return _all([*parts, self._by_time(times, key_time)])

    def _by_time(self, times: Tensor, key_time: Any) -> Tensor | None:
        ahead = ops.arange(key_time) - times[:, None]
        near = None if self.window is None else ops.abs(ahead) < self.window
        return _all([ahead <= 0 if self.causal else None, near])


def _all(parts: list[Tensor | None]) -> Tensor | None:
    mask = None
    for part in parts:
        if part is not None:
            mask = part if mask is None else ops.logical_and(mask, part)
    return mask


def masked_softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """The softmax along the last axis, in float32 at least; zeros where the mask is False."""
    dtype = keras.backend.standardize_dtype(scores.dtype)
    if mask is not None:
        scores = ops.where(mask, scores, ops.cast(-6e4 if dtype == "float16" else -1e9, dtype))
    precise = _at_least_float32(scores)
    alone = precise.shape[-1] == 1  # a memory of one step is legitimate, but Keras' softmax warns of it
    weights = ops.cast(0.0 * precise + 1.0 if alone else ops.softmax(precise, axis=-1), dtype)
    return weights if mask is None else ops.where(mask, weights, ops.zeros_like(weights))


def _at_least_float32(x: Tensor) -> Tensor:
    return ops.cast(x, "float32") if keras.backend.standardize_dtype(x.dtype) in ("float16", "bfloat16") else x


def attend(query: Tensor, key: Tensor, value: Tensor, masks: Masks) -> Tensor:
    """The output of scaled dot-product attention, in blocks where times are long; the gradient computes the weights again.

    Args:
        query, key, value: (rows, heads, time, size). A batch of one row broadcasts to any other.
        masks: of the rows; pairs without heads.

    Returns:
        (rows, heads, query_time, d_v); zeros where all keys of a query are masked out.
    """
    query, key, value = _same_rows([query, key, value])
    scores = ops.shape(query)[2] * ops.shape(key)[2]
    is_known = isinstance(scores, int) or keras.backend.backend() == "jax"  # on JAX sizes are unknown in shape inference only

    def choose(in_blocks: Callable, at_once: Callable, *tensors: Tensor) -> Any:
        if is_known:
            return (in_blocks if isinstance(scores, int) and scores > LARGEST else at_once)(*tensors, masks)
        return ops.cond(scores > LARGEST, lambda: in_blocks(*tensors, masks), lambda: at_once(*tensors, masks))

    (output,) = with_gradient(
        lambda query, key, value: [_forward_at_once(query, key, value, masks)],
        lambda *tensors: ([choose(_forward_in_blocks, _forward_at_once, *tensors)], None),
        lambda tensors, outputs, _, upstream: choose(_backward_in_blocks, _backward_at_once, *tensors, *outputs, *upstream),
        [query, key, value],
    )
    return output


def _same_rows(tensors: list[Tensor]) -> list[Tensor]:
    """Repeat a batch of one row as often as the others have rows: the gradients by hand are those of all rows."""
    many = next((x for x in tensors if x.shape[0] != 1), tensors[0])
    rows = ops.shape(many)[0]
    return [ops.repeat(x, rows, axis=0) if x.shape[0] == 1 and many.shape[0] != 1 else x for x in tensors]


def _weights_at_once(query: Tensor, key: Tensor, masks: Masks) -> Tensor:
    mask = masks.whole(ops.shape(query)[2], ops.shape(key)[2])
    scores = ops.matmul(query * query.shape[-1] ** -0.5, ops.swapaxes(key, -1, -2))
    return masked_softmax(scores, None if mask is None else ops.expand_dims(mask, -3))


def _row_sums(d: Tensor, output: Tensor) -> Tensor:
    """rowsum(dO * O)."""
    return ops.cast(ops.sum(_at_least_float32(d) * _at_least_float32(output), axis=-1, keepdims=True), d.dtype)


def _forward_at_once(query: Tensor, key: Tensor, value: Tensor, masks: Masks) -> Tensor:
    return ops.matmul(_weights_at_once(query, key, masks), value)


def _backward_at_once(query: Tensor, key: Tensor, value: Tensor, output: Tensor, d: Tensor, masks: Masks) -> tuple:
    p = _weights_at_once(query, key, masks)
    d_s = p * (ops.matmul(d, ops.swapaxes(value, -1, -2)) - _row_sums(d, output))
    d_s = d_s * query.shape[-1] ** -0.5
    d_key, d_value = (ops.matmul(ops.swapaxes(x, -1, -2), y) for x, y in ((d_s, query), (p, d)))
    return ops.matmul(d_s, key), d_key, d_value


class _Blocks:
    """How queries are cut into blocks; block i holds queries of head `i // count`."""

    def __init__(self, query: Tensor, key: Tensor, masks: Masks) -> None:
        self.rows, self.heads, self.time = ops.shape(query)[:3]
        self.key_time, self.masks = ops.shape(key)[2], masks
        self.count = -(-(self.time * self.key_time) // BLOCK)
        self.size = -(-self.time // self.count)
        self.static_size = self.size if isinstance(self.size, int) else None

    def cut(self, x: Tensor) -> Tensor:
        """(rows, heads, query_time, size) -> (blocks, queries, size)."""
        x = ops.pad(x, [[0, 0], [0, 0], [0, self.count * self.size - self.time], [0, 0]])
        return ops.reshape(x, (self.rows * self.heads * self.count, self.size, x.shape[-1]))

    def join(self, x: Tensor) -> Tensor:
        return ops.reshape(x, (self.rows, self.heads, self.count * self.size, x.shape[-1]))[:, :, : self.time]

    def flat(self, x: Tensor) -> Tensor:
        return ops.reshape(x, (self.rows * self.heads, self.key_time, x.shape[-1]))

    def weights(self, q: Tensor, k: Tensor, i: Tensor) -> Tensor:
        times = ops.minimum(i % self.count * self.size + ops.arange(self.size), self.time - 1)
        mask = self.masks.block(i // (self.count * self.heads), times, self.key_time)
        return masked_softmax(ops.matmul(q, ops.transpose(k)), mask)


def _forward_in_blocks(query: Tensor, key: Tensor, value: Tensor, masks: Masks) -> Tensor:
    blocks = _Blocks(query, key, masks)
    q, k, v = blocks.cut(query * query.shape[-1] ** -0.5), blocks.flat(key), blocks.flat(value)

    def forward(i: Tensor, carry: list) -> tuple[list, list]:
        head = i // blocks.count
        return carry, [ops.matmul(blocks.weights(q[i], k[head], i), v[head])]

    shape = (blocks.static_size, value.shape[-1])
    return blocks.join(for_loop(blocks.rows * blocks.heads * blocks.count, forward, [], [shape], query.dtype)[1][0])


def _backward_in_blocks(query: Tensor, key: Tensor, value: Tensor, output: Tensor, d_output: Tensor, masks: Masks) -> tuple:
    blocks = _Blocks(query, key, masks)
    size, width, dtype = query.shape[-1], value.shape[-1], query.dtype
    scale = size**-0.5
    q, k, v = blocks.cut(query * scale), blocks.flat(key), blocks.flat(value)
    d, inner = blocks.cut(d_output), blocks.cut(_row_sums(d_output, output))

    def backward(head: Tensor, carry: list) -> tuple[list, list]:
        def step(b: Tensor, sums: list) -> tuple[list, list]:
            i = head * blocks.count + b
            p = blocks.weights(q[i], k[head], i)
            d_s = p * (ops.matmul(d[i], ops.transpose(v[head])) - inner[i])
            d_k, d_v = ops.matmul(ops.transpose(d_s), q[i]), ops.matmul(ops.transpose(p), d[i])
            return [sums[0] + d_k, sums[1] + d_v], [ops.matmul(d_s, k[head]) * scale]

        start = [ops.zeros_like(k[head]), ops.zeros_like(v[head])]
        sums, (d_q,) = for_loop(blocks.count, step, start, [(blocks.static_size, size)], dtype)
        return carry, [ops.reshape(d_q, (blocks.count * blocks.size, size)), *sums]

    shapes = [(None, size), (None, size), (None, width)]
    _, (d_query, d_key, d_value) = for_loop(blocks.rows * blocks.heads, backward, [], shapes, dtype)
    return blocks.join(d_query), ops.reshape(d_key, ops.shape(key)), ops.reshape(d_value, ops.shape(value))
