"""Exports are written whole or not at all, hold plain operations only, and say what they are."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from tensorflow.python.framework import kernels, op_def_registry
from tensorflow_serving.config import model_server_config_pb2

import layers
from apps.common.export.converters import write_network
from apps.common.export.saved_model import load_export, new_version, run_warm_up, write_saved_model
from apps.common.training.runs import load_model
from apps.image_captioning.serving import MOST_PICTURES
from data_pipelines.sources import DataError
from tests.apps import helpers
from tests.apps.helpers import ENVIRONMENT, ROOT
from tests.serving.operations import allowed, check_graph
from tests.serving.small import SENTENCES, WRITERS

KILLED = """
import sys, time
from pathlib import Path
from apps.common.export.saved_model import new_version
with new_version(Path(sys.argv[1])) as version:
    (version.folder / "saved_model.pb").write_text("half")
    print("writing", flush=True)
    time.sleep(100)
"""


def numbers(root):
    return sorted(path.name for path in root.iterdir() if path.name.isdigit())


def test_a_killed_export_leaves_no_version(tmp_path):
    for kill in (signal.SIGKILL, signal.SIGTERM):
        line = [sys.executable, "-c", KILLED, str(tmp_path)]
        process = subprocess.Popen(line, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert [process.stdout.readline() for _ in range(2)][1] == b"writing\n"
        process.send_signal(kill)
        process.wait()
        process.stdout.close()
        assert numbers(tmp_path) == []
    left = list(tmp_path.glob(".writing-*"))
    assert len(left) == 2  # they could not clean up
    with new_version(tmp_path):
        pass
    assert left[0].exists()  # it might still be written
    os.utime(left[0], (time.time() - 2 * 24 * 3600,) * 2)
    with new_version(tmp_path) as version:
        pass
    assert not left[0].exists() and left[1].exists() and version.folder == tmp_path / "2"


def test_an_export_that_fails_leaves_nothing(tmp_path):
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), new_version(tmp_path / "application"):
            raise error
    assert list((tmp_path / "application").iterdir()) == []
    assert not (tmp_path / "models.config").exists()


def exports_at_once(roots):
    """(number of the version, who wrote it) of exports that end at the same time."""
    barrier = threading.Barrier(len(roots))
    made = []

    def export(n, root):
        with new_version(root) as version:
            (version.folder / "who").write_text(str(n))
            barrier.wait()
        made.append((version.folder.name, (version.folder / "who").read_text()))

    threads = [threading.Thread(target=export, args=each) for each in enumerate(roots)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return made


def test_exports_at_once_get_a_version_each(tmp_path):
    made = exports_at_once([tmp_path] * 6)
    assert sorted(version for version, _ in made) == list("123456") == numbers(tmp_path)
    assert sorted(who for _, who in made) == list("012345")


def test_exports_of_several_models_at_once_all_enter_models_config(tmp_path):
    names = [f"model_{n}" for n in range(16)]
    exports_at_once([tmp_path / name for name in names])
    assert sorted(model.name for model in read_config(tmp_path / "models.config")) == sorted(names)


def read_config(path):
    return text_format.Parse(path.read_text(), model_server_config_pb2.ModelServerConfig()).model_config_list.config


def test_models_config_gets_each_model_once_and_keeps_what_a_person_wrote(tmp_path, capsys):
    for name in ("one", "two", "one"):
        with new_version(tmp_path / name):
            pass
    config = tmp_path / "models.config"
    assert [(m.name, m.base_path, m.model_platform) for m in read_config(config)] == [
        ("one", "/models/one", "tensorflow"),
        ("two", "/models/two", "tensorflow"),
    ]
    config.write_text(config.read_text().replace("/models/one", "/elsewhere/one"))
    with new_version(tmp_path / "one"), new_version(tmp_path / "three"):
        pass
    assert [m.base_path for m in read_config(config)] == ["/elsewhere/one", "/models/two", "/models/three"]
    config.write_text("not a config {")
    with new_version(tmp_path / "four"):
        pass
    assert config.read_text() == "not a config {"
    assert "Add the model 'four' by hand" in capsys.readouterr().out


@pytest.mark.parametrize("application", WRITERS)
def test_every_operation_of_every_function_is_a_plain_one(application, exports):
    check_graph(exports[application], text_ops=application == "translation")


@pytest.mark.parametrize("found", ["CudnnRNNV3", "_XlaMustCompile"])
def test_an_export_that_needs_a_gpu_or_xla_is_refused(found, tmp_path, monkeypatch):
    class Model(tf.Module):
        def __init__(self):
            self.layer = layers.LSTM(3)
            self.layer.build((None, None, 2))

        def __call__(self, x):
            return {"y": self.layer(x, training=True)}

    model, spec = Model(), tf.TensorSpec([None, None, 2])
    function = tf.function(model.__call__, input_signature=[spec], autograph=False)
    with monkeypatch.context() as gpu:
        if found == "CudnnRNNV3":
            devices = [tf.config.LogicalDevice("/device:GPU:0", "GPU")]
            gpu.setattr(tf.config, "list_logical_devices", lambda kind=None: devices if kind == "GPU" else [])
        traced_before = function.get_concrete_function()
        write_saved_model(
            tmp_path / "1", [model], {"serving_default": (model, [spec])}, {"x": np.ones([1, 2, 2], np.float32)}, {}
        )
    check_graph(tmp_path / "1")
    with pytest.raises(
        DataError, match=f"the graph has .*{found}.*make it anew for the export, or the layer with use_cudnn=False"
    ):
        write_saved_model(tmp_path / "2", [model], {"serving_default": (lambda x: traced_before(x), [spec])}, {}, {})


def test_what_is_allowed_runs_on_a_processor():
    import tensorflow_text  # noqa: F401

    kinds = allowed()
    for kind, operations in kinds.items():
        for name in operations:
            assert op_def_registry.get(name) is not None, name
            devices = {kernel.device_type for kernel in kernels.get_registered_kernels_for_op(name).kernel}
            assert devices & {"CPU", "DEFAULT"}, name
            assert (kind == "text") == name.startswith("Sentencepiece")
    assert not {name for operations in kinds.values() for name in operations if "Py" in name or "Cudnn" in name or "Xla" in name}


@pytest.mark.parametrize("application", WRITERS)
def test_an_export_has_its_contract_its_warm_up_its_vocabulary_and_its_card(application, exports):
    version = exports[application]
    served = load_export(version)
    assert {"serving_default", "serving_greedy"} <= set(served.signatures)
    full, fast = (set(served.signatures[name].structured_outputs) for name in ("serving_default", "serving_greedy"))
    assert fast <= full and "attention" not in fast
    for outputs in run_warm_up(version, served):
        assert set(outputs) == full
    card = (version / "model_card.md").read_text()
    for part in (
        WRITERS[application].DESCRIPTION,
        f"python -m apps.{application}.train",
        tf.__version__,
        "MB |",
        "### serving_greedy",
    ):
        assert part in card
    names = {"translation": "joint", "piano_rolls": None}.get(application, "vocabulary")
    assert names is None or (version / f"{names}.json").exists()


@pytest.mark.parametrize("application", ["translation", "image_captioning"])
def test_a_run_given_twice_is_exported_as_the_run_alone(application, exports, tmp_path):
    run = exports[application].parents[2] / "runs" / application
    np.save(run / "training_rows.npy", np.array([3, 5], "uint64"))
    other = shutil.copytree(run, tmp_path / "other")
    np.save(other / "training_rows.npy", np.array([4, 5], "uint64"))
    result = helpers.command(application, "export", run, other, "--export-dir", tmp_path / "export")
    assert result.returncode == 0, result.stderr[-3000:]
    version = tmp_path / "export" / "1"
    check_graph(version, text_ops=True)
    assert np.load(version / "training_rows.npy").tolist() == [3, 4, 5]
    card = (version / "model_card.md").read_text()
    assert "| ensemble | the mean of the probabilities of 2 models" in card and "None were measured." in card
    assert f"| run | `{run.name}`, " in card and "; `other`, " in card
    pictures = [tf.io.encode_png(np.full((20, 30, 3), value, "uint8")).numpy() for value in (9, 200)]
    inputs = {"image_bytes": [*pictures, b""]} if application == "image_captioning" else {"text": [*SENTENCES, ""]}
    alone, both = (load_export(folder).signatures for folder in (exports[application], version))
    assert set(alone) == set(both)
    for name in alone:
        found = [served[name](**{key: tf.constant(value) for key, value in inputs.items()}) for served in (alone, both)]
        assert found[0].keys() == found[1].keys()
        for output in found[0]:
            np.testing.assert_array_equal(found[0][output], found[1][output])


def test_models_config_lists_all_exports(exports):
    config = read_config(exports["translation"].parents[1] / "models.config")
    assert [model.name for model in config] == list(WRITERS)


def batching_parameters():
    """TensorFlow Serving's message, which its Python package leaves out (session_bundle_config.proto)."""
    file = descriptor_pb2.FileDescriptorProto(name="batching.proto", package="test", syntax="proto3")
    file.dependency.append("google/protobuf/wrappers.proto")
    message = file.message_type.add(name="BatchingParameters")
    kinds = {"max_batch_size": 1, "batch_timeout_micros": 2, "max_enqueued_batches": 3, "num_batch_threads": 4}
    kinds |= {"enable_large_batch_splitting": 8, "max_execution_batch_size": 9}
    for name, number in kinds.items():
        wrapper = ".google.protobuf." + ("BoolValue" if name.startswith("enable") else "Int64Value")
        message.field.add(name=name, number=number, type=11, label=1, type_name=wrapper)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("test.BatchingParameters"))()


