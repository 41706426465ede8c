"""The exports answer a C program that knows no Python, as they answer Python."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from apps.common.export.saved_model import load_export
from apps.image_captioning.serving import example_image

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler (cc, gcc, clang) on the path")

DRAWING = {"max_new_tokens": 40, "temperature": 0.9, "top_p": 0.95, "seed": 7}
REQUESTS = {
    "sentiment_classification": {"text": [b"The food wasn't good!", b"", b"a dog"]},
    "translation": {"text": [b"two men eat on the grass", b"", "Zwölf Boxkämpfer".encode()]},
    "image_captioning": {"image_bytes": [example_image(), example_image(50), b"no picture"]},
    "music_generation": {"prompt": [b"", b"M:6/8\nL:1/8\nK:D\nd2e f"], **DRAWING},
    "language_model": {"prompt": [b"", b"a small dog", b"two"], **DRAWING, "top_k": 9},
}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """The program, built against the libraries of the TensorFlow wheel."""
    folder, home = tmp_path_factory.mktemp("client"), Path(tf.__file__).parent
    libraries = sorted(home.glob("libtensorflow_*.so*"))
    assert len({library.name.split(".")[0] for library in libraries}) >= 2, home
    built = folder / "client"
    flags = ["-O1", "-Wall", "-Werror", f"-I{home / 'include'}", f"-Wl,-rpath,{home}"]
    line = [COMPILER, *flags, str(Path(__file__).with_name("client.c")), *map(str, libraries), "-o", str(built)]
    result = subprocess.run(line, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return built


def text_libraries():
    import tensorflow_text

    return sorted((Path(tensorflow_text.__file__).parent / "python" / "ops").glob("*.so"))


def ask(client, export, signature, inputs, folder):
    """The outputs of a signature: name -> array."""
    graph = saved_model_pb2.SavedModel.FromString((export / "saved_model.pb").read_bytes()).meta_graphs[0]
    definition = graph.signature_def[signature]
    line = [str(client), str(export)]
    for library in text_libraries():
        line += ["--library", str(library)]
    for name, value in inputs.items():
        place = definition.inputs[name].name
        if isinstance(value, list):
            paths = [folder / f"{name}_{n}" for n in range(len(value))]
            for path, content in zip(paths, value):
                path.write_bytes(content)
            line += ["--strings", place, ",".join(map(str, paths))]
        else:
            line += ["--float" if isinstance(value, float) else "--int", place, str(value)]
    names = sorted(definition.outputs)
    for name in names:
        line += ["--output", definition.outputs[name].name]
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", "PATH": os.environ["PATH"]}
    result = subprocess.run(line, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return dict(zip(names, map(parse, result.stdout.splitlines()), strict=True))


def parse(line):
    kind, shape, *values = line.split()
    if int(kind) == tf.string.as_datatype_enum:
        values = np.array([bytes.fromhex(value[1:]) for value in values], object)
    else:
        values = np.array(list(map(float, values)), np.float32)
    return values.reshape([int(size) for size in shape[1:-1].split(",") if size])


@pytest.mark.parametrize("application", REQUESTS)
def test_c_gets_the_answers_that_python_gets(application, client, exports, tmp_path):
    inputs = REQUESTS[application]
    answers = ask(client, exports[application], "serving_default", inputs, tmp_path)
    served = load_export(exports[application])
    constants = {name: tf.constant(value) for name, value in inputs.items()}
    wanted = served.signatures["serving_default"](**constants)
    assert answers.keys() == wanted.keys()
    for name, value in wanted.items():
        assert answers[name].shape == value.shape, name
        if value.dtype == tf.string:
            np.testing.assert_array_equal(answers[name], value.numpy(), err_msg=name)
        else:
            np.testing.assert_allclose(answers[name], np.asarray(value, np.float32), rtol=1e-5, atol=1e-6, err_msg=name)
    assert any(text for text in answers[next(n for n in ("label", "translation", "caption", "abc", "text") if n in answers)])


def test_c_gets_an_error_that_names_what_is_wrong(client, exports, tmp_path):
    with pytest.raises(AssertionError, match=r"Expects arg\[0\] to be string but float is provided"):
        ask(client, exports["sentiment_classification"], "serving_default", {"text": 1.0}, tmp_path)
