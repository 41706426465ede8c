"""What an earlier version wrote is read as it was meant."""

import tarfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from apps.common.export.saved_model import load_export
from apps.common.training.checkpoints import Checkpoint
from tests.golden.make import FOLDER, answer, batch, outputs, trainer
from tests.serving.small import WRITERS


@pytest.fixture(scope="module", params=WRITERS)
def golden(request, tmp_path_factory):
    """An application, the folder of what was written, and a comparison with what that gave."""
    folder = tmp_path_factory.mktemp("golden")
    with tarfile.open(FOLDER / f"{request.param}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    with np.load(folder / request.param / "expected.npz") as file:
        expected = {name: file[name] for name in file.files}

    def compare(what, found):
        assert {f"{what}/{name}" for name in found} == {name for name in expected if name.startswith(what + "/")}
        for name, value in found.items():
            wanted = expected[f"{what}/{name}"]
            if wanted.dtype.kind == "f":
                np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-5, err_msg=name)
            else:
                np.testing.assert_array_equal(value, wanted, err_msg=name)

    return request.param, folder / request.param, compare


def test_models_and_checkpoints_give_what_they_gave(golden):
    application, folder, compare = golden
    model = keras.saving.load_model(folder / "model.keras", compile=False)
    compare("model", outputs(application, model))
    checkpoint, compiled = Checkpoint(folder / "checkpoints"), trainer(application, model)
    assert checkpoint.restore(compiled, tf.data.Dataset.from_tensors(batch(application))) == 2
    compare("restored", outputs(application, model))
    assert int(compiled.optimizer.iterations) == 2 and len(checkpoint.selection.history) == 1
    assert [weight.shape for weight in checkpoint.best_weights] == [weight.shape for weight in compiled.weights]


def test_exports_answer_as_they_did(golden):
    application, folder, compare = golden
    compare("answer", answer(application, load_export(folder / "export")))