def test_models_that_a_server_may_batch_have_parameters_for_it(exports):
    batched = {name for name, folder in exports.items() if (folder / "batching_params.pbtxt").exists()}
    assert batched == {"sentiment_classification", "translation", "image_captioning"}
    found = text_format.Parse((exports["translation"] / "batching_params.pbtxt").read_text(), batching_parameters())
    assert found.enable_large_batch_splitting.value
    assert found.max_execution_batch_size.value <= MOST_PICTURES
    assert found.max_batch_size.value <= found.max_execution_batch_size.value * found.max_enqueued_batches.value


def test_batching_parameters_that_a_person_wrote_are_kept_and_used(tmp_path):
    for _ in range(2):
        with new_version(tmp_path / "one") as version:
            (version.folder / "batching_params.pbtxt").write_text("")
        mine = tmp_path / "batching_parameters.txt"
        assert (version.folder / "batching_params.pbtxt").read_text() == mine.read_text()
        mine.write_text("max_batch_size { value: 8 }")
    assert (version.folder / "batching_params.pbtxt").read_text() == "max_batch_size { value: 8 }"
    with new_version(tmp_path / "two") as version:
        pass
    assert not (version.folder / "batching_params.pbtxt").exists()


# -- other formats


@pytest.mark.parametrize("format", ["litert", "onnx"])
@pytest.mark.parametrize("application", WRITERS)
def test_networks_are_written_and_do_what_the_model_does(application, format, exports, tmp_path):
    run = exports[application].parents[2] / "runs" / application
    model = load_model(run)
    difference = write_network(model, WRITERS[application].network(model), tmp_path / "network", format)
    assert difference < 1e-5
    assert [path.name for path in tmp_path.iterdir()] == ["network"]


