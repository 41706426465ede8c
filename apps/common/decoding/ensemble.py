"""Several decoders as one: at each step the mean of their distributions over the next token.

    p(y_t | y_1 … y_{t-1}, x) = 1/M sum_m p_m(y_t | y_1 … y_{t-1}, x)

the uniform mixture (Lakshminarayanan et al. 2017, https://arxiv.org/abs/1612.01474, section 2.4), as in fairseq (Ott et al. 2019,
https://aclanthology.org/N19-4009). The mean is of probabilities, not of their logarithms: it is a distribution as it is, its
cross-entropy is never above the mean of the models' (Jensen), and a token that one model holds for impossible can still win. The
mean of logarithms, a product of experts, gives each model a veto, and sums to less than one.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from apps.common.decoding.attention_decoder import Memory

Tensor = Any


class Memories(NamedTuple):
    """What each decoder attends to, and the mask of the positions (batch, positions), which they share."""

    each: tuple[Memory, ...]
    mask: Tensor | None


class Ensemble(keras.Model):
    """Decoders behind the interface of one: `prepare_decoder`, `step`, `attention_weights`, `has_attention`, and the call.

    All have the same vocabulary and attend to the same positions; cells, sizes and layers may differ. The attention is the mean
    of theirs; where one has none, there is none. Inputs are one for all, or a tuple of one for each.
    """

    def __init__(self, models: Sequence[keras.Model], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.models = list(models)
        self.has_attention = all(model.has_attention for model in models)

    def prepare_decoder(self, inputs: Tensor) -> tuple[Any, list[Tensor]]:
        """What the decoders attend to, and their initial states."""
        each = inputs if isinstance(inputs, tuple) else [inputs] * len(self.models)
        memories, states = zip(*(model.prepare_decoder(x) for model, x in zip(self.models, each, strict=True)))
        return Memories(memories, memories[0].mask), list(states)

    def step(self, tokens: Tensor, state: list[Tensor], memory: Any) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """One step of `apps.common.decoding.search`: tokens (batch, beam) -> logits, states, attention."""
        steps = [model.step(tokens, s, m) for model, s, m in zip(self.models, state, memory.each, strict=True)]
        logits, states, weights = zip(*steps)
        return logits_of_mean(logits), list(states), _mean(weights) if self.has_attention else None

    def attention_weights(self, tokens: Tensor, memory: Any, state: list[Tensor]) -> Tensor | None:
        """The attention (batch, time, positions) of decoder inputs (batch, time)."""
        if not self.has_attention:
            return None
        each = zip(self.models, memory.each, state, strict=True)
        return _mean([model.attention_weights(tokens, m, s) for model, m, s in each])

    def call(self, inputs: Any) -> Tensor:
        """The inputs of a decoder in training -> logits of the mean of the distributions."""
        return logits_of_mean([model(inputs) for model in self.models])


def logits_of_mean(logits: Sequence[Tensor]) -> Tensor:
    """Logits whose softmax is the mean of the softmaxes, l_1 + log mean_m (p_m / p_1); of equal ones, they are the first
    to the last bit.

    >>> import numpy as np
    >>> both = logits_of_mean([np.log([0.9, 0.1]).astype("float32"), np.log([0.3, 0.7]).astype("float32")])
    >>> [round(float(p), 4) for p in ops.softmax(both)]
    [0.6, 0.4]
    """
    each = ops.stack([ops.cast(x, "float32") for x in logits])
    ratio = ops.log_softmax(each, axis=-1)
    ratio = ratio - ratio[:1]
    largest = ops.max(ratio, axis=0)  # at least 0, that of the first
    return each[0] + (largest + ops.log(ops.mean(ops.exp(ratio - largest), axis=0)))


def _mean(weights):
    return ops.mean(ops.stack([ops.cast(x, "float32") for x in weights]), axis=0)
