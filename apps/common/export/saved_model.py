"""SavedModels that TF Serving loads as they are: versioned, whole or not at all, measured, warmed up."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import absl.logging
import keras
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from data_pipelines import remote
from data_pipelines.files import locked, replacing, write_whole
from data_pipelines.sources import DataError
from layers import portable

Signatures = dict[str, tuple[Callable[..., Any], list[tf.TensorSpec]]]

MODELS_CONFIG = "models.config"
BATCHING_FILE = "batching_parameters.txt"  # beside `models.config`
MODEL_BATCHING_FILE = "batching_params.pbtxt"  # in a version; the name is TensorFlow Serving's
BATCHING = """\
# TensorFlow Serving's BatchingParameters. Each export whose inputs all have a row for each text or picture gets a copy.
max_execution_batch_size { value: 32 }  # rows that the graph runs at once: the most rows a second of those measured
max_batch_size { value: 1024 }  # rows of a request; more are refused
enable_large_batch_splitting { value: true }  # a request of more than 32 rows is run in parts
batch_timeout_micros { value: 1000 }  # how long a row waits for others: a sixteenth of the time of a translation
max_enqueued_batches { value: 64 }  # then requests are refused
"""

LEFT_OVER_SECONDS = 24 * 3600  # what an export that was killed left behind is removed after a day


class Version:
    """`folder` is where an export is being written; after `new_version` ends, `<root>/<number>`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __str__(self) -> str:
        return remote.shown(self.folder) if self.folder.exists() else "none: measured only (--no-export)"


@contextlib.contextmanager
def new_version(root: str | Path, publish: bool = True) -> Iterator[Version]:
    """Write an export into `version.folder`; it becomes `root/<number>/` when the block ends well, and vanishes when it doesn't.

    Two exports at once get two numbers. The model is added to `models.config` beside `root`, which `tensorflow_model_server
    --model_config_file` reads; other entries are kept. `batching_parameters.txt` is written beside it, once; an export that a
    server may batch gets a copy.

    Args:
        root: `saved_models/<application>`, or a URL: written to its mirror, then pushed.
        publish: False: it vanishes when the block ends well, too.
    """
    root = remote.mirror(root)
    root.mkdir(parents=True, exist_ok=True)
    for path in root.glob(".writing-*"):
        with contextlib.suppress(OSError):  # another export removes it, too
            if time.time() - path.stat().st_mtime > LEFT_OVER_SECONDS:
                shutil.rmtree(path)
    print("exporting, and measuring what was exported", flush=True)
    version = Version(Path(tempfile.mkdtemp(prefix=".writing-", dir=root)))
    try:
        yield version
        if not publish:
            shutil.rmtree(version.folder)
            with contextlib.suppress(OSError):  # others are in it
                root.rmdir()
            return
        version.folder.chmod(0o755)
        url = remote.url_of(root)
        if url and remote.url_of(root.parent):
            remote.fetch(remote.above(url), root.parent, [MODELS_CONFIG, BATCHING_FILE])
        _add_to_models_config(root)
        _copy_batching_parameters(version.folder, root)
        version.folder = _publish(version.folder, root)
    except BaseException:
        shutil.rmtree(version.folder, ignore_errors=True)
        raise
    remote.publish(version.folder)
    remote.push(root.parent, names=[MODELS_CONFIG, BATCHING_FILE])


def _publish(folder: Path, root: Path) -> Path:
    url = remote.url_of(root)
    there = remote.versions(url)[:1] if url else []
    while True:
        number = 1 + max([*there, *(int(p.name) for p in root.iterdir() if p.name.isdecimal())], default=0)
        try:
            os.rename(folder, root / str(number))  # fails if another export took the number
            return root / str(number)
        except OSError:
            if not (root / str(number)).exists():
                raise


def _add_to_models_config(root: Path) -> None:
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    path = root.parent / MODELS_CONFIG
    name = root.resolve().name
    config = model_server_config_pb2.ModelServerConfig()
    with locked(root.parent):
        if path.exists():
            try:
                text_format.Parse(path.read_text(), config)
            except text_format.ParseError as error:
                print(f"{path}: kept unchanged, as it can't be parsed ({error}). Add the model {name!r} by hand.")
                return
        if any(model.name == name for model in config.model_config_list.config):
            return
        config.model_config_list.config.add(name=name, base_path=f"/models/{name}", model_platform="tensorflow")
        with replacing(path) as temporary:
            temporary.write_text(text_format.MessageToString(config))
            temporary.chmod(0o644)


def _copy_batching_parameters(folder: Path, root: Path) -> None:
    path = root.parent / BATCHING_FILE
    with locked(root.parent):
        if not path.exists():
            with replacing(path) as temporary:
                temporary.write_text(BATCHING)
                temporary.chmod(0o644)
    if (folder / MODEL_BATCHING_FILE).exists():
        write_whole(folder / MODEL_BATCHING_FILE, path.read_bytes())


