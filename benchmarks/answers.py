"""A request of one sentence or one image, against the floor of its multiply-adds.

    python -m benchmarks.answers [--saved-models saved_models] [--runs runs] [--save benchmarks/results/answers]

Needs an export and a run of translation, and of captioning with a pretrained backbone (`--backbone mobilenet`). The floor is
what the products with weights take at the rate of a large matrix product, measured in the same run: the encoder once for each
token or image, the decoder once for each step and each of the beam's rows. Products of a few rows read a weight for every few
multiply-adds, so no software reaches this floor at batch 1; the ratio says how far the rest is.
"""

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from apps.common import cli
from apps.common.cli import table
from apps.common.export.saved_model import load_export
from apps.common.training.runs import load_model, read_config
from apps.image_captioning import model as captioner  # noqa: F401  # that Keras knows its class
from apps.image_captioning.config import APPLICATION as CAPTIONING
from apps.translation import model as translator  # noqa: F401
from apps.translation.config import APPLICATION as TRANSLATION
from benchmarks.saving import save
from benchmarks.timing import milliseconds, sgemm_gflops
from data_pipelines.sources import DataError

ONCE = ("/key/", "/bridge_", "/project/")  # done when the source is read, not at each step
SENTENCE = "A man in a blue shirt is standing on a ladder cleaning a window."
IMAGE = Path(__file__).parent.parent / "apps" / "image_captioning" / "scene.png"


def multiply_adds(model: keras.Model, read: int, steps: int, rows: int) -> float:
    """Of an encoder that reads `read` tokens or regions and a decoder of `steps` steps with `rows` rows."""
    total = 0.0
    for weight in model.weights:
        if len(weight.shape) != 2 or "/position" in weight.path:
            continue
        size = float(np.prod(weight.shape))
        if "embedding" in weight.path:  # the lookup is free, the product with all words is not
            total += steps * rows * size * ("target" in weight.path or "captioner/" in weight.path)
        elif "bias" not in weight.path:
            total += size * (read if "/encoder/" in weight.path or any(part in weight.path for part in ONCE) else steps * rows)
    return total


def convolution_multiply_adds(backbone: keras.Model) -> float:
    kernels = [layer for layer in backbone.layers if isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D))]
    return float(sum(np.prod(layer.kernel.shape) * np.prod(layer.output.shape[1:3]) for layer in kernels))


def rows_of(folder: Path, application: str, run: Path, gflops: float) -> list[list[Any]]:
    served, model, rows = load_export(folder / application), load_model(run), []
    translates = application == TRANSLATION
    inputs = {"text": tf.constant([SENTENCE])} if translates else {"image_bytes": tf.constant([IMAGE.read_bytes()])}
    whole = {name: value.numpy() for name, value in served.signatures["serving_default"](**inputs).items()}
    steps = whole["attention"].shape[1] + 1  # the end of the sentence is written, too
    backbone = 0.0
    if not translates:
        if not (run / "frozen_backbone.keras").exists():
            raise DataError(f"{run}: its backbone is not pretrained. Pass runs of training with --backbone mobilenet.")
        backbone = convolution_multiply_adds(keras.models.load_model(run / "frozen_backbone.keras", compile=False))
    read = whole["source_tokens"].shape[1] if translates else int(np.prod(whole["attention"].shape[2:]))
    for name, beam in (("serving_default", read_config(run).beam_size), ("serving_greedy", 1)):
        function = served.signatures[name]
        p50 = milliseconds({name: lambda function=function: list(function(**inputs).values())}, 101)[name]
        work = backbone + multiply_adds(model, read, steps, beam)
        floor = 2e-6 * work / gflops
        rows.append(
            [f"{application} {name}", read, steps, f"{work / 1e6:,.0f}", f"{floor:.2f}", f"{p50:.1f}", f"{p50 / floor:.0f}"]
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--saved-models", type=Path, default=Path("saved_models"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--save")
    options = parser.parse_args()
    rows, gflops = [], sgemm_gflops()
    for application in (TRANSLATION, CAPTIONING):
        run = options.runs / application
        rows += rows_of(options.saved_models, application, run, gflops)
    header = ["request", "read", "steps", "million multiply-adds", "floor ms", "p50 ms", "times the floor"]
    save(options.save, table(rows, header), [dict(zip(header, row)) for row in rows])


if __name__ == "__main__":
    cli.run(main)
