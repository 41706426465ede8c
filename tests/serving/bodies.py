"""The requests and responses that saved_models/README.md shows, made from the signatures of exports.

    python -m tests.serving.bodies saved_models      write the responses of these exports into the README

JSON becomes tensors, and tensors JSON, as in TensorFlow Serving's REST interface
(https://www.tensorflow.org/tfx/serving/api_rest): a row is an object of named values; bytes are {"b64": …}.
"""

import argparse
import base64
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import tensorflow as tf

ROOT = Path(__file__).parents[2]
README = ROOT / "saved_models" / "README.md"
EXAMPLE = re.compile(
    r"```sh\n(?P<command>curl [^`]*?/v1/models/(?P<application>\w+):predict)\n```\n\n```json\n(?P<response>.*?)\n```", re.DOTALL
)


def examples():
    """application -> (shell command, response) of the README."""
    found = {match["application"]: (match["command"], match["response"]) for match in EXAMPLE.finditer(README.read_text())}
    assert len(found) == 5, sorted(found)
    return found


def body_of(command):
    """The body that a shell makes of a curl command."""
    script = 'curl() { while [ $# -gt 0 ]; do [ "$1" = -d ] && printf %s "$2"; shift; done; }\n' + command
    return json.loads(subprocess.run(["bash", "-ec", script], cwd=ROOT, check=True, capture_output=True, text=True).stdout)


def answer(served, body):
    """What the server would send."""
    signature = served.signatures[body.get("signature_name", "serving_default")]
    specs = signature.structured_input_signature[1]
    names = {name for row in body["instances"] for name in row}
    assert names == set(specs), (names, set(specs))
    inputs = {name: tf.constant([value(row[name]) for row in body["instances"]], specs[name].dtype) for name in specs}
    outputs = {name: tensor.numpy() for name, tensor in signature(**inputs).items()}
    count = len(body["instances"])
    assert all(len(value) == count for value in outputs.values())  # else TensorFlow Serving can't make rows of it
    return {"predictions": [{name: plain(outputs[name][row], name) for name in sorted(outputs)} for row in range(count)]}


def value(given):
    return base64.b64decode(given["b64"]) if isinstance(given, dict) else given


def plain(given, name):
    if isinstance(given, np.ndarray):
        return [plain(part, name) for part in given]
    if isinstance(given, bytes):
        return {"b64": base64.b64encode(given).decode()} if name.endswith("_bytes") else given.decode()
    return bool(given) if isinstance(given, np.bool_) else round(float(given), 4)


def kinds(given):
    """The structure of a value without its numbers, strings and lengths."""
    if isinstance(given, dict):
        return {name: kinds(part) for name, part in given.items()}
    if isinstance(given, list):
        return [kinds(given[0])] if given else []
    return type(given).__name__


def main():
    from apps.common.export.saved_model import load_export

    parser = argparse.ArgumentParser("python -m tests.serving.bodies")
    parser.add_argument("saved_models", type=Path)
    folder = parser.parse_args().saved_models

    def rewrite(match):
        response = answer(load_export(folder / match["application"]), body_of(match["command"]))
        lines = json.dumps(response, ensure_ascii=False, indent=1)
        lines = re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda m: "[" + re.sub(r"\n\s+", " ", m[1]) + "]", lines)  # a row a line
        return match[0].replace(match["response"], lines)

    README.write_text(EXAMPLE.sub(rewrite, README.read_text()))


if __name__ == "__main__":
    main()