def write_saved_model(
    folder: Path,
    resources: list[tf.Module],
    signatures: Signatures,
    warm_up: Mapping[str, Any],
    files: Mapping[str, str | bytes],
) -> None:
    """Write a SavedModel.

    Args:
        folder: of a `Version`.
        resources: modules with tables and tokenizers, saved with the variables. (The model itself is not among them: Keras would
            write its weights twice.)
        signatures: name -> (function of named tensors, their specs). `serving_default` must be among them.
        warm_up: inputs of one request for `serving_default`, run by TF Serving when it loads the model.
        files: name -> content, written into the same folder.

    Raises:
        DataError: the graph needs a GPU, or XLA.
    """
    archive = keras.export.ExportArchive()
    for resource in resources:
        archive.track(resource)
    with portable():
        for name, (function, specs) in signatures.items():
            archive.add_endpoint(name, function, input_signature=specs)
        archive.write_out(str(folder), verbose=False)
    _check_portable(folder)
    _write_warm_up(folder / "assets.extra", warm_up)
    if all(spec.shape.rank for _, specs in signatures.values() for spec in specs):  # a server can't join scalars into a batch
        write_whole(folder / MODEL_BATCHING_FILE, BATCHING)
    for name, content in files.items():
        write_whole(folder / name, content)


def _check_portable(folder: Path) -> None:
    saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    graphs = [meta_graph.graph_def for meta_graph in saved.meta_graphs]
    functions = [function for graph in graphs for function in graph.library.function]
    nodes = [node for part in graphs for node in part.node] + [node for function in functions for node in function.node_def]
    found = {node.op for node in nodes if "Cudnn" in node.op}
    found |= {name for part in (*nodes, *functions) for name in ["_XlaMustCompile"] if name in part.attr and part.attr[name].b}
    if found:
        raise DataError(
            f"{folder}: the graph has {', '.join(sorted(found))}; expected what needs no GPU and no XLA. A tf.function "
            "that was traced before the export keeps its graph: make it anew for the export, or the layer with use_cudnn=False."
        )


def _write_warm_up(folder: Path, inputs: Mapping[str, Any]) -> None:
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    folder.mkdir()
    request = predict_pb2.PredictRequest()
    request.model_spec.signature_name = "serving_default"
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
    with tf.io.TFRecordWriter(str(folder / "tf_serving_warmup_requests")) as writer:
        writer.write(log.SerializeToString())


def vocabulary_files(run: Path, *names: str) -> dict[str, bytes]:
    """What the vocabularies of a run saved, for `files` of `write_saved_model`."""
    return {path.name: path.read_bytes() for name in names or ("vocabulary",) for path in sorted(run.glob(f"{name}.*"))}


def run_warm_up(folder: Path, served: Any) -> list[dict[str, tf.Tensor]]:
    """The outputs of the warm-up requests of an export."""
    from tensorflow_serving.apis import prediction_log_pb2

    results = []
    for record in tf.data.TFRecordDataset(str(folder / "assets.extra" / "tf_serving_warmup_requests")):
        request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
        results.append(served.signatures[request.model_spec.signature_name](**inputs))
    return results


def newest_version(root: str | Path) -> Path | None:
    """The folder of the newest version of a model, fetched if `root` is a URL, or None if it has none."""
    if remote.is_remote(root):
        urls = (f"{str(root).rstrip('/')}/{number}" for number in remote.versions(str(root)))
        url = next((url for url in urls if remote.exists(f"{url}/saved_model.pb")), None)
        return Path(remote.local(url)) if url else None
    versions = [p for p in Path(root).glob("*") if p.name.isdecimal() and (p / "saved_model.pb").is_file()]
    return max(versions, key=lambda p: int(p.name), default=None)


def find_version(path: str | Path) -> Path:
    """The folder of a SavedModel; `path` is it, or the folder above it for the newest version. A URL is fetched.

    Raises:
        DataError: there is no SavedModel.
    """
    if remote.is_remote(path):
        whole = remote.exists(f"{str(path).rstrip('/')}/saved_model.pb")
        version = Path(remote.local(str(path))) if whole else newest_version(path)
    else:
        version = Path(path) if (Path(path) / "saved_model.pb").is_file() else newest_version(path)
    if version is None:
        raise DataError(f"{path}: no SavedModel there. Train one, or pass saved_models/<application>/<version>.")
    return version


def application_of(path: str | Path) -> str:
    """The application that an export is of, from its card.

    Raises:
        DataError: there is no export, or it has no card.
    """
    card = find_version(path) / "model_card.md"
    if not card.is_file():
        raise DataError(f"{card}: is missing; it says what the export is of. Export the run again.")
    name = card.read_text().partition("\n")[0].removeprefix("# ").strip()
    return "music_generation" if name == "piano_rolls" else name


def load_export(path: str | Path, application: str | None = None) -> Any:
    """A SavedModel; `path` is as in `find_version`.

    Raises:
        DataError: there is no SavedModel, or its card names another application.
    """
    version = find_version(path)
    if application and (version / "model_card.md").exists():
        of = application_of(version)
        if of != application and (of, application) != ("music_generation", "piano_rolls"):
            raise DataError(f"{path}: an export of {of}, not of {application}. Use apps.{of}, or pass another export.")
    _load_text_ops()
    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)  # it warns that the export has no gradients
    try:
        return tf.saved_model.load(str(version))
    finally:
        absl.logging.set_verbosity(verbosity)


def _load_text_ops() -> None:
    """Register TensorFlow Text's ops, which exports with subwords need."""
    import tensorflow_text  # noqa: F401
