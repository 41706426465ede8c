"""In mixed precision every application takes a training step like that in float32, and keeps its weights in float32."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework.config import disable_op_determinism
from tensorflow.python.framework.kernels import get_registered_kernels_for_op

from apps.common.language_model import LanguageModel
from apps.common.training import losses
from apps.common.training.averages import moving_average
from apps.common.training.losses import TokenLoss
from apps.image_captioning.model import Captioner
from tests.apps.ten_steps import APPLICATIONS, ROWS, SMALL, ids, music_generation

POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")


@pytest.mark.parametrize("application", APPLICATIONS, ids=lambda application: application.__name__)
def test_a_step_in_half_precision_is_nearly_that_in_float32(application):
    found, moves = [], []
    for policy in POLICIES[: 3 if application is music_generation else 2]:  # the loss is scaled alike for all
        keras.utils.set_random_seed(0)
        keras.mixed_precision.set_dtype_policy(policy)
        try:
            model, loss, batches, _ = application(np.random.default_rng(1))
        finally:
            keras.mixed_precision.set_dtype_policy("float32")
        optimizer = moving_average(keras.optimizers.SGD)(0.1, use_ema=True, ema_momentum=0.9)
        model.compile(optimizer, loss, run_eagerly=True)
        assert (policy == "mixed_float16") == isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        assert model(batches[0][0]).dtype == "float32"
        before = [np.array(variable) for variable in model.trainable_variables]
        found.append(model.train_on_batch(*batches[0]))
        assert all(variable.dtype == "float32" for variable in model.trainable_variables)
        moves.append(np.concatenate([np.ravel(v - b) for v, b in zip(model.trainable_variables, before)]))
    for other in range(1, len(found)):
        assert found[0] != found[other]  # else nothing was computed in half precision
        np.testing.assert_allclose(found[other], found[0], rtol=0.02)
        assert np.linalg.norm(moves[other] - moves[0]) < 0.1 * np.linalg.norm(moves[0])


# -- on a GPU, without one

# TensorFlow 2.21 has no deterministic kernel of these for a GPU: what its library says under `enable_op_determinism`. The cross
# entropies are traced as others then.
NOT_DETERMINISTIC = set(
    "AdjustContrast AdjustContrastv2 ResizeNearestNeighborGrad SparseTensorDenseMatMul FusedBatchNormGradV3 Svd Bincount "
    "DenseBincount Dilation2DBackpropInput Dilation2DBackpropFilter MaxPoolGradWithArgmax CropAndResizeGradImage "
    "CropAndResizeGradBoxes SoftmaxCrossEntropyWithLogits SparseSoftmaxCrossEntropyWithLogits".split()
)


def fine_tuned_captioner(generator):
    """Its encoder is the last block of a MobileNet, whose batch normalisation is frozen."""
    base = keras.applications.MobileNet((32, 32, 3), alpha=0.25, include_top=False, weights=None)
    top = keras.Model(base.get_layer("conv_pw_12_relu").output, base.get_layer("conv_pw_13_relu").output)
    model = Captioner(20, top.input_shape[1:], top, freeze_batch_norm=True, memory_size=8, num_layers=1, **SMALL)
    model.build()
    features = generator.normal(size=(ROWS, *top.input_shape[1:])).astype("float16")
    return model, TokenLoss(0.1), [({"image": features, "caption": ids(generator)}, ids(generator))], None


def sampled_language_model(generator):
    options = {"units": 8, "num_layers": 1, "dropout": 0.1, "weight_dropout": 0.1, "embedding_dropout": 0.1}
    model = LanguageModel(20, 8, batch_size=ROWS, sampled_softmax=5, activity_penalty=1.0, **options)
    model.build()
    inputs = {"tokens": ids(generator), "is_continuation": np.ones(ROWS, np.float32)}
    return model, TokenLoss(), [(inputs, ids(generator))], None


ALL = [*APPLICATIONS, fine_tuned_captioner, sampled_language_model]


@pytest.mark.parametrize("application", ALL, ids=lambda application: application.__name__)
def test_a_step_that_xla_compiles_gives_the_same_loss(application):
    found = []
    for jit_compile in (False, True):
        keras.utils.set_random_seed(0)
        model, loss, batches, _ = application(np.random.default_rng(1))
        model.compile(
            moving_average(keras.optimizers.Adam)(0.01, use_ema=True, global_clipnorm=1.0), loss, jit_compile=jit_compile
        )
        found.append([float(np.ravel(model.train_on_batch(*batches[0]))[0]) for _ in range(2)])
    drawn = application is sampled_language_model  # XLA draws other random numbers
    np.testing.assert_allclose(found[1], found[0], rtol=0.5 if drawn else 1e-4)


@pytest.mark.parametrize("application", ALL, ids=lambda application: application.__name__)
def test_a_step_has_only_operations_that_a_gpu_has_and_repeats(application, monkeypatch):
    monkeypatch.setattr(losses, "has_gpu", lambda: True)
    tf.config.experimental.enable_op_determinism()
    try:
        model, loss, batches, _ = application(np.random.default_rng(1))
        model.compile(moving_average(keras.optimizers.Adam)(0.1, use_ema=True, global_clipnorm=1.0), loss)
        model.optimizer.build(model.trainable_variables)
        batch = keras.tree.map_structure(tf.constant, batches[0])
        graph = tf.function(model.train_step, autograph=False).get_concrete_function(batch).graph.as_graph_def()
    finally:
        disable_op_determinism()
    names = {
        node.op for part in (graph, *graph.library.function) for node in getattr(part, "node", getattr(part, "node_def", ()))
    }
    assert "MatMul" in names and not names & (NOT_DETERMINISTIC | {"TensorScatterSub", "PyFunc", "EagerPyFunc"})
    devices = {name: {kernel.device_type for kernel in get_registered_kernels_for_op(name).kernel} for name in names}
    assert not [name for name, kinds in devices.items() if kinds and not kinds & {"GPU", "DEFAULT"}]
