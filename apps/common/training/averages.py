"""The moving average of a model's weights."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
import numpy as np


def moving_average(kind: type[keras.Optimizer]) -> type[keras.Optimizer]:
    """The optimizer class with a moving average (`use_ema`) whose momentum rises to `ema_momentum`.

    After t steps it is min(ema_momentum, t / (9 + t)). With the full momentum from the start, the average of a short run
    would be little but its initial weights.
    """

    class MovingAverage(kind):  # type: ignore[misc,valid-type]
        def _update_model_variables_moving_average(self, trainable_variables: Any) -> None:
            if not self.use_ema:
                return
            step = keras.ops.cast(self.iterations, "float32")
            momentum = keras.ops.minimum(self.ema_momentum, step / (9.0 + step))
            for variable, average in zip(trainable_variables, self._model_variables_moving_average):
                if average is not None:
                    average.assign(variable + keras.ops.cast(momentum, variable.dtype) * (average - variable))

    return named_as(MovingAverage, kind)


def named_as(derived: type, kind: type) -> type:
    """The derived class under the name of its parent, as which a `.keras` file shall know it."""
    for name in ("__name__", "__qualname__", "__module__"):
        setattr(derived, name, getattr(kind, name))
    return derived


@contextmanager
def averaged_weights(model: keras.Model) -> Iterator[None]:
    """In this block the model has the moving averages of its weights, if its optimizer keeps them (`use_ema`)."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)  # mixed_float16 wraps it in one that scales the loss
    if not optimizer.use_ema:
        yield
        return
    kept = [np.array(v) for v in model.trainable_variables]
    optimizer.finalize_variable_values(model.trainable_variables)
    try:
        yield
    finally:
        for variable, value in zip(model.trainable_variables, kept):
            variable.assign(value)


class AveragedValidation(keras.callbacks.Callback):
    """Let `fit` validate the averaged weights, which are those that are kept."""

    def __init__(self) -> None:
        super().__init__()
        self._block = ExitStack()

    def on_test_begin(self, logs: dict | None = None) -> None:
        self._block.enter_context(averaged_weights(self.model))

    def on_test_end(self, logs: dict | None = None) -> None:
        self._block.close()
