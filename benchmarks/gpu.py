"""On a GPU: layers against cuDNN, the applications, and whether a processor gets the same; through TensorFlow or JAX.

    python -m benchmarks.gpu                    TensorFlow: ten minutes; writes benchmarks/results/gpu-<device>.md and .json
    benchmarks/gpu.sh [flags]                   JAX, which needs no TensorFlow: the layers alone

Applications: an epoch of `train --quick` on the embedded data, its minutes, and the most memory that it needed; then its export
answers here and on the processor. Equality: outputs and gradients of the layers here and on the processor, without TF32. Layers:
for every shape (batch, time, features, units), float32 and bfloat16, a training step (all outputs, gradients of the inputs and
of all weights) and inference, against `keras.layers` and, where it is installed, `torch.nn`; two shapes also with half of every
second row masked. The layers without a recurrent product are measured against the others' LSTM. Candidates take turns, medians
count; all is waited for. Without a GPU (or with `--short`) all of it is small: to see that it runs.
"""

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import ops

import layers
from benchmarks.saving import save
from benchmarks.timing import milliseconds

ON_JAX = keras.backend.backend() == "jax"
if ON_JAX:
    import jax
else:
    import tensorflow as tf
try:
    import torch
except ImportError:
    torch = None

SHAPES = [(32, 100, 128, 128), (64, 50, 256, 256), (16, 400, 64, 64), (64, 200, 256, 512), (128, 400, 512, 1024)]
CELLS = ("LSTM", "GRU", "GatedRNN", "SimpleRNN", "MinGRU", "SSRU", "QRNN", "SRU")
LINEAR = CELLS[4:]  # against the LSTM of the others
LONG = (16, 2048, 256, 256)  # for these, too
SMALL = (4, 6, 5, 8)  # of --short, and of the equality
TOLERANCE = 1e-4  # of the largest number of a tensor
REQUESTS: dict[str, Any] = {
    "sentiment_classification": ["the food was good", "not bad at all !"],
    "translation": ["The meeting begins on Friday, July 3, 2026 at 3:05 PM.", "The town has 12,345 inhabitants."],
    "image_captioning": None,  # embedded scenes
    "music_generation": ["M:6/8\nL:1/8\nK:D\n"],
    "language_model": ["the food was", "i would not"],
}
NUMBERS = {"max_new_tokens": 20, "temperature": 0.8, "top_p": 0.9, "top_k": 20, "seed": 1}


def device_name() -> str:
    """Of the GPU; else `processor`."""
    if ON_JAX:
        return jax.devices()[0].device_kind if jax.default_backend() == "gpu" else "processor"
    gpus = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "unknown") if gpus else "processor"


# -- layers: one step of a candidate


def jax_candidate(layer: Any, x: Any, d_y: Any, mask: Any, training: bool) -> Callable[[], Any]:
    layer.build(x.shape)
    trainable, rest = [v.value for v in layer.trainable_variables], [v.value for v in layer.non_trainable_variables]

    def forward(trainable: list, x: Any) -> Any:
        return layer.stateless_call(trainable, rest, x, mask=mask, training=training)[0]

    if training:
        step = jax.jit(jax.grad(lambda w, x: (ops.cast(forward(w, x), "float32") * d_y).sum(), argnums=(0, 1)))
    else:
        step = jax.jit(forward)
    return lambda: jax.block_until_ready(step(trainable, x))


def tensorflow_function(layer: Any, x: Any, d_y: Any, mask: Any, training: bool) -> Callable[[], list[Any]]:
    """The outputs and, in training, the gradients of the inputs and of all weights."""
    layer.build(x.shape)

    @tf.function(autograph=False)
    def step() -> list[Any]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, mask=mask, training=training)
            loss = tf.reduce_sum(tf.cast(y, tf.float32) * d_y)
        return [y, *(tape.gradient(loss, [x, *layer.trainable_variables]) if training else [])]

    return step


def tensorflow_candidate(*arguments: Any) -> Callable[[], Any]:
    step = tensorflow_function(*arguments)

    def wait() -> None:
        step()
        tf.test.experimental.sync_devices()

    return wait


