"""The requests, responses and the client of saved_models/README.md fit the signatures."""

import json
import re
import subprocess
import sys
from concurrent import futures

import grpc
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from apps.common.export.saved_model import load_export
from tests.apps.helpers import ENVIRONMENT
from tests.serving import bodies


@pytest.mark.parametrize("application", bodies.examples())
def test_the_readme_shows_what_the_signatures_take_and_give(application, exports):
    command, response = bodies.examples()[application]
    body = bodies.body_of(command)
    made = bodies.answer(load_export(exports[application]), body)
    assert bodies.kinds(made) == bodies.kinds(json.loads(response))
    assert len(made["predictions"]) == len(json.loads(response)["predictions"])


class Server(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Answers as TensorFlow Serving does."""

    def __init__(self, folder):
        self.served = load_export(folder)

    def Predict(self, request, context):
        inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
        response = predict_pb2.PredictResponse()
        for name, value in self.served.signatures[request.model_spec.signature_name](**inputs).items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        return response


def test_the_grpc_client_of_the_readme_works(exports, tmp_path):
    client = re.search(r"```python\n(.*?)```", bodies.README.read_text(), re.DOTALL)[1]
    assert len(client.splitlines()) <= 22 and "localhost:8500" in client
    server = grpc.server(futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Server(exports["translation"]), server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    (tmp_path / "client.py").write_text(client.replace("localhost:8500", f"localhost:{port}"))
    texts = ["a small dog", "two men sit"]
    result = subprocess.run([sys.executable, "client.py", *texts], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    server.stop(None)
    assert result.returncode == 0, result.stderr[-3000:]
    wanted = load_export(exports["translation"]).signatures["serving_default"](text=tf.constant(texts))["translation"]
    for line, translation in zip(result.stdout.splitlines(), wanted.numpy(), strict=True):
        assert line.split("  ", 1)[1] == translation.decode()


def test_the_server_finds_the_models_where_the_readme_mounts_them(exports):
    line = re.search(r"docker run .*?(?=\n```)", bodies.README.read_text(), re.DOTALL)[0]
    assert '-v "$PWD/saved_models:/models"' in line and "--model_config_file=/models/models.config" in line
    config = (exports["translation"].parents[1] / "models.config").read_text()
    for application in bodies.examples():
        assert f'base_path: "/models/{application}"' in config
