"""The network of a model in other formats, of its own size."""

import numpy as np
import pytest
import tensorflow as tf

from apps.common.export.converters import _differences, write_network
from apps.translation.export import network
from apps.translation.model import Translator
from data_pipelines.sources import DataError


@pytest.mark.parametrize("format", ["litert", "onnx"])
def test_a_network_of_8_bits_is_smaller_and_still_the_model(format, tmp_path, monkeypatch):
    model = Translator(100, 100, embedding_size=64, units=64, cell="ssru")
    model({"source": tf.ones((1, 2), tf.int32), "target": tf.ones((1, 2), tf.int32)})
    differences = [write_network(model, network(model), tmp_path / str(int8), format, int8) for int8 in (False, True)]
    assert differences[0] < 1e-5 and 1e-4 < differences[1] < 0.1
    assert (tmp_path / "True").stat().st_size < 0.7 * (tmp_path / "False").stat().st_size
    monkeypatch.setattr("apps.common.export.converters.INT8_TOLERANCE", 1e-6)
    with pytest.raises(DataError, match=r"differ by .* from the model's; expected at most .*. Leave out --int8."):
        write_network(model, network(model), tmp_path / "again", format, int8=True)
    assert {path.name for path in tmp_path.iterdir()} == {"False", "True"}


def test_each_output_is_compared_once_and_nan_is_no_equality():
    one, nine = np.ones(2), np.full(2, 9.0)
    assert _differences([nine, one], [one, one]) == [0.0, 8.0]
    assert _differences([np.zeros(1), np.full((1, 1), np.nan)], [np.zeros(1), np.ones((1, 1))]) == [0.0, np.inf]
    assert _differences([one], [one, one]) == [np.inf, np.inf] and _differences([np.ones(3)], [one]) == [np.inf]
