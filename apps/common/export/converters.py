"""The network of a model as LiteRT or ONNX.

LiteRT and ONNX have no strings, tables or searches: they hold the network from ids to logits; the calling
program does the rest. The converted network is run once and compared with the model, as converters can be silently wrong.
"""

import logging
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from data_pipelines.sources import DataError
from layers import portable
from layers.loops import writes_in_order

ENDINGS = {"litert": ".tflite", "onnx": ".onnx"}
TOLERANCE = 1e-4
INT8_TOLERANCE = 0.1  # of the largest output


def write_network(model: keras.Model, inputs: Any, path: Path, format: str, int8: bool = False) -> float:
    """Write the network of a model; return by how much its outputs differ from the model's.

    ONNX has a dynamic batch size. LiteRT has batches of one: its built-in operations support no loop over a batch of unknown
    size, and the TensorFlow operations that would are missing from its runtimes.

    Args:
        model: Keras' model.
        inputs: what the model is called with: a named `TensorSpec`, or a dictionary of them; the batch comes first.
        path: of the file.
        format: `litert` or `onnx`.
        int8: the weights of products as integers of 8 bits (dynamic range quantization): a quarter of the bytes, other outputs.

    Raises:
        DataError: the converter isn't installed, can't do it, or did it wrong.
    """
    if format == "litert":
        inputs = keras.tree.map_structure(lambda s: tf.TensorSpec([1, *s.shape[1:]], s.dtype, s.name), inputs)
    example = keras.tree.map_structure(_example_input, inputs)
    expected = keras.tree.flatten(model(example, training=False))
    named = {spec.name: value for spec, value in zip(keras.tree.flatten(inputs), keras.tree.flatten(example))}
    partial = path.with_name(f".{path.name}{ENDINGS[format]}")
    try:
        outputs = _convert_and_run(model, inputs, named, partial, format, int8)
        differences = _differences(outputs, expected)
        for difference, value in zip(differences, expected, strict=True):
            limit = INT8_TOLERANCE * float(np.abs(value).max()) if int8 else TOLERANCE
            if not difference <= limit:
                remedy = "Leave out --int8." if int8 else "Take savedmodel."
                raise DataError(
                    f"--format {format}: the converted network's outputs differ by {difference:.1e} from the model's; expected "
                    f"at most {limit:.0e}. {remedy}"
                )
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return max(differences)


def _convert_and_run(
    model: keras.Model, inputs: Any, example: dict[str, np.ndarray], path: Path, format: str, int8: bool
) -> list[np.ndarray]:
    """Write the network; return its outputs for an example."""
    options = {"optimizations": [tf.lite.Optimize.DEFAULT]} if int8 and format == "litert" else {}
    try:
        with portable(), writes_in_order(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the converters' own
            model.export(str(path), format=format, verbose=False, input_signature=[inputs], **options)
            if int8 and format == "onnx":
                _quantize_onnx(path)
        return (_run_litert if format == "litert" else _run_onnx)(path, example)
    except ImportError as error:
        raise DataError(f"--format {format}: {error}. Install it by: pip install -e '.[formats]'") from None
    except Exception as error:  # converters raise many exception types
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"--format {format}: the converter can't write this network ({reason}). Take savedmodel.") from None


def _quantize_onnx(path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    logging.disable(logging.WARNING)  # what it can't infer the shape of stays as it is
    try:
        quantize_dynamic(path, path, extra_options={"EnableSubgraph": True})  # loops, too
    finally:
        logging.disable(logging.NOTSET)


def _example_input(spec: tf.TensorSpec) -> np.ndarray:
    """Ids that every vocabulary has, padded at the end; or numbers from 0 to 1."""
    random = np.random.default_rng(0)
    shape = [size or (3 if place == 0 else 7) for place, size in enumerate(spec.shape)]
    if not spec.dtype.is_integer:
        return random.random(shape).astype(spec.dtype.as_numpy_dtype)
    ids = random.integers(1, 4, shape).astype(spec.dtype.as_numpy_dtype)
    ids[0, 4:] = 0
    return ids


def _run_litert(path: Path, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it will move to a package of its own
        return list(tf.lite.Interpreter(str(path)).get_signature_runner()(**inputs).values())


def _run_onnx(path: Path, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path))
    return session.run(None, {place.name: inputs[place.name] for place in session.get_inputs()})


def _differences(outputs: list[np.ndarray], expected: list[Any]) -> list[float]:
    """Of each expected output the largest difference; outputs may come in another order, and each is taken once, by its shape."""
    if len(outputs) != len(expected):
        return [float("inf")] * len(expected)
    left, differences = list(outputs), []
    for value in expected:
        found = [_difference(output, np.asarray(value)) for output in left]
        best = int(np.argmin(found))
        differences.append(found[best])
        del left[best]
    return differences


def _difference(output: np.ndarray, expected: np.ndarray) -> float:
    """The largest; infinite where a shape is another or a number is NaN."""
    if output.shape != expected.shape:
        return float("inf")
    return float(np.nan_to_num(np.abs(output - expected), nan=np.inf).max(initial=0.0))
