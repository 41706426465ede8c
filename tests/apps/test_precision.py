"""In mixed precision every application takes a training step like that in float32, and keeps its weights in float32."""

import keras
import numpy as np
import pytest

from apps.common.training.averages import moving_average
from tests.apps.ten_steps import APPLICATIONS


@pytest.mark.parametrize("application", APPLICATIONS, ids=lambda application: application.__name__)
def test_a_step_in_bfloat16_is_nearly_that_in_float32(application):
    losses, moves = [], []
    for policy in ("float32", "mixed_bfloat16"):
        keras.utils.set_random_seed(0)
        keras.mixed_precision.set_dtype_policy(policy)
        try:
            model, loss, batches, _ = application(np.random.default_rng(1))
        finally:
            keras.mixed_precision.set_dtype_policy("float32")
        optimizer = moving_average(keras.optimizers.SGD)(0.1, use_ema=True, ema_momentum=0.9)
        model.compile(optimizer, loss, run_eagerly=True)
        assert model(batches[0][0]).dtype == "float32"
        before = [np.array(variable) for variable in model.trainable_variables]
        losses.append(model.train_on_batch(*batches[0]))
        assert all(variable.dtype == "float32" for variable in model.trainable_variables)
        moves.append(np.concatenate([np.ravel(v - b) for v, b in zip(model.trainable_variables, before)]))
    assert losses[0] != losses[1]  # else nothing was computed in bfloat16
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.02)
    difference = np.linalg.norm(moves[1] - moves[0]) / np.linalg.norm(moves[0])
    assert difference < 0.1
