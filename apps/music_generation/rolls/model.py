"""A model of piano rolls, frame by frame, and in a frame key by key."""

from typing import Any

import keras
from keras import ops

from apps.common.stateful_stack import StatefulStack

Tensor = Any


@keras.saving.register_keras_serializable(package="unfold")
class RollModel(StatefulStack):
    """Piano rolls: `{"frames": the frame before each (batch, steps, keys), "targets": the frames, "is_continuation"}`
    -> logits of the keys of each frame.

    With `frame="independent"` the keys of a frame depend on the past only: `p(x_k) = sigmoid(b_k + V_k h)`. With `"nade"` also
    on the lower keys of the frame (RNN-NADE, Boulanger-Lewandowski et al. 2012, https://arxiv.org/abs/1206.6392):

        a_k = c + C h + sum_{j<k} x_j W_j
        p(x_k | x_<k, past) = sigmoid(b_k + B_k h + V_k sigmoid(a_k))

    Both give the exact likelihood of a frame, the product over its keys.

    Args:
        keys: of a frame.
        frame: `nade` or `independent`.
        hidden: size of a_k.
        settings: those of the stack.
    """

    def __init__(self, keys: int = 88, frame: str = "nade", hidden: int = 128, **settings: Any) -> None:
        super().__init__(**settings)
        self.settings |= {"keys": keys, "frame": frame, "hidden": hidden}
        self.bias = keras.layers.Dense(keys, dtype="float32", bias_initializer=keras.initializers.Constant(-3.0), name="bias")
        self.condition = keras.layers.Dense(hidden, dtype="float32", name="condition") if frame == "nade" else None

    def build(self, shapes: Any = None) -> None:
        keys, hidden = self.settings["keys"], self.settings["hidden"]
        self.build_stack(keys)
        for layer in (self.bias, self.condition):
            if layer is not None and not layer.built:
                layer.build((None, None, self.settings["units"]))
        if self.condition is not None:
            self.below = self.add_weight(shape=(keys, hidden), initializer="glorot_uniform", name="below")  # W
            self.above = self.add_weight(shape=(keys, hidden), initializer="glorot_uniform", name="above")  # V

    def call(self, inputs: dict[str, Tensor], training: bool = False) -> Tensor:
        h = self.unfold(ops.cast(inputs["frames"], self.compute_dtype), inputs.get("is_continuation"), training)
        return self.key_logits(h, inputs["targets"])

    def key_logits(self, h: Tensor, targets: Tensor) -> Tensor:
        """States (…, units) and the frames that follow them (…, keys) -> logits of their keys."""
        logits = self.bias(h)
        if self.condition is None:
            return logits
        x = ops.cast(targets, "float32")[..., None, :]  # (…, 1, keys)
        lower = ops.tril(ops.ones((self.settings["keys"],) * 2), -1)
        a = self.condition(h)[..., None, :] + ops.matmul(x * lower, self.below)  # (…, keys, hidden)
        return logits + ops.sum(ops.sigmoid(a) * self.above, axis=-1)

    def decode_step(self, frame: Tensor, states: Any) -> tuple[tuple[Tensor, Tensor | None], Any]:
        """The frame before (batch, keys) -> what the next one depends on, for `key_logits`, and the states."""
        h, states = self.step(ops.cast(frame, self.compute_dtype), states)
        return (self.bias(h), None if self.condition is None else self.condition(h)), states