def test_a_network_that_a_converter_gets_wrong_is_refused(exports, tmp_path, monkeypatch):
    run = exports["music_generation"].parents[2] / "runs" / "music_generation"
    model = load_model(run)
    inputs = WRITERS["music_generation"].network(model)

    def write_another(path, **kwargs):
        other = load_model(run)
        other.set_weights([weight + 1 for weight in model.get_weights()])
        other.export(path, **kwargs)

    monkeypatch.setattr(model, "export", write_another)
    with pytest.raises(DataError, match=r"differ by .* from the model's"):
        write_network(model, inputs, tmp_path / "network.onnx", "onnx")
    monkeypatch.setattr(model, "export", lambda *_, **__: 1 / 0)
    with pytest.raises(DataError, match=r"can't write this network \(division by zero\)"):
        write_network(model, inputs, tmp_path / "network.onnx", "onnx")

    def has_no_converter(path, **kwargs):
        raise ImportError("No module named 'tf2onnx'")

    monkeypatch.setattr(model, "export", has_no_converter)
    with pytest.raises(DataError, match=r"No module named 'tf2onnx'. Install it by: pip install -e '.\[formats\]'"):
        write_network(model, inputs, tmp_path / "network.onnx", "onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_command_exports_again_and_refuses_what_is_no_run(exports, tmp_path):
    run = exports["translation"].parents[2] / "runs" / "translation"
    (run / "metrics.json").write_text(json.dumps({"validation": {"bleu": 40.25}}))
    result = helpers.command("translation", "export", run, "--export-dir", tmp_path / "again")
    assert result.returncode == 0, result.stderr[-3000:]
    assert "MB, loads and answers in" in result.stdout
    assert "| bleu | 40.2500 |" in (tmp_path / "again" / "1" / "model_card.md").read_text()
    text = tf.constant(["a small dog", "the food wasn't good"])
    outputs = [
        load_export(version).signatures["serving_default"](text=text)["score"].numpy()
        for version in (exports["translation"], tmp_path / "again")
    ]
    np.testing.assert_array_equal(*outputs)
    result = helpers.command("translation", "export", tmp_path)
    assert result.returncode == 2 and "holds no finished run" in result.stderr
    result = helpers.command("translation", "export", run, "--format", "onnx", "--export-dir", tmp_path)
    assert result.returncode == 2 and "--export-dir is for savedmodel" in result.stderr
    result = helpers.command("translation", "export", run, "--int8")
    assert result.returncode == 2 and "--int8 is for --format litert or onnx" in result.stderr