def torch_candidate(name: str, shape: tuple[int, ...], dtype: str, training: bool) -> Callable[[], Any] | None:
    if torch is None or not hasattr(torch.nn, their_name(name).replace("SimpleRNN", "RNN")):
        return None
    module = getattr(torch.nn, their_name(name).replace("SimpleRNN", "RNN"))
    batch, time_steps, features, units = shape
    device, kind = "cuda" if torch.cuda.is_available() else "cpu", getattr(torch, dtype)
    network = module(features, units, batch_first=True).to(device, kind)
    x = torch.randn(batch, time_steps, features, device=device, dtype=kind, requires_grad=training)
    d_y = torch.randn(batch, time_steps, units, device=device, dtype=kind)

    def step() -> None:
        if training:
            network.zero_grad(set_to_none=True)
            x.grad = None
            network(x)[0].backward(d_y)
        else:
            with torch.no_grad():
                network(x)
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def their_name(name: str) -> str:
    return "LSTM" if name in LINEAR else name


def runs(row: dict[str, Any], who: str, step: Callable[[], Any]) -> bool:
    """Whether a candidate runs at all: in mixed precision Keras 3.15's GRU fails on JAX, and JAX's cuDNN LSTM in bfloat16."""
    try:
        step()
    except Exception as error:  # whatever it is, the others are measured
        print(f"{row['layer']} {row['dtype']}: {who} fails: {str(error).splitlines()[0]}", flush=True)
        return False
    return True


