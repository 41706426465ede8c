"""SavedModels that TF Serving loads as they are: versioned, whole or not at all, warmed up."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from data_pipelines.sources import DataError


def export_model(
    root: Path,
    model: keras.Model,
    resources: list[tf.Module],
    signatures: dict[str, tuple[Callable[..., Any], list[tf.TensorSpec]]],
    warm_up: dict[str, tf.Tensor],
    files: dict[str, str],
) -> Path:
    """Write `root/<version>/` with the next free version.

    Args:
        root: `saved_models/<application>`.
        model: its variables travel.
        resources: modules with tables and tokenizers; they travel too.
        signatures: name -> (function of named tensors, their specs). `serving_default` must be among them.
        warm_up: inputs of one request for `serving_default`, run by TF Serving when it loads the model.
        files: name -> text, written beside the graph.
    """
    root.mkdir(parents=True, exist_ok=True)
    temporary = root / f".writing-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    archive = keras.export.ExportArchive()
    archive.track(model)
    for resource in resources:
        archive.track(resource)
    for name, (function, specs) in signatures.items():
        archive.add_endpoint(name, function, input_signature=specs)
    archive.write_out(str(temporary), verbose=False)
    _write_warm_up(temporary / "assets.extra", warm_up)
    for name, text in files.items():
        (temporary / name).write_text(text)
    while True:
        version = 1 + max((int(p.name) for p in root.iterdir() if p.name.isdigit()), default=0)
        try:
            os.rename(temporary, root / str(version))  # fails if another export took the number
            return root / str(version)
        except OSError:
            if not (root / str(version)).exists():
                raise


def _write_warm_up(folder: Path, inputs: dict[str, tf.Tensor]) -> None:
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    folder.mkdir()
    request = predict_pb2.PredictRequest()
    request.model_spec.signature_name = "serving_default"
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
    with tf.io.TFRecordWriter(str(folder / "tf_serving_warmup_requests")) as writer:
        writer.write(log.SerializeToString())


def load_export(path: str) -> Any:
    """A SavedModel; `path` is a version folder, or the folder above it for the newest version.

    Raises:
        DataError: there is no SavedModel.
    """
    folder = Path(path)
    if not (folder / "saved_model.pb").is_file():
        versions = [p for p in folder.glob("*") if p.name.isdigit()]
        if not versions:
            raise DataError(f"{path}: no SavedModel there. Train one, or pass saved_models/<application>/<version>.")
        folder = max(versions, key=lambda p: int(p.name))
    _load_text_ops()
    return tf.saved_model.load(str(folder))


def _load_text_ops() -> None:
    """Register TensorFlow Text's ops, which exports with subwords need."""
    import tensorflow_text  # noqa: F401