def sequences(shape: tuple[int, ...], dtype: str, masked: bool) -> tuple[Any, Any, Any]:
    """Inputs, the gradient of the outputs, and a mask that cuts every second row by half."""
    batch, time_steps, features, units = shape
    rng = np.random.default_rng(0)
    x = ops.cast(rng.normal(size=(batch, time_steps, features)).astype("float32"), dtype)
    d_y = ops.convert_to_tensor(rng.normal(size=(batch, time_steps, units)).astype("float32"))
    lengths = np.where(np.arange(batch) % 2, time_steps // 2, time_steps)
    return x, d_y, ops.convert_to_tensor(np.arange(time_steps) < lengths[:, None]) if masked else None


def measure(name: str, shape: tuple[int, ...], dtype: str, masked: bool, repeats: int) -> list[dict[str, Any]]:
    keras.mixed_precision.set_dtype_policy("float32" if dtype == "float32" else "mixed_bfloat16")
    candidate = jax_candidate if ON_JAX else tensorflow_candidate
    given = sequences(shape, dtype, masked)
    rows = []
    for training in (True, False):
        candidates = {"ours": candidate(getattr(layers, name)(shape[3], return_sequences=True), *given, training)}
        counterpart = getattr(keras.layers, their_name(name), None)
        if counterpart is not None:
            candidates["keras"] = candidate(counterpart(shape[3], return_sequences=True), *given, training)
        other = None if masked else torch_candidate(name, shape, dtype, training)
        if other is not None:
            candidates["torch"] = other
        what = "training" if training else "inference"
        row = {"layer": name, "shape": shape, "dtype": dtype, "masked": masked, "what": what}
        rows.append({**row, "ms": milliseconds({who: step for who, step in candidates.items() if runs(row, who, step)}, repeats)})
    keras.mixed_precision.set_dtype_policy("float32")
    return rows


# -- here and on the processor


def on(device: str, function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, np.ndarray]:
    """What a function of this file returns in a process of its own, `here` or on the `processor`."""
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/found.npz"
        code = f"import numpy, benchmarks.gpu as b; numpy.savez({file!r}, **b.{function.__name__}(*{arguments!r}))"
        environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": "-1"} if device == "processor" else {})}
        subprocess.run([sys.executable, "-c", code], check=True, env=environment)
        with np.load(file) as arrays:
            return dict(arrays)


def layer_values(names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Outputs and gradients of layers with given weights."""
    tf.config.experimental.enable_tensor_float_32_execution(False)
    found = {}
    for name, masked in itertools.product(names, (False, True)):
        layer, given = getattr(layers, name)(SMALL[3], return_sequences=True), sequences(SMALL, "float32", masked)
        step, rng = tensorflow_function(layer, *given, True), np.random.default_rng(1)
        layer.set_weights([rng.normal(scale=0.3, size=weight.shape) for weight in layer.weights])
        found |= {f"{name}{', masked' * masked} {i}": tensor.numpy() for i, tensor in enumerate(step())}
    return found


def answers(application: str, export: str) -> dict[str, np.ndarray]:
    """What `serving_default` of an export answers."""
    from apps.common.export.saved_model import load_export
    from data_pipelines.embedded.scenes import embedded_scenes

    tf.config.experimental.enable_tensor_float_32_execution(False)
    function = load_export(Path(export)).signatures["serving_default"]
    specs = function.structured_input_signature[1]
    found = {}
    for i, value in enumerate(REQUESTS[application] or [scene.png() for scene in embedded_scenes()["test"][:2]]):
        inputs = {name: tf.constant([NUMBERS.get(name, value)], spec.dtype) for name, spec in specs.items()}
        for name, output in function(**inputs).items():
            array = output.numpy()
            found[f"{name} {i}"] = array.astype("S") if array.dtype == object else array  # strings, without pickle
    return found


def compare(function: Callable[..., dict[str, Any]], *arguments: Any) -> float:
    """The `difference` of what a function returns here and on the processor; infinite if it fails there or here."""
    try:
        return difference(on("here", function, *arguments), on("processor", function, *arguments))
    except subprocess.CalledProcessError as error:  # its process printed why; all else is measured
        print(f"{function.__name__}{arguments} fails: {error}", flush=True)
        return float("inf")


def difference(here: dict[str, np.ndarray], there: dict[str, np.ndarray]) -> float:
    """The largest one, as a part of the largest number of its tensor; infinite if texts or shapes differ."""
    largest = 0.0
    for name, wanted in there.items():
        got = here[name]
        if got.shape != wanted.shape or (wanted.dtype.kind not in "fiub" and not np.array_equal(got, wanted)):
            return float("inf")
        if wanted.dtype.kind in "fiub" and wanted.size:
            got, wanted = got.astype("float64"), wanted.astype("float64")
            largest = max(largest, float(np.abs(got - wanted).max() / (np.abs(wanted).max() or 1.0)))
    return largest


# -- the applications

TRAIN = """
import importlib, resource, sys
import tensorflow as tf
importlib.import_module(sys.argv[0]).main()
peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
if tf.config.list_physical_devices("GPU"):
    peak = tf.config.experimental.get_memory_info("GPU:0")["peak"]
print(f"\\npeak {peak}")
"""


def train(application: str, folder: Path, flags: list[str], seconds: float) -> dict[str, Any]:
    """Minutes and memory of an epoch, and of its export whether it answers alike on the processor; or what went wrong."""
    places = ["--run-dir", str(folder / "run"), "--export-dir", str(folder / "export"), "--force-export"]
    code = TRAIN.replace("sys.argv[0]", repr(f"apps.{application}.train"))
    begun = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, "--quick", "--epochs", "1", *places, *flags],
            capture_output=True,
            text=True,
            timeout=max(1.0, seconds),
        )
    except subprocess.TimeoutExpired:
        return {"application": application, "error": f"stopped after {seconds:.0f} s"}
    if done.returncode:
        return {"application": application, "error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    minutes, epoch = (time.monotonic() - begun) / 60, re.findall(r"\((\d+) s\)$", done.stdout, re.MULTILINE)
    return {
        "application": application,
        "minutes": minutes,
        "epoch_seconds": int(epoch[-1]) if epoch else None,
        "peak_bytes": int(done.stdout.rpartition("peak ")[2]),
        "difference": compare(answers, application, str(folder / "export" / "1")),
    }


# -- the report


def report(found: dict[str, Any]) -> str:
    lines = [f"{found['device']}, {found['versions']}", ""]
    if found["applications"]:
        lines += [
            "| application | epoch, s | all, minutes | memory, MB | its export on the processor |",
            "|---|--:|--:|--:|---|",
        ]
        for row in found["applications"]:
            if "error" in row:
                lines.append(f"| {row['application']} | | | | failed: {row['error'].replace('|', ' ')} |")
                continue
            lines.append(
                f"| {row['application']} | {row['epoch_seconds']} | {row['minutes']:.1f} | {row['peak_bytes'] / 2**20:,.0f} | "
                f"{verdict(row['difference'])} |"
            )
        lines.append("")
    if found["equality"] is not None:
        lines += [f"Layers here and on the processor, outputs and gradients, without TF32: {verdict(found['equality'])}.", ""]
    lines += [
        "Medians in ms",
        "",
        "| layer | shape | type | | ours | Keras | PyTorch | over Keras | over PyTorch |",
        "|---|---|---|---|--:|--:|--:|--:|--:|",
    ]
    for row in found["layers"]:
        ms = row["ms"]
        cells = [f"{ms[who]:.2f}" if who in ms else "" for who in ("ours", "keras", "torch")]
        cells += [f"{ms[who] / ms['ours']:.2f}" if who in ms and "ours" in ms else "" for who in ("keras", "torch")]
        shape = ", ".join(map(str, row["shape"])) + (", masked" if row["masked"] else "")
        lines.append(f"| {row['layer']} | {shape} | {row['dtype']} | {row['what']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def verdict(largest: float) -> str:
    return f"{'equal' if largest <= TOLERANCE else 'DIFFERS'}: by {largest:.1e}, allowed {TOLERANCE:.0e}"


def versions() -> str:
    backend = f"JAX {jax.__version__}" if ON_JAX else f"TensorFlow {tf.__version__}"
    return f"{backend}, Keras {keras.__version__}" + ("" if torch is None else f", PyTorch {torch.__version__}")


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", allow_abbrev=False)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--layers", nargs="+", default=CELLS, choices=CELLS)
    parser.add_argument("--types", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--applications", nargs="*", default=list(REQUESTS), choices=list(REQUESTS))
    parser.add_argument("--flag", action="append", default=[], help="one more of training: --flag=--deterministic")
    parser.add_argument("--short", action="store_true", help="all small, as without a GPU")
    parser.add_argument("--minutes", type=float, default=10, help="start no further measurement after these")
    parser.add_argument("--save", help="writes .json and .md; default: benchmarks/results/gpu-<device>")
    arguments = parser.parse_args()
    end, device = time.monotonic() + 60 * arguments.minutes, device_name()
    short = arguments.short or device == "processor"
    found: dict[str, Any] = {"device": device, "versions": versions(), "applications": [], "equality": None, "layers": []}
    if not ON_JAX:
        flags = [*arguments.flag, *(["--units", "8", "--embedding-size", "8"] if short else [])]
        for application in arguments.applications[: 1 if short else None]:
            with tempfile.TemporaryDirectory() as folder:
                found["applications"].append(train(application, Path(folder), flags, end - time.monotonic()))
            print(json.dumps(found["applications"][-1]), flush=True)
        found["equality"] = compare(layer_values, tuple(arguments.layers))
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)  # PyTorch needs some, too
    shapes = [*((shape, False) for shape in SHAPES), (LONG, False), (SHAPES[0], True), (SHAPES[3], True)]
    for dtype, (shape, masked), name in itertools.product(
        arguments.types, [(SMALL, False), (SMALL, True)] if short else shapes, arguments.layers
    ):
        if shape == LONG and name not in LINEAR:
            continue
        if time.monotonic() > end:
            print(f"stopped after {arguments.minutes:g} minutes; --minutes sets them")
            break
        found["layers"] += measure(name, shape, dtype, masked, arguments.repeats)
        print(json.dumps(found["layers"][-2:]), flush=True)
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") + "-jax" * ON_JAX
    save(arguments.save or f"benchmarks/results/gpu-{slug}", report(found), found)


if __name__ == "__main__":
    main()
